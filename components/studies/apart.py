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
NOTHING: dict[str, Any] = {"seeds": {}}


def set_apart(
    results: ResultsFile,
    work: Path,
    references: Mapping[str, str],
    tasks: tuple[str, ...],
    *,
    within: bool = False,
) -> None:
    """Adds to the seeds of each row `difference`, by task how much higher the AUC is than that of
    the row's reference with the same seed and the standard error of the mean, and with `within`
    `within_difference`, the same within a member's day.

    `apart_from` says what a difference was made from, so that none is made again, and one whose
    scores are not in the work folder stays only as long as the reference's seeds are those.

    Args:
        references: the reference of each row, by the row's name.

    Raises:
        ValueError: the scores are damaged, or of different tests.
    """
    with progress("differences", len(references)) as advance:
        for row, reference in references.items():
            _set_apart(results, work, row, reference, tasks, within)
            advance()


def _set_apart(
    results: ResultsFile, work: Path, row: str, reference: str, tasks: tuple[str, ...], within: bool
) -> None:
    rows = results.entries()
    mine, others = rows.get(row, NOTHING), rows.get(reference, NOTHING)["seeds"]
    about = {name: value for name, value in mine.items() if name != "seeds"}
    stale = {s: result for s, result in mine["seeds"].items() if not _is_current(result, others)}
    changed = {s: _without(result) for s, result in stale.items() if "difference" in result}
    pairs = _pairs(work, mine["seeds"], others) if stale else {}
    if stale.keys() & pairs.keys():
        both = list(pairs.values())
        found = {"difference": differences(both, tasks)}
        if within:
            found["within_difference"] = within_differences(both, tasks)
        made_from = {seed: others[seed]["fingerprint"] for seed in pairs}
        for place, seed in enumerate(pairs):
            apart = {kind: values[place] for kind, values in found.items()}
            changed[seed] = {**mine["seeds"][seed], **apart, "apart_from": made_from}
    for seed, result in changed.items():
        results.put(row, about, int(seed), result)


def _is_current(result: Entry, others: Seeds) -> bool:
    """Whether all that its difference was made from is still what the reference has."""
    made_from = result.get("apart_from")
    return isinstance(made_from, dict) and all(
        others.get(seed, {}).get("fingerprint") == fingerprint
        for seed, fingerprint in made_from.items()
    )


def _without(result: Entry) -> Entry:
    gone = ("difference", "within_difference", "apart_from")
    return {name: value for name, value in result.items() if name not in gone}


def _pairs(work: Path, mine: Seeds, others: Seeds) -> dict[str, Pair]:
    """My scores and the other's, of every seed that has both."""
    found = {}
    for seed in mine.keys() & others.keys():
        both = [_outcome(work, of[seed]) for of in (mine, others)]
        if both[0] is not None and both[1] is not None:
            found[seed] = (both[0].scores, both[1].scores)
    return dict(sorted(found.items(), key=lambda pair: int(pair[0])))


def _outcome(work: Path, result: Entry) -> Outcome | None:
    return Outcome.load(work / "trials" / str(result["fingerprint"]))
