# SPDX-License-Identifier: Apache-2.0
"""The C++ kernel against the specification in float64, and what it refuses.

Each instruction set is tested in plain C++ everywhere, and by its instructions where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels._native import native as compiled
from kernels.shared_context_attention import SeqlenInfo, Tokens, dispatch, native, ops, reference
from kernels.shared_context_attention import shared_context_attention as attention
from kernels.shared_context_attention.reference import candidate_mask, context_mask
from tests.kernels.shared_context_attention.cases import biggest_error, offsets, random_prefix

module, why = compiled("shared_context_attention")
pytestmark = pytest.mark.skipif(
    module is None, reason=f"{why}; the portable split is covered by test_portable"
)

DTYPES = (torch.float32, torch.bfloat16)
KINDS = [
    (dtype, name)
    for dtype in DTYPES
    if module is not None
    for name in (*native.instructions(dtype), *native.emulated(dtype))
]
MANY = any(native.instructions(dtype) for dtype in DTYPES if module is not None)
"""Whether hardware computes; what is written out is too slow for many examples."""
every_kind = pytest.mark.parametrize(
    ("dtype", "instructions"), KINDS, ids=[f"{name}-{str(d)[6:]}" for d, name in KINDS]
)
FP32 = 2e-6
"""Rounding of fp32 beyond the bar, where plain PyTorch happens to be exact; of scores near 1."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """One packed batch."""

    context: Tokens
    candidates: Tokens
    info: SeqlenInfo
    scale: float

    def run(self, instructions: str = "", threads: int = 1) -> tuple[Tensor, ...]:
        """Outputs of context and candidates, then their log-sum-exps."""
        torch.set_num_threads(threads)
        info, (q, k, v) = self.info, self.context.present
        queries = info.cu_seqlens if info.cu_queries is None else info.cu_queries
        who = ((queries, info.cu_seqlens), info.prefix, info.group)
        out, lse = native.context_forward(q, k, v, *who, self.scale, instructions)
        own, cu = self.candidates.present, (info.cu_candidates, info.cu_seqlens)
        out_n, lse_n = native.candidate_forward(own, k, v, cu, self.scale, instructions)
        return out, out_n, lse, lse_n

    def exactly(self) -> tuple[Tensor, ...]:
        """What `run` gives, by the specification in float64."""
        wide = [Tokens(*(x.double() for x in t.present)) for t in (self.context, self.candidates)]
        out = reference(*wide, self.info, softmax_scale=self.scale)
        return *out, *exact_lse(*wide, self.info, self.scale)

    def in_torch(self) -> tuple[Tensor, ...]:
        """The same maths in the case's own dtype."""
        return reference(self.context, self.candidates, self.info, softmax_scale=self.scale)

    def alone(self, s: int) -> Case:
        """The batch of one of its sequences."""
        rows, wanted = self.info.sequences[s], self.info.requests[s]
        prefix = None if self.info.prefix is None else self.info.prefix[rows]
        info = SeqlenInfo(
            cu_seqlens=offsets([rows.stop - rows.start]),
            cu_candidates=offsets([wanted.stop - wanted.start]),
            prefix=prefix,
        )
        parts = ((self.context, rows), (self.candidates, wanted))
        return Case(*(Tokens(*(x[at] for x in t.present)) for t, at in parts), info, self.scale)


def make(
    lengths: list[int],
    counts: list[int],
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    *,
    prefix: bool = False,
    seed: int = 0,
    scale: float | None = None,
) -> Case:
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tokens:
        return Tokens(*(torch.randn(n, 2, head_dim, generator=g).to(dtype) for _ in "qkv"))

    info = SeqlenInfo(
        cu_seqlens=offsets(lengths),
        cu_candidates=offsets(counts[: len(lengths)]),
        prefix=random_prefix(lengths, 2, g) if prefix else None,
    )
    both = tokens(info.num_tokens), tokens(info.num_candidates)
    return Case(*both, info, head_dim**-0.5 if scale is None else scale)


def exact_lse(
    context: Tokens, candidates: Tokens, info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor]:
    lses: tuple[list[Tensor], list[Tensor]] = ([], [])
    for s, (rows, wanted) in enumerate(zip(info.sequences, info.requests, strict=True)):
        k, own = context.k[rows], candidates.k[wanted]
        masks = context_mask(info, s), candidate_mask(len(k), len(own), k.device)
        pairs = (context.q[rows], k), (candidates.q[wanted], torch.cat([k, own]))
        for parts, mask, (q, keys) in zip(lses, masks, pairs, strict=True):
            scores = torch.einsum("rhd,chd->rhc", q, keys) * scale
            parts.append(scores.masked_fill(~mask[:, None], -torch.inf).logsumexp(-1))
    return torch.cat(lses[0]), torch.cat(lses[1])


batches = {
    "lengths": st.lists(st.integers(0, 300), min_size=1, max_size=4),
    "counts": st.lists(st.integers(0, 60), min_size=4, max_size=4),
    "head_dim": st.sampled_from(range(16, 129, 16)),
    "prefix": st.booleans(),
    "seed": st.integers(0, 99),
}


@every_kind
@settings(max_examples=25 if MANY else 8, deadline=None)
@given(**batches, scale=st.sampled_from([None, None, 0.0, -0.2, 1.0]))
def test_any_ragged_batch_errs_no_more_than_twice_the_same_maths(  # type: ignore[no-untyped-def]
    dtype, instructions, lengths, counts, head_dim, prefix, seed, scale
) -> None:
    case = make(lengths, counts, head_dim, dtype, prefix=prefix, seed=seed, scale=scale)
    exact, got = case.exactly(), case.run(instructions)
    theirs, ours = (biggest_error(x[:2], exact[:2]) for x in (case.in_torch(), got))
    rounding = FP32 * max(1.0, abs(case.scale) * head_dim**0.5)
    assert all(a <= 2 * b + rounding for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
    in_pairs = "bf16" in instructions or "amx" in instructions
    rounding += 2.1e-3 if in_pairs else 0.0  # the sum is of weights in bf16
    for lse, want in zip(got[2:], exact[2:], strict=True):
        torch.testing.assert_close(lse.double(), want, rtol=1e-6, atol=rounding)


@every_kind
@settings(max_examples=15 if MANY else 5, deadline=None)
@given(**batches, threads=st.integers(1, 3), place=st.integers(0, 3))
def test_bits_depend_neither_on_the_batch_nor_on_threads(  # type: ignore[no-untyped-def]
    dtype, instructions, lengths, counts, head_dim, prefix, seed, threads, place
) -> None:
    case = make(lengths, counts, head_dim, dtype, prefix=prefix, seed=seed)
    sequence = place % len(lengths)
    whole = case.run(instructions, threads)
    assert all(map(torch.equal, whole, case.run(instructions, 1)))
    rows, wanted = case.info.sequences[sequence], case.info.requests[sequence]
    part = [x[at] for x, at in zip(whole, (rows, wanted) * 2, strict=True)]
    assert all(map(torch.equal, part, case.alone(sequence).run(instructions)))


@every_kind
@settings(max_examples=15 if MANY else 5, deadline=None)
@given(length=st.integers(0, 300), kept=st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_a_candidates_bits_do_not_depend_on_the_others(  # type: ignore[no-untyped-def]
    dtype, instructions, length, kept
) -> None:
    case = make([length], [100], 32, dtype)
    chosen = Tokens(*(x[kept] for x in case.candidates.present))
    info = SeqlenInfo(cu_seqlens=case.info.cu_seqlens, cu_candidates=offsets([len(kept)]))
    few = Case(case.context, chosen, info, case.scale).run(instructions)
    many = case.run(instructions)
    assert torch.equal(few[1], many[1][kept])
    assert torch.equal(few[3], many[3][kept])


@every_kind
def test_scores_of_great_spread_and_hidden_keys(dtype: torch.dtype, instructions: str) -> None:
    """Scores that under- or overflow a plain exp, and prefixes that hide whole blocks of keys."""
    case = make([700], [5], 64, dtype)
    prefix = torch.zeros(700, dtype=torch.int32)
    prefix[400:] = 128
    info = SeqlenInfo(cu_seqlens=offsets([700]), cu_candidates=offsets([5]), prefix=prefix)
    q, k, v = case.context.present
    loud = Case(Tokens(q * 40, k, v), case.candidates, info, case.scale)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for got, want in zip(loud.run(instructions), loud.exactly(), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    hidden = [x.clone() for x in (k, v)]
    for x in hidden:
        x[128:400] = torch.nan
    out = Case(Tokens(q, *hidden), case.candidates, info, case.scale).run(instructions)[0]
    assert bool(out[400:].isfinite().all())
    assert bool(out[128:400].isnan().all())


@every_kind
def test_scores_that_rise_all_along(dtype: torch.dtype, instructions: str) -> None:
    """Each block of keys outdoes the ones before it, by a little or by more than fp32 holds."""
    for step in (0.01, 1.0, 60.0):
        case = make([700], [5], 16, dtype, scale=1.0)
        q, k, v = (torch.zeros_like(case.context.k), case.context.k * 0, case.context.v)
        q[..., 0], k[..., 0] = step, torch.arange(700)[:, None] // 32
        ones = Tokens(*(torch.ones_like(x) for x in case.candidates.present))
        rising = Case(Tokens(q, k, v), ones, case.info, 1.0)
        tolerance = 1e-4 if dtype == torch.float32 else 2e-2
        for got, want in zip(rising.run(instructions), rising.exactly(), strict=True):
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


@every_kind
def test_appended_queries_and_strided_tensors(dtype: torch.dtype, instructions: str) -> None:
    case = make([64, 40], [3, 4], 32, dtype, prefix=True)
    context, info = case.context, case.info
    views = Tokens(*torch.cat([*context.present], -1).split(32, -1))
    assert not views.k.is_contiguous()
    whole = case.run(instructions)
    strided = Case(views, case.candidates, info, case.scale).run(instructions)
    assert all(map(torch.equal, strided, whole))
    rows = torch.cat([torch.arange(60, 64), torch.arange(70, 104)])
    last = SeqlenInfo(
        cu_seqlens=info.cu_seqlens,
        cu_candidates=info.cu_candidates,
        prefix=info.prefix[rows],
        cu_queries=offsets([4, 34]),
    )
    appended = Tokens(context.q[rows], context.k, context.v)
    got = Case(appended, case.candidates, last, case.scale).run(instructions)
    torch.testing.assert_close(got[0], whole[0][rows])
    torch.testing.assert_close(got[2], whole[2][rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_instruction_set_is_the_default(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    if not native.instructions(dtype):
        pytest.skip("the processor has no AVX-512; covered by what the environment asks for")
    case = make([90], [7], 64, dtype, prefix=True)
    default = attention(case.context, case.candidates, case.info, implementation="native")
    first = case.run(native.instructions(dtype)[0])[:2]
    assert all(map(torch.equal, default, first))


@every_kind
def test_the_environment_names_the_set_that_computes(
    dtype: torch.dtype, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make([90], [7], 64, dtype, prefix=True)
    want = case.run(instructions)
    monkeypatch.setenv(native.VARIABLE, instructions)
    assert native.available("cpu", dtype, 64) == (True, f"C++ with {instructions}")
    assert dispatch._choose.__wrapped__("cpu", dtype, 64) == "native"
    assert all(map(torch.equal, case.run(), want))
    by = attention(case.context, case.candidates, case.info, implementation="native")
    assert all(map(torch.equal, by, want[:2]))


def test_what_is_written_out_for_tests_is_never_chosen_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    for dtype in DTYPES:
        assert native.emulated(dtype)
        assert not set(native.emulated(dtype)) & set(native.instructions(dtype))
        usable, reason = native.available("cpu", dtype, 64)
        assert usable == bool(native.instructions(dtype))
        assert "emulated" not in reason


def test_a_set_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, unknown in ((torch.float32, "amx_emulated"), (torch.bfloat16, "AVX512")):
        case = make([9], [2], 16, dtype)
        with pytest.raises(ValueError, match=f"this processor has no instructions '{unknown}'"):
            case.run(unknown)
    monkeypatch.setenv(native.VARIABLE, "amx_emulated")
    usable, reason = native.available("cpu", torch.float32, 64)
    assert not usable
    assert (
        reason
        == "FEEDSR_INSTRUCTIONS=amx_emulated, which this processor has not got for torch.float32"
    )
    monkeypatch.setenv(native.VARIABLE, "sse2")
    with pytest.raises(ValueError, match="FEEDSR_INSTRUCTIONS is 'sse2', want one of amx_bf16, "):
        native.available("cpu", torch.float32, 64)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e300])
def test_a_scale_that_is_no_finite_number_is_refused_in_cpp_too(scale: float) -> None:
    case = make([9], [2], 16, scale=scale)
    with pytest.raises(ValueError, match="softmax_scale must be a finite number"):
        case.run("avx512_emulated")
    info, (_, k, v) = case.info, case.context.present
    assert info.cu_candidates is not None
    cu = (info.cu_candidates, info.cu_seqlens)
    with pytest.raises(ValueError, match="softmax_scale must be a finite number"):
        native.candidate_forward(case.candidates.present, k, v, cu, scale, "avx512_emulated")


@every_kind
def test_gradients_and_the_operators(
    dtype: torch.dtype, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, instructions)
    case = make([20, 9], [3, 2], 16, dtype, prefix=True)
    context, candidates, info = case.context, case.candidates, case.info
    leaves = [x.requires_grad_() for t in (context, candidates) for x in t.present]
    outs = attention(context, candidates, info, implementation="native")
    loss = sum(x.float().square().sum() for x in outs)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    exact = reference(Tokens(*wide[:3]), Tokens(*wide[3:]), info, softmax_scale=0.25)
    want = torch.autograd.grad(sum(x.square().sum() for x in exact), wide)
    limit = 1e-5 if dtype == torch.float32 else 5e-2
    assert max(biggest_error(torch.autograd.grad(loss, leaves), want)) < limit
    arguments = (info.cu_seqlens, None, info.prefix, 2, 0.25, "native")
    torch.library.opcheck(ops.context_attention, (*leaves[:3], *arguments))
    arguments = (*leaves[1:3], info.cu_candidates, info.cu_seqlens, 0.25, "native")
    torch.library.opcheck(ops.candidate_attention, (*leaves[3:], *arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_offsets_and_prefixes_are_checked_at_the_boundary(dtype: torch.dtype) -> None:
    context = make([8], [0], 16, dtype).context
    good, q, k, v = offsets([8]), *context.present
    for bad in (offsets([9]), offsets([7]), offsets([8, -1, 1]), offsets([8]) + 1):
        with pytest.raises(ValueError, match="shared_context_attention: "):
            native.context_forward(q, k, v, (bad, bad), None, 2, 0.25)
    far = torch.full((8,), 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="a prefix reaches beyond its impression"):
        native.context_forward(q, k, v, (good, good), far, 2, 0.25)
    pair = (offsets([5, 3]), offsets([3, 5]))
    with pytest.raises(ValueError, match="more queries than tokens"):
        native.context_forward(q, k, v, pair, None, 2, 0.25)
    thin = [x[..., :9].contiguous() for x in context.present]
    with pytest.raises(ValueError, match="head_dim must be a multiple of 16"):
        native.context_forward(*thin, (good, good), None, 2, 0.25)
