# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from components.study.costs import longest_request
from model import build_ranker
from tests.builders import TINY
from tests.model.variants import VARIANTS, timed_train_batch, variant


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
