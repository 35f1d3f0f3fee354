# SPDX-License-Identifier: Apache-2.0
"""A shard reads as pyarrow reads it, and a broken one is one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from components.training.data import shard_format
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import Loader, LoaderConfig, inspect_shard, read_shard
from kernels.loader.dispatch import Implementation, choose
from tests.kernels.loader.packs import (
    FORMAT,
    assert_same_rows,
    implementations,
    rewrite,
    rows_of,
    stored_rows,
)
from tests.shard_builders import random_lengths, write_shards


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_a_shard_reads_as_pyarrow_reads_it(tmp_path: Path, spec) -> None:
    (path,) = write_shards(tmp_path, spec, random_lengths(300), shards=1)
    packed = read_shard(path, shard_format(spec), first=10)
    names = [*packed.keys, *packed.columns, "context"]
    assert_same_rows(rows_of(packed), stored_rows(path, names))
    assert packed.sequence_S.tolist() == list(range(10, 310))


def test_inspection_counts_what_reading_finds(paths: list[Path]) -> None:
    info, packed = inspect_shard(paths[0], FORMAT), read_shard(paths[0], FORMAT)
    loss = packed.columns["loss"]
    assert info.sequences == packed.num_sequences
    assert info.impressions == packed.num_impressions
    assert (info.targets, info.auxiliary) == ((loss == 1).sum(), (loss == 2).sum())
    assert info.metadata["freshness"] == "day"


def replace(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, array)


def changed_list(table: pa.Table, name: str, change) -> pa.Table:
    """The table with `change(list of lists)` in the place of a column."""
    column = table.column(name)
    return replace(table, name, pa.array(change(column.to_pylist()), column.type))


def set_first(value):
    def change(rows):
        rows[0][0] = value
        return rows

    return change


BROKEN = {
    "column 'tag' is missing": lambda t: t.drop_columns(["tag"]),
    "column 'start' is missing": lambda t: t.drop_columns(["start"]),
    "column 'tag' is list<item: int64>": lambda t: replace(
        t, "tag", t.column("tag").cast(pa.list_(pa.int64()))
    ),
    "column 'hour' is int64": lambda t: replace(t, "hour", t.column("member_id")),
    "'position' differ in length": lambda t: changed_list(
        t, "position", lambda rows: [rows[0][1:], *rows[1:]]
    ),
    "'context' wants": lambda t: changed_list(t, "context", lambda rows: [rows[0][1:], *rows[1:]]),
    "'known' is below zero": lambda t: changed_list(t, "known", set_first(1)),
    "'loss' holds a value": lambda t: changed_list(t, "loss", set_first(3)),
    "column 'like' has a null": lambda t: changed_list(t, "like", set_first(None)),
    "column 'skip' has a null": lambda t: changed_list(t, "skip", lambda rows: [None, *rows[1:]]),
    "has spec_hash": lambda t: t.replace_schema_metadata({"spec_hash": "0"}),
}


@implementations
@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_shard_is_one_sentence_that_names_it(
    paths: list[Path], tmp_path: Path, sentence: str, implementation: Implementation
) -> None:
    table = pa.ipc.open_file(str(paths[0])).read_all()
    path = rewrite(tmp_path / "broken.arrow", BROKEN[sentence](table))
    with pytest.raises(ValueError, match="build the sequences again") as error:
        choose(2, False, implementation).read(path, FORMAT, 0, None)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.3, 0.6, 0.95, -1])
def test_a_truncated_shard_is_refused(paths: list[Path], tmp_path: Path, kept: float) -> None:
    content = paths[0].read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    path = tmp_path / "cut.arrow"
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"cut\.arrow.*build the sequences again"):
        Loader([path], FORMAT, LoaderConfig(batch=8))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.arrow does not exist"):
        Loader([tmp_path / "gone.arrow"], FORMAT, LoaderConfig(batch=8))
