# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the specification in float64, and what they compile to.

With a GPU they run there; without one Triton's interpreter runs them on the CPU, where operands of
products are float32, and they are compiled for GPUs that are not there.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    dispatch,
    gpu,
    ops,
    shared_context_attention,
    shared_context_attention_lse,
)
from kernels.shared_context_attention.gpu.tiles import tiles
from kernels.shared_context_attention.reference import candidate_mask, context_mask
from tests.kernels.test_shared_context_attention import biggest_error, offsets, random_prefix

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")

HAS_GPU = torch.cuda.is_available()
NEEDS_GPU = "needs a GPU; covered by the interpreter, and by the compiler for sm_80 and sm_90"
RAGGED = ([80, 0, 1, 21], [40, 2, 0, 3])
SHARED_MEMORY = 99 * 1024
"""Bytes a program may have on the smallest GPUs of compute capability 8.0 and above."""


@pytest.fixture(
    params=[
        pytest.param(
            "cpu", marks=pytest.mark.skipif(HAS_GPU, reason="runs on the GPU; covered there")
        ),
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason=NEEDS_GPU)],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def make(
    lengths: list[int],
    counts: list[int],
    head_dim: int = 32,
    *,
    prefix: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    group: int = 2,
    seed: int = 0,
) -> tuple[Tokens, Tokens, SeqlenInfo]:
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tokens:
        qkv = (torch.randn(n, 2, head_dim, generator=g) for _ in "qkv")
        return Tokens(*(x.to(device, dtype).requires_grad_() for x in qkv))

    info = SeqlenInfo(
        cu_seqlens=offsets(lengths).to(device),
        cu_candidates=offsets(counts).to(device),
        prefix=random_prefix(lengths, group, g).to(device) if prefix else None,
        group=group,
    )
    return tokens(sum(lengths)), tokens(sum(counts)), info


def attention(context: Tokens, candidates: Tokens | None, info: SeqlenInfo) -> list[Tensor]:
    """Outputs and log-sum-exps that are there, by Triton."""
    pairs = shared_context_attention_lse(context, candidates, info, implementation="triton")
    return [x for pair in pairs if pair is not None for x in pair]


def dense(context: Tokens, candidates: Tokens | None, info: SeqlenInfo) -> list[Tensor]:
    """The same by the masks of the specification, in the dtype of the inputs."""
    parts: list[tuple[Tensor, Tensor]] = []
    for s, (rows, queries) in enumerate(zip(info.sequences, info.queries, strict=True)):
        if context.q is not None:
            kv = context.k[rows], context.v[rows]
            parts.append(softmax(context.q[queries], *kv, context_mask(info, s)))
    outs = [torch.cat(x) for x in zip(*parts, strict=True)]
    if candidates is None:
        return outs
    parts = []
    for rows, wanted in zip(info.sequences, info.requests, strict=True):
        k, v = (
            torch.cat([x[rows], y[wanted]])
            for x, y in zip((context.k, context.v), (candidates.k, candidates.v), strict=True)
        )
        mask = candidate_mask(rows.stop - rows.start, wanted.stop - wanted.start, k.device)
        parts.append(softmax(candidates.q[wanted], k, v, mask))
    return outs + [torch.cat(x) for x in zip(*parts, strict=True)]


def softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("rhd,chd->rhc", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return torch.einsum("rhc,chd->rhd", scores.softmax(-1), v), scores.logsumexp(-1)


def leaves(case: tuple[Tokens, Tokens | None, SeqlenInfo]) -> list[Tensor]:
    return [x for tokens in case[:2] if tokens is not None for x in tokens.present]


def wide(case: tuple[Tokens, Tokens, SeqlenInfo]) -> tuple[Tokens, Tokens, SeqlenInfo]:
    def copy(tokens: Tokens) -> Tokens:
        return Tokens(*(x.detach().double().requires_grad_() for x in tokens.present))

    return copy(case[0]), copy(case[1]), case[2]


def everything(by: Callable[..., list[Tensor]], case: tuple[Tokens, Tokens, SeqlenInfo]):  # type: ignore[no-untyped-def]
    """Outputs, log-sum-exps, and the gradients of a sum in which each element counts otherwise."""
    outs = by(*case)
    weights = [torch.arange(x.numel(), device=x.device).view_as(x).cos() for x in outs]
    loss = sum((x.double() * w).sum() for x, w in zip(outs, weights, strict=True))
    return [*outs, *torch.autograd.grad(loss, leaves(case))]


def assert_errs_like(case: tuple[Tokens, Tokens, SeqlenInfo], factor: float = 2.0) -> None:
    """No more than `factor` times the error of the same maths in plain PyTorch."""
    exact = everything(dense, wide(case))
    ours, theirs = (biggest_error(everything(by, case), exact) for by in (attention, dense))
    floor = 8 * torch.finfo(case[0].k.dtype).eps
    assert all(a <= factor * b + floor for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def assert_same(got: Tensor, want: Tensor, case: tuple[Tokens, Tokens, SeqlenInfo]) -> None:
    """Rows of the outputs of `case`, computed among other rows: the same bits on a GPU.

    The interpreter's products are NumPy's, where the last bit of a row follows its place among the
    others, by processor: there each is off by the law's error, so they are apart by two of it.
    """
    if got.is_cuda:
        assert torch.equal(got, want)
        return
    with torch.no_grad():
        theirs = max(biggest_error(dense(*case), dense(*wide(case))))
    limit = 2 * (2 * theirs + 8 * torch.finfo(got.dtype).eps)
    torch.testing.assert_close(got, want, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("head_dim", "prefix"), [(32, False), (32, True), (64, True), (128, False), (128, True)]
)
def test_values_log_sum_exps_and_all_gradients(device: str, head_dim: int, prefix: bool) -> None:
    assert_errs_like(make(*RAGGED, head_dim, prefix=prefix, device=device))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(device: str, dtype: torch.dtype, head_dim: int) -> None:
    """The interpreter cuts bfloat16 off instead of rounding it: there it shows no more than that
    the kernels run.
    """
    if device == "cpu" and head_dim != 64:
        pytest.skip("the interpreter is slow; covered by head_dim 64")
    truncates = device == "cpu" and dtype == torch.bfloat16
    case = make([150, 0, 9], [70, 2, 0], head_dim, dtype=dtype, device=device)
    assert_errs_like(case, 10.0 if truncates else 2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason=NEEDS_GPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_batch_on_a_gpu(dtype: torch.dtype) -> None:
    assert_errs_like(make([2000, 777, 0], [512, 100, 3], 64, dtype=dtype, device="cuda"))


@settings(max_examples=100 if HAS_GPU else 6, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=2),
    counts=st.lists(st.integers(0, 9), min_size=2, max_size=2),
    prefix=st.booleans(),
    group=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_ragged_batch(lengths, counts, prefix, group, seed) -> None:  # type: ignore[no-untyped-def]
    where = "cuda" if HAS_GPU else "cpu"
    case = make(
        lengths, counts[: len(lengths)], prefix=prefix, group=group, seed=seed, device=where
    )
    for got, want in zip(everything(attention, case), everything(dense, wide(case)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("prefix", [False, True])
def test_queries_of_the_last_tokens_alone(device: str, prefix: bool) -> None:
    lengths = [90, 0, 17, 5]
    context, candidates, info = make(lengths, [3, 1, 0, 2], prefix=prefix, device=device)
    last = [(41, 90), (90, 90), (90, 107), (112, 112)]
    rows = torch.cat([torch.arange(*pair) for pair in last]).to(device)
    appended = SeqlenInfo(
        cu_seqlens=info.cu_seqlens,
        cu_candidates=info.cu_candidates,
        prefix=None if info.prefix is None else info.prefix[rows],
        cu_queries=offsets([b - a for a, b in last]).to(device),
    )
    assert context.q is not None
    q = context.q.detach()[rows].requires_grad_()
    case = (Tokens(q, context.k, context.v), candidates, appended)
    assert_errs_like(case)
    whole = attention(context, candidates, info)
    assert_same(attention(*case)[0], whole[0][rows], case)


def test_the_same_in_any_batch_and_with_a_cached_context(device: str) -> None:
    case = context, candidates, info = make([37, 80], [5, 66], device=device)
    out, _, out_N, _ = attention(context, candidates, info)
    cached = attention(Tokens(None, context.k, context.v), candidates, info)
    assert_same(cached[0], out_N, case)
    assert info.prefix is not None
    alone = SeqlenInfo(
        cu_seqlens=offsets([80]).to(device),
        cu_candidates=offsets([2]).to(device),
        prefix=info.prefix[37:],
    )
    last = Tokens(*(x[37:] for x in context.present))
    two = Tokens(*(x[-2:].flip(0) for x in candidates.present))
    again, _, again_N, _ = attention(last, two, alone)
    assert_same(again, out[37:], case)
    assert_same(again_N.flip(0), out_N[-2:], case)


def test_hidden_blocks_are_not_visited_and_great_scores_do_not_overflow(device: str) -> None:
    context, candidates, _ = make([480], [5], device=device)
    prefix = torch.zeros(480, dtype=torch.int32)
    prefix[400:] = 130
    info = SeqlenInfo(
        cu_seqlens=offsets([480]).to(device),
        cu_candidates=offsets([5]).to(device),
        prefix=prefix.to(device),
    )
    q, k, v = (x.detach() for x in context.present)
    loud = (Tokens(q * 40, k, v), candidates, info)
    for got, want in zip(attention(*loud), dense(*wide(loud)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    quiet = (Tokens(q, k, v), candidates, info)
    before = attention(*quiet)[0]
    holes = [x.clone() for x in (k, v)]
    for x in holes:
        x[192:384] = torch.nan
    assert_same(attention(Tokens(q, *holes), None, info)[0][400:], before[400:], quiet)


def test_views_of_a_fused_projection_and_of_their_gradient(device: str) -> None:
    case = context, candidates, info = make([40, 7], [3, 4], device=device)
    fused = torch.cat([x.detach() for x in context.present], -1).requires_grad_()
    views = Tokens(*fused.split(32, -1))
    assert not views.k.is_contiguous()
    for got, want in zip(attention(views, candidates, info), attention(*case), strict=True):
        assert_same(got, want, case)
    grad = torch.autograd.grad(attention(views, None, info)[0].sum(), fused)[0]
    whole = wide((context, candidates, info))
    exact = torch.autograd.grad(dense(*whole)[0].sum(), whole[0].present)
    torch.testing.assert_close(grad.double(), torch.cat(exact, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("lengths", "counts"), [([], []), ([0, 0], [0, 2]), ([5], [0])])
def test_nothing_to_do(device: str, lengths: list[int], counts: list[int]) -> None:
    case = make(lengths, counts, device=device)
    out, _, out_N, _ = attention(*case)
    assert [len(out), len(out_N)] == [sum(lengths), sum(counts)]
    torch.autograd.grad(out.sum() + out_N.sum(), leaves(case))
    if not sum(lengths):
        torch.testing.assert_close(out_N, case[1].v)


def test_operators_are_what_they_say(device: str) -> None:
    context, candidates, info = make([9, 0, 6], [2, 1, 3], device=device)
    scale = 32**-0.5
    who = (info.cu_seqlens, None, info.prefix, info.group, scale, "triton")
    torch.library.opcheck(ops.context_attention, (*context.present, *who))
    kv = (context.k, context.v)
    cu = (info.cu_candidates, info.cu_seqlens)
    who_N = (*candidates.present, *kv, *cu, scale, "triton")
    torch.library.opcheck(ops.candidate_attention, who_N)


def test_under_torch_compile(device: str) -> None:
    case = make([8, 5], [3, 2], device=device)

    def loss() -> Tensor:
        context, candidates, info = case
        outs = shared_context_attention(context, candidates, info, implementation="triton")
        return sum(
            (x.square().sum() for x in outs if x is not None), torch.zeros((), device=device)
        )

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), loss())
    for got, want in zip(
        torch.autograd.grad(compiled(), leaves(case)),
        torch.autograd.grad(loss(), leaves(case)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=6), block=st.sampled_from([1, 4, 16]))
def test_tiles_cover_every_row_once(lengths: list[int], block: int) -> None:
    cu = offsets(lengths)
    want = [[s, row] for s, n in enumerate(lengths) for row in range(0, n, block)]
    table = tiles(cu, sum(lengths), block)
    assert [pair for pair in table.tolist() if pair[0] >= 0] == want
    assert tiles(cu, sum(lengths), block) is table


def test_tiles_follow_offsets_that_change() -> None:
    cu = offsets([4, 0])
    assert tiles(cu, 4, 4)[0].tolist() == [0, 0]
    cu.copy_(offsets([0, 4]))
    assert tiles(cu, 4, 4)[0].tolist() == [1, 0]


def test_info_elsewhere_is_refused() -> None:
    context, _, info = make([4], [1])
    there = Tokens(*(x.to("meta") for x in context.present))
    with pytest.raises(ValueError, match="SeqlenInfo is on cpu"):
        shared_context_attention(there, None, info, implementation="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason=NEEDS_GPU)
def test_is_chosen_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._choose.cache_clear()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        assert dispatch.choose("cuda", torch.bfloat16, 64) == "triton"
        assert dispatch.choose("cuda", torch.bfloat16, 40) == "plain"
    assert "triton for torch.bfloat16 with head_dim 64 on cuda (Triton 3" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "reason"),
    [
        (torch.float32, 64, (9, 0), "Triton 3"),
        (torch.float64, 64, (9, 0), "for float32, bfloat16 or float16"),
        (torch.float32, 40, (9, 0), "a head_dim of 32, 64, 128"),
        (torch.float32, 64, (7, 5), "compute capability 7.5"),
    ],
)
def test_what_it_is_for(  # type: ignore[no-untyped-def]
    dtype, head_dim, capability, reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    usable, why = gpu.available("cuda", dtype, head_dim)
    assert reason in why
    assert usable == why.startswith("Triton 3")
    assert not gpu.available("cpu", dtype, head_dim)[0]
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert not gpu.available("cuda", dtype, head_dim)[0]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from kernels.shared_context_attention import dispatch, gpu
print(dispatch.choose("cpu", torch.float32, 8), dispatch.choose("xpu", torch.float32, 64))
torch.version.cuda, torch.cuda.get_device_capability = "13.0", lambda: (9, 0)
print(dispatch.choose("cuda", torch.float32, 64), *gpu.available("cuda", torch.float32, 64))
"""


def test_without_triton() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "portable plain"
    assert second.startswith("plain False Triton cannot be imported (")


WHOLE_MATRIX = pytest.mark.skipif(
    "FEEDSR_COMPILE_ALL" not in os.environ,
    reason="every kind takes three minutes to compile; a few are covered, FEEDSR_COMPILE_ALL=1 all",
)
FEW = {
    80: ["float16:32:context", "bfloat16:128:candidates"],
    90: ["bfloat16:64:context", "float16:128:causal", "float32:32:candidates"],
}
ALL = [
    f"{dtype}:{head_dim}:{queries}"
    for dtype in ("bfloat16", "float16", "float32")
    for head_dim in gpu.tiles.HEAD_DIMS
    for queries in ("context", "causal", "candidates")
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "kinds", [FEW, pytest.param({80: ALL, 90: ALL}, marks=WHOLE_MATRIX)], ids=["few", "all"]
)
def test_compiles_to_tensor_cores_and_float32_to_exact_products(  # type: ignore[no-untyped-def]
    capability, kinds, tmp_path
) -> None:
    want, other = ("mma.sync", "wgmma.mma_async")[:: 1 if capability == 80 else -1]
    for kernel in compiled(capability, kinds[capability], tmp_path):
        exact = kernel["name"].startswith("float32")
        assert (kernel[want] == 0) == exact, kernel
        assert kernel[other] == 0, kernel
        assert kernel["tf32"] == 0, kernel
        assert kernel["cp.async"] > 0 or exact, kernel
        assert kernel["shared"] <= SHARED_MEMORY, kernel


def compiled(capability: int, kinds: list[str], cache: Path) -> list[dict[str, Any]]:
    """Each kernel's shared memory and counted instructions; nothing is taken from a cache."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.triton_compiler", str(capability), *kinds],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 3 * len(kinds)
    return kernels
