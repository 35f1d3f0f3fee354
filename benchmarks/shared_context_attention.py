# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention of one layer: the split, the native kernel, and their rivals.

    python -m benchmarks.shared_context_attention [--dtype float32 bfloat16] [--device cuda]
                                                  [--no-flex] [--threads 2] [--save] [--toy]

*serving*: requests of T impressions (2 T tokens) and N candidates, packed, no gradient:
  split           the exact split in PyTorch's operators
  native          the C++ kernel, where it computes this dtype here (on a GPU: what `choose` says)
  *_cached        the same, candidates only, with the contexts' keys and values given
  dense_mask      one scaled_dot_product_attention, padded, with a prepared mask
  flex            FlexAttention, compiled for the shape, with the rule as its block mask
  one_at_a_time   the history again for each candidate; a few are run, and scaled to all
  flash_attn      the split through the flash-attn package (on a GPU, where it is installed)
Where the processor has no AVX-512 there is no native variant, and the record says so. A peer that
cannot run is recorded as `not run: ...`, one that is not right as `wrong here: ...`; neither is
timed (FlexAttention's NaN: `_attention_peers.flex`). One of ours that is wrong ends the run.
*ragged*: the same for requests of heavy-tailed lengths, where padding costs.
*training*: a ragged batch with day prefixes, no candidates, forward and backward.

Variants get the same tokens in the layout each of them wants, are checked against the split, and
then timed in turns in one process. The limit is a square matrix product of the same dtype, timed
in the same turns; FLOPs are those of the pairs that are seen, whoever computes more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._attention_peers import Padding, Parts, alone, flash_split, flex, joined, sdpa
from benchmarks._attention_rules import (
    TOY,
    Settings,
    Variant,
    Variants,
    absent,
    agreeing,
    implementations,
    not_run,
    offsets,
    result,
    timed,
    tokens,
)
from benchmarks._attention_training import packed_step, padded_step
from benchmarks._record import Result, finish, parser, start
from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    attention_flops,
    shared_context_attention,
)
from kernels.shared_context_attention.dispatch import Implementation


def ours(
    context: Tokens, candidates: Tokens, info: SeqlenInfo, named: dict[str, Implementation]
) -> Variants:
    """Each implementation with all tokens, and with cached keys and values."""
    cached = Tokens(None, context.k, context.v)

    def by(known: Tokens, implementation: Implementation) -> Callable[[], Parts]:
        return lambda: shared_context_attention(
            known, candidates, info, implementation=implementation
        )

    variants = {name: Variant(run=by(context, one)) for name, one in named.items()}
    return variants | {
        f"{name}_cached": Variant(run=by(cached, one), cached=True) for name, one in named.items()
    }


def dense_mask(q: Tensor, k: Tensor, v: Tensor, padding: Padding) -> Variant:
    """Padded, behind a mask that is made before."""
    mask = padding.mask(q.dtype)
    return Variant(run=lambda: sdpa(q, k, v, mask), parts=padding.unpack, peer=True)


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Packed requests, and how they are padded.

    Attributes:
        impressions, counts: of each request, its history's and its candidates.
    """

    impressions: list[int]
    counts: list[int]
    context: Tokens
    candidates: Tokens
    padding: Padding

    @classmethod
    def draw(
        cls, impressions: list[int], counts: list[int], settings: Settings, dtype: torch.dtype
    ) -> Requests:
        """Random tokens of requests of these sizes."""
        lengths, device = [2 * n for n in impressions], settings.device
        context, candidates = (tokens(sum(n), settings, dtype) for n in (lengths, counts))
        info = SeqlenInfo(
            cu_seqlens=offsets(lengths, device), cu_candidates=offsets(counts, device)
        )
        return cls(
            impressions=impressions,
            counts=counts,
            context=context,
            candidates=candidates,
            padding=Padding.of(info),
        )

    @property
    def info(self) -> SeqlenInfo:
        """Who sees whom."""
        return self.padding.info

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as a padding peer has them."""
        q, k, v = (self.padding.pad(x) for x in joined(self.context, self.candidates))
        return q, k, v


def serving(
    requests: Requests, peers: Variants, settings: Settings
) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians and facts of ours, the dense mask and these peers; call it in inference mode."""
    context, dtype = requests.context, requests.context.k.dtype
    variants = ours(context, requests.candidates, requests.info, implementations(dtype, settings))
    variants["dense_mask"] = dense_mask(*requests.padded(), requests.padding)
    variants |= peers
    variants, facts = agreeing(variants, dtype)
    flops = {
        name: attention_flops(
            requests.info,
            heads=settings.heads,
            head_dim=settings.head_dim,
            context=not variant.cached,
        )
        for name, variant in variants.items()
        if variant.counted
    }
    repeats = settings.repeats if len(requests.counts) == 1 else settings.batch_repeats
    ms, rated = timed(variants, flops, settings, dtype, repeats)
    return ms, rated | absent(dtype, settings) | facts | {"repeats": repeats}


def rivals(requests: Requests, settings: Settings) -> tuple[Variants, dict[str, str]]:
    """The peers that want requests that are all alike; and of those that are not there, why."""
    length, few = 2 * requests.impressions[0], min(settings.few, requests.counts[0])
    first = Tokens(*(x[:length] for x in requests.context.present))
    one = alone(first, requests.candidates, few)
    behind = Variant(run=one, parts=lambda out: (None, out), counted=False, peer=True)
    variants = {"one_at_a_time": behind}
    total = sum(requests.counts)
    facts = {"one_at_a_time": f"{few} of {total} candidates run, scaled to all"}
    if settings.device == "cuda":
        if find_spec("flash_attn") and requests.context.k.dtype == torch.bfloat16:
            run = flash_split(requests.context, requests.candidates, requests.info)
            variants["flash_attn"] = Variant(run=run, peer=True)
        else:
            facts["flash_attn"] = "not run: not installed, or not its dtype"
    if not settings.flex:
        return variants, facts | {"flex": "not run: --no-flex or --toy"}
    try:
        compiled = flex(*requests.padded(), length)
        variants["flex"] = Variant(run=compiled, parts=requests.padding.unpack, peer=True)
    except Exception as error:  # whatever a compiler raises; it is a peer, and said
        facts["flex"] = not_run(error)
    return variants, facts


def grid_result(sizes: tuple[int, int, int], settings: Settings, dtype: torch.dtype) -> Result:
    """One corner of the serving grid."""
    impressions, count, batch = sizes
    requests = Requests.draw([impressions] * batch, [count] * batch, settings, dtype)
    with torch.inference_mode():
        peers, said = rivals(requests, settings)
        ms, facts = serving(requests, peers, settings)
    few = min(settings.few, count)
    if "one_at_a_time" in ms:
        ms["one_at_a_time"] = round(ms["one_at_a_time"] * count * batch / few, 4)
    where = {"T": impressions, "N": count, "batch": batch}
    return result("serving", where, settings, dtype, (ms, said | facts))


def ragged_result(settings: Settings, dtype: torch.dtype) -> Result:
    """Requests of heavy-tailed lengths, at most 1000 impressions."""
    batch, mean, count = settings.ragged
    drawn, _ = ragged(batch, mean, np.random.default_rng(3))
    impressions = [min(n, 1000) for n in drawn]
    requests = Requests.draw(impressions, [count] * batch, settings, dtype)
    with torch.inference_mode():
        ms, facts = serving(requests, {}, settings)
    where = {"T_mean": round(sum(impressions) / batch, 1), "T_max": max(impressions)}
    where |= {"N": count, "batch": batch}
    return result("ragged", where, settings, dtype, (ms, facts))


def ragged(sequences: int, mean: int, rng: np.random.Generator) -> tuple[list[int], Tensor]:
    """Impressions of a heavy-tailed batch (or of full windows), and their tokens' day prefixes."""
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
    return [int(n) for n in impressions], prefix


def training_result(sizes: tuple[int, int], settings: Settings, dtype: torch.dtype) -> Result:
    """Forward and backward of one layer's attention over a batch."""
    impressions, prefix = ragged(*sizes, np.random.default_rng(0))
    lengths = [2 * n for n in impressions]
    info = SeqlenInfo(
        cu_seqlens=offsets(lengths, settings.device), prefix=prefix.to(settings.device)
    )
    context = Tokens(*(x.requires_grad_() for x in tokens(sum(lengths), settings, dtype).present))
    grad = torch.randn_like(context.k)
    variants = {
        name: packed_step(context, info, grad, one)
        for name, one in implementations(dtype, settings).items()
    } | {"dense_mask": padded_step(context, info, grad)}
    variants, facts = agreeing(variants, dtype)
    work = attention_flops(info, heads=settings.heads, head_dim=settings.head_dim, backward=True)
    ms, rated = timed(
        variants, dict.fromkeys(variants, work), settings, dtype, settings.batch_repeats
    )
    facts["tokens_per_second"] = {n: round(1e3 * sum(lengths) / t) for n, t in ms.items()}
    where = {"sequences": len(lengths), "T_mean": round(sum(impressions) / len(lengths), 1)}
    where |= {"T_max": max(impressions)}
    facts["repeats"] = settings.batch_repeats
    facts = rated | absent(dtype, settings) | facts
    return result("training", where, settings, dtype, (ms, facts))


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    """What the options ask for."""
    settings = TOY if arguments.toy else Settings()
    square = 8192 if arguments.device == "cuda" and not arguments.toy else settings.square
    wants_flex = settings.flex if arguments.flex is None else arguments.flex
    changed = {"device": arguments.device, "square": square, "flex": wants_flex}
    return Settings(**{**vars(settings), **changed})


def measures(settings: Settings, dtype: torch.dtype) -> Iterator[Result]:
    """Every setting of a dtype, one after the other."""
    for sizes in settings.grid:
        yield grid_result(sizes, settings, dtype)
    yield ragged_result(settings, dtype)
    for batch in settings.training:
        yield training_result(batch, settings, dtype)


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    options = parser(__doc__)
    both = ["float32", "bfloat16"]
    options.add_argument("--dtype", nargs="+", choices=both, default=both)
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--flex", action=argparse.BooleanOptionalAction, help="compiles for long")
    arguments = start(options)
    settings, results = chosen_settings(arguments), []
    for dtype in (getattr(torch, name) for name in arguments.dtype):
        for measured in measures(settings, dtype):
            results.append(measured)
            print(measured, flush=True)
    on_gpu = ("triton", "flash_attn") if settings.device == "cuda" else ()
    finish(
        "shared_context_attention",
        results,
        threads=arguments.threads,
        save=arguments.save,
        device=settings.device,
        peers=[name for name in on_gpu if find_spec(name)],
    )


if __name__ == "__main__":
    main()
