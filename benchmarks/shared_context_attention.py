# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention on this machine's CPU: the portable split and its rivals.

    python benchmarks/shared_context_attention.py [--dtype bfloat16] [--threads 2] [--save] [--toy]

*serving*: one request, T impressions (2 T tokens), N candidates, no gradient:
  split           the whole call
  split_cached    candidates only, the context's keys and values given
  dense_mask      one scaled_dot_product_attention over context and candidates with a prepared mask
  one_at_a_time   the history again for each candidate; run for a few, so given per candidate
*training*: a ragged batch with day prefixes, forward and backward:
  split           packed
  padded          scaled_dot_product_attention padded to the longest, with a prepared mask

Variants are checked against each other, then timed in turns in one process; medians of wall time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from _record import finish, medians_ms, parser
from torch import Tensor

from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    attention_flops,
    choose,
    shared_context_attention,
)
from kernels.shared_context_attention.dispatch import Implementation
from kernels.shared_context_attention.reference import candidate_mask, context_mask


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    impressions: tuple[int, ...] = (100, 1000)
    candidates: tuple[int, ...] = (32, 512)
    batches: tuple[tuple[int, int], ...] = ((64, 80), (4, 1000))
    heads: int = 4
    head_dim: int = 64
    one_at_a_time: int = 8
    repeats: int = 15


TOY = Settings(
    impressions=(10,), candidates=(4,), batches=((3, 8),), heads=2, head_dim=8, repeats=2
)


def tokens(count: int, settings: Settings, dtype: torch.dtype) -> Tokens:
    """Normal queries, keys and values."""
    shape = (count, settings.heads, settings.head_dim)
    return Tokens(*(torch.randn(shape).to(dtype) for _ in "qkv"))


def offsets(lengths: list[int]) -> Tensor:
    """int32 offsets of ranges of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """SDPA of `[tokens, heads, head_dim]`; causal without a mask."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return out[0].transpose(0, 1)


def check(variants: dict[str, Callable[[], Tensor]], expected: Tensor) -> None:
    """Every variant gives the same answer before any is timed."""
    limit = 0.03 if expected.dtype == torch.bfloat16 else 1e-4
    for name, run in variants.items():
        got = run()
        error = float((got - expected[-len(got) :]).detach().abs().max())
        assert error < limit, f"{name} is off by {error}"


def dense_mask(info: SeqlenInfo, dtype: torch.dtype) -> Tensor:
    """The additive mask of one request's context and candidates in one sequence."""
    length, count = info.num_tokens, info.num_candidates
    seen = torch.zeros(length + count, length + count, dtype=torch.bool)
    seen[:length, :length] = context_mask(info, 0)
    seen[length:] = candidate_mask(length, count, seen.device)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)


def serving(impressions: int, count: int, settings: Settings, dtype: torch.dtype) -> dict:  # type: ignore[type-arg]
    """Milliseconds of one request."""
    length, few = 2 * impressions, min(settings.one_at_a_time, count)
    context, candidates = tokens(length, settings, dtype), tokens(count, settings, dtype)
    info = SeqlenInfo(cu_seqlens=offsets([length]), cu_candidates=offsets([count]))
    cached = Tokens(None, context.k, context.v)
    q, k, v = (torch.cat(pair) for pair in zip(context.present, candidates.present, strict=True))
    mask = dense_mask(info, dtype)

    def by(implementation: Implementation, known: Tokens) -> Callable[[], Tensor]:
        def run() -> Tensor:
            outs = shared_context_attention(known, candidates, info, implementation=implementation)
            return torch.cat([x for x in outs if x is not None])

        return run

    split = by("portable", context)

    def alone(i: int) -> Tensor:
        pairs = zip(context.present, candidates.present, strict=True)
        q, k, v = (torch.cat([x, y[i : i + 1]]) for x, y in pairs)
        return sdpa(q, k, v)[-1:]

    def one_at_a_time() -> Tensor:
        return torch.cat([alone(i) for i in range(count - few, count)])

    variants: dict[str, Callable[[], Tensor]] = {
        "split": split,
        "split_cached": by("portable", cached),
        "dense_mask": lambda: sdpa(q, k, v, mask),
        "one_at_a_time": one_at_a_time,
    }
    if choose("cpu", dtype, settings.head_dim) == "native":
        variants |= {"native": by("native", context), "native_cached": by("native", cached)}
    with torch.inference_mode():
        check(variants, split())
        ms = medians_ms(variants, settings.repeats)
    few_ms = ms.pop("one_at_a_time")
    flops = attention_flops(info, heads=settings.heads, head_dim=settings.head_dim)
    return {
        "T": impressions,
        "N": count,
        "ms": ms,
        "one_at_a_time_ms_per_candidate": round(few_ms / few, 4),
        "one_at_a_time_candidates_run": few,
        "dense_over_split": round(ms["dense_mask"] / ms["split"], 2),
        "split_over_cached": round(ms["split"] / ms["split_cached"], 2),
        "split_over_native": round(ms["split"] / ms["native"], 2) if "native" in ms else None,
        "split_gflops": round(flops / ms["split"] / 1e6, 1),
    }


def ragged(sequences: int, mean: int, rng: np.random.Generator) -> tuple[list[int], Tensor]:
    """Token lengths of a heavy-tailed batch (or of full windows) and their day prefixes."""
    if mean >= 1000:
        impressions = rng.integers(mean - 64, mean + 64, sequences)
    else:
        drawn = rng.lognormal(np.log(mean) - 0.5, 1.0, sequences)
        impressions = np.clip(drawn.astype(int), 1, 1063)
    prefixes = []
    for n in impressions:
        day = np.cumsum(rng.random(n) < 1 / max(4, mean / 8))
        prefixes.append(np.repeat(2 * np.searchsorted(day, day), 2))
    prefix = torch.from_numpy(np.concatenate(prefixes)).to(torch.int32)
    return [2 * int(n) for n in impressions], prefix


def training(sequences: int, mean: int, settings: Settings, dtype: torch.dtype) -> dict:  # type: ignore[type-arg]
    """Milliseconds of forward and backward of one layer's attention over a batch."""
    lengths, prefix = ragged(sequences, mean, np.random.default_rng(0))
    info = SeqlenInfo(cu_seqlens=offsets(lengths), prefix=prefix)
    leaves = [x.requires_grad_() for x in tokens(sum(lengths), settings, dtype).present]
    grad = torch.randn_like(leaves[0])
    longest = max(lengths)
    mask = torch.full((sequences, 1, longest, longest), -torch.inf, dtype=dtype)
    mask.diagonal(dim1=2, dim2=3).zero_()  # a padded row must see something
    for s, n in enumerate(lengths):
        mask[s, 0, :n, :n].masked_fill_(context_mask(info, s), 0.0)
    at = torch.cat([s * longest + torch.arange(n) for s, n in enumerate(lengths)])

    def split() -> Tensor:
        out = shared_context_attention(Tokens(*leaves), None, info, implementation="portable")[0]
        assert out is not None
        return out

    def padded() -> Tensor:
        shape = (sequences, longest, settings.heads, settings.head_dim)
        empty = leaves[0].new_zeros(sequences * longest, *shape[2:])
        q, k, v = (empty.index_copy(0, at, x).view(shape).transpose(1, 2) for x in leaves)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1)[at]

    variants: dict[str, Callable[[], Tensor]] = {"split": split, "padded": padded}
    check(variants, split())

    def step(run: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(run(), leaves, grad)

    ms = medians_ms({name: step(run) for name, run in variants.items()}, settings.repeats)
    return {
        "sequences": sequences,
        "mean_impressions": round(sum(lengths) / 2 / sequences, 1),
        "longest_impressions": longest // 2,
        "ms": ms,
        "padded_over_split": round(ms["padded"] / ms["split"], 2),
        "tokens_per_second": round(1e3 * sum(lengths) / ms["split"]),
    }


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    options = parser(__doc__)
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = options.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    settings, dtype = TOY if arguments.toy else Settings(), getattr(torch, arguments.dtype)
    result: dict[str, object] = {"dtype": arguments.dtype, "heads": settings.heads}
    result |= {"head_dim": settings.head_dim, "repeats": settings.repeats}
    rows: dict[str, list[dict]] = {"serving": [], "training": []}  # type: ignore[type-arg]
    for impressions in settings.impressions:
        for count in settings.candidates:
            rows["serving"].append(serving(impressions, count, settings, dtype))
            print("serving ", rows["serving"][-1], flush=True)
    for sequences, mean in settings.batches:
        rows["training"].append(training(sequences, mean, settings, dtype))
        print("training", rows["training"][-1], flush=True)
    name = f"shared_context_attention_{arguments.dtype}"
    finish(name, result | rows, threads=arguments.threads, save=arguments.save)


if __name__ == "__main__":
    main()
