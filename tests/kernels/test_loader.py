# SPDX-License-Identifier: Apache-2.0
"""The loader against a row-by-row oracle, its shuffles, its order, and broken shards."""

from __future__ import annotations

import shutil
import threading
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.data import shard_format
from feature_repo.spec import Freshness
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import (
    Loader,
    LoaderConfig,
    Packed,
    inspect_shard,
    prefetched,
    read_shard,
    write_checksums,
)
from kernels.loader.dispatch import Implementation, choose
from kernels.loader.native import available
from kernels.loader.reference import Shuffle, concatenate, session_runs, take
from serving.history import known_counts
from tests.shard_builders import random_lengths, write_shards

FORMAT = shard_format(KUAIRAND)
needs_native = pytest.mark.skipif(
    available()[0] is None, reason="no compiled loader; covered by NumPy's"
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(folder, KUAIRAND, random_lengths(300), shards=3)


def rows_of(packed: Packed) -> list[dict]:
    """The pack as one dictionary of lists a sequence."""
    ends = packed.cu_seqlens.tolist()
    targets = packed.cu_targets.tolist()
    return [
        {
            **{n: a[ends[i] : ends[i + 1]].tolist() for n, a in packed.columns.items()},
            "context": packed.context_RC[targets[i] : targets[i + 1]].ravel().tolist(),
            **{n: int(a[i]) for n, a in packed.keys.items()},
        }
        for i in range(packed.num_sequences)
    ]


def stored_rows(path: Path, names: list[str]) -> list[dict]:
    """The oracle: the shard's rows as pyarrow reads them."""
    return pa.ipc.open_file(str(path)).read_all().select(names).to_pylist()


def assert_same_rows(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


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


@pytest.mark.parametrize("limit", [1, 5, 13])
def test_a_long_sequence_keeps_its_newest_impressions(paths: list[Path], limit: int) -> None:
    packed = read_shard(paths[0], FORMAT)
    rows = np.array([7, 3, 3, 90])
    expected = []
    for row in rows_of(packed):
        cut = max(len(row["loss"]) - limit, 0)
        dropped = sum(code == 1 for code in row["loss"][:cut])
        kept = {n: v[cut:] for n, v in row.items() if n in packed.columns}
        kept["known"] = [max(k - cut, 0) for k in kept["known"]]
        kept["context"] = row["context"][dropped * FORMAT.context_width :]
        expected.append({**kept, **{n: row[n] for n in packed.keys}})
    assert_same_rows(rows_of(take(packed, rows, limit)), [expected[i] for i in rows])


def test_pieces_put_together_are_the_batch(paths: list[Path]) -> None:
    packed = read_shard(paths[0], FORMAT)
    pieces = list(packed.cut(32))
    assert [p.num_sequences for p in pieces] == [32, 32, 32, 4]
    assert np.shares_memory(pieces[1].columns["position"], packed.columns["position"])
    assert_same_rows(rows_of(concatenate(pieces)), rows_of(packed))


# --- order within sessions


@st.composite
def histories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Known prefixes (of any freshness, late events among them) and sessions of one sequence."""
    size = draw(st.integers(1, 24))
    known = [draw(st.integers(0, i)) for i in range(size)]
    shape = draw(st.sampled_from(["any", "monotone", "immediate", "day"]))
    if shape == "monotone":
        known = np.minimum(np.maximum.accumulate(known), np.arange(size)).tolist()
    if shape == "immediate":
        known = list(range(size))
    if shape == "day":
        step = draw(st.integers(1, 6))
        known = [i // step * step for i in range(size)]
    session = np.cumsum([draw(st.integers(0, 1)) for _ in range(size)]) - draw(st.integers(0, 1))
    return np.array(known, np.int32), session.astype(np.int64)


def one_sequence(known: np.ndarray, session: np.ndarray, number: int = 0) -> Packed:
    size = len(known)
    loss = (np.arange(size) % 3).astype(np.int8)
    row = np.arange(size)[loss == 1].astype(np.float32)
    columns = {"known": known, "session_id": session, "loss": loss, "id": np.arange(size)}
    return Packed(
        columns=columns,
        cu_seqlens=np.array([0, size], np.int32),
        context_RC=row[:, None],
        sequence_S=np.array([number]),
        keys={},
    )


def shuffled(
    packed: Packed, seed: int, epoch: int, *, trade: bool = False, limit: int | None = None
) -> Packed:
    """The whole pack with its sessions shuffled."""
    shuffle = Shuffle(session="session_id", seed=seed, epoch=epoch, trade_slots=trade)
    return take(packed, np.arange(packed.num_sequences), limit, shuffle)


@pytest.mark.law
@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 3), st.booleans())
def test_a_shuffle_brings_nothing_into_a_prefix_that_was_not_known(
    history: tuple[np.ndarray, np.ndarray], epoch: int, trade: bool
) -> None:
    known, session = history
    mixed = shuffled(one_sequence(known, session), 1, epoch, trade=trade)
    ids = mixed.columns["id"]
    assert sorted(ids) == list(range(len(known)))
    assert mixed.columns["known"].tolist() == known.tolist()
    assert (session[ids] == session).all(), "an impression left its session"
    moved = ids != np.arange(len(known))
    assert (session[moved] >= 0).all(), "an impression without a session moved"
    immediate = (known == np.arange(len(known))) & trade
    for slot in np.flatnonzero(~immediate):
        prefix = known[slot]
        assert set(ids[:prefix]) == set(range(prefix)), "a known prefix changed"
    loss, context = mixed.columns["loss"], mixed.context_RC[:, 0]
    assert context.tolist() == ids[loss == 1].tolist(), "context left its target"


@pytest.mark.law
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 240), st.integers(0, 90)), min_size=1, max_size=16),
    st.sampled_from(["day", "30m"]),
    st.integers(0, 3),
    st.none() | st.integers(1, 16),
)
def test_no_order_lets_an_impression_see_what_serving_did_not_know(
    served: list[tuple[int, int]], freshness: Freshness, epoch: int, limit: int | None
) -> None:
    """One session (by its request id) of four hours around midnight, minutes apart, cut or not."""
    midnight = int(KUAIRAND.day_start(np.array([20_000]))[0])
    event, late = np.array(served, np.int64).T * 60_000
    event = event + midnight - 2 * 3_600_000
    order = np.lexsort((event, event + late))
    event, arrival = event[order], (event + late)[order]
    known = known_counts(event, arrival, KUAIRAND, freshness)
    packed = one_sequence(known, np.zeros(len(known), np.int64))
    mixed = shuffled(packed, 1, epoch, limit=limit)
    cutoff = KUAIRAND.cutoff(event, freshness)
    ids = mixed.columns["id"]
    for slot, prefix in enumerate(mixed.columns["known"]):
        assert (arrival[ids[:prefix]] < cutoff[ids[slot]]).all(), "a target sees its future"


def test_runs_are_as_long_as_they_may_be() -> None:
    def runs(known: list[int], session: list[int], trade: bool = False) -> list[int]:
        bounds = np.array([0, len(known)])
        return session_runs(np.array(known), np.array(session), bounds, trade_slots=trade).tolist()

    assert runs([0, 0, 0, 3, 3], [1, 1, 1, 1, 1]) == [0, 0, 0, 1, 1]  # two days, one session
    assert runs([0, 0, 0, 0], [1, 1, 2, 2]) == [0, 0, 1, 1]
    assert runs([0, 1, 2, 3], [1, 1, 1, 2], trade=True) == [0, 0, 0, 1]  # immediate
    assert runs([0, 1, 2, 2, 4], [1] * 5, trade=True) == [0, 0, 1, 1, 2]  # a tie: known to both
    assert runs([0, 1], [1, 1]) == [0, 1]  # one before midnight, one after
    assert runs([0, 0, 0, 1], [1] * 4) == [0, 1, 1, 2]  # 30 minutes later, only one is known
    assert runs([0, 0], [-1, -1]) == [0, 1]


def test_a_sequence_is_shuffled_alike_in_any_batch(paths: list[Path]) -> None:
    packed = read_shard(paths[0], FORMAT, first=0)
    rows = np.array([40, 2, 77])
    alone = take(packed, rows)
    a = shuffled(packed, 3, 5)
    b = shuffled(alone, 3, 5)
    assert_same_rows(rows_of(take(a, rows)), rows_of(b))
    c = shuffled(packed, 3, 6)
    assert (a.columns["post_id"] != c.columns["post_id"]).any()


def test_every_order_of_a_session_is_as_likely() -> None:
    known, session = np.zeros(3, np.int32), np.ones(3, np.int64)
    orders: dict[tuple, int] = {}
    for number in range(3000):
        mixed = shuffled(one_sequence(known, session, number), 0, 0)
        key = tuple(mixed.columns["id"].tolist())
        orders[key] = orders.get(key, 0) + 1
    assert len(orders) == 6
    assert all(400 < count < 600 for count in orders.values())


# --- batches


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
    def batches(rank: int, of: int) -> list[list[int]]:
        config = LoaderConfig(batch=64, sort_by_length=True, rank=rank, world=of)
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


# --- broken shards


def rewrite(path: Path, table: pa.Table) -> Path:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


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


IMPLEMENTATIONS = ["numpy", pytest.param("native", marks=needs_native)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
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


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.arrow does not exist"):
        Loader([tmp_path / "gone.arrow"], FORMAT, LoaderConfig(batch=8))


@pytest.mark.parametrize("kept", [0, 5, 100, 0.3, 0.6, 0.95, -1])
def test_a_truncated_shard_is_refused(paths: list[Path], tmp_path: Path, kept: float) -> None:
    content = paths[0].read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    path = tmp_path / "cut.arrow"
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"cut\.arrow.*build the sequences again"):
        Loader([path], FORMAT, LoaderConfig(batch=8))


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


def test_damage_that_keeps_the_structure_is_found_by_the_checksum(
    paths: list[Path], tmp_path: Path
) -> None:
    """Uncompressed, a flipped bit of a label is a label; only the checksum tells."""
    path = rewrite(tmp_path / "part.arrow", pa.ipc.open_file(str(paths[0])).read_all())
    column = pa.ipc.open_file(str(path)).read_all().column("click").chunk(0).values
    labels = column.buffers()[1].to_pybytes()[: len(column)]
    content = bytearray(path.read_bytes())
    content[content.index(labels)] ^= 1
    whole = path.read_bytes()
    path.write_bytes(content)
    assert read_shard(path, FORMAT).columns["click"][0] in (0, 1)
    path.write_bytes(whole)
    write_checksums(tmp_path)
    info = inspect_shard(path, FORMAT)
    read_shard(path, FORMAT)
    path.write_bytes(content)
    assert inspect_shard(path, FORMAT) == info, "what is recorded names the shard"
    with pytest.raises(ValueError, match=r"part\.arrow: is damaged or.*build the sequences again"):
        read_shard(path, FORMAT)
    other = Path(shutil.copy(paths[1], tmp_path / "other.arrow"))
    for harm in ("[]", "{", '{"part.arrow": "x"}'):
        (tmp_path / "checksums.json").write_text(harm)
        with pytest.raises(ValueError, match=r"no checksum of other\.arrow; build the sequences"):
            read_shard(other, FORMAT)


def test_shards_replaced_under_a_reader_are_noticed(paths: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(paths[0], tmp_path / "part.arrow"))
    loader = Loader([path], FORMAT, LoaderConfig(batch=8, prefetch=0))
    table = pa.ipc.open_file(str(paths[1])).read_all()
    for other in (table, table[:10]):
        rewrite(path, other)
        with pytest.raises(ValueError, match=r"part\.arrow: is damaged or was replaced"):
            list(loader.epoch())


def test_without_a_record_a_shard_is_named_by_its_own_bytes(
    paths: list[Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(paths[0], tmp_path / "part.arrow"))
    info = inspect_shard(path, FORMAT)
    assert info.checksum == zlib.crc32(path.read_bytes())
    write_checksums(tmp_path)
    assert inspect_shard(path, FORMAT) == info


IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation", [pytest.param("native", marks=needs_native), "numpy"]
)


def rewritten(path: Path, to: Path, batches: list[pa.RecordBatch]) -> Path:
    """A shard of the same schema with other record batches."""
    with pa.ipc.new_file(str(to), pa.ipc.open_file(str(path)).schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return to


@IMPLEMENTATIONS
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


@IMPLEMENTATIONS
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


@needs_native
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 3)])
def test_the_bytes_of_a_column_have_their_shape_where_it_is_empty(shape: tuple[int, ...]) -> None:
    from kernels.loader.native import column_bytes

    bytes_ = column_bytes(np.zeros(shape, np.float16))
    assert bytes_.shape == (shape[0], 2 * int(np.prod(shape[1:])))
    assert bytes_.dtype == np.uint8
