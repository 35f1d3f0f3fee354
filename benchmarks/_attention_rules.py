# SPDX-License-Identifier: Apache-2.0
"""What the attention benchmark measures and by which rules: sizes, variants, agreement, the record.

Knows no variant but the split that all are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks._attention_peers import Parts
from benchmarks._record import Result, matmul, medians_ms, over, rates
from kernels.shared_context_attention import Tokens, choose, native
from kernels.shared_context_attention.dispatch import Implementation

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""How far variants may lie from the split, as a share of its norm."""

TF32_TOLERANCE = 2e-3
"""The same of float32 on a GPU, whose products may keep 10 bits of each factor."""

PAIRS = {
    f"{first}_over_{second}": (first, second)
    for first, second in (
        *(("dense_mask", x) for x in ("split", "native", "triton")),
        *(("flex", x) for x in ("split", "native", "triton")),
        *(("one_at_a_time", x) for x in ("split", "native", "triton")),
        *(("flash_attn", x) for x in ("native", "triton")),
        *(("split", x) for x in ("native", "triton", "split_cached")),
        *(("split_cached", f"{x}_cached") for x in ("native", "triton")),
        *((x, f"{x}_cached") for x in ("native", "triton")),
    )
}
"""The ratios that are recorded, where both sides were run."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    grid: tuple[tuple[int, int, int], ...] = tuple(product((100, 1000), (32, 512), (1, 8)))
    ragged: tuple[int, int, int] = (32, 187, 64)
    training: tuple[tuple[int, int], ...] = ((64, 80), (4, 1000))
    heads: int = 4
    head_dim: int = 64
    few: int = 8
    repeats: int = 15
    batch_repeats: int = 5
    square: int = 1024
    flex: bool = True
    device: str = "cpu"


TOY = Settings(
    grid=((10, 4, 1), (10, 4, 2)),
    ragged=(3, 8, 4),
    training=((3, 8),),
    heads=2,
    head_dim=16,
    repeats=2,
    batch_repeats=2,
    square=64,
    flex=False,
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute a setting.

    Attributes:
        run: what is timed.
        parts: brings its answer to packed order; None where it is so already.
        cached: whether the contexts' own outputs are left out.
        counted: whether it does the whole setting, so that its FLOPs are known.
        peer: whether it is other people's, so that its being wrong is a fact of the record and no
            end of the benchmark.
    """

    run: Callable[[], Any]
    parts: Callable[[Any], Parts] | None = None
    cached: bool = False
    counted: bool = True
    peer: bool = False


Variants = dict[str, Variant]


def tokens(count: int, settings: Settings, dtype: torch.dtype) -> Tokens:
    """Normal queries, keys and values."""
    shape = (count, settings.heads, settings.head_dim)
    return Tokens(*(torch.randn(shape).to(settings.device, dtype) for _ in "qkv"))


def offsets(lengths: list[int], device: str) -> Tensor:
    """int32 offsets of ranges of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def implementations(dtype: torch.dtype, settings: Settings) -> dict[str, Implementation]:
    """Ours by variant name: the split, and what is chosen here where that is another one."""
    split: Implementation = "portable" if settings.device == "cpu" else "plain"
    chosen = choose(settings.device, dtype, settings.head_dim)
    return {"split": split} | ({} if chosen == split else {str(chosen): chosen})


def absent(dtype: torch.dtype, settings: Settings) -> dict[str, Any]:
    """Why there is no native variant, where there is none."""
    usable, reason = native.available(settings.device, dtype, settings.head_dim)
    return {} if usable or settings.device != "cpu" else {"native": f"not run: {reason}"}


def agreeing(variants: Variants, dtype: torch.dtype) -> tuple[Variants, dict[str, Any]]:
    """The variants to be timed, and the facts: how far each of them lies from the split, as a share
    of its norm (`relative_difference`), and what is wrong with a peer that is left out.

    Raises:
        AssertionError: one of ours is wrong.
    """
    want, limit = variants["split"].run(), TOLERANCE[dtype]
    if dtype == torch.float32 and any(x is not None and x.is_cuda for x in want):
        limit = TF32_TOLERANCE
    right, apart, facts = {}, {}, {}
    for name, variant in variants.items():
        said, away = checked(variant, want, limit)
        if said:
            assert variant.peer, f"{name} is {said}"
            facts[name] = said
        else:
            right[name], apart[name] = variant, float(f"{away:.2g}")
    return right, facts | {"relative_difference": apart}


def checked(variant: Variant, want: Parts, limit: float) -> tuple[str, float]:
    """What is wrong with a variant's answer, or nothing; and how far it lies from `want`."""
    try:
        got = variant.run()
    except Exception as error:
        if not variant.peer:
            raise
        return not_run(error), math.nan
    parts = variant.parts(got) if variant.parts else got
    both = [(a, b[: len(a)]) for a, b in zip(parts, want, strict=True) if a is not None]
    if any(bool(a.isnan().any()) for a, _ in both):
        return "wrong here: NaN", math.nan
    away = max(float((a.double() - b).norm() / b.norm()) for a, b in both)
    said = "" if away < limit else f"wrong here: {away:.2g} away from split, want less than {limit}"
    return said, away


def not_run(error: Exception) -> str:
    """Why a peer gave no answer, in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"not run: {type(error).__name__}: {first[:160]}"


def timed(
    variants: Variants, flops: dict[str, int], settings: Settings, dtype: torch.dtype, repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians, and the rates of those whose FLOPs are known."""
    plain, plain_flops = matmul((settings.square,) * 3, dtype, settings.device)
    runs = {name: variant.run for name, variant in variants.items()} | {"matmul": plain}
    ms = medians_ms(runs, repeats, settings.device)
    limit = plain_flops / ms.pop("matmul") / 1e6
    return ms, rates(flops, ms, limit)


def result(
    kind: str,
    where: dict[str, Any],
    settings: Settings,
    dtype: torch.dtype,
    measured: tuple[dict[str, float], dict[str, Any]],
) -> Result:
    """The record of one setting."""
    shape = {"heads": settings.heads, "head_dim": settings.head_dim}
    name = str(dtype).removeprefix("torch.")
    ms, facts = measured
    return Result(
        setting={"kind": kind, **where, "dtype": name, **shape},
        median_ms=ms,
        ratios=over(ms, PAIRS),
        facts=facts,
    )
