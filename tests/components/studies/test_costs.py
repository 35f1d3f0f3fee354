# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from components.studies.costs import costs, longest_request, request_ms
from model import build_ranker
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
    assert request_ms(ranker, tmp_path / "some", TINY)["request_impressions"] == 9
    write_shards(tmp_path / "none", TINY, [1] * 65, shards=1)
    with pytest.raises(ValueError, match="none hold no target whose request could be timed"):
        request_ms(ranker, tmp_path / "none", TINY)
    assert costs(ranker, tmp_path / "none")["step_ms"] > 0
