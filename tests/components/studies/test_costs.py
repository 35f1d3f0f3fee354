# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from components.studies.costs import (
    CANDIDATES,
    REPEATS,
    longest_request,
    request_costs,
    training_costs,
)
from model import build_ranker
from model.batch import RankBatch
from tests.builders import TINY
from tests.model.variants import VARIANTS, timed_train_batch, variant
from tests.shard_builders import write_shards


def test_a_request_is_the_longest_history_with_as_many_candidates_as_asked() -> None:
    batch = timed_train_batch(0, [3, 9, 5])
    request = longest_request(batch, 20)
    impressions = batch.impressions
    assert request.history.num_impressions == 9
    for name, column in impressions.features.items():
        assert torch.equal(request.history.features[name], column[3:12])
        assert len(request.candidates[name]) == 20
    assert torch.equal(request.history.known_M, impressions.known_M[3:12])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_ablation_ranks_it(name) -> None:
    request = longest_request(timed_train_batch(0, [3, 9, 5]), 20)
    ranker = build_ranker(variant(name), TINY).eval()
    assert ranker.rank(request).isfinite().all()


def test_a_request_is_timed_in_the_first_batch_that_has_a_target(tmp_path) -> None:
    """The first 64 sequences have none; a folder of such alone has no request."""
    ranker = build_ranker(variant("learned"), TINY).eval()
    write_shards(tmp_path / "some", TINY, [1] * 64 + [9, 5], shards=1)
    assert request_costs(ranker, tmp_path / "some", TINY)["request_impressions"] == 9
    write_shards(tmp_path / "none", TINY, [1] * 65, shards=1)
    with pytest.raises(ValueError, match="none hold no target whose request could be timed"):
        request_costs(ranker, tmp_path / "none", TINY)
    assert training_costs(ranker, tmp_path / "none")["step_ms"] > 0


def test_a_models_costs_are_its_own_and_leave_it_as_it_was(tmp_path) -> None:
    write_shards(tmp_path, TINY, [9, 5, 30], shards=1)
    ranker = build_ranker(variant("learned"), TINY).eval()
    before = [parameter.clone() for parameter in ranker.parameters()]
    costs = training_costs(ranker, tmp_path)
    assert costs["parameters"] == sum(parameter.numel() for parameter in before)
    assert costs["gflop"] == round(ranker.flops(TINY.max_impressions, CANDIDATES) / 1e9, 4)
    assert not ranker.training
    for parameter, old in zip(ranker.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


class Answers:
    """Answers anything, and counts."""

    def __init__(self) -> None:
        self.requests: list[RankBatch] = []

    def rank(self, batch: RankBatch) -> torch.Tensor:
        self.requests.append(batch)
        return torch.zeros(len(batch.position_N), 1)


def test_whatever_answers_requests_is_timed_on_the_same_one(tmp_path) -> None:
    write_shards(tmp_path, TINY, [9, 5], shards=1)
    answers = Answers()
    costs = request_costs(answers, tmp_path, TINY)
    assert len(answers.requests) == 1 + REPEATS
    assert len({id(request) for request in answers.requests}) == 1
    assert costs["request_candidates"] == len(answers.requests[0].position_N) == CANDIDATES
