# SPDX-License-Identifier: Apache-2.0
"""TransAct's window: the newest known impressions, whatever the chunks, each with its candidate."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.rivals.transact import TransAct
from tests.builders import TINY, make_rank_batch, make_train_batch
from tests.rival_builders import TRANSACT, noisy

RANKER = noisy(TRANSACT)


def with_older(part: dict[str, Tensor], other: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {n: torch.cat([other[n][:rows], c[rows:]]) for n, c in part.items()}


@pytest.mark.parametrize(("older", "same"), [(3, True), (4, False)])
def test_it_looks_at_the_newest_impressions_only(older: int, same: bool) -> None:
    """Of eight impressions the window of five has the last five."""
    batch, other = (make_rank_batch(TINY, seed, [8], [3]) for seed in (1, 2))
    mine, theirs = batch.history, other.history
    history = dataclasses.replace(
        mine,
        features=with_older(mine.features, theirs.features, older),
        actions=with_older(mine.actions, theirs.actions, older),
    )
    got = RANKER.rank(dataclasses.replace(batch, history=history))
    assert torch.equal(got, RANKER.rank(batch)) == same


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_chunks_change_neither_scores_nor_gradients(chunk: int) -> None:
    """Chunks are computed again in the backward: with dropout, from the same random numbers."""
    batch = make_train_batch(TINY, 4, [9, 0, 12], "day")
    whole, cut = (noisy(TRANSACT.model_copy(update={"chunk": c})) for c in (1000, chunk))
    outputs = [ranker(batch) for ranker in (whole, cut)]
    torch.testing.assert_close(outputs[1].logits_RK, outputs[0].logits_RK)
    for output in outputs:
        (output.logits_RK.sum() + output.auxiliary_AK.sum()).backward()
    for (name, want), (_, got) in zip(
        whole.named_parameters(), cut.named_parameters(), strict=True
    ):
        torch.testing.assert_close(got.grad, want.grad, msg=name)


def test_dropout_is_the_same_when_a_chunk_is_computed_again() -> None:
    """A finite difference along one weight agrees with the gradient, dropout and all."""
    ranker = noisy(TRANSACT.model_copy(update={"dropout": 0.5, "embedding_dropout": 0.0}))
    ranker.train()
    batch = make_train_batch(TINY, 4, [9, 12], "day")
    assert isinstance(ranker, TransAct)
    weight = ranker.candidate_tokens.weight

    def total() -> Tensor:
        torch.manual_seed(3)
        return ranker(batch).logits_RK.sum()

    total().backward()
    assert weight.grad is not None
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step
        values.append(float(total().detach()))
        with torch.no_grad():
            weight[0, 0] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(weight.grad[0, 0]), rel=1e-4)


def test_a_token_is_post_action_and_candidate_joined() -> None:
    """The sum of the three shares is one linear layer over the three side by side."""
    assert isinstance(RANKER, TransAct)
    batch = make_rank_batch(TINY, 5, [4], [4])
    post_MW = RANKER.post_tokens.encoder(batch.history.features)
    candidate_NW = RANKER.post_tokens.encoder(batch.candidates)
    joined = torch.cat([post_MW, candidate_NW], -1)
    weight = torch.cat([RANKER.post_tokens.linear.weight, RANKER.candidate_tokens.weight], -1)
    whole = joined @ weight.T + RANKER.post_tokens.linear.bias
    whole = whole + RANKER.action_tokens(batch.history.actions)
    shares = RANKER._history(post_MW, batch.history) + RANKER.candidate_tokens(candidate_NW)
    torch.testing.assert_close(shares, whole)
