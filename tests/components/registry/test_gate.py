# SPDX-License-Identifier: Apache-2.0
"""Each check of the gate at its limit and just beyond it, of each ranker and task apart."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import GateConfig, load_config
from components.layout.paths import Layout
from components.registry.gate import check, gate, judge
from components.registry.metrics import DayMetrics
from components.registry.records import Check, GateVerdict
from components.registry.run import Run
from feature_repo.specs import SIMULATOR
from tests.run_builders import day_metrics as metrics_of_day
from tests.run_builders import ranker_metrics

DAY = "2026-01-03"
CANDIDATE = {"auc": 0.75, "log_loss": 0.5, "ece": 0.02, "n": 10_000, "positives": 3_000}
BASELINE = {"auc": 0.74, "log_loss": 0.6, "ece": 0.03, "n": 9_000, "positives": 2_000}
PRODUCTION = {"auc": 0.752, "log_loss": 0.4, "ece": 0.01, "n": 8_000, "positives": 1_000}
LIKE = {"auc": 0.9, "log_loss": 0.1, "ece": 0.04, "n": 10_000, "positives": 200}
OF = "long_dwell"
ALL = [
    f"rarer labels of {OF}",
    f"AUC of {OF}",
    f"AUC of {OF} over dcnv2",
    f"AUC of {OF} over production",
    f"calibration error of {OF}",
    "calibration error of like",
]


def day_metrics(**rankers: dict) -> dict:
    """The metrics of a day in JSON's types: what is given of each ranker's first task."""
    measured = {name: ranker_metrics({OF: first, "like": LIKE}) for name, first in rankers.items()}
    return metrics_of_day(SIMULATOR, DAY, measured).plain()


def whole_day() -> dict:
    return day_metrics(feed_sr=CANDIDATE, dcnv2=BASELINE, production=PRODUCTION)


def changed(ranker: str, task: str, **change: object) -> dict:
    """A good day with one ranker's task changed."""
    metrics = whole_day()
    metrics["rankers"][ranker]["tasks"][task].update(change)
    return metrics


def judged(metrics: dict, config: GateConfig | None = None) -> GateVerdict:
    return judge(DayMetrics.model_validate(metrics), config or GateConfig())


def failed(metrics: dict, config: GateConfig | None = None) -> list[str]:
    verdict = judged(metrics, config)
    assert verdict.passed == (not verdict.reasons)
    assert verdict.passed == all(c.passed for c in verdict.checks)
    return [c.name for c in verdict.checks if not c.passed]


def test_a_good_day_passes_every_check() -> None:
    verdict = judged(whole_day())
    assert [c.name for c in verdict.checks] == ALL
    values = [c.value for c in verdict.checks]
    assert values == pytest.approx([3_000, 0.75, 0.01, -0.002, 0.02, 0.04])
    bounds = [(c.bound, c.threshold) for c in verdict.checks]
    least, most = "at least", "at most"
    assert bounds == [
        (least, 50), (least, 0.55), (least, -0.01), (least, -0.005), (most, 0.1), (most, 0.1)
    ]  # fmt: skip
    assert (verdict.day, verdict.model, verdict.passed) == (DAY, "ab" * 32, True)
    assert verdict.reasons == ()


def test_a_first_model_is_not_compared_to_production() -> None:
    verdict = judged(day_metrics(feed_sr=CANDIDATE, dcnv2=BASELINE))
    assert verdict.passed
    assert [c.name for c in verdict.checks] == [n for n in ALL if "production" not in n]
    alone = judged(day_metrics(feed_sr=CANDIDATE))
    assert [c.name for c in alone.checks] == [n for n in ALL if "over" not in n]


UP, DOWN = math.inf, -math.inf
OVER_BASELINE, OVER_PRODUCTION = f"AUC of {OF} over dcnv2", f"AUC of {OF} over production"


@pytest.mark.parametrize(
    ("ranker", "task", "metric", "limit", "beyond", "names"),
    [
        ("feed_sr", OF, "positives", 50, 49, [f"rarer labels of {OF}"]),
        ("feed_sr", OF, "positives", 9_950, 9_951, [f"rarer labels of {OF}"]),
        ("feed_sr", OF, "auc", 0.625, math.nextafter(0.625, DOWN), [OVER_BASELINE]),
        ("dcnv2", OF, "auc", 0.875, math.nextafter(0.875, UP), [OVER_BASELINE]),
        ("production", OF, "auc", 1.0, math.nextafter(1.0, UP), [OVER_PRODUCTION]),
        ("feed_sr", OF, "ece", 0.1, math.nextafter(0.1, UP), [f"calibration error of {OF}"]),
        ("feed_sr", "like", "ece", 0.1, math.nextafter(0.1, UP), ["calibration error of like"]),
    ],
)
def test_the_limit_passes_and_the_next_value_does_not(
    ranker, task, metric, limit, beyond, names
) -> None:
    """Differences that binary fractions hold exactly: against the baseline .75, production .75."""
    config = GateConfig(min_over_baseline=-0.125, max_auc_drop=0.25)
    for value, want in ((limit, []), (beyond, names)):
        metrics = changed(ranker, task, **{metric: value})
        if ranker == "feed_sr":
            metrics["rankers"]["dcnv2"]["tasks"][OF]["auc"] = 0.75
        assert failed(metrics, config) == want


def test_the_least_auc_passes_and_the_next_lower_does_not() -> None:
    metrics = day_metrics(feed_sr={**CANDIDATE, "auc": 0.55})
    assert failed(metrics) == []
    metrics["rankers"]["feed_sr"]["tasks"][OF]["auc"] = math.nextafter(0.55, DOWN)
    assert failed(metrics) == [f"AUC of {OF}"]


def test_each_threshold_is_the_configured_one() -> None:
    day = whole_day()
    assert failed(day, GateConfig(min_positives=3_001)) == [f"rarer labels of {OF}"]
    assert failed(day, GateConfig(min_auc=0.751)) == [f"AUC of {OF}"]
    assert failed(day, GateConfig(min_over_baseline=0.011)) == [OVER_BASELINE]
    assert failed(day, GateConfig(max_auc_drop=0.001)) == [OVER_PRODUCTION]
    assert failed(day, GateConfig(max_calibration_error=0.03)) == ["calibration error of like"]
    assert failed(day, GateConfig(task="like", max_auc_drop=0)) == []
    day["rankers"]["production"]["tasks"]["like"]["auc"] = 0.91
    assert failed(day, GateConfig(task="like")) == ["AUC of like over production"]


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("ranker", "task", "metric", "names"),
    [
        ("feed_sr", OF, "auc", [f"AUC of {OF}", OVER_BASELINE, OVER_PRODUCTION]),
        ("dcnv2", OF, "auc", [OVER_BASELINE]),
        ("production", OF, "auc", [OVER_PRODUCTION]),
        ("feed_sr", OF, "ece", [f"calibration error of {OF}"]),
        ("feed_sr", OF, "log_loss", [f"log loss of {OF}"]),
        ("feed_sr", "like", "ece", ["calibration error of like"]),
        ("feed_sr", "like", "log_loss", ["log loss of like"]),
    ],
)
def test_what_could_not_be_measured_is_refused(nothing, ranker, task, metric, names) -> None:
    metrics = changed(ranker, task, **{metric: nothing})
    verdict = judged(metrics)
    assert failed(metrics) == names
    for c in verdict.checks:
        if not c.passed:
            assert c.value is None
            assert c.reason == f"{c.name} could not be measured; it must be {c.bound} " + (
                f"{c.threshold:g}"
            )


def test_a_log_loss_that_is_none_is_told_with_ten_times_that_of_a_coin() -> None:
    (refused,) = (c for c in judged(changed("feed_sr", OF, log_loss=None)).checks if not c.passed)
    assert (refused.bound, refused.threshold) == ("at most", pytest.approx(6.931472))


def test_both_without_an_auc_are_refused_as_one_without() -> None:
    metrics = changed("feed_sr", OF, auc=None)
    for other in ("dcnv2", "production"):
        metrics["rankers"][other]["tasks"][OF]["auc"] = None
    assert failed(metrics) == [f"AUC of {OF}", OVER_BASELINE, OVER_PRODUCTION]


@pytest.mark.parametrize(
    ("ranker", "task", "change"),
    [
        ("dcnv2", OF, {"ece": 0.5, "log_loss": None, "positives": 0}),
        ("production", OF, {"ece": None, "log_loss": math.nan, "n": 0}),
        ("dcnv2", "like", {"auc": None, "ece": 0.9}),
        ("production", "like", {"auc": 1.0, "ece": 0.9}),
        ("feed_sr", "like", {"auc": None}),
    ],
)
def test_what_is_not_asked_of_the_others_refuses_nothing(ranker, task, change) -> None:
    assert failed(changed(ranker, task, **change)) == []


def test_a_rare_task_is_reported_and_not_judged() -> None:
    rare = {"positives": 49, "ece": 0.9, "auc": None, "log_loss": None}
    assert failed(changed("feed_sr", "like", **rare)) == []
    assert failed(changed("feed_sr", "like", **{**rare, "positives": 50})) == [
        "calibration error of like",
        "log loss of like",
    ]


def test_a_day_without_impressions_is_refused() -> None:
    """Nothing was shown: no label, no metric."""
    empty = {"auc": None, "log_loss": None, "ece": None, "n": 0, "positives": 0}
    metrics = day_metrics(feed_sr=empty, dcnv2=empty)
    metrics["rankers"]["feed_sr"]["tasks"]["like"] = dict(empty)
    assert failed(metrics) == [f"rarer labels of {OF}", f"AUC of {OF}", OVER_BASELINE]


def test_a_check_says_what_it_found() -> None:
    assert check("AUC", 0.61234, "at least", 0.6) == Check(
        name="AUC", value=0.61234, bound="at least", threshold=0.6, passed=True,
        reason="AUC is 0.6123, at least 0.6 is asked",
    )  # fmt: skip
    assert check("error", 0.2, "at most", 0.1) == Check(
        name="error", value=0.2, bound="at most", threshold=0.1, passed=False,
        reason="error is 0.2, at most 0.1 is needed",
    )  # fmt: skip


@given(auc=st.floats(0, 1), production=st.floats(0, 1), drop=st.floats(0, 0.1))
def test_the_threshold_is_the_declared_one(auc: float, production: float, drop: float) -> None:
    config = GateConfig(min_auc=0, max_auc_drop=drop)
    metrics = day_metrics(
        feed_sr={**CANDIDATE, "auc": auc}, production={**PRODUCTION, "auc": production}
    )
    assert judged(metrics, config).passed == (auc - production >= -drop)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_the_verdict_is_written_as_json_and_read_back(tmp_path, nothing) -> None:
    """JSON has no NaN: other readers than Python's refuse the whole file."""
    layout, config = Layout.at(tmp_path), load_config("demo")
    path = layout.run(DAY) / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(changed("feed_sr", OF, ece=nothing, log_loss=nothing)))
    verdict = gate(layout, DAY, config)
    written = (layout.run(DAY) / "gate.json").read_text()
    assert Run(layout, DAY).verdict == verdict
    body = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (body["passed"], body["day"], body["model"]) == (False, DAY, "ab" * 32)
    assert [c["value"] for c in body["checks"] if not c["passed"]] == [None, None]


def test_a_verdict_of_yes_is_written(tmp_path) -> None:
    layout, config = Layout.at(tmp_path), load_config("demo")
    Run(layout, DAY).write(DayMetrics.model_validate(whole_day()))
    verdict = gate(layout, DAY, config)
    assert verdict.passed
    assert Run(layout, DAY).verdict == verdict
    assert json.loads((layout.run(DAY) / "gate.json").read_text())["passed"] is True


def test_a_day_that_was_not_evaluated_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match=f"missing: run feedsr evaluate --day {DAY} first"):
        gate(Layout.at(tmp_path), DAY, load_config("demo"))


def test_a_task_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="the gate is on task 'lick'; have long_dwell, like"):
        judged(whole_day(), GateConfig(task="lick"))
