# SPDX-License-Identifier: Apache-2.0
"""What is attended to: packed tokens, and which of them see each other.

Knows lengths, prefixes and their checks, and cuts them into tiles that one kernel call can compute.
Knows nothing of queries' values, softmax or gradients.

Shape suffixes: M context tokens of all sequences, packed; Q those of them that have a query; N
candidates, packed; S sequences; R rows and C columns of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from weakref import WeakValueDictionary

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
        rows: query rows `[start, stop)` of Q or N.
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
        prefix: int32 `[Q]`, at most `group * (i // group)`; None is plain causal attention.
        group: tokens an impression.
        cu_queries: int32 `[S + 1]`, offsets of the queries in Q where only the last tokens of each
            sequence have one (the others' keys and values are cached); None is all, Q = M.
        num_tokens, num_queries, num_candidates: M, Q and N, as host integers.

    Raises:
        ValueError: offsets or prefixes that do not describe a packed batch.
    """

    cu_seqlens: Tensor
    cu_candidates: Tensor | None = None
    prefix: Tensor | None = None
    group: int = 2
    cu_queries: Tensor | None = None
    num_tokens: int = field(default=0, init=False)
    num_queries: int = field(default=0, init=False)
    num_candidates: int = field(default=0, init=False)
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
        if self.cu_queries is not None:
            self._check_queries(self.cu_queries)
        queries = self.cu_seqlens if self.cu_queries is None else self.cu_queries
        counted = {"num_tokens": self.cu_seqlens, "num_queries": queries}
        if self.cu_candidates is not None:
            counted["num_candidates"] = self.cu_candidates
        for name, offsets in counted.items():
            object.__setattr__(self, name, int(offsets[-1]))
        if self.group < 1:
            raise ValueError(f"group is {self.group}, want at least 1 token an impression")
        if self.prefix is not None:
            self._check_prefix(self.prefix)
        _live[_context_key(self.cu_seqlens, self.cu_queries, self.prefix, self.group)] = self
        _live[_candidates_key(self.cu_seqlens, self.cu_candidates)] = self

    @cached_property
    def sequences(self) -> list[slice]:
        """The tokens of each sequence in M."""
        return _slices(self.cu_seqlens)

    @cached_property
    def queries(self) -> list[slice]:
        """The queries of each sequence in Q."""
        return self.sequences if self.cu_queries is None else _slices(self.cu_queries)

    @cached_property
    def requests(self) -> list[slice]:
        """The candidates of each request in N, all empty without candidates."""
        if self.cu_candidates is None:
            return [slice(0, 0)] * len(self.sequences)
        return _slices(self.cu_candidates)

    @cached_property
    def position_Q(self) -> Tensor:
        """int32 `[Q]`, the index in its sequence of the token that asks."""
        offsets = self.cu_seqlens if self.cu_queries is None else self.cu_queries
        ends, counts = self.cu_seqlens.diff() - offsets[1:], offsets.diff()
        shift_Q = ends.repeat_interleave(counts, output_size=self.num_queries)
        return torch.arange(self.num_queries, device=ends.device, dtype=torch.int32) + shift_Q

    @cached_property
    def own_Q(self) -> Tensor:
        """int32 `[Q]`, index in its sequence of the first token of the token's own impression."""
        return self.position_Q // self.group * self.group

    @cached_property
    def prefix_Q(self) -> Tensor:
        """int32 `[Q]`, the prefix, or what plain causal attention makes of it."""
        return self.own_Q if self.prefix is None else self.prefix

    @cached_property
    def context_tiles(self) -> list[Tile]:
        """The tiles of context against context; each sequence has tiles of its own."""
        tiles: list[Tile] = []
        for s, causal in enumerate(self._causal_sequences()):
            rows, tokens = self.queries[s], self.sequences[s]
            if causal and rows.start < rows.stop:
                tiles.append(Tile(rows, tokens, "causal"))
                continue
            for start in range(rows.start, rows.stop, TILE_ROWS):
                stop = min(start + TILE_ROWS, rows.stop)
                keys = slice(tokens.start, tokens.stop - rows.stop + stop)
                tiles.append(Tile(slice(start, stop), keys, "prefix"))
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
        own_R, prefix_R = self.own_Q[tile.rows, None], self.prefix_Q[tile.rows, None]
        rows, columns = (x.stop - x.start for x in (tile.rows, tile.keys))
        first = int(prefix_R.min())
        column = torch.arange(first, columns, device=own_R.device, dtype=torch.int32)
        own = (column >= own_R) & (column <= self.position_Q[tile.rows, None])
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
        """Which sequences are whole and plain causal: no token of them sees less."""
        whole = [
            q.stop - q.start == t.stop - t.start
            for q, t in zip(self.queries, self.sequences, strict=True)
        ]
        if self.prefix is None:
            return whole
        less = torch.zeros(self.num_queries + 1, dtype=torch.int64, device=self.prefix.device)
        less[1:] = (self.prefix_Q != self.own_Q).cumsum(0)
        at = less[(self.cu_seqlens if self.cu_queries is None else self.cu_queries).long()]
        return [a and bool(b) for a, b in zip(whole, (at.diff() == 0).tolist(), strict=True)]

    def _check_queries(self, cu_queries: Tensor) -> None:
        _check_offsets("cu_queries", cu_queries)
        if cu_queries.shape != self.cu_seqlens.shape or bool(
            (cu_queries.diff() > self.cu_seqlens.diff()).any()
        ):
            raise ValueError(
                f"cu_queries {cu_queries[:8].tolist()} does not fit cu_seqlens "
                f"{self.cu_seqlens[:8].tolist()}; a sequence has no more queries than tokens"
            )

    def _check_prefix(self, prefix: Tensor) -> None:
        if prefix.dtype != torch.int32 or prefix.shape != (self.num_queries,):
            raise ValueError(
                f"prefix is {prefix.dtype} {list(prefix.shape)}, "
                f"want torch.int32 [{self.num_queries}], one a context query"
            )
        wrong = ((prefix < 0) | (prefix > self.own_Q)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"prefix of token {i} is {int(prefix[i])}, want 0 to {int(self.own_Q[i])}: "
                "a token sees no impression that comes after its own"
            )


Key = tuple[int, ...]
"""The tensors that a plan is of, by identity."""

_live: WeakValueDictionary[Key, SeqlenInfo] = WeakValueDictionary()
"""An operator of torch.library gets tensors only: so it finds the plan that somebody keeps alive.

Who is alive keeps its tensors alive, so no other tensor has their identity.
"""


def context_plan(
    cu_seqlens: Tensor, cu_queries: Tensor | None, prefix: Tensor | None, group: int
) -> SeqlenInfo:
    """The living `SeqlenInfo` over these very tensors, for context queries, or a new one."""
    info = living_context_plan(cu_seqlens, cu_queries, prefix, group)
    if info is not None:
        return info
    return SeqlenInfo(cu_seqlens=cu_seqlens, cu_queries=cu_queries, prefix=prefix, group=group)


def candidates_plan(cu_seqlens: Tensor, cu_candidates: Tensor) -> SeqlenInfo:
    """The same for candidates, to whom their request's context is whole."""
    info = living_candidates_plan(cu_seqlens, cu_candidates)
    return SeqlenInfo(cu_seqlens=cu_seqlens, cu_candidates=cu_candidates) if info is None else info


def living_context_plan(
    cu_seqlens: Tensor, cu_queries: Tensor | None, prefix: Tensor | None, group: int
) -> SeqlenInfo | None:
    """What `context_plan` finds; None where it would make one."""
    return _live.get(_context_key(cu_seqlens, cu_queries, prefix, group))


def living_candidates_plan(cu_seqlens: Tensor, cu_candidates: Tensor) -> SeqlenInfo | None:
    """What `candidates_plan` finds; None where it would make one."""
    return _live.get(_candidates_key(cu_seqlens, cu_candidates))


def _context_key(
    cu_seqlens: Tensor, cu_queries: Tensor | None, prefix: Tensor | None, group: int
) -> Key:
    return (id(cu_seqlens), id(cu_queries), id(prefix), group)


def _candidates_key(cu_seqlens: Tensor, cu_candidates: Tensor | None) -> Key:
    return (id(cu_seqlens), id(cu_candidates))


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
