# SPDX-License-Identifier: Apache-2.0
"""A card's numbers are the definitions', of one row and of many, whatever the scores are."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.evaluation.scorecard import (
    LOGIT_EDGES,
    Rows,
    Scorecard,
    WithinMemberAuc,
    compares_within_day,
    grouped_auc,
    plain,
)
from components.registry.metrics import RankerMetrics, TaskMetrics, WithinMember
from feature_repo.spec import FRESHNESS

TASKS = ("click", "like")


def auc_of(scores: np.ndarray, labels: np.ndarray) -> float:
    """The definition: how often a positive outranks a negative, ties counting half."""
    above = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


@settings(deadline=None)
@given(data=st.data())
def test_grouped_auc_is_the_definition_in_each_group(data) -> None:
    n = data.draw(st.integers(0, 40))
    scores = data.draw(hnp.arrays(np.float32, n, elements=st.integers(-3, 3).map(float)))
    labels = data.draw(hnp.arrays(np.float32, n, elements=st.sampled_from([0.0, 1.0])))
    groups = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    want = {}
    for g in np.unique(groups):
        mine = labels[groups == g]
        if 0 < mine.sum() < len(mine):
            want[len(mine), g] = auc_of(scores[groups == g], mine)
    auc, size, group = grouped_auc(scores, labels, groups)
    assert list(zip(size.tolist(), group.tolist(), strict=True)) == list(want)
    np.testing.assert_allclose(auc, list(want.values()))


def rows(rng: np.random.Generator, n: int) -> tuple[np.ndarray, Rows]:
    logits = rng.normal(-1, 2, (n, 2)).astype(np.float32)
    labels = (rng.random((n, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[rng.random(n) < 0.2, 1] = np.nan
    sequence = np.sort(rng.integers(0, max(n // 5, 1), n))
    segments = {"old": sequence % 2 == 0, "nobody": np.zeros(n, np.bool_)}
    return logits, Rows(labels_RK=labels, sequence_R=sequence, segments=segments)


def test_a_card_agrees_with_the_definitions() -> None:
    logits, known = rows(np.random.default_rng(0), 3_000)
    card = Scorecard(TASKS)
    card.update(logits, known)
    result = card.result()
    for k, task in enumerate(TASKS):
        seen = np.isfinite(known.labels_RK[:, k])
        label, p = known.labels_RK[seen, k], 1 / (1 + np.exp(-logits[seen, k].astype(float)))
        got = result.tasks[task]
        assert got.n == seen.sum()
        assert got.positives == label.sum()
        assert got.auc == pytest.approx(auc_of(logits[seen, k], label), abs=1e-12)
        loss = -np.log(np.where(label == 1, p, 1 - p)).mean()
        assert got.log_loss == pytest.approx(loss, rel=1e-9)
        assert got.ece < 0.05
        assert sum(result.scores[task].count) == seen.sum()
        assert sum(result.scores[task].positives) == label.sum()
        assert sum(result.calibration[task].count) == pytest.approx(seen.sum())
    old = result.segments["old"]["click"]
    assert old.n == known.segments["old"].sum()
    assert result.segments["nobody"]["click"].auc is None
    plain_result = result.plain()
    assert json.loads(json.dumps(plain_result, allow_nan=False)) == plain_result
    assert RankerMetrics.model_validate(plain_result) == result


def card_of(logits_R, labels_R, **segments) -> RankerMetrics:
    """What a card says of one task, the rows in two batches, each row a sequence of its own."""
    logits_RK = np.asarray(logits_R, np.float32)[:, None]
    labels_RK = np.asarray(labels_R, np.float32)[:, None]
    card = Scorecard(("click",))
    for part in np.array_split(np.arange(len(logits_RK)), 2):
        cut = {name: np.asarray(mask, np.bool_)[part] for name, mask in segments.items()}
        rows = Rows(labels_RK=labels_RK[part], sequence_R=np.arange(len(part)), segments=cut)
        card.update(logits_RK[part], rows)
    return card.result()


def pairwise_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """The definition by a sorted list of negatives: how many are below, and half of the equals."""
    negative = np.sort(logits[labels == 0].astype(np.float64))
    positive = logits[labels == 1].astype(np.float64)
    below = sum(np.searchsorted(negative, positive, side) for side in ("left", "right")) / 2
    return float(below.mean() / len(negative))


@pytest.mark.parametrize("rounded", [False, True], ids=["continuous", "tied"])
@pytest.mark.parametrize(
    ("mean", "sd"), [(-5, 0.01), (-2, 3e-3), (-3, 1e-4), (0, 1e-6), (7, 1e-5), (-8, 2.0)]
)
def test_scores_with_little_spread_are_told_apart(mean: float, sd: float, rounded: bool) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.1).astype(np.float32)
    logits = (mean + sd * (rng.normal(size=20_000) + 0.5 * labels)).astype(np.float32)
    if rounded:
        logits = np.float32(mean) + np.round((logits - np.float32(mean)) / sd, 1) * np.float32(sd)
    logits[:2] = -30, 30  # two that are far from all others
    old = np.arange(20_000) % 3 == 0
    got = card_of(logits, labels, old=old)
    assert got.tasks["click"].auc == pytest.approx(pairwise_auc(logits, labels), abs=1e-9)
    segment = got.segments["old"]["click"]
    assert segment.auc == pytest.approx(pairwise_auc(logits[old], labels[old]), abs=1e-9)
    assert segment.n == old.sum()
    x, sign = logits.astype(np.float64), np.where(labels == 1, -1, 1)
    loss = np.log1p(np.exp(sign * x)).mean()
    assert got.tasks["click"].log_loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(-5.001, -5.0), (-3.0001, -3.0), (1.0, 1.0 + 2e-7)])
def test_the_calibration_of_scores_with_little_spread_is_that_of_each(low, high) -> None:
    """Half of the rows are told a little less, and happen never: two bins, not one."""
    logits = np.repeat(np.float32([low, high]), 500)
    labels = np.repeat([0, 0, 1], [500, 250, 250])
    got = card_of(logits, labels)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert got.tasks["click"].ece == pytest.approx((p[0] + abs(0.5 - p[-1])) / 2, rel=1e-9)
    curve = got.calibration["click"]
    assert [n for n in curve.count if n] == [500, 500]
    assert [x for x in curve.observed if x is not None] == [0, 0.5]
    assert [x for x in curve.predicted if x is not None] == pytest.approx([p[0], p[-1]], rel=1e-9)


def test_the_same_score_for_everything_is_a_half_to_the_bit() -> None:
    labels = np.random.default_rng(0).random(1_001) < 0.3
    for value in (-5.0, 0.0, -1e30, 1e30, 3e-39):
        assert card_of(np.full(1_001, value), labels).tasks["click"].auc == 0.5


def test_scores_at_the_ends_of_float32_are_ordered() -> None:
    labels = np.array([0, 0, 1, 0, 1, 1])
    got = card_of([-1e30, -50, -20, 20, 50, 1e30], labels).tasks["click"]
    assert got.auc == pytest.approx(8 / 9)
    assert got.log_loss == pytest.approx(40 / 6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2, 3, 5])
def test_one_score_that_is_no_number_refuses_the_card(place: int, wrong: float) -> None:
    logits = np.array([1.0, 2, 3, 4, 5, 6])
    logits[place] = wrong
    got = card_of(logits, [0, 1, 0, 1, 0, 1], old=np.arange(6) > 2)
    for measured in (got.tasks["click"], got.segments["old"]["click"]):
        assert (measured.auc, measured.log_loss, measured.ece) == (None, None, None)
    assert got.within_member["click"].auc is None
    assert (got.tasks["click"].n, got.tasks["click"].positives) == (6, 3)
    assert sum(got.scores["click"].count) == 6
    assert got.scores["click"].count[48] == 1  # the one, as a logit of 0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_a_log_loss_and_no_auc(label: int) -> None:
    got = card_of([0.5, 2.0, -1.0], [label] * 3).tasks["click"]
    assert got.auc is None
    x = np.array([0.5, 2.0, -1.0]) * (1 - 2 * label)
    assert got.log_loss == pytest.approx(np.log1p(np.exp(x)).mean())
    assert (got.n, got.positives) == (3, 3 * label)


def test_a_card_without_rows_is_a_card() -> None:
    """Neither a batch without rows, nor no batch, nor a segment or a task without a label."""
    never = Scorecard(TASKS).result()
    empty = Scorecard(TASKS)
    nothing = np.zeros((0, 2), np.float32)
    none = np.zeros(0, np.int64)
    empty.update(nothing, Rows(labels_RK=nothing, sequence_R=none, segments={}))
    assert empty.result() == never
    for task in TASKS:
        zeros = TaskMetrics(auc=None, log_loss=None, ece=None, n=0, positives=0)
        assert never.tasks[task] == zeros
        assert never.within_member[task] == WithinMember(auc=None, members=0, impressions=0)
        assert never.calibration[task].count == (0,) * 10
        assert sum(never.scores[task].count) == 0
    assert never.segments == {}
    got = card_of([1.0, 2.0, 3.0], [np.nan] * 3, nobody=[False] * 3)
    assert got.tasks["click"] == got.segments["nobody"]["click"] == zeros
    json.dumps([never.plain(), got.plain()], allow_nan=False)


def test_a_segment_that_a_batch_does_not_name_has_none_of_its_rows() -> None:
    card = Scorecard(("click",))
    labels = np.array([[0], [1], [1]], np.float32)
    logits = np.array([[1], [2], [3]], np.float32)
    for segments in ({}, {"late": np.array([True, False, True])}, {}):
        card.update(logits, Rows(labels_RK=labels, sequence_R=np.arange(3), segments=segments))
    late = card.result().segments["late"]["click"]
    assert (late.n, late.positives, late.auc) == (2, 1, 1.0)
    assert card.result().tasks["click"].n == 9


def test_the_shape_of_scores_has_every_row_and_the_ends_take_what_is_beyond() -> None:
    got = card_of([-1e30, -12.0, -11.8, 0.0, 5.99, 6.0, 1e30], [0, 1, 0, 1, 1, 0, 1])
    shape = got.scores["click"]
    assert shape.edges == tuple(LOGIT_EDGES)
    assert (LOGIT_EDGES[0], LOGIT_EDGES[-1], np.diff(LOGIT_EDGES).tolist()) == (-12, 6, [0.25] * 72)
    assert {i: n for i, n in enumerate(shape.count) if n} == {0: 3, 48: 1, 71: 3}
    assert {i: n for i, n in enumerate(shape.positives) if n} == {0: 1, 48: 1, 71: 2}


def test_within_members_the_impressions_are_the_weights() -> None:
    within = WithinMemberAuc(1)
    logits = np.array([[1.0], [2], [3], [4], [5], [6], [7]])
    labels = np.array([[0], [1], [1], [0], [0], [1], [np.nan]])
    within.update(logits, labels, np.array([5, 5, 5, 9, 9, 2, 9]))
    assert within.result() == [WithinMember(auc=1.0, members=1, impressions=3)]
    within.update(logits[:2], labels[1::-1], np.array([5, 5]))
    (both,) = within.result()
    assert both.plain() == {"auc": pytest.approx(3 / 5), "members": 2, "impressions": 5}


def test_a_card_has_the_auc_within_each_sequence_of_a_batch() -> None:
    """A number that a sequence has in two batches is not the same sequence."""
    card = Scorecard(TASKS)
    logits = np.float32([[1, 3], [2, 2], [3, 1], [4, 0], [5, 0]])
    labels = np.float32([[0, 0], [1, 1], [1, np.nan], [0, 0], [0, 1]])
    sequence = np.array([7, 7, 7, 8, 8])
    card.update(logits, Rows(labels_RK=labels, sequence_R=sequence, segments={}))
    card.update(
        logits[:2] * [-1, 1], Rows(labels_RK=labels[:2], sequence_R=sequence[:2], segments={})
    )
    assert card.result().plain()["within_member"] == {
        "click": {"auc": 3 / 5, "members": 2, "impressions": 5},
        "like": {
            "auc": pytest.approx((0 * 2 + 0.5 * 2 + 0 * 2) / 6),
            "members": 3,
            "impressions": 6,
        },
    }


def test_batches_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(1)
    parts = [rows(rng, 400) for _ in range(4)]
    whole, cut = Scorecard(TASKS), Scorecard(TASKS)
    for logits, known in parts:
        cut.update(logits, known)
    shifted = [known.sequence_R + 1_000 * i for i, (_, known) in enumerate(parts)]
    joined = Rows(
        labels_RK=np.concatenate([known.labels_RK for _, known in parts]),
        sequence_R=np.concatenate(shifted),
        segments={
            n: np.concatenate([known.segments[n] for _, known in parts]) for n in ("old", "nobody")
        },
    )
    whole.update(np.concatenate([logits for logits, _ in parts]), joined)
    once, often = whole.result().plain(), cut.result().plain()
    assert once["scores"] == often["scores"]
    for task in TASKS:
        assert once["tasks"][task] == pytest.approx(often["tasks"][task], rel=1e-6)
        assert once["within_member"][task] == pytest.approx(often["within_member"][task])


def test_a_logit_that_is_no_number_leaves_every_metric_undefined() -> None:
    logits, known = rows(np.random.default_rng(2), 200)
    good, card = Scorecard(TASKS), Scorecard(TASKS)
    good.update(logits, known)
    card.update(logits, known)
    card.update(np.full_like(logits, np.nan), known)
    tasks = card.result().tasks
    for task in TASKS:
        assert tasks[task].n == 2 * good.result().tasks[task].n
        assert (tasks[task].auc, tasks[task].log_loss, tasks[task].ece) == (None, None, None)
    assert card.result().within_member["click"].auc is None


def test_plain_values_hold_no_nan() -> None:
    value = {"a": np.array([1.0, np.nan]), "b": (np.int64(3), float("inf")), "c": "x"}
    assert plain(value) == {"a": [1.0, None], "b": [3, None], "c": "x"}


def test_grouped_auc_of_three_groups_by_hand() -> None:
    """Group 4: positives 2 and 5 over 1 and 2: 1, .5, 1, 1. Group 7 has one class, 8 is tied."""
    scores = np.float32([5, 0, 2, 3, 1, 3, 2, 3])
    labels = np.array([1, 1, 0, 0, 0, 1, 1, 0])
    groups = np.array([4, 7, 4, 8, 4, 8, 4, 8])
    auc, size, group = grouped_auc(scores, labels, groups)
    assert group.tolist() == [4, 8]
    assert size.tolist() == [4, 3]
    assert auc.tolist() == [3.5 / 4, 0.5]
    assert [len(x) for x in grouped_auc(scores[:0], labels[:0], groups[:0])] == [0, 0, 0]
    assert [len(x) for x in grouped_auc(scores[:1], labels[:1], groups[:1])] == [0, 0, 0]


def test_within_a_day_is_compared_for_the_freshness_day_alone() -> None:
    assert [compares_within_day(f) for f in FRESHNESS] == [f == "day" for f in FRESHNESS]
    assert "day" in FRESHNESS
