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
from components.study.results import Entry, ResultsFile
from components.study.scores import differences, within_differences
from components.study.trial import Outcome

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

    Seeds whose scores are not in the work folder keep what they have; `apart_from` says what a
    difference was made from, so that nothing is made again.

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
    seeds = [s for s in mine["seeds"] if s in others and _scored(work, mine["seeds"][s], others[s])]
    if all(_is_current(mine["seeds"][seed], others) for seed in seeds):
        return
    pairs = [
        (_outcome(work, mine["seeds"][seed]).scores, _outcome(work, others[seed]).scores)
        for seed in seeds
    ]
    apart = differences(pairs, tasks)
    inside = within_differences(pairs, tasks) if within else None
    about = {name: value for name, value in mine.items() if name != "seeds"}
    made_from = {seed: others[seed]["fingerprint"] for seed in seeds}
    for number, seed in enumerate(seeds):
        result = {**mine["seeds"][seed], "difference": apart[number], "apart_from": made_from}
        if inside is not None:
            result["within_difference"] = inside[number]
        results.put(row, about, int(seed), result)


def _is_current(result: Entry, others: Seeds) -> bool:
    """Whether all that its difference was made from is still what the reference has."""
    made_from = result.get("apart_from")
    return isinstance(made_from, dict) and all(
        others.get(seed, {}).get("fingerprint") == fingerprint
        for seed, fingerprint in made_from.items()
    )


def _scored(work: Path, *results: Entry) -> bool:
    return all(Outcome.is_in(_folder(work, result)) for result in results)


def _outcome(work: Path, result: Entry) -> Outcome:
    found = Outcome.load(_folder(work, result))
    assert found is not None
    return found


def _folder(work: Path, result: Entry) -> Path:
    return work / "trials" / str(result["fingerprint"])
