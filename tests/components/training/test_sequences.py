# SPDX-License-Identifier: Apache-2.0
"""Sequences: windows, what each row knew, which rows carry a loss, and their context features."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.context import AsOfContext, PointInTimeContext
from components.features.online import materialize
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order, with_content
from components.studies.config import fused_early
from components.studies.experiments import POPULARITY
from components.training import sequences as module
from components.training.sequences import build_sequences, sequences
from components.training.windows import mark_loss
from feature_repo.spec import FRESHNESS, Spec, window_start
from kernels.loader import AUXILIARY, TARGET
from serving.history import decode_history, known_counts
from tests.feature_files import read_histories
from tests.log_builders import FIRST_DAY, build_run, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
RICH = small_spec("simulator")
CONFIG = small_config(SPEC)
MOST = SPEC.max_impressions + SPEC.block - 1


def day(number: int) -> str:
    return SPEC.day_name(FIRST_DAY + number)


def ordered(log) -> pa.Table:
    return history_order(with_content(log.impressions, log.posts, log.spec))


def build(events, log, *, after=None, through=2, freshness="day", cap=None) -> list[dict]:
    """The shard rows as Python values."""
    loss = mark_loss(events, log.spec, after, day(through))
    context = AsOfContext(events, log.members, log.spec, freshness)
    cap = after is None if cap is None else cap
    batches = list(build_sequences(events, loss, context, freshness, cap=cap))
    assert all(0 < b.num_rows <= 256 for b in batches)
    return pa.Table.from_batches(batches).to_pylist() if batches else []


@pytest.mark.law
@given(seed=st.integers(0, 2**32), freshness=st.sampled_from(FRESHNESS), warm=st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_sequence_is_the_window_of_its_first_target(seed, freshness, warm):
    log = random_log(SPEC, seed, rows=150, members=3)
    events = ordered(log)
    after = day(0) if warm else None
    loss = mark_loss(events, SPEC, after, day(1))
    rows = {
        r["member_id"]: r for r in build(events, log, after=after, through=1, freshness=freshness)
    }
    for member in set(column(events, "member_id").tolist()):
        mine = column(events, "member_id") == member
        if not loss[mine].any():
            assert member not in rows
            continue
        row, mark = rows[member], np.flatnonzero(loss[mine])
        arrays = [column(events, n)[mine] for n in ("event_time", "arrival_time", "timed")]
        known = known_counts(*arrays[:2], SPEC, freshness, timed=arrays[2])
        start, stop = row["start"], row["start"] + len(row["known"])
        assert start % SPEC.block == 0
        assert stop == mark[-1] + 1
        assert row["event_time"] == arrays[0][start:stop].tolist()
        assert row["post_id"] == column(events, "post_id")[mine][start:stop].tolist()
        assert row["loss"] == loss[mine][start:stop].tolist()
        assert row["known"] == np.maximum(known[start:stop] - start, 0).tolist()
        assert len(row["context"]) == row["loss"].count(TARGET) * SPEC.context_width
        first = mark[np.searchsorted(mark, stop - MOST)]
        wanted = window_start(int(known[first]), SPEC.max_impressions, SPEC.block)
        if warm or stop - wanted <= MOST:
            assert start == wanted
        else:
            assert stop - start <= MOST


@pytest.mark.law
@given(seed=st.integers(0, 2**32), freshness=st.sampled_from(FRESHNESS))
@settings(deadline=None, max_examples=25)
def test_nothing_that_arrives_after_the_cutoff_reaches_a_targets_inputs(seed, freshness):
    """Law 4: change or drop everything a target could not know; what it sees stays the same."""
    log = random_log(SPEC, seed, members=3)
    events = ordered(log)
    rng = np.random.default_rng(seed)
    target = int(rng.choice(np.flatnonzero(column(events, "timed"))))
    cutoff = int(SPEC.cutoff(column(events, "event_time")[target], freshness))
    later = column(events, "arrival_time") >= cutoff
    changed = events
    for name in ("click", "long_dwell", "like"):
        place = events.schema.get_field_index(name)
        flipped = np.where(later, 1 - np.abs(column(events, name)), column(events, name))
        changed = changed.set_column(
            place, events.schema.field(place), pa.array(flipped.astype(np.int8))
        )
    keep = ~later
    keep[target] = True
    dropped = changed.filter(pa.array(keep))
    seen = []
    for table, place in ((events, target), (changed, target), (dropped, int(keep[:target].sum()))):
        loss = np.zeros(len(table), np.int8)
        loss[place] = TARGET
        context = AsOfContext(table, log.members, SPEC, freshness)
        (batch,) = build_sequences(table, loss, context, freshness, cap=False)
        (row,) = batch.to_pylist()
        known = row["known"][-1]
        actions = [row[n][:known] for n in ("post_id", "click", "long_dwell", "like")]
        seen.append((row["start"], known, actions, np.array(row["context"]).tobytes()))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("freshness", FRESHNESS)
def test_what_is_fused_early_is_what_the_head_would_have_got(freshness):
    """Each impression of a window carries the values that it would have had as a target."""
    log = random_log(RICH, 3, rows=150, members=3)
    events = ordered(log)
    early = fused_early(RICH, (*POPULARITY, "affinity", "member_profile"))
    batches = {}
    for spec in (RICH, early):
        loss = np.where(column(events, "timed"), TARGET, 0).astype(np.int8)
        context = AsOfContext(events, log.members, spec, freshness)
        rows = build_sequences(events, loss, context, freshness, cap=False)
        batches[spec] = pa.Table.from_batches(list(rows))
    late_RC = np.array(batches[RICH]["context"].combine_chunks().flatten()).reshape(
        -1, RICH.context_width
    )
    target = np.array(batches[early]["loss"].combine_chunks().flatten()) == TARGET
    assert 0 < target.sum() == len(late_RC)
    for feature in early.fused_early:
        got = batches[early][feature.name].combine_chunks().flatten()
        wide = column(pa.table({"got": got}), "got")[target].reshape(len(late_RC), -1)
        np.testing.assert_array_equal(wide, late_RC[:, RICH.context_slices[feature.name]])


@pytest.mark.law
@pytest.mark.parametrize("spec", [SPEC, RICH], ids=lambda s: s.name)
def test_the_point_in_time_join_is_counting_as_of_the_day(spec: Spec, tmp_path):
    """Law 4 through Feast: the daily rows joined by Feast are the counters as of the cutoff."""
    layout, config = Layout.at(tmp_path), small_config(spec)
    log = random_log(spec, 11, rows=200, days=12)
    days = build_run(layout, log, config)
    materialize(layout, days[-1], config)
    events = ordered(log)
    targets = events.filter(events["timed"])
    joined = PointInTimeContext(open_store(layout, config), spec).matrix(targets)
    counted = AsOfContext(events, log.members, spec, "day").matrix(targets)
    np.testing.assert_array_equal(joined, counted)
    assert not np.isnan(joined).all(0).any()


def test_late_rows_are_targets_once_and_untimed_rows_by_arrival():
    log = random_log(SPEC, 12, rows=300, days=12)
    events = ordered(log)
    last = int(SPEC.day(column(events, "arrival_time")).max())
    first = int(SPEC.day(column(events, "arrival_time")).min())
    times = np.zeros(len(events), np.int64)
    # A run as of D trains through D - 1 on a log through D; the next starts from there.
    for as_of in range(first + 1, last + 2):
        known = column(events, "arrival_time") < SPEC.day_end(SPEC.day_name(as_of))
        after = None if as_of == first + 1 else SPEC.day_name(as_of - 2)
        loss = mark_loss(events, SPEC, after, SPEC.day_name(as_of - 1))
        times += (loss > 0) & known
    timed = column(events, "timed").astype(bool)
    assert (times[timed] == 1).all()
    assert (times[~timed] == 1).all()
    cold = mark_loss(events, SPEC, None, SPEC.day_name(last))
    assert ((cold == AUXILIARY) == ~timed).all()


@pytest.mark.parametrize("fused", [False, True], ids=["late", "early"])
def test_no_impression_and_none_to_train_on_make_no_sequence(fused):
    spec = fused_early(RICH, POPULARITY) if fused else RICH
    log = random_log(RICH, 1, members=3)
    events = ordered(log)
    for few in (events.slice(0, 0), events.schema.empty_table(), events):
        loss = mark_loss(few, spec, None, day(-9))
        assert not loss.any()
        context = AsOfContext(few, log.members, spec, "day")
        assert list(build_sequences(few, loss, context, "day")) == []


@pytest.mark.parametrize("fused", [False, True], ids=["late", "early"])
def test_members_that_are_untimed_throughout_have_sequences(fused):
    spec = fused_early(RICH, POPULARITY) if fused else RICH
    log = random_log(RICH, 1, members=3)
    events = ordered(log)
    loss = np.full(len(events), AUXILIARY, np.int8)
    context = AsOfContext(events, log.members, spec, "day")
    (batch,) = build_sequences(events, loss, context, "day")
    assert batch.num_rows == 3
    assert batch.column("loss").flatten().to_pylist().count(AUXILIARY) > 0
    assert batch.column("context").to_pylist() == [[], [], []]


def test_the_step_writes_what_the_builder_builds(tmp_path, monkeypatch):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 14, rows=300, members=6)
    days = build_run(layout, log, CONFIG)
    materialize(layout, days[-1], CONFIG)
    events = ordered(log)
    monkeypatch.setattr(module, "CHUNK_ROWS", 60)
    counts = sequences(layout, days[-1], CONFIG, "train", None, days[-2])
    got = read(layout.sequences("train", days[-1]))
    expected = build(events, log, through=1)
    assert normal(got.to_pylist()) == normal(expected)
    assert counts.sequences == len(expected)
    assert counts.targets == sum(r["loss"].count(TARGET) for r in expected)
    assert got.schema.metadata == {
        b"spec_hash": SPEC.hash.encode(),
        b"freshness": b"day",
        b"as_of_ms": str(SPEC.day_end(days[-2])).encode(),
    }
    for field in SPEC.history_schema:
        assert got.schema.field(field.name).type == pa.list_(field.type)
    sequences(layout, days[-1], CONFIG, "eval", days[-2], days[-1])
    targets = pa.concat_arrays(read(layout.sequences("eval", days[-1]))["loss"].chunks).flatten()
    served = SPEC.day(column(events, "event_time"))[column(events, "timed").astype(bool)]
    late = (SPEC.day(column(events, "arrival_time")) > FIRST_DAY + 2).sum()
    assert targets.to_pylist().count(TARGET) == (served == FIRST_DAY + 2).sum() - late


def test_a_batch_holds_no_byte_of_the_next_one(monkeypatch):
    """A shard's bytes are its rows': not what lies behind them where they were cut from."""
    log = random_log(SPEC, 14, rows=300, members=6)
    events = ordered(log)
    loss = mark_loss(events, SPEC, None, day(2))
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    batches = list(
        build_sequences(events, loss, AsOfContext(events, log.members, SPEC, "day"), "day")
    )
    assert len(batches) > 2
    for batch in batches:
        for name in ("known", "loss"):
            values = batch.column(name).values
            assert values.buffers()[1].size == len(values) * values.type.byte_width


@pytest.mark.law
def test_a_step_that_is_run_again_leaves_the_same_shards(tmp_path):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 15), CONFIG)
    materialize(layout, days[-1], CONFIG)
    digests = []
    for _ in range(2):
        sequences(layout, days[-1], CONFIG, "train", days[-3], days[-2])
        files = sorted(layout.sequences("train", days[-1]).iterdir())
        digests.append([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert digests[0] == digests[1]
    assert len(list(layout.sequences("train", days[-1]).parent.iterdir())) == 1


@pytest.mark.law
def test_a_sequence_holds_the_history_that_was_served(tmp_path):
    """Law 3 in training: what the first target knew is the history value of the day before."""
    layout, log = Layout.at(tmp_path), random_log(SPEC, 16, rows=300, members=4)
    served: dict[int, bytes] = {}

    def serve(days: list[str]) -> None:
        if days[-1] < day(2):
            served.update(read_histories(layout))

    build_run(layout, log, CONFIG, serve)
    events = ordered(log)
    loss = np.where(
        column(events, "timed") & (SPEC.day(column(events, "event_time")) == FIRST_DAY + 2),
        TARGET,
        0,
    ).astype(np.int8)
    context = AsOfContext(events, log.members, SPEC, "day")
    rows = build_sequences(events, loss, context, "day", cap=False)
    for row in (r for b in rows for r in b.to_pylist()):
        history = decode_history(served[row["member_id"]], SPEC)
        known = row["known"][row["loss"].index(TARGET)]
        offset = history.start - row["start"]
        assert history.count == row["start"] + known
        for name in SPEC.history_schema.names:
            np.testing.assert_array_equal(
                np.array(row[name][offset:known]), column(history.batch, name)
            )


def test_what_is_missing_is_one_sentence(tmp_path):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 17, rows=20), CONFIG)
    with pytest.raises(ValueError, match="run materialize first"):
        sequences(layout, days[-1], CONFIG, "eval", days[-2], days[-1])
    assert not layout.sequences("eval", days[-1]).exists()
    layout.feature_day("affinity", days[-1]).unlink()
    with pytest.raises(ValueError, match=r"view affinity has no rows of .*; run features first"):
        sequences(layout, days[-1], CONFIG, "eval", days[-2], days[-1])


def read(folder) -> pa.Table:
    tables = [pa.ipc.open_file(f).read_all() for f in sorted(folder.glob("*.arrow"))]
    return pa.concat_tables(tables)


def normal(rows: list[dict]) -> list[str]:
    """Rows as text, because a NaN is no equal of a NaN."""
    return [str(r) for r in rows]
