# SPDX-License-Identifier: Apache-2.0
"""Packing in NumPy: gather sequences into flat columns, cut them, shuffle inside sessions.

Everything is an index computed once per call and applied to each column; no loop over sequences.
This module knows nothing of files, threads or features. Shape suffixes: M impressions of all
sequences, packed; S sequences; R rows of context; C context columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
TARGET, AUXILIARY = 1, 2
"""Codes of the `loss` column; 0 is no loss. Only targets own a row of context."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Sequences without padding; a decoded shard and a batch have the same form.

    Attributes:
        columns: one array a column, `[M]` or `[M, E]`; always with `known` (int32) and `loss`
            (int8).
        cu_seqlens: int32 `[S + 1]`, offsets of the sequences in M.
        context_RC: float32, one row for each impression with `loss == 1`, in order.
        sequence_S: int64, the number of each sequence counted over all shards; seeds its shuffle.
        keys: int64 columns `[S]`, one value a sequence.
    """

    columns: dict[str, Array]
    cu_seqlens: npt.NDArray[np.int32]
    context_RC: npt.NDArray[np.float32]
    sequence_S: Ints
    keys: dict[str, Ints]

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.cu_seqlens) - 1

    @property
    def num_impressions(self) -> int:
        """M."""
        return int(self.cu_seqlens[-1])

    @cached_property
    def lengths_S(self) -> Ints:
        """The impressions of each sequence."""
        return np.diff(self.cu_seqlens).astype(np.int64)

    @cached_property
    def cu_targets(self) -> Ints:
        """`[S + 1]`, offsets of the sequences in the rows of context."""
        return offsets(self.columns["loss"] == TARGET)[self.cu_seqlens]

    def cut(self, size: int) -> Iterator[Packed]:
        """The same sequences in pieces of `size`, as views without a copy."""
        cu_targets = self.cu_targets
        for low in range(0, self.num_sequences, size):
            high = min(low + size, self.num_sequences)
            first, last = self.cu_seqlens[low], self.cu_seqlens[high]
            yield Packed(
                columns={name: array[first:last] for name, array in self.columns.items()},
                cu_seqlens=self.cu_seqlens[low : high + 1] - first,
                context_RC=self.context_RC[cu_targets[low] : cu_targets[high]],
                sequence_S=self.sequence_S[low:high],
                keys={name: array[low:high] for name, array in self.keys.items()},
            )


def offsets(lengths: Array) -> Ints:
    """Offsets `[n + 1]` of lengths `[n]`; of a mask, how many are set before each place."""
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def spans(starts_S: Ints, lengths_S: Ints) -> Ints:
    """The indices of `[start, start + length)` of every sequence, one after the other."""
    ends_S = np.cumsum(lengths_S)
    total = int(ends_S[-1]) if len(ends_S) else 0
    shift_S = starts_S - (ends_S - lengths_S)
    return np.arange(total, dtype=np.int64) + np.repeat(shift_S, lengths_S)


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """How sessions are shuffled: a function of (seed, epoch, sequence number, place) alone.

    So the order depends neither on the batch a sequence is in nor on the process that packs it.
    `trade_slots` is for immediate feedback alone (see `session_runs`).
    """

    session: str
    seed: int
    epoch: int
    trade_slots: bool = False

    @property
    def salt(self) -> int:
        """What tells epochs of runs apart."""
        return self.seed * 1_000_003 + self.epoch


def take(
    source: Packed, rows: Ints, limit: int | None = None, shuffle: Shuffle | None = None
) -> Packed:
    """The sequences `rows`, in that order, each cut to its last `limit` impressions.

    A cut moves the window's start: `known` is counted from the new one and never below zero, and
    the context of targets that were cut is dropped. With `shuffle`, the impressions of each run
    (see `session_runs`) are in a random order; `known` stays with the slot, everything else moves.
    """
    starts_S = source.cu_seqlens[:-1].astype(np.int64)[rows]
    lengths_S = source.lengths_S[rows]
    kept_S = lengths_S if limit is None else np.minimum(lengths_S, limit)
    cut_S = lengths_S - kept_S
    cu_seqlens = offsets(kept_S)
    index_M = spans(starts_S + cut_S, kept_S)
    known_M = source.columns["known"][index_M]
    if cut_S.any():
        known_M = np.maximum(known_M - np.repeat(cut_S, kept_S).astype(np.int32), 0)
    target_M = source.columns["loss"][index_M] == TARGET
    targets_S = np.diff(offsets(target_M)[cu_seqlens])
    context_R = spans(source.cu_targets[rows + 1] - targets_S, targets_S)
    if shuffle is not None:
        session_M = source.columns[shuffle.session][index_M]
        order_M = _shuffled(known_M, session_M, cu_seqlens, source.sequence_S[rows], shuffle)
        context_R = context_R[(np.cumsum(target_M) - 1)[order_M][target_M[order_M]]]
        index_M = index_M[order_M]
    others = {n: array[index_M] for n, array in source.columns.items() if n != "known"}
    return Packed(
        columns={**others, "known": known_M},
        cu_seqlens=cu_seqlens.astype(np.int32),
        context_RC=source.context_RC[context_R],
        sequence_S=source.sequence_S[rows],
        keys={name: array[rows] for name, array in source.keys.items()},
    )


def gather(
    pieces: Sequence[tuple[Packed, Ints]],
    order: Ints,
    limit: int | None = None,
    shuffle: Shuffle | None = None,
) -> Packed:
    """Sequences of several packs in one order: `order` numbers the rows of all pieces in turn."""
    bounds = offsets(np.array([len(rows) for _, rows in pieces], np.int64))
    parts, places = [], []
    for (source, rows), low, high in zip(pieces, bounds, bounds[1:], strict=False):
        inside = np.flatnonzero((order >= low) & (order < high))
        parts.append(take(source, rows[order[inside] - low], limit, shuffle))
        places.append(inside)
    batch = concatenate(parts)
    return batch if len(parts) == 1 else take(batch, np.argsort(np.concatenate(places)))


def concatenate(parts: Sequence[Packed]) -> Packed:
    """The sequences of several packs, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lengths_S = np.concatenate([part.lengths_S for part in parts])
    first = parts[0]
    return Packed(
        columns={n: np.concatenate([p.columns[n] for p in parts]) for n in first.columns},
        cu_seqlens=offsets(lengths_S).astype(np.int32),
        context_RC=np.concatenate([p.context_RC for p in parts]),
        sequence_S=np.concatenate([p.sequence_S for p in parts]),
        keys={n: np.concatenate([p.keys[n] for p in parts]) for n in first.keys},
    )


def without_loss(batch: Packed) -> Packed:
    """The same sequences with `loss` zero everywhere and no context."""
    columns = {**batch.columns, "loss": np.zeros_like(batch.columns["loss"])}
    return replace(batch, columns=columns, context_RC=batch.context_RC[:0])


def session_runs(
    known_M: Array, session_M: Array, cu_seqlens: Array, *, trade_slots: bool = False
) -> Ints:
    """A run number for each impression; only impressions of one run may change places.

    Two neighbours share a run when they are of one session (a negative session is none), have the
    same `known`, and no impression's known prefix ends between them. So a run never lets an
    impression into a prefix that it was not known in.

    With `trade_slots`, for immediate feedback, neighbours of a session that both know everything
    before them share a run too: the slots keep their `known` and the impressions trade them,
    because feedback inside a session is not yet known when its feed is served. With any other
    freshness an impression can know everything before it by chance (the one after midnight in a
    session that began before), and what it knew must not see it.
    """
    total = len(known_M)
    if total == 0:
        return np.zeros(0, np.int64)
    lengths_S = np.diff(cu_seqlens)
    start_M = np.repeat(cu_seqlens[:-1].astype(np.int64), lengths_S)
    at_once_M = (known_M == np.arange(total) - start_M) & trade_slots
    ends_M = np.zeros(total, np.bool_)
    ends_M[(known_M + start_M)[~at_once_M]] = True
    ends_M[cu_seqlens[:-1][lengths_S > 0]] = True
    joined = (session_M[1:] == session_M[:-1]) & (session_M[1:] >= 0) & ~ends_M[1:]
    joined &= (known_M[1:] == known_M[:-1]) | (at_once_M[1:] & at_once_M[:-1])
    return np.concatenate([[0], np.cumsum(~joined)]).astype(np.int64)


def mix(value: Array) -> npt.NDArray[np.uint64]:
    """The splitmix64 finaliser: a uint64 hash of each value, the same on every machine."""
    z = value.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _shuffled(
    known_M: Array, session_M: Array, cu_seqlens: Ints, sequence_S: Ints, shuffle: Shuffle
) -> Ints:
    """Which impression comes into each slot."""
    run_M = session_runs(known_M, session_M, cu_seqlens, trade_slots=shuffle.trade_slots)
    order_M = np.arange(len(run_M), dtype=np.int64)
    if len(run_M) == 0:
        return order_M
    moving = np.flatnonzero(np.bincount(run_M)[run_M] > 1)
    lengths_S = np.diff(cu_seqlens)
    place = moving - np.repeat(cu_seqlens[:-1], lengths_S)[moving]
    salt = mix(np.array([shuffle.salt]))
    base_S = mix(sequence_S.astype(np.uint64) ^ salt)
    key = mix(np.repeat(base_S, lengths_S)[moving] ^ place.astype(np.uint64))
    # one sort by run, then key: the run in the upper bits, as much of the key as is left below
    bits = np.uint64(int(run_M[-1]).bit_length())
    by_run = (run_M[moving].astype(np.uint64) << (np.uint64(64) - bits)) | (key >> bits)
    sorted_by = np.argsort(by_run)
    if (np.diff(by_run[sorted_by]) == 0).any():  # the bits that were left tell some keys not apart
        sorted_by = np.lexsort((key, run_M[moving]))
    order_M[moving] = moving[sorted_by]
    return order_M
