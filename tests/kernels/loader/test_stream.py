# SPDX-License-Identifier: Apache-2.0
"""An epoch has every sequence once, in an order that any rank finds again; a thread packs it."""

from __future__ import annotations

import shutil
import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.specs import KUAIRAND
from kernels.loader import Loader, LoaderConfig, prefetched, read_shard
from kernels.loader.dispatch import Implementation, choose
from kernels.loader.reference import Shuffle
from tests.kernels.loader.packs import (
    FORMAT,
    assert_same_rows,
    implementations,
    rewrite,
    rewritten,
    rows_of,
    stored_rows,
)


def numbers(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.sequence_S.tolist() for batch in loader.epoch(epoch, start)]


def test_an_epoch_has_every_sequence_once_in_an_order_of_its_own(paths: list[Path]) -> None:
    loader = Loader(paths, FORMAT, LoaderConfig(batch=64, seed=4))
    first, second = numbers(loader, 0), numbers(loader, 1)
    assert loader.steps == len(first) == 5
    assert sorted(chain(*first)) == list(range(300))
    assert first != second
    assert first == numbers(loader, 0)
    assert numbers(loader, 1, start=3) == second[3:]
    other = Loader(paths, FORMAT, LoaderConfig(batch=64, seed=5))
    assert numbers(other) != first


def test_without_a_shuffle_the_order_is_the_stored_one(paths: list[Path]) -> None:
    loader = Loader(paths, FORMAT, LoaderConfig(batch=70, shuffle=False))
    assert [*chain(*numbers(loader))] == list(range(300))
    members = np.concatenate([b.keys["member_id"] for b in loader.epoch()])
    stored = [row for p in paths for row in stored_rows(p, ["member_id"])]
    assert members.tolist() == [row["member_id"] for row in stored]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_every_batch(paths: list[Path], world: int) -> None:
    def batches(rank: int, ranks: int) -> list[list[int]]:
        config = LoaderConfig(batch=64, sort_by_length=True, rank=rank, world=ranks)
        return numbers(Loader(paths, FORMAT, config))

    shares = zip(*(batches(rank, world) for rank in range(world)), strict=True)
    for whole, parts in zip(batches(0, 1), shares, strict=True):
        assert sorted(chain(*parts)) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_without_a_share_takes_part_without_loss(paths: list[Path]) -> None:
    config = LoaderConfig(batch=299, rank=1, world=2)
    *_, last = Loader(paths, FORMAT, config).epoch()
    assert last.num_sequences == 1
    assert not last.columns["loss"].any()
    assert last.context_RC.shape == (0, FORMAT.context_width)


def test_sorting_puts_like_lengths_together_and_keeps_the_rows(paths: list[Path]) -> None:
    plain = Loader(paths, FORMAT, LoaderConfig(batch=150))
    ordered = Loader(paths, FORMAT, LoaderConfig(batch=150, sort_by_length=True))
    for a, b in zip(plain.epoch(), ordered.epoch(), strict=True):
        assert (np.diff(b.lengths_S) >= 0).all()
        by_number = {int(n): row for n, row in zip(a.sequence_S, rows_of(a), strict=True)}
        assert_same_rows(rows_of(b), [by_number[int(n)] for n in b.sequence_S])


def test_the_thread_gives_the_same_batches_and_ends_with_its_reader(paths: list[Path]) -> None:
    ahead = Loader(paths, FORMAT, LoaderConfig(batch=64, prefetch=3))
    assert numbers(ahead) == numbers(Loader(paths, FORMAT, LoaderConfig(batch=64, prefetch=0)))
    reader = ahead.epoch()
    next(reader)
    assert "loader" in [t.name for t in threading.enumerate()]
    reader.close()
    assert "loader" not in [t.name for t in threading.enumerate()]


def test_an_error_in_the_thread_reaches_the_reader() -> None:
    def items():
        yield 1
        raise ValueError("broken")

    reader = prefetched(items(), 2)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)


def test_no_shards_and_empty_shards_have_no_batches(tmp_path: Path, paths: list[Path]) -> None:
    assert list(Loader([], FORMAT, LoaderConfig(batch=8)).epoch()) == []
    table = pa.ipc.open_file(str(paths[0])).read_all()
    with pa.ipc.new_file(str(tmp_path / "none.arrow"), table.schema):
        pass
    empty = read_shard(tmp_path / "none.arrow", FORMAT)
    assert (empty.num_sequences, empty.num_impressions) == (0, 0)
    mixed = Loader([tmp_path / "none.arrow", paths[1]], FORMAT, LoaderConfig(batch=8))
    assert sorted(chain(*numbers(mixed))) == list(range(100))


def test_damage_found_while_reading_reaches_the_reader(paths: list[Path], tmp_path: Path) -> None:
    """The schema and the loss column are whole, so only reading the rest finds it."""
    content = bytearray(paths[0].read_bytes())
    path = tmp_path / "damaged.arrow"
    middle = len(content) * 6 // 10
    content[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    whole = shutil.copy(paths[1], tmp_path / "whole.arrow")
    loader = Loader([path, Path(whole)], FORMAT, LoaderConfig(batch=8, shuffle=False))
    with pytest.raises(ValueError, match=r"damaged\.arrow.*build the sequences again"):
        list(loader.epoch())


def test_shards_replaced_under_a_reader_are_noticed(paths: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(paths[0], tmp_path / "part.arrow"))
    loader = Loader([path], FORMAT, LoaderConfig(batch=8, prefetch=0))
    table = pa.ipc.open_file(str(paths[1])).read_all()
    for other in (table, table[:10]):
        rewrite(path, other)
        with pytest.raises(ValueError, match=r"part\.arrow: is damaged or was replaced"):
            list(loader.epoch())


@implementations
@pytest.mark.parametrize("prefetch", [0, 2])
def test_shards_without_a_sequence_add_nothing(
    paths: list[Path], tmp_path: Path, implementation: Implementation, prefetch: int
) -> None:
    """A file without a record batch, one whose batch has no row, alone and among others."""
    some = pa.ipc.open_file(str(paths[0])).get_batch(0)
    none = [
        rewritten(paths[0], tmp_path / "a.arrow", []),
        rewritten(paths[0], tmp_path / "b.arrow", [some.slice(0, 0)]),
    ]
    few = rewritten(paths[0], tmp_path / "c.arrow", [some.slice(0, 0), some.slice(0, 5)])
    config = LoaderConfig(
        batch=2, session_shuffle=True, prefetch=prefetch, implementation=implementation
    )
    empty = Loader(none, FORMAT, config)
    assert (empty.sequences, empty.steps, list(empty.epoch())) == (0, 0, [])
    assert [(i.impressions, i.targets, i.auxiliary) for i in empty.shards] == [(0, 0, 0)] * 2
    mixed = Loader([none[0], few, none[1]], FORMAT, config)
    assert [packed.num_sequences for packed in mixed.epoch()] == [2, 2, 1]
    packer = choose(1, False, implementation)
    for path in none:
        shard = packer.read(path, FORMAT, 0, None)
        assert len(shard.lengths_S) == 0
        packed = read_shard(path, FORMAT)
        assert (packed.num_sequences, packed.num_impressions) == (0, 0)
        assert packed.context_RC.shape == (0, KUAIRAND.context_width)
        nothing = np.zeros(0, np.int64)
        for shuffle in (None, Shuffle(session="session_id", seed=0, epoch=0)):
            batch = packer.gather([(shard, nothing)], nothing, 3, shuffle)
            assert batch.cu_seqlens.tolist() == [0]
            assert batch.context_RC.shape == (0, KUAIRAND.context_width)
            assert {len(column) for column in batch.columns.values()} == {0}
            assert list(batch.cut(2)) == []


@implementations
def test_a_limit_of_nothing_leaves_sequences_without_an_impression(
    paths: list[Path], implementation: Implementation
) -> None:
    config = LoaderConfig(
        batch=64, limit=0, session_shuffle=True, prefetch=0, implementation=implementation
    )
    batch = next(iter(Loader(paths, FORMAT, config).epoch()))
    assert batch.num_sequences == 64
    assert batch.lengths_S.tolist() == [0] * 64
    assert batch.context_RC.shape == (0, KUAIRAND.context_width)
    assert [piece.num_sequences for piece in batch.cut(50)] == [50, 14]
