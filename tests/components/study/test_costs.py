# SPDX-License-Identifier: Apache-2.0
import torch

from components.study.costs import longest_request
from model import FeedSRConfig, build_ranker
from tests.builders import TINY, make_train_batch


def test_a_request_is_the_longest_history_with_as_many_candidates_as_asked() -> None:
    batch = make_train_batch(TINY, 0, [3, 9, 5])
    request = longest_request(batch, 20)
    impressions = batch.impressions
    assert request.history.num_impressions == 9
    for name, column in impressions.features.items():
        assert torch.equal(request.history.features[name], column[3:12])
        assert len(request.candidates[name]) == 20
    assert torch.equal(request.history.known_M, impressions.known_M[3:12])
    ranker = build_ranker(FeedSRConfig(width=8, layers=1, heads=2), TINY, 0).eval()
    assert ranker.rank(request).isfinite().all()
