# SPDX-License-Identifier: Apache-2.0
"""The order of an epoch and the thread that packs ahead of training.

An epoch's order is a function of (seed, epoch) and the shards' sizes: the shards in a random
order, the rows of each in a random order, cut into batches. So any step of any epoch can be found
again without reading what came before it, and every rank sees the same batches and takes its own
share of each.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kernels.loader import reference
from kernels.loader.dispatch import Implementation, Resident, choose
from kernels.loader.reference import Ints, Packed, Shuffle
from kernels.loader.shards import ShardFormat, ShardInfo, inspect_shard

Item = TypeVar("Item")
Piece = tuple[int, Ints]
"""A shard's number and the rows taken from it."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How sequences become batches.

    Attributes:
        batch: sequences a step, over all ranks.
        shuffle: order of the sequences at random; else as stored.
        session_shuffle: order inside sessions at random; needs a column `session_id`.
        trade_slots: feedback is immediate, so a session's impressions trade slots in the shuffle.
        sort_by_length: inside a batch, so that pieces cut from it hold sequences of like lengths.
        limit: a longer sequence keeps its last `limit` impressions; None keeps all.
        rank, world: this process's share of each batch, every `world`-th sequence.
        prefetch: batches packed ahead by a thread, from shards that another reads ahead; 0 does
            both in the caller's thread.
        threads: that decode and pack, where the native implementation does; any number of them
            gives the same batches.
        pin: batches in pinned memory, for a copy to a GPU beside its work; wants the native
            implementation. Keep such a batch until its copies are done.
        implementation: None takes the fastest there is.
    """

    batch: int
    seed: int = 0
    shuffle: bool = True
    session_shuffle: bool = False
    trade_slots: bool = False
    sort_by_length: bool = False
    limit: int | None = None
    rank: int = 0
    world: int = 1
    prefetch: int = 2
    threads: int = 1
    pin: bool = False
    implementation: Implementation | None = None


@dataclass
class Loader:
    """Batches of packed sequences from a fixed list of shards.

    Raises:
        ValueError: on construction for a shard that is missing or of another schema, on iteration
            for one whose contents are broken or were replaced; one sentence that names the file.
    """

    paths: Sequence[Path]
    form: ShardFormat
    config: LoaderConfig
    shards: list[ShardInfo] = field(init=False)

    def __post_init__(self) -> None:
        assert 0 <= self.config.rank < self.config.world
        self.shards = [inspect_shard(path, self.form) for path in self.paths]
        counts = [shard.sequences for shard in self.shards]
        config = self.config
        self._packer = choose(config.threads, config.pin, config.implementation)
        self._firsts = reference.offsets(np.array(counts, np.int64))

    @property
    def sequences(self) -> int:
        """Sequences in all shards."""
        return int(self._firsts[-1])

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-self.sequences // self.config.batch)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Packed]:
        """This rank's share of each batch of an epoch, from batch `start` on.

        Where a batch has fewer sequences than there are ranks, a rank without one gets another
        rank's sequence with no loss on it, so that it can take part in the step.
        """
        batches = self._pack_all(epoch, start)
        return prefetched(batches, self.config.prefetch) if self.config.prefetch else batches

    def _pack_all(self, epoch: int, start: int) -> Iterator[Packed]:
        steps = itertools.islice(self._plan(epoch), start, None)
        ahead = self._read_in_turn(itertools.islice(self._plan(epoch), start, None))
        if self.config.prefetch:
            ahead = prefetched(ahead, 1)
        resident: dict[int, Resident] = {}
        with contextlib.closing(ahead):
            for pieces in steps:
                for shard in resident.keys() - {shard for shard, _ in pieces}:
                    del resident[shard]
                for shard, _ in pieces:
                    if shard not in resident:
                        resident[shard] = next(ahead)
                yield self._pack([(resident[shard], rows) for shard, rows in pieces], epoch)

    def _read_in_turn(self, steps: Iterator[list[Piece]]) -> Generator[Resident, None, None]:
        """The shards in the order in which batches come to touch them."""
        last: set[int] = set()
        for pieces in steps:
            touched = {shard: None for shard, _ in pieces}
            for shard in touched:
                if shard not in last:
                    yield self._read(shard)
            last = set(touched)

    def _plan(self, epoch: int) -> Iterator[list[Piece]]:
        """The pieces of each batch, in order."""
        rng = np.random.default_rng([self.config.seed, epoch])
        order = np.arange(len(self.shards))
        pieces: list[Piece] = []
        room = self.config.batch
        for shard in rng.permutation(order) if self.config.shuffle else order:
            count = self.shards[shard].sequences
            rows = rng.permutation(count) if self.config.shuffle else np.arange(count)
            while len(rows):
                pieces.append((int(shard), rows[:room]))
                rows, room = rows[room:], room - len(rows[:room])
                if room == 0:
                    yield pieces
                    pieces, room = [], self.config.batch
        if pieces:
            yield pieces

    def _read(self, shard: int) -> Resident:
        info = self.shards[shard]
        return self._packer.read(info.path, self.form, int(self._firsts[shard]), info.checksum)

    def _pack(self, pieces: list[tuple[Resident, Ints]], epoch: int) -> Packed:
        """This rank's sequences of a batch, in their final order."""
        config = self.config
        lengths = np.concatenate([shard.lengths_S[rows] for shard, rows in pieces])
        order = np.arange(len(lengths))
        if config.sort_by_length:
            order = np.argsort(lengths, kind="stable")
        mine = order[config.rank :: config.world]
        idle = len(mine) == 0
        if idle:
            mine = order[:1]
        shuffle = None
        if config.session_shuffle:
            shuffle = Shuffle(
                session="session_id",
                seed=config.seed,
                epoch=epoch,
                trade_slots=config.trade_slots,
            )
        batch = self._packer.gather(pieces, mine, config.limit, shuffle)
        return reference.without_loss(batch) if idle else batch


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def prefetched(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, made by a thread that stays at most `depth` ahead and ends with the iterator.

    An error in the thread is raised where its item would have come.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
        if isinstance(items, Generator):  # it may have a thread of its own
            items.close()
