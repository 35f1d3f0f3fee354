# SPDX-License-Identifier: Apache-2.0
"""Differences of rows: made once, made anew with another seed or reference, never left stale."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.studies.differences import add_differences
from components.studies.results import ResultsFile
from components.studies.scores import Scores, differences
from components.studies.trial import Outcome

TASKS = ("click",)
LABELS_RK = np.random.default_rng(0).integers(0, 2, (200, 1)).astype(np.float32)
MEMBER_R = np.arange(200) // 5


def scores(number: int) -> Scores:
    noise = np.random.default_rng(number).normal(size=LABELS_RK.shape)
    return Scores((LABELS_RK + noise).astype(np.float32), LABELS_RK, MEMBER_R, MEMBER_R)


class Study:
    """Rows `ours` and `other` with seeds, and their scores by fingerprint."""

    def __init__(self, folder: Path) -> None:
        self.work = folder
        self.results = ResultsFile(path=folder / "r.json", name="compare", setting={})
        for seed in (0, 1):
            self.put("ours", seed, seed)
            self.put("other", seed, 10 + seed)

    def put(self, row: str, seed: int, number: int) -> None:
        """A seed's result, whose fingerprint and scores are the number's."""
        Outcome(values={}, scores=scores(number)).save(self.work / "trials" / str(number))
        self.results.put(row, {"chosen": {}}, seed, {"fingerprint": str(number)})

    def compared(self, *, within: bool = True) -> dict:
        """The other's seeds, with their differences to ours."""
        add_differences(self.results, self.work, {"other": "ours"}, TASKS, within=within)
        return self.results.entries()["other"]["seeds"]


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def expected(*pairs: tuple[int, int]) -> list:
    leads = differences([(scores(other), scores(ours)) for other, ours in pairs], TASKS)
    return [list(lead["click"]) for lead in leads]


def test_a_row_is_compared_once_over_all_its_seeds(study, monkeypatch) -> None:
    seeds = study.compared()
    assert [seeds[s]["difference"]["click"] for s in "01"] == expected((10, 0), (11, 1))
    assert {seed["apart_from"]["1"] for seed in seeds.values()} == {"1"}
    assert seeds["0"]["within_difference"]["click"][0] is not None
    monkeypatch.setattr("components.studies.differences.differences", None)
    assert study.compared() == seeds


def test_within_a_day_is_added_where_it_is_asked_for(study) -> None:
    assert set(study.compared(within=False)["0"]) == {"fingerprint", "difference", "apart_from"}


def test_a_row_without_its_reference_stays_as_it_is(study) -> None:
    references = {"other": "nobody", "nobody": "ours"}
    before = study.results.path.read_bytes()
    add_differences(study.results, study.work, references, TASKS)
    assert study.results.path.read_bytes() == before


def test_one_more_seed_changes_the_error_of_all(study) -> None:
    before = study.compared()
    study.put("ours", 2, 2)
    assert study.compared() == before  # it has no partner yet
    study.put("other", 2, 12)
    after = study.compared()
    assert [after[s]["difference"]["click"] for s in "012"] == expected((10, 0), (11, 1), (12, 2))
    assert after["0"]["difference"]["click"][1] != before["0"]["difference"]["click"][1]


def test_of_another_reference_nothing_is_left_where_the_scores_are_gone(study) -> None:
    study.compared()
    shutil.rmtree(study.work / "trials" / "10")
    assert "difference" in study.compared()["0"]  # the reference is what it was
    study.put("ours", 0, 5)
    study.put("ours", 1, 6)
    after = study.compared()
    assert after["0"] == {"fingerprint": "10"}
    assert [after["1"]["difference"]["click"]] == expected((11, 6))
