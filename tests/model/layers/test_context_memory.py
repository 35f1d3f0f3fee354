# SPDX-License-Identifier: Apache-2.0
"""Law 5 on the model: a score does not depend on how much of its history was remembered."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import Tokens
from model import build_ranker
from model.batch import Impressions, RankBatch
from model.feed_sr import FeedSR
from model.layers.context_memory import ContextMemory
from tests.builders import TINY, Pattern, make_rank_batch, offsets_of
from tests.model.test_feed_sr import RANKER, assert_close, make_ranker, rank
from tests.model.variants import SMALL, VARIANTS, timed_rank_batch, variant


def rows_of(impressions: Impressions, spans: list[tuple[int, int]]) -> Impressions:
    """The impressions [first, last) of each sequence, counted from its own start."""
    starts = impressions.cu_seqlens.tolist()
    rows = torch.cat([torch.arange(s + a, s + b) for s, (a, b) in zip(starts, spans, strict=False)])
    return Impressions(
        features={n: c[rows] for n, c in impressions.features.items()},
        actions={n: c[rows] for n, c in impressions.actions.items()},
        known_M=impressions.known_M[rows],
        cu_seqlens=offsets_of([b - a for a, b in spans]),
        time_M=None if impressions.time_M is None else impressions.time_M[rows],
    )


def after(
    batch: RankBatch, past: list[Tensor | None], ranker: FeedSR = RANKER
) -> tuple[Tensor, list[Tensor]]:
    """`rank_after` of a whole batch, of which `past` is remembered."""
    lengths = batch.history.cu_seqlens.diff().tolist()
    kept = [0 if p is None else p.shape[2] // 2 for p in past]
    new = rows_of(batch.history, list(zip(kept, lengths, strict=True)))
    with torch.inference_mode():
        return ranker.rank_after(dataclasses.replace(batch, history=new), past)


def remembered(batch: RankBatch, counts: list[int], ranker: FeedSR = RANKER) -> list[Tensor | None]:
    """Memories of the first `counts` impressions of each history."""
    first = rows_of(batch.history, [(0, n) for n in counts])
    with torch.inference_mode():
        memories = ranker.rank_after(
            dataclasses.replace(batch, history=first), [None] * len(counts)
        )[1]
    return [m if n else None for m, n in zip(memories, counts, strict=True)]


@pytest.mark.law
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shapes=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=4
    ),
    pattern=st.sampled_from(["causal", "day"]),
)
def test_scores_do_not_depend_on_what_is_remembered(
    seed: int, shapes: list[tuple[int, int, float]], pattern: Pattern
) -> None:
    lengths = [length for length, _, _ in shapes]
    batch = make_rank_batch(TINY, seed, lengths, [count for _, count, _ in shapes], pattern)
    past = remembered(batch, [round(share * length) for length, _, share in shapes])
    before = [None if p is None else p.clone() for p in past]
    want, (got, memories) = rank(batch), after(batch, past)
    assert_close(got, want)
    assert [m.shape[2] for m in memories] == [2 * n for n in lengths]
    again, same = after(batch, list(memories))
    assert_close(again, want)
    for kept, copy, memory, unchanged in zip(past, before, memories, same, strict=True):
        assert kept is None or torch.equal(kept, copy)
        assert torch.equal(memory, unchanged)


def test_a_history_may_be_seen_at_an_earlier_time() -> None:
    """The memory of a longer history begins with that of a shorter one."""
    batch = make_rank_batch(TINY, 4, [8], [3], "day")
    (whole,) = remembered(batch, [8])
    assert whole is not None
    early = dataclasses.replace(batch, history=rows_of(batch.history, [(0, 5)]))
    assert_close(after(early, [whole[:, :, :10]])[0], rank(early))


def test_a_memory_of_other_impressions_shows() -> None:
    """What the laws above could miss: that the memory is not looked at."""
    batch, other = (make_rank_batch(TINY, seed, [6], [3]) for seed in (1, 2))
    assert not torch.allclose(after(batch, remembered(other, [6]))[0], rank(batch))


def test_in_bfloat16_a_memory_costs_no_more_than_the_dtype() -> None:
    """`compute_in` keeps encoders and head as they are, and what it rounds it rounds alike."""
    low = make_ranker().float().compute_in(torch.bfloat16)
    batch = make_rank_batch(TINY, 3, [40, 7], [5, 2], "day")
    exact = rank(batch)
    with torch.inference_mode():
        whole = low.rank(batch)
        first = rows_of(batch.history, [(0, 20), (0, 7)])
        past = low.rank_after(dataclasses.replace(batch, history=first), [None, None])[1]
        rest = rows_of(batch.history, [(20, 40), (7, 7)])
        got = low.rank_after(dataclasses.replace(batch, history=rest), past)[0]
    assert past[0].dtype == torch.bfloat16
    assert got.dtype == torch.float32 == low.head.state_dict().popitem()[1].dtype
    cost = (whole - exact).abs().max()
    assert 0 < cost < 0.5
    assert (got - whole).abs().max() <= 2 * cost


def test_only_a_single_history_that_grows_by_nothing_is_not_copied() -> None:
    like, shape = torch.zeros(1), (1, 1, 2)
    long, short = torch.randn(1, 2, 4, 1, 2), torch.randn(1, 2, 2, 1, 2)
    nothing = ContextMemory([long], [0], shape, like)
    assert nothing.of_each()[0] is long
    grown = ContextMemory([long], [2], shape, like)
    new = Tokens(None, torch.full((2, 1, 2), 7.0), torch.full((2, 1, 2), 9.0))
    keys = grown.extend(0, new).k
    assert torch.equal(keys, torch.cat([long[0, 0], new.k]))
    assert grown.of_each()[0].shape == (1, 2, 6, 1, 2)
    assert grown.of_each()[0].data_ptr() == keys.data_ptr()
    both = ContextMemory([long, short], [0, 2], shape, like)
    tokens = both.extend(0, new)
    assert torch.equal(tokens.k, torch.cat([long[0, 0], short[0, 0], new.k]))
    assert torch.equal(tokens.v, torch.cat([long[0, 1], short[0, 1], new.v]))
    first, second = both.of_each()
    assert torch.equal(first, long)
    assert second.shape == (1, 2, 4, 1, 2)
    assert first.data_ptr() != long.data_ptr()


def test_a_memory_has_the_dtype_of_the_weights() -> None:
    memory = ContextMemory([None], [2], (3, 2, 4), torch.zeros(1, dtype=torch.bfloat16))
    assert memory.of_each()[0].dtype == torch.bfloat16
    assert memory.of_each()[0].shape == (3, 2, 2, 2, 4)
    assert memory.past_tokens == [0]


def test_all_that_the_stream_goes_through_is_rounded_and_nothing_else() -> None:
    low = make_ranker().float().compute_in(torch.bfloat16)
    rounded = {n.split(".")[0] for n, p in low.named_parameters() if p.dtype == torch.bfloat16}
    kept = {n.split(".")[0] for n, p in low.named_parameters() if p.dtype != torch.bfloat16}
    assert rounded == {"blocks", "norm"}
    assert not rounded & kept


def test_a_memory_is_where_the_weights_are() -> None:
    memory = ContextMemory([None], [2], (1, 2, 4), torch.zeros(1, device="meta"))
    assert memory.of_each()[0].device.type == "meta"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_memory_is_a_key_and_a_value_a_token_and_layer(name: str) -> None:
    """Two tokens an impression, in float32, whatever the part."""
    ranker = build_ranker(variant(name), TINY).eval()
    with torch.inference_mode():
        (memory,) = ranker.rank_after(timed_rank_batch(0, [30], [7]), [None])[1]
    layers, width = SMALL.layers, SMALL.width
    assert memory.nbytes == 2 * layers * (2 * 30) * width * 4
