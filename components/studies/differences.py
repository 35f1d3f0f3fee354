# SPDX-License-Identifier: Apache-2.0
"""How far the rows of a study are above their references, on the same impressions.

What is asked of a row is how sure its mean over seeds is. So members are drawn again once for all
of a row's seeds, and the standard error that stands beside each seed's difference is that of their
mean. Knows no trial's making and no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.console import progress
from components.studies.results import Entry, ResultsFile
from components.studies.scores import Pair, differences, within_differences
from components.studies.trial import Outcome

Seeds = dict[str, Entry]
EMPTY_ROW: dict[str, Any] = {"seeds": {}}
ADDED = ("difference", "within_difference", "apart_from")
"""What `add_differences` adds to a seed's result."""


def add_differences(
    results: ResultsFile,
    work: Path,
    references: Mapping[str, str],
    tasks: tuple[str, ...],
    *,
    within: bool = False,
) -> None:
    """Adds to each row's seeds how much higher their AUC is than that of the reference's same seed.

    `difference` has it by task, with the standard error of the mean over seeds; with `within`,
    `within_difference` has the same within a member's day. `apart_from` says what they were made
    from, so that none is made again. One whose scores are not in the work folder stays as long as
    the reference's seeds are those.

    Args:
        references: the reference of each row, by the row's name.

    Raises:
        ValueError: the scores are damaged, or of different tests.
    """
    with progress("differences", len(references)) as advance:
        for row, reference in references.items():
            rows = results.entries()
            entry, others = rows.get(row, EMPTY_ROW), rows.get(reference, EMPTY_ROW)["seeds"]
            about = {name: value for name, value in entry.items() if name != "seeds"}
            for seed, result in _changed(entry["seeds"], others, work, tasks, within).items():
                results.put(row, about, int(seed), result)
            advance()


def _changed(
    seeds: Seeds, others: Seeds, work: Path, tasks: tuple[str, ...], within: bool
) -> Seeds:
    """The results of the seeds whose differences are not, or no longer, those to the others."""
    stale = {seed: kept for seed, kept in seeds.items() if not _is_current(kept, others)}
    changed = {seed: _without(kept) for seed, kept in stale.items() if "difference" in kept}
    pairs = _pairs(work, seeds, others) if stale else {}
    if stale.keys() & pairs.keys():
        made_from = {seed: others[seed]["fingerprint"] for seed in pairs}
        measured = _measure([*pairs.values()], tasks, within)
        for seed, difference in zip(pairs, measured, strict=True):
            changed[seed] = {**seeds[seed], **difference, "apart_from": made_from}
    return changed


def _measure(pairs: list[Pair], tasks: tuple[str, ...], within: bool) -> list[Entry]:
    """The differences of each pair, by kind."""
    kinds = {"difference": differences(pairs, tasks)}
    if within:
        kinds["within_difference"] = within_differences(pairs, tasks)
    return [{kind: each[place] for kind, each in kinds.items()} for place in range(len(pairs))]


def _is_current(result: Entry, others: Seeds) -> bool:
    """Whether all that its difference was made from is still what the reference has."""
    made_from = result.get("apart_from")
    return isinstance(made_from, dict) and all(
        others.get(seed, {}).get("fingerprint") == fingerprint
        for seed, fingerprint in made_from.items()
    )


def _without(result: Entry) -> Entry:
    """The result as it was before anything was added to it."""
    return {name: value for name, value in result.items() if name not in ADDED}


def _pairs(work: Path, seeds: Seeds, others: Seeds) -> dict[str, Pair]:
    """The scores of every seed that both have in the work folder, in the order of the seeds."""
    pairs = {}
    for seed in sorted(seeds.keys() & others.keys(), key=int):
        own, other = _outcome(work, seeds[seed]), _outcome(work, others[seed])
        if own is not None and other is not None:
            pairs[seed] = (own.scores, other.scores)
    return pairs


def _outcome(work: Path, result: Entry) -> Outcome | None:
    return Outcome.load(work / "trials" / str(result["fingerprint"]))
