# SPDX-License-Identifier: Apache-2.0
"""What is attended to: packed tokens, and which of them see each other.

Knows lengths, prefixes and their checks, and cuts them into tiles that one kernel call can compute.
Knows nothing of queries' values, softmax or gradients.

Shape suffixes: M context tokens of all sequences, packed; N candidates, packed; S sequences; R
rows and C columns of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

TILE_ROWS = 192
"""Rows of a masked tile: few enough to skip keys above the diagonal, enough for the matmul."""

MASK_BYTES = 256 * 2**20
"""A batch whose masks fit keeps them for all layers and the backward; else each use builds them."""


@dataclass(frozen=True)
class Tokens:
    """Queries, keys and values of packed tokens, each `[tokens, heads, head_dim]` of one dtype.

    Attributes:
        q: None where only keys and values are there (a cached history, or a last layer that needs
            no context output).
    """

    q: Tensor | None
    k: Tensor
    v: Tensor

    @property
    def present(self) -> tuple[Tensor, ...]:
        """The tensors that are there."""
        return (self.k, self.v) if self.q is None else (self.q, self.k, self.v)


@dataclass(frozen=True)
class Tile:
    """A rectangle that one kernel call computes: rows of one sequence or request, and keys.

    Attributes:
        rows: query rows `[start, stop)` of M or N.
        keys: keys `[start, stop)` of M.
        masked: "none" (every row sees every key), "causal" (rows and keys start together), or
            "prefix".
    """

    rows: slice
    keys: slice
    masked: str = "none"


@dataclass(frozen=True, kw_only=True, eq=False)
class SeqlenInfo:
    """Who sees whom in a packed batch; build it once a batch and pass it to every layer.

    Token i of a sequence (counted from the sequence's start) sees tokens `[0, prefix[i])` of its
    own sequence and `[group * (i // group), i]`, its own impression's tokens up to itself. A
    candidate sees all context tokens of its request, and itself.

    Attributes:
        cu_seqlens: int32 `[S + 1]`, offsets of the sequences in M.
        cu_candidates: int32 `[S + 1]`, offsets of the requests in N; None without candidates.
        prefix: int32 `[M]`, at most `group * (i // group)`; None is plain causal attention.
        group: tokens an impression.

    Raises:
        ValueError: offsets or prefixes that do not describe a packed batch.
    """

    cu_seqlens: Tensor
    cu_candidates: Tensor | None = None
    prefix: Tensor | None = None
    group: int = 2
    _masks: dict[tuple[int, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        _check_offsets("cu_seqlens", self.cu_seqlens)
        if self.cu_candidates is not None:
            _check_offsets("cu_candidates", self.cu_candidates)
            if self.cu_candidates.shape != self.cu_seqlens.shape:
                raise ValueError(
                    f"cu_candidates has {len(self.cu_candidates)} offsets, "
                    f"cu_seqlens {len(self.cu_seqlens)}; no candidates is an empty range"
                )
        if self.group < 1:
            raise ValueError(f"group is {self.group}, want at least 1 token an impression")
        if self.prefix is not None:
            self._check_prefix(self.prefix)

    @cached_property
    def sequences(self) -> list[slice]:
        """The tokens of each sequence in M."""
        return _slices(self.cu_seqlens)

    @cached_property
    def requests(self) -> list[slice]:
        """The candidates of each request in N, all empty without candidates."""
        if self.cu_candidates is None:
            return [slice(0, 0)] * len(self.sequences)
        return _slices(self.cu_candidates)

    @property
    def num_tokens(self) -> int:
        """M."""
        return self.sequences[-1].stop if self.sequences else 0

    @property
    def num_candidates(self) -> int:
        """N."""
        return self.requests[-1].stop if self.requests else 0

    @cached_property
    def position_M(self) -> Tensor:
        """int32 `[M]`, the token's index in its own sequence."""
        starts, lengths = self.cu_seqlens[:-1], self.cu_seqlens.diff()
        start_M = starts.repeat_interleave(lengths, output_size=self.num_tokens)
        return torch.arange(self.num_tokens, device=starts.device, dtype=torch.int32) - start_M

    @cached_property
    def own_M(self) -> Tensor:
        """int32 `[M]`, index in its sequence of the first token of the token's own impression."""
        return self.position_M // self.group * self.group

    @cached_property
    def prefix_M(self) -> Tensor:
        """int32 `[M]`, the prefix, or what plain causal attention makes of it."""
        return self.own_M if self.prefix is None else self.prefix

    @cached_property
    def context_tiles(self) -> list[Tile]:
        """The tiles of context against context; each sequence has tiles of its own."""
        tiles: list[Tile] = []
        for tokens, causal in zip(self.sequences, self._causal_sequences(), strict=True):
            if causal and tokens.start < tokens.stop:
                tiles.append(Tile(tokens, tokens, "causal"))
                continue
            for start in range(tokens.start, tokens.stop, TILE_ROWS):
                stop = min(start + TILE_ROWS, tokens.stop)
                tiles.append(Tile(slice(start, stop), slice(tokens.start, stop), "prefix"))
        return tiles

    @cached_property
    def candidate_tiles(self) -> list[Tile]:
        """The tiles of candidates against their request's context; none where either is empty."""
        return [
            Tile(rows, keys)
            for rows, keys in zip(self.requests, self.sequences, strict=True)
            if rows.start < rows.stop and keys.start < keys.stop
        ]

    def mask(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        """The additive mask `[1, 1, R, C]` of a "prefix" tile, 0 where seen, else -inf; or None."""
        if tile.masked != "prefix":
            return None
        key = (tile.rows.start, dtype)
        if key in self._masks:
            return self._masks[key]
        mask = self._build_mask(tile, dtype)
        if self._keeps_masks:
            self._masks[key] = mask
        return mask

    def _build_mask(self, tile: Tile, dtype: torch.dtype) -> Tensor:
        """`mask`, written only from the first key on that a row may not see."""
        own_R, prefix_R = self.own_M[tile.rows, None], self.prefix_M[tile.rows, None]
        rows, columns = (x.stop - x.start for x in (tile.rows, tile.keys))
        first = int(prefix_R.min())
        column = torch.arange(first, columns, device=own_R.device, dtype=torch.int32)
        own = (column >= own_R) & (column <= self.position_M[tile.rows, None])
        mask = torch.zeros(1, 1, rows, columns, device=own_R.device, dtype=dtype)
        mask[..., first:].masked_fill_(~((column < prefix_R) | own), -torch.inf)
        return mask

    @cached_property
    def _keeps_masks(self) -> bool:
        """Whether all masks of the batch together stay within `MASK_BYTES`, taken as float32."""
        tiles = (t for t in self.context_tiles if t.masked == "prefix")
        size = sum((t.rows.stop - t.rows.start) * (t.keys.stop - t.keys.start) for t in tiles)
        return 4 * size <= MASK_BYTES

    def _causal_sequences(self) -> list[bool]:
        """Which sequences are plain causal, by a prefix sum over the tokens that see less."""
        if self.prefix is None:
            return [True] * len(self.sequences)
        less = torch.zeros(self.num_tokens + 1, dtype=torch.int64, device=self.prefix.device)
        less[1:] = (self.prefix_M != self.own_M).cumsum(0)
        at = less[self.cu_seqlens.long()]
        return [bool(x) for x in (at.diff() == 0).tolist()]

    def _check_prefix(self, prefix: Tensor) -> None:
        if prefix.dtype != torch.int32 or prefix.shape != (self.num_tokens,):
            raise ValueError(
                f"prefix is {prefix.dtype} {list(prefix.shape)}, "
                f"want torch.int32 [{self.num_tokens}], one a context token"
            )
        wrong = ((prefix < 0) | (prefix > self.own_M)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"prefix of token {i} is {int(prefix[i])}, want 0 to {int(self.own_M[i])}: "
                "a token sees no impression that comes after its own"
            )


def _slices(offsets: Tensor) -> list[slice]:
    """The ranges between offsets, on the host."""
    return [slice(*pair) for pair in pairwise(offsets.tolist())]


def _check_offsets(name: str, offsets: Tensor) -> None:
    if offsets.dtype != torch.int32 or offsets.ndim != 1 or len(offsets) < 1:
        raise ValueError(
            f"{name} is {offsets.dtype} {list(offsets.shape)}, want torch.int32 [sequences + 1]"
        )
    if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"{name} starts {offsets[:8].tolist()}, want offsets that start at 0 and never fall"
        )
