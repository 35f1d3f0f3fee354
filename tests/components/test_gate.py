# SPDX-License-Identifier: Apache-2.0
import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import GateConfig, load_config
from components.gate import GateVerdict, gate, judge
from components.layout import Layout, write_json

GOOD = {"auc": 0.75, "log_loss": 0.5, "ece": 0.02, "n": 10_000, "positives": 3_000}


def day_metrics(**rankers: dict) -> dict:
    bodies = {name: {"tasks": {"long_dwell": of, "like": of}} for name, of in rankers.items()}
    return {"day": "2026-01-03", "model": "ab" * 32, "rankers": copy.deepcopy(bodies)}


def failed(metrics: dict, config: GateConfig | None = None) -> list[str]:
    verdict = judge(metrics, config or GateConfig())
    assert verdict.passed == (not verdict.reasons)
    return [c.name for c in verdict.checks if not c.passed]


def test_a_first_good_model_passes_without_a_comparison_to_production() -> None:
    metrics = day_metrics(feed_sr=GOOD, dcnv2=GOOD)
    assert failed(metrics) == []
    assert not any("production" in c.name for c in judge(metrics, GateConfig()).checks)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"auc": 0.5}, "AUC of long_dwell"),
        ({"ece": 0.11}, "calibration error of long_dwell"),
        ({"positives": 49}, "rarer labels of long_dwell"),
        ({"positives": 9_960}, "rarer labels of long_dwell"),
        ({"auc": None}, "AUC of long_dwell over dcnv2"),
        ({"auc": math.nan}, "AUC of long_dwell"),
        ({"ece": math.nan}, "calibration error of long_dwell"),
        ({"log_loss": None}, "log loss of long_dwell"),
    ],
)
def test_each_check_can_refuse(change: dict, name: str) -> None:
    metrics = day_metrics(feed_sr=GOOD, dcnv2=GOOD)
    metrics["rankers"]["feed_sr"]["tasks"]["long_dwell"].update(change)
    assert name in failed(metrics)


def test_it_refuses_a_fall_below_production_and_below_the_baseline() -> None:
    better = {**GOOD, "auc": 0.7551}
    assert failed(day_metrics(feed_sr=GOOD, production=better)) == [
        "AUC of long_dwell over production"
    ]
    assert failed(day_metrics(feed_sr=GOOD, dcnv2={**GOOD, "auc": 0.761})) == [
        "AUC of long_dwell over dcnv2"
    ]
    assert failed(day_metrics(feed_sr=GOOD, production={**GOOD, "auc": 0.7549})) == []


def test_a_rare_task_is_reported_and_not_judged() -> None:
    metrics = day_metrics(feed_sr=GOOD)
    metrics["rankers"]["feed_sr"]["tasks"]["like"] = {
        **GOOD, "positives": 3, "ece": 0.9, "auc": None
    }  # fmt: skip
    assert failed(metrics) == []


@given(auc=st.floats(0, 1), production=st.floats(0, 1), drop=st.floats(0, 0.1))
def test_the_threshold_is_the_declared_one(auc: float, production: float, drop: float) -> None:
    config = GateConfig(min_auc=0, max_auc_drop=drop)
    metrics = day_metrics(feed_sr={**GOOD, "auc": auc}, production={**GOOD, "auc": production})
    assert judge(metrics, config).passed == (auc - production >= -drop)


def test_the_verdict_is_written_and_read_back(tmp_path) -> None:
    layout, config = Layout.at(tmp_path), load_config("demo")
    write_json(layout.run("2026-01-03") / "metrics.json", day_metrics(feed_sr=GOOD, dcnv2=GOOD))
    verdict = gate(layout, "2026-01-03", config)
    path = layout.run("2026-01-03") / "gate.json"
    assert GateVerdict.read(path) == verdict
    assert json.loads(path.read_text())["passed"] is True


def test_a_day_that_was_not_evaluated_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match="evaluate 2026-01-03 before its gate"):
        gate(Layout.at(tmp_path), "2026-01-03", load_config("demo"))


def test_a_task_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="'lick'; have long_dwell, like"):
        judge(day_metrics(feed_sr=GOOD), GateConfig(task="lick"))
