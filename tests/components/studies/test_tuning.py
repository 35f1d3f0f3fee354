# SPDX-License-Identifier: Apache-2.0
"""How a configuration is chosen: by the mean over seeds, past what diverged, and the same again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.layout.locks import claimed
from components.studies import tuning
from components.studies.contenders import Contender
from components.studies.tuning import Comparison, Tuned, choose, choose_values, choosing_auc, tune
from tests.study_builders import CHOOSING, CONFIG, CONTENDERS, TESTING, comparison

OURS, DCNV2, TREES = CONTENDERS
TAUGHT = Contender(name="taught", title="Taught", base="dcnv2", changes={"cold.teachers": 1})


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    return comparison(tmp_path)


def idle(count: int = 1) -> None:
    """An `advance` that shows nothing."""


def by_values(monkeypatch: pytest.MonkeyPatch, auc: Any) -> list[dict[str, Any]]:
    """An AUC is a function of values and seed, and nothing is trained; returns what is asked."""
    asked: list[dict[str, Any]] = []

    def measure(_: Any, __: Any, values: dict[str, Any], ___: Any, seed: int = 0) -> Any:
        asked.append(values)
        return auc(values, seed)

    monkeypatch.setattr(tuning, "choosing_auc", measure)
    return asked


def test_values_by_dotted_name_land_in_the_ranker_and_in_its_training(study) -> None:
    values = {"ranker.head.width": 24, "ranker.layers": 2, "cold.epochs": 3}
    trial = study.trial(OURS, values, TESTING, 4)
    assert trial.learner.config.head.width == 24
    assert trial.learner.config.layers == 2
    assert trial.config.cold == CONFIG.cold.model_copy(update={"epochs": 3})
    assert (trial.split, trial.seed) == (TESTING, 4)


def test_tuning_starts_from_the_configuration_of_the_run_or_the_contenders_own(study) -> None:
    for contender, own in ((OURS, CONFIG.feed_sr), (DCNV2, CONFIG.dcnv2)):
        assert study.trial(contender, {}, TESTING, 0).learner.config == own
    assert study.trial(TREES, {}, TESTING, 0).learner == TREES.start


def test_a_taught_contender_is_trained_as_its_base_and_takes_over_its_choice(study) -> None:
    assert choose_values(study, TAUGHT, idle) is None  # its base is another process's
    study.results.put("dcnv2", {"chosen": {"cold.epochs": 2}}, 0, {"fingerprint": "x"})
    values = choose_values(study, TAUGHT, idle)
    assert values == {"cold.epochs": 2, "cold.teachers": 1}
    trial = study.trial(TAUGHT, values, TESTING, 0)
    assert trial.learner.config == CONFIG.dcnv2
    assert (trial.config.cold.epochs, trial.config.cold.teachers) == (2, 1)


def test_so_many_trainings_are_on_the_choosing_days(study) -> None:
    assert study.tuning_trials == 4 + 3 * 1
    assert replace(study, trials=2, choosing_seeds=3).tuning_trials == 2 + 2 * 2
    assert replace(study, trials=1).tuning_trials == 1


def test_the_first_is_the_start_and_what_is_suggested_is_suggested_again(
    study, monkeypatch
) -> None:
    pytest.importorskip("optuna")
    asked = by_values(monkeypatch, lambda values, seed: values.get("ranker.head.width", 0) / 100)
    tried = tune(study, OURS, idle)
    assert tried is not None
    assert [each.values for each in tried] == asked
    assert [each.number for each in tried] == [0, 1, 2, 3]
    assert tried[0] == Tuned(0, {}, 0.0)
    for each in tried[1:]:
        assert each.values["ranker.head.width"] in (8, 24)
        assert 1e-4 <= each.values["cold.learning_rate"] <= 1e-2
    assert tune(study, OURS, idle) == tried


def test_tuning_ends_where_another_process_is_at_it(study, monkeypatch) -> None:
    pytest.importorskip("optuna")
    by_values(monkeypatch, lambda values, seed: 0.5 if values == {} else None)
    assert tune(study, OURS, idle) is None


def test_one_seed_of_luck_does_not_choose(study, monkeypatch) -> None:
    aucs = {0: (0.70, 0.70), 1: (0.72, 0.62), 2: (0.71, 0.71), 3: (0.69, 0.99)}
    by_values(monkeypatch, lambda values, seed: aucs[values["number"]][seed])
    tried = [Tuned(number, {"number": number}, auc[0]) for number, auc in aucs.items()]
    for order in (tried, tried[::-1]):
        best = choose(study, OURS, order, idle)
        assert best is not None
        assert best.number == 2  # the third is no finalist
    assert choose(study, OURS, tried[3:], idle) is tried[3]  # nothing to train


def test_a_finalist_that_another_process_holds_keeps_none_of_the_others_back(
    study, monkeypatch
) -> None:
    asked = by_values(monkeypatch, lambda values, seed: None if values["number"] == 0 else 0.5)
    tried = [Tuned(number, {"number": number}, 0.7) for number in range(3)]
    assert choose(study, OURS, tried, idle) is None
    assert [values["number"] for values in asked] == [0, 1, 2]


def test_a_configuration_without_an_auc_is_below_every_other(study) -> None:
    """Its training diverged: it is tuned past, and is no end of the study."""
    fingerprint = study.trial(DCNV2, {}, CHOOSING, 0).fingerprint
    for number, auc in ((0, None), (1, 0.25)):
        study.results.put("tuning", {}, number, {"fingerprint": fingerprint, "auc": auc})
    aucs = [choosing_auc(study, DCNV2, {}, ("tuning", number)) for number in (0, 1)]
    assert aucs == [0.0, 0.25]


def test_an_auc_is_kept_with_the_values_it_is_of(study) -> None:
    place = ("tuning: dcnv2", 1)
    trial = study.trial(DCNV2, {"cold.epochs": 2}, CHOOSING, 0)
    with claimed(trial.lock(study.work)):
        assert choosing_auc(study, DCNV2, {"cold.epochs": 2}, place) is None
    auc = choosing_auc(study, DCNV2, {"cold.epochs": 2}, place)
    row = study.results.entries()["tuning: dcnv2"]
    assert row["contender"] == "dcnv2"
    assert row["seeds"]["1"] == {
        "fingerprint": trial.fingerprint,
        "values": {"cold.epochs": 2},
        "auc": auc,
    }
