# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.scorecard import Rows, Scorecard, grouped_auc, plain

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
    auc, size, found = grouped_auc(scores, labels, groups)
    assert list(zip(size.tolist(), found.tolist(), strict=True)) == list(want)
    np.testing.assert_allclose(auc, list(want.values()))


def rows(rng: np.random.Generator, n: int) -> tuple[np.ndarray, Rows]:
    logits = rng.normal(-1, 2, (n, 2)).astype(np.float32)
    labels = (rng.random((n, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[rng.random(n) < 0.2, 1] = np.nan
    sequence = np.sort(rng.integers(0, max(n // 5, 1), n))
    segments = {"old": sequence % 2 == 0, "nobody": np.zeros(n, np.bool_)}
    return logits, Rows(labels_RK=labels, sequence_R=sequence, segments=segments)


def test_a_card_agrees_with_the_definitions() -> None:
    logits, of = rows(np.random.default_rng(0), 3_000)
    card = Scorecard(TASKS)
    card.update(logits, of)
    result = card.result()
    for k, task in enumerate(TASKS):
        seen = np.isfinite(of.labels_RK[:, k])
        label, p = of.labels_RK[seen, k], 1 / (1 + np.exp(-logits[seen, k].astype(float)))
        got = result["tasks"][task]
        assert got["n"] == seen.sum()
        assert got["positives"] == label.sum()
        assert got["auc"] == pytest.approx(auc_of(logits[seen, k], label), abs=1e-4)
        loss = -np.log(np.where(label == 1, p, 1 - p)).mean()
        assert got["log_loss"] == pytest.approx(loss, rel=1e-3)
        assert got["ece"] < 0.05
        assert sum(result["scores"][task]["count"]) == seen.sum()
        assert sum(result["scores"][task]["positives"]) == label.sum()
        assert sum(result["calibration"][task]["count"]) == pytest.approx(seen.sum())
    old = result["segments"]["old"]["click"]
    assert old["n"] == of.segments["old"].sum()
    assert result["segments"]["nobody"]["click"]["auc"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_batches_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(1)
    parts = [rows(rng, 400) for _ in range(4)]
    whole, cut = Scorecard(TASKS), Scorecard(TASKS)
    for logits, of in parts:
        cut.update(logits, of)
    shifted = [of.sequence_R + 1_000 * i for i, (_, of) in enumerate(parts)]
    joined = Rows(
        labels_RK=np.concatenate([of.labels_RK for _, of in parts]),
        sequence_R=np.concatenate(shifted),
        segments={
            n: np.concatenate([of.segments[n] for _, of in parts]) for n in ("old", "nobody")
        },
    )
    whole.update(np.concatenate([logits for logits, _ in parts]), joined)
    one, many = whole.result(), cut.result()
    assert one["scores"] == many["scores"]
    for task in TASKS:
        assert one["tasks"][task] == pytest.approx(many["tasks"][task], rel=1e-6)
        assert one["within_member"][task] == pytest.approx(many["within_member"][task])


def test_a_logit_that_is_no_number_leaves_every_metric_undefined() -> None:
    logits, of = rows(np.random.default_rng(2), 200)
    good, card = Scorecard(TASKS), Scorecard(TASKS)
    good.update(logits, of)
    card.update(logits, of)
    card.update(np.full_like(logits, np.nan), of)
    tasks = card.result()["tasks"]
    for task in TASKS:
        assert tasks[task]["n"] == 2 * good.result()["tasks"][task]["n"]
        assert [tasks[task][m] for m in ("auc", "log_loss", "ece")] == [None] * 3
    assert card.result()["within_member"]["click"]["auc"] is None


def test_plain_values_hold_no_nan() -> None:
    value = {"a": np.array([1.0, np.nan]), "b": (np.int64(3), float("inf")), "c": "x"}
    assert plain(value) == {"a": [1.0, None], "b": [3, None], "c": "x"}
