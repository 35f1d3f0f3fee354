# SPDX-License-Identifier: Apache-2.0
"""Differences against what they are defined as: members drawn again, the same for all seeds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from components.backtest.bootstrap import BootstrapAuc, member_weights
from components.evaluation.scorecard import grouped_auc
from components.studies.scores import RESAMPLES, Scores, differences, score, within_differences
from kernels.streaming_metrics import exact_auc
from model import DCNv2Config, build_ranker
from tests.builders import TINY
from tests.shard_builders import write_shards

MEMBERS, EACH = 40, 12
TASKS = ("click", "like")


@pytest.fixture
def two() -> tuple[Scores, Scores]:
    random = np.random.default_rng(0)
    member_R = np.repeat(random.integers(1, 2**60, MEMBERS), EACH)
    sequence_R = np.arange(len(member_R)) // (EACH // 2)  # two days each
    labels_RK = random.integers(0, 2, (len(member_R), len(TASKS))).astype(np.float32)
    labels_RK[random.random(labels_RK.shape) < 0.1] = np.nan
    labels_RK[:, 1] = np.where(np.isnan(labels_RK[:, 1]), np.nan, 0)  # never liked
    both = []
    for skill in (0.3, 0.5):
        noise = random.normal(size=labels_RK.shape)
        logits_RK = (np.nan_to_num(labels_RK) * skill + noise).astype(np.float32)
        both.append(Scores(logits_RK, labels_RK, member_R, sequence_R))
    return both[0], both[1]


def test_a_difference_within_a_day_is_that_of_members_drawn_again(two) -> None:
    mine, other = two
    seen = np.isfinite(mine.labels_RK[:, 0])
    labels, days = mine.labels_RK[seen, 0], mine.sequence_R[seen]
    member = dict(zip(mine.sequence_R.tolist(), mine.member_R.tolist(), strict=True))

    def drawn(scores: Scores, times: dict[int, int]) -> float:
        auc, size, day = grouped_auc(scores.logits_RK[seen, 0], labels, days)
        again = np.repeat(np.arange(len(day)), [times[member[int(d)]] for d in day])
        return float(np.average(auc[again], weights=size[again]))

    unique = np.unique(mine.member_R)
    weights = member_weights(unique, RESAMPLES)
    each = [dict(zip(unique.tolist(), column, strict=True)) for column in weights.T.tolist()]
    leads = [drawn(mine, times) - drawn(other, times) for times in each]
    value, error = within_differences([(mine, other)], TASKS)[0]["click"]
    assert value == pytest.approx(leads[0], abs=1e-12)
    assert error == pytest.approx(np.std(leads[1:], ddof=1), rel=1e-9)
    assert error > 0.005


def test_within_a_day_a_task_with_one_class_has_no_difference(two) -> None:
    assert within_differences([two], TASKS)[0]["like"] == (None, None)
    assert within_differences([(two[0], two[0])], TASKS)[0]["click"] == (0, 0)


def retrained(scores: Scores, seed: int) -> Scores:
    """The same test by another seed of the ranker."""
    noise = np.random.default_rng(seed).normal(0, 3, scores.logits_RK.shape).astype(np.float32)
    return replace(scores, logits_RK=scores.logits_RK + noise)


def test_the_error_is_that_of_the_mean_over_seeds_for_members_drawn_once(two) -> None:
    pairs = [(retrained(two[0], seed), retrained(two[1], seed + 9)) for seed in range(3)]
    leads = differences(pairs, TASKS)
    resampled = []
    for pair in pairs:
        aucs = []
        for scores in pair:
            auc = BootstrapAuc(len(TASKS), RESAMPLES)
            auc.update(scores.logits_RK, scores.labels_RK, scores.member_R)
            aucs.append(auc.auc()[0])
        resampled.append(aucs[0] - aucs[1])
    error = np.std(np.mean(resampled, axis=0)[1:], ddof=1)
    for lead, pair in zip(leads, pairs, strict=True):
        assert lead["click"][0] == pytest.approx(pair[0].auc(0) - pair[1].auc(0), abs=1e-12)
        assert lead["click"][1] == pytest.approx(error, rel=1e-9)
        assert error < 0.8 * differences([pair], TASKS)[0]["click"][1]
        assert lead["like"] == (None, None)


@pytest.mark.parametrize("measure", [differences, within_differences])
def test_a_seed_that_says_the_same_makes_no_mean_surer(two, measure) -> None:
    (once,), twice = measure([two], TASKS), measure([two, two], TASKS)
    for lead in twice:
        assert lead["click"] == pytest.approx(once["click"], rel=1e-12)


def test_a_card_and_its_scores_say_the_same(tmp_path) -> None:
    """Of a ranker that has hardly learned too, in every segment."""
    write_shards(tmp_path, TINY, [5, 30, 60, 1, 9], shards=2)
    ranker = build_ranker(DCNv2Config(), TINY)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.mul_(1e-2)
    card, scores = score(ranker, tmp_path, TINY)
    assert np.ptp(scores.logits_RK[:, 0]) < 0.05
    for k, task in enumerate(TINY.task_names):
        assert card["tasks"][task]["auc"] == exact_auc(
            scores.logits_RK[:, k], scores.labels_RK[:, k]
        )
    assert len(np.unique(scores.sequence_R)) == 4  # one has no target
    assert (np.diff(scores.sequence_R) >= 0).all()
    with torch.no_grad():
        next(ranker.parameters()).fill_(torch.nan)
    card, scores = score(ranker, tmp_path, TINY)
    assert {figures["auc"] for figures in card["tasks"].values()} == {None}
    with pytest.raises(ValueError, match="scores are NaN"):
        scores.auc(0)


def test_a_test_without_a_target_is_one_sentence(tmp_path) -> None:
    write_shards(tmp_path, TINY, [1, 1], shards=1)
    with pytest.raises(ValueError, match="hold nothing to score"):
        score(build_ranker(DCNv2Config(), TINY), tmp_path, TINY)


@pytest.mark.parametrize("measure", [differences, within_differences])
def test_of_no_pair_and_no_row_there_is_no_difference(two, measure) -> None:
    assert measure([], TASKS) == []
    nothing = Scores(*(getattr(two[0], name)[:0] for name in Scores.__dataclass_fields__))
    assert measure([(nothing, nothing)], TASKS) == [dict.fromkeys(TASKS, (None, None))]


@pytest.mark.parametrize("measure", [differences, within_differences])
@pytest.mark.parametrize("row", [0, -1])
def test_scores_of_another_test_are_refused(two, measure, row: int) -> None:
    mine, other = two
    for name in ("member_R", "labels_RK"):
        changed = getattr(other, name).copy()
        changed[row] = 7
        with pytest.raises(ValueError, match="not scored on the same impressions"):
            measure([two, (mine, replace(other, **{name: changed}))], TASKS)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_damaged_scores_are_one_sentence(two, tmp_path, kept: int) -> None:
    path = tmp_path / "scores.npz"
    two[0].save(path)
    again = Scores.load(path)
    assert all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(vars(again).values(), vars(two[0]).values(), strict=True)
    )
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="holds no scores; delete it, and run again"):
        Scores.load(path)
