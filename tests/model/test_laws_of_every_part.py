# SPDX-License-Identifier: Apache-2.0
"""Every exchangeable part keeps the laws that the default keeps, learns, and can be saved.

Those of the paper score what they did before they could be exchanged.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import FeedSRConfig, build_ranker
from model.checkpoint import load_model, save_model
from model.feed_sr import FeedSR
from tests.builders import TINY, Pattern, make_rank_batch
from tests.model.layers.test_context_memory import after, remembered, rows_of
from tests.model.test_feed_sr import (
    assert_close,
    forward,
    join,
    make_ranker,
    patterns,
    perturb,
    rank,
    request_at,
    seeds,
)
from tests.model.test_heads import loss_of, train
from tests.model.variants import (
    SMALL,
    VARIANTS,
    timed_rank_batch,
    timed_request,
    timed_train_batch,
    variant,
)

every_variant = pytest.mark.parametrize("name", VARIANTS)
shapes_of = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=4
)


@cache
def noisy(name: str) -> FeedSR:
    """A float64 model of a variant whose every parameter matters."""
    return make_ranker(TINY, variant(name))


@pytest.mark.law
@every_variant
@settings(max_examples=8, deadline=None)
@given(seed=seeds, length=st.integers(0, 9), count=st.integers(2, 6), data=st.data())
def test_law_1_candidate_isolation(
    name: str, seed: int, length: int, count: int, data: st.DataObject
) -> None:
    batch = timed_rank_batch(seed, [length], [count])
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    got = rank(timed_request(batch, 0, chosen), noisy(name))
    assert_close(got, rank(batch, noisy(name))[chosen])


@pytest.mark.law
@every_variant
@settings(max_examples=8, deadline=None)
@given(seed=seeds, lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3), pattern=patterns)
def test_law_2_one_math(name: str, seed: int, lengths: list[int], pattern: Pattern) -> None:
    batch = timed_train_batch(seed, [*lengths, 5], pattern)
    want, _ = forward(batch, noisy(name))
    requests = [request_at(batch, r) for r in range(len(want))]
    if requests:
        assert_close(rank(join(requests), noisy(name)), want)
        assert_close(torch.cat([rank(r, noisy(name)) for r in requests]), want)


@pytest.mark.law
@every_variant
@settings(max_examples=8, deadline=None)
@given(seed=seeds, shapes=shapes_of, pattern=patterns)
def test_law_5_scores_depend_on_neither_batch_nor_memory(
    name: str, seed: int, shapes: list[tuple[int, int, float]], pattern: Pattern
) -> None:
    lengths, counts = [s[0] for s in shapes], [s[1] for s in shapes]
    batch, ranker = timed_rank_batch(seed, lengths, counts, pattern), noisy(name)
    want = rank(batch, ranker)
    alone = [rank(timed_request(batch, i, range(n)), ranker) for i, n in enumerate(counts)]
    assert_close(torch.cat(alone), want)
    past = remembered(batch, [round(share * n) for n, _, share in shapes], ranker)
    got, memories = after(batch, past, ranker)
    assert_close(got, want)
    assert_close(after(batch, list(memories), ranker)[0], want)


@pytest.mark.law
@every_variant
@settings(max_examples=8, deadline=None)
@given(seed=seeds, length=st.integers(2, 12), pattern=patterns, data=st.data())
def test_nothing_is_seen_before_it_is_known(
    name: str, seed: int, length: int, pattern: Pattern, data: st.DataObject
) -> None:
    batch = timed_train_batch(seed, [length], pattern)
    j = data.draw(st.integers(0, length - 1))
    before = forward(batch, noisy(name))
    changed = forward(perturb(batch, j, seed + 1), noisy(name))
    for rows, want, got in zip((batch.target_R, batch.auxiliary_A), before, changed, strict=True):
        blind = (batch.impressions.known_M[rows] <= j) & (rows != j)
        assert torch.equal(got[blind], want[blind])
        own = rows == j
        assert not own.any() or not torch.equal(got[own], want[own])


@every_variant
def test_history_reaches_the_scores(name: str) -> None:
    batch, other = (timed_rank_batch(seed, [6], [3]) for seed in (1, 2))
    moved = dataclasses.replace(batch, history=other.history)
    assert not torch.allclose(rank(moved, noisy(name)), rank(batch, noisy(name)))


@every_variant
def test_it_learns_and_every_weight_takes_part(name: str) -> None:
    ranker = build_ranker(variant(name, SMALL.model_copy(update={"width": 16})), TINY)
    batch = timed_train_batch(1, [12, 7, 20], "day")
    first, last = train(ranker, batch, 40)
    assert last < 0.5 * first
    ranker.zero_grad()
    loss_of(ranker.train(), batch).backward()
    without = [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every_variant
def test_checkpoint_round_trip(name: str, tmp_path: Path) -> None:
    ranker = make_ranker(TINY, variant(name)).float()
    save_model(tmp_path / "model", ranker, {})
    loaded, _ = load_model(tmp_path / "model", TINY)
    assert loaded.config == ranker.config == variant(name)
    batch = timed_rank_batch(3, [9, 0], [4, 2])
    assert torch.equal(rank(batch, loaded), rank(batch, ranker))


@every_variant
def test_in_bfloat16_a_memory_costs_no_more_than_the_dtype(name: str) -> None:
    low = make_ranker(TINY, variant(name)).float().compute_in(torch.bfloat16)
    batch = timed_rank_batch(3, [40, 7], [5, 2], "day")
    exact = rank(batch, noisy(name))
    whole = rank(batch, low)
    past = remembered(batch, [20, 7], low)
    got, _ = after(batch, past, low)
    assert past[0] is not None
    assert past[0].dtype == torch.bfloat16
    cost = (whole - exact).abs().max()
    assert 0 < cost < 0.5
    assert (got - whole).abs().max() <= 2 * cost


@every_variant
def test_gradients_do_not_need_the_forward_of_serving(name: str) -> None:
    """With gradients nothing is computed in place: both forwards give the same."""
    batch = timed_rank_batch(5, [12, 3], [4, 2], "day")
    with_gradient = noisy(name).rank(batch)
    assert with_gradient.requires_grad
    assert_close(with_gradient.detach(), rank(batch, noisy(name)))


LAYER = (
    "attention_norm.weight", "attention_norm.bias", "attention.query.weight",
    "attention.key_value.weight", "attention.out.weight", "attention_add.scale",
    "mlp_norm.weight", "mlp_norm.bias", "mlp.up.weight", "mlp.up.bias", "mlp.down.weight",
    "mlp.down.bias", "mlp_add.scale",
)  # fmt: skip
"""Of a default layer, as the checkpoints of earlier versions name and order them."""


def test_the_default_keeps_the_names_of_its_weights() -> None:
    names = list(build_ranker(SMALL, TINY).state_dict())
    ours = [n for n in names if n.startswith(("blocks.", "norm.", "positions."))]
    assert ours == [
        *(f"blocks.{i}.{name}" for i in range(3) for name in LAYER),
        "norm.weight",
        "norm.bias",
    ]


def test_no_norm_follows_one_that_is_last_in_its_layer() -> None:
    names = build_ranker(variant("post"), TINY).state_dict()
    assert not [n for n in names if n.startswith("norm.")]


BEFORE = [
    [-0.8568562830617642, -2.9761148408567744, 0.003607370098695193],
    [-0.8253968073011057, -3.0221274918876455, 0.026124764770561085],
    [-0.8970802504649039, -3.042600162741178, -0.02795775542729376],
]


def test_the_paper_s_parts_score_what_they_scored_before_they_could_be_exchanged() -> None:
    """Recorded with the model whose block was one piece.

    The tolerance is for the last bits of a seed's float32 weights on another processor.
    """
    ranker = build_ranker(variant("alone"), TINY, seed=7).double().eval()
    got = rank(make_rank_batch(TINY, 3, [9, 0], [2, 1], "day"), ranker)
    torch.testing.assert_close(got, torch.tensor(BEFORE, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"attention": "relu"}, {"attention_gate": True}])
def test_hstu_refuses_an_attention_that_is_not_its_own(change: dict[str, object]) -> None:
    for block in ("hstu", "hstu_published"):
        with pytest.raises(ValueError, match=f"block {block} with attention"):
            FeedSRConfig.model_validate({"block": block, **change})


def test_positions_leave_the_other_weights_of_a_seed_alone() -> None:
    """A study compares the same start."""
    default = build_ranker(SMALL, TINY, seed=4).state_dict()
    learned = build_ranker(variant("learned"), TINY, seed=4).state_dict()
    assert learned.keys() - default.keys() == {"positions.table.weight"}
    assert all(torch.equal(tensor, learned[n]) for n, tensor in default.items())


def test_a_shorter_view_of_a_history_is_the_start_of_its_memory() -> None:
    """Learned positions and times count from what stays: an earlier request finds its keys."""
    for name in ("learned", "time_rope", "hstu", "hstu published"):
        batch = timed_rank_batch(4, [8], [3], "day")
        (whole,) = remembered(batch, [8], noisy(name))
        assert whole is not None
        early = dataclasses.replace(batch, history=rows_of(batch.history, [(0, 5)]))
        past: list[Tensor | None] = [whole[:, :, :10]]
        assert_close(after(early, past, noisy(name))[0], rank(early, noisy(name)))
