# SPDX-License-Identifier: Apache-2.0
"""What shared-context attention is compared with: the same sight by other people's attention.

Each peer is given its own layout before it is timed, so none pays for ours; `unpack` brings its
answer back to packed order, to be checked. Knows nothing of our implementations, nor of clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens
from kernels.shared_context_attention.reference import candidate_mask, context_mask

Parts = tuple[Tensor | None, ...]
"""Packed answers to compare, None where a variant has no such part."""


@dataclass(frozen=True, kw_only=True)
class Padding:
    """A batch as `[S, longest]`: each row a request's context, then its candidates, then nothing.

    Attributes:
        info: the packed batch.
        longest: the tokens of a row.
        at: int64 `[M + N]`, where each context token and then each candidate lies in the rows.
    """

    info: SeqlenInfo
    longest: int
    at: Tensor

    @classmethod
    def of(cls, info: SeqlenInfo) -> Padding:
        """The least padding there is."""
        pairs = [
            (s.stop - s.start, r.stop - r.start)
            for s, r in zip(info.sequences, info.requests, strict=True)
        ]
        longest = max(length + count for length, count in pairs)
        row = torch.arange(longest, device=info.cu_seqlens.device)
        context = [i * longest + row[:n] for i, (n, _) in enumerate(pairs)]
        candidates = [i * longest + row[n : n + c] for i, (n, c) in enumerate(pairs)]
        return cls(info=info, longest=longest, at=torch.cat([*context, *candidates]))

    def pad(self, packed: Tensor) -> Tensor:
        """`[M + N, heads, head_dim]` to `[S, heads, longest, head_dim]`, strided as a model's."""
        rows = len(self.info.sequences)
        empty = packed.new_zeros(rows * self.longest, *packed.shape[1:])
        filled = empty.index_copy(0, self.at, packed)
        return filled.view(rows, self.longest, *packed.shape[1:]).transpose(1, 2)

    def unpack(self, padded: Tensor) -> Parts:
        """The context's and the candidates' outputs."""
        packed = padded.transpose(1, 2).flatten(0, 1)[self.at]
        return packed[: self.info.num_tokens], packed[self.info.num_tokens :]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """The additive mask, `[S, 1, longest, longest]`, or S = 1 where all requests are alike."""
        pairs = list(zip(self.info.sequences, self.info.requests, strict=True))
        sizes = {(s.stop - s.start, r.stop - r.start) for s, r in pairs}
        alike = len(sizes) == 1 and self.info.prefix is None
        rows = 1 if alike else len(pairs)
        shape, device = (rows, 1, self.longest, self.longest), self.at.device
        mask = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        mask.diagonal(dim1=2, dim2=3).zero_()  # a padded row must see something
        for i, (sequence, request) in enumerate(pairs[:rows]):
            length, count = sequence.stop - sequence.start, request.stop - request.start
            end = length + count
            mask[i, 0, :length, :length].masked_fill_(context_mask(self.info, i), 0.0)
            seen = candidate_mask(length, count, device)
            mask[i, 0, length:end, :end].masked_fill_(seen, 0.0)
        return mask


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """SDPA of `[S, heads, tokens, head_dim]`; causal without a mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def joined(context: Tokens, candidates: Tokens) -> list[Tensor]:
    """q, k and v `[M + N, heads, head_dim]`, context first."""
    return [torch.cat(pair) for pair in zip(context.present, candidates.present, strict=True)]


def flex(q: Tensor, k: Tensor, v: Tensor, length: int) -> Callable[[], Tensor]:
    """FlexAttention, compiled for requests `[S, heads, length + N, head_dim]` that are all alike.

    PyTorch 2.13's is wrong on an AMD EPYC with AVX2 and no AVX-512 where head_dim is 16 and the
    tokens are 8 more than a multiple of 16. The smallest case: 8 tokens, one head, float32, no mask
    at all. Of 50 random ones 46 were wrong, 14 of them NaN. None of 50 was wrong with head_dim 32
    and 24 tokens, nor with 64 and 232. With ATEN_CPU_CAPABILITY=default it does not compile there.
    What is wrong or absent is said in the record.

    Raises:
        Exception: whatever the compiler raises where it cannot.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (column <= row) & ((row < length) | (column < length) | (column == row))

    tokens = q.shape[2]
    block_mask = create_block_mask(seen, None, None, tokens, tokens, device=q.device.type)
    torch._dynamo.reset()  # else another setting's shapes make this one's dynamic, and slower
    compiled = torch.compile(flex_attention, dynamic=False)

    def run() -> Tensor:
        out = compiled(q, k, v, block_mask=block_mask)
        assert isinstance(out, Tensor)
        return out

    run()
    return run


def alone(context: Tokens, candidates: Tokens, few: int) -> Callable[[], Tensor]:
    """Each of the first candidates behind its own copy of the first request's context."""

    def behind(i: int) -> tuple[Tensor, Tensor, Tensor]:
        own = Tokens(*(x[i : i + 1] for x in candidates.present))
        q, k, v = (x.transpose(0, 1)[None] for x in joined(context, own))
        return q, k, v

    inputs = [behind(i) for i in range(few)]
    return lambda: torch.stack([sdpa(q, k, v, None)[0, :, -1] for q, k, v in inputs])


def flash_split(context: Tokens, candidates: Tokens, info: SeqlenInfo) -> Callable[[], Parts]:
    """The split through the flash-attn package: two calls, the candidate's own key merged."""
    from flash_attn import flash_attn_varlen_func as attend

    q, own = context.q, candidates.q
    assert q is not None
    assert own is not None
    assert info.cu_candidates is not None
    cu, cu_candidates = info.cu_seqlens, info.cu_candidates
    longest, most = int(cu.diff().max()), int(cu_candidates.diff().max())
    scale = q.shape[-1] ** -0.5

    def run() -> Parts:
        out = attend(q, context.k, context.v, cu, cu, longest, longest, causal=True)
        seen, lse, _ = attend(
            *(own, context.k, context.v, cu_candidates, cu, most, longest),
            return_attn_probs=True,
        )
        score = (own.float() * candidates.k.float()).sum(-1) * scale
        share = torch.sigmoid(score - lse.transpose(0, 1))[..., None].to(seen.dtype)
        return out, torch.lerp(seen, candidates.v, share)

    return run
