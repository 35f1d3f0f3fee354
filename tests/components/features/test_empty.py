# SPDX-License-Identifier: Apache-2.0
"""Nothing to do is done: what takes all rows of some keys, or all keys of some rows, takes none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.evaluation.differences import Findings, Models, compare
from components.evaluation.replay import Offline, Replayed
from components.evaluation.requests import LoggedRequest
from components.features.context import AsOfContext
from components.features.counters import count_as_of
from components.features.histories import histories
from components.features.history_columns import encode_histories, history_batch
from components.features.offline import feature_rows, features
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log import checks
from components.log.columns import arrow_column, column, packed_bytes, records
from components.log.impressions import ImpressionLog, content_records, history_order, with_content
from components.log.ingest import ingest
from components.log.sources import SimulatorConfig, simulate
from components.log.sources.simulator import truth_day
from components.studies.leakage.mood import expected_actions, mood_aucs
from feature_repo.spec import FRESHNESS
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.history import encode_history
from serving.wire import encode_candidates
from tests.feature_files import read_packed
from tests.log_builders import Log, random_log, small_config, small_spec
from tests.raw_builders import make_impressions, make_members, make_posts
from tests.run_builders import logged_request
from tests.serving_builders import SmallRun, candidates

SPEC = small_spec("simulator")
CONFIG = small_config(SPEC)
DAY, NEXT = "2026-02-03", "2026-02-04"
BOTH = pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)


def none_of(table: pa.Table) -> pa.Table:
    """No row, and not even a chunk to hold one."""
    return table.schema.empty_table()


def no_chunk(schema: pa.Schema) -> pa.Table:
    return pa.table([pa.chunked_array([], field.type) for field in schema], schema=schema)


@BOTH
@pytest.mark.parametrize("make", [pa.Schema.empty_table, no_chunk])
def test_no_row_is_checked(spec, make) -> None:
    impressions, posts, members = map(
        make, (spec.impression_schema, spec.post_schema, spec.member_schema)
    )
    assert checks.impression_reasons(impressions, spec, 20_000).shape == (0,)
    assert checks.post_reasons(posts, spec).shape == (0,)
    assert checks.member_reasons(members, spec).shape == (0,)
    for table in (impressions, posts, members):
        for field in table.schema:
            width = (field.type.list_size,) if pa.types.is_fixed_size_list(field.type) else ()
            assert column(table, field.name, "zero").shape == (0, *width)
            assert column(table, field.name).shape == (0, *width)
            assert len(arrow_column(column(table, field.name), field.type)) == 0


@pytest.mark.parametrize("without", ["impressions", "posts", "members", "all"])
def test_a_day_without_posts_members_or_impressions(tmp_path: Path, without: str) -> None:
    """Everything that is there is kept; the other tables are written, with no row."""
    layout, config = Layout.at(tmp_path), PROFILES["demo"]
    tables = {
        "impressions": make_impressions(SIMULATOR, DAY, 6),
        "posts": make_posts(SIMULATOR, 6),
        "members": make_members(SIMULATOR, 7),
    }
    for name in tables if without == "all" else (without,):
        tables[name] = none_of(tables[name])
    write_parquet(layout.raw_day(DAY), tables["impressions"])
    write_parquet(layout.raw_posts, tables["posts"])
    write_parquet(layout.raw_members, tables["members"])
    for _ in range(2):
        counts = ingest(layout, DAY, config)
        sizes = {name: table.num_rows for name, table in tables.items()}
        assert (counts.kept, counts.posts.kept, counts.members.kept) == tuple(sizes.values())
        assert pq.read_table(layout.impressions_day(DAY)).num_rows == sizes["impressions"]
        assert pq.read_table(layout.posts).equals(tables["posts"])
        assert pq.read_table(layout.members).equals(tables["members"])
    assert counts.unknown_posts == (6 if without == "posts" else 0)
    assert counts.unknown_members == (6 if without == "members" else 0)
    assert bool(counts.sessions) == bool(sizes["impressions"])


def impressions_of(spec) -> pa.Table:
    """Impressions as ingest writes them."""
    raw = make_impressions(spec, DAY, 3)
    return raw.append_column("session_id", pa.array([1, 1, 2]))


def test_no_record_has_no_bytes() -> None:
    log = random_log(SPEC, 1)
    for view in SPEC.views:
        assert packed_bytes(view.default[:0]).to_pylist() == []
        if view.kind != "counters":
            table = log.posts if view.kind == "content" else log.members
            assert records(none_of(table), view).shape == (0,)
    keys = pa.table({"member_id": pa.array([], pa.int64())})
    rows = feature_rows(keys, np.zeros(0, np.int64), packed_bytes(view.default[:0]))
    assert rows.num_rows == 0


def test_no_post_and_no_id_have_content() -> None:
    log = random_log(SPEC, 1)
    default = SPEC.content.default
    got = content_records(none_of(log.posts), np.array([4, 9]), SPEC)
    assert got.tobytes() == default.tobytes() * 2
    for posts in (log.posts, none_of(log.posts)):
        assert content_records(posts, np.zeros(0, np.int64), SPEC).shape == (0,)
        joined = with_content(none_of(log.impressions), posts, SPEC)
        assert joined.num_rows == 0
        assert history_order(joined).num_rows == 0
        assert history_batch(joined, SPEC).num_rows == 0


def test_no_impression_makes_no_history() -> None:
    log = random_log(SPEC, 1)
    impressions = with_content(none_of(log.impressions), log.posts, SPEC)
    impressions = impressions.append_column("count", pa.array([], pa.int64()))
    assert list(encode_histories(impressions, SPEC)) == []


def test_nobody_counts_where_nothing_is_timed_or_nobody_is_asked_for() -> None:
    log = random_log(SPEC, 1)
    impressions = with_content(log.impressions, log.posts, SPEC)
    untimed = impressions.filter(pa.array(~column(impressions, "timed").astype(np.bool_)))
    for view in (v for v in SPEC.views if v.kind == "counters"):
        stranger = pa.table({key: pa.array([10**12, 4], pa.int64()) for key in view.keys})
        nobody, late = stranger.slice(0, 1), np.array([2**60])
        got = count_as_of(impressions, view, nobody, late, SPEC)
        assert got.tobytes() == view.default.tobytes()
        got = count_as_of(none_of(impressions), view, nobody, late, SPEC)
        assert got.tobytes() == view.default.tobytes()
        got = count_as_of(impressions, view, nobody.slice(1), late[:0], SPEC)
        assert got.shape == (0,)
        if all(f.counter.days for f in view.features):
            keys = untimed.select(list(view.keys))
            got = count_as_of(untimed, view, keys, np.full(len(keys), 2**60), SPEC)
            assert got.tobytes() == view.default.tobytes() * len(keys)


@pytest.mark.parametrize("freshness", FRESHNESS)
def test_no_target_has_no_context(freshness) -> None:
    log = random_log(SPEC, 1)
    impressions = with_content(log.impressions, log.posts, SPEC)
    context = AsOfContext(impressions, log.members, SPEC, freshness)
    assert context.matrix(impressions.slice(0, 0)).shape == (0, SPEC.context_width)
    assert context.matrix(impressions.slice(0, 1)).shape == (1, SPEC.context_width)


def test_no_event_and_no_member_give_the_defaults() -> None:
    log = random_log(SPEC, 1)
    impressions = with_content(log.impressions, log.posts, SPEC)
    context = AsOfContext(none_of(impressions), none_of(log.members), SPEC, "day")
    for name, values in context.views(impressions.slice(0, 3)).items():
        assert values.tobytes() == SPEC.view(name).default.tobytes() * 3


def test_an_empty_log_has_rows_of_no_view(tmp_path: Path) -> None:
    layout, log = Layout.at(tmp_path), random_log(SPEC, 1)
    empty = Log(SPEC, none_of(log.impressions), none_of(log.posts), none_of(log.members))
    write_parquet(layout.posts, empty.posts)
    write_parquet(layout.members, empty.members)
    write_parquet(layout.impressions_day(DAY), empty.impressions)
    assert set(features(layout, DAY, CONFIG).values()) == {0}
    assert histories(layout, DAY, CONFIG) == 0
    for view in SPEC.views:
        table, values = read_packed(layout, view, DAY)
        assert (table.num_rows, values.shape, values.dtype) == (0, (0,), view.dtype)
    assert [pq.read_table(path).num_rows for path in layout.history_buckets()] == [0]
    with ImpressionLog(layout, DAY) as log:
        assert list(log.member_chunks(np.zeros(0, np.int64), np.zeros(0, np.int64), 9)) == []


def test_a_quiet_day_after_others(tmp_path: Path) -> None:
    layout, log = Layout.at(tmp_path), random_log(SPEC, 1)
    days = log.write(layout)
    for day in days:
        features(layout, day, CONFIG)
        histories(layout, day, CONFIG)
    quiet = SPEC.day_name(SPEC.day_number(days[-1]) + 1)
    write_parquet(layout.impressions_day(quiet), none_of(log.impressions))
    rows = features(layout, quiet, CONFIG)
    assert rows["post_popularity"] == rows["member_activity"] == rows["member_profile"] == 0
    assert histories(layout, quiet, CONFIG) == 0
    assert read_packed(layout, SPEC.view("member_activity"), quiet)[0].num_rows == 0


def test_no_request_is_replayed(small_run: SmallRun) -> None:
    offline = Offline(small_run.layout, small_run.config)
    assert offline.replay([], small_run.end_ms) == []


def logged(member: int, posts: list[int], time_ms: int) -> LoggedRequest:
    return logged_request(member, posts, time_ms=time_ms)


def test_a_request_of_a_member_without_impressions_is_replayed(small_run: SmallRun) -> None:
    """Alone, and beside a member who has some."""
    known = pq.read_table(small_run.layout.impressions_day(small_run.day))["member_id"][0].as_py()
    offline, stranger = Offline(small_run.layout, small_run.config), 10**12
    new = logged(stranger, [10**12, 1], small_run.end_ms)
    for rows in ([new], [logged(known, [1], small_run.end_ms), new], [new, new]):
        again = offline.replay(rows, small_run.end_ms)
        assert len(again) == len(rows)
        for row, replayed in zip(rows, again, strict=True):
            assert (replayed.history == b"") == (row.member_id == stranger)
            assert len(replayed.context_NC) == len(row.post_ids)
            assert all(len(v) == len(row.post_ids) for v in replayed.features.values())
    before = offline.replay([logged(known, [1], 1_000)], 1_000)
    assert before[0].history == b""


def test_two_histories_without_impressions(small_run: SmallRun) -> None:
    """A stored value of no impression is not the value of a new member, byte for byte."""
    impressions = with_content(
        none_of(impressions_of(SIMULATOR)), make_posts(SIMULATOR, 1), SIMULATOR
    )
    batch = history_batch(impressions, SIMULATOR)
    value = encode_history(batch, member_id=7, count=0, spec=SIMULATOR)
    features_, context_NC = candidates(SIMULATOR, 2, 1)
    encoded = encode_candidates(SIMULATOR, features_, context_NC)
    row = logged_request(7, features_["post_id"].tolist(), history=value, candidates=encoded)
    new = Replayed(history=b"", features=features_, context_NC=context_NC)
    models = Models(small_run.layout, small_run.day)
    with pytest.raises(ValueError, match="history of member 7: the values' bytes differ"):
        compare(SIMULATOR, row, new, models, Findings())


def test_no_truth_has_no_planted_mood(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    config = SimulatorConfig(days=1, members=3, actors=12, posts_per_day=20, impressions=60)
    simulate(layout, config)
    aucs = mood_aucs(layout, [])
    assert all(np.isnan(list(each.values())).all() for each in aucs.values())
    truth = truth_day(layout, "2026-01-05")
    columns = {name: truth[name].to_numpy()[:0] for name in truth.column_names}
    assert expected_actions(columns).shape == (0, 6)


@pytest.mark.parametrize("impressions", [1, 2, 5])
def test_a_simulated_day_may_be_quiet(tmp_path: Path, impressions: int) -> None:
    """Most days of such a log have no visit at all; what is written is a log all the same."""
    layout, config = Layout.at(tmp_path), PROFILES["demo"]
    small = SimulatorConfig(
        days=6, members=2, actors=12, posts_per_day=3, impressions=impressions, seed=impressions
    )
    counts = simulate(layout, small)
    assert len(counts.days) == 6
    sizes = [pq.read_table(layout.raw_day(day)).num_rows for day in counts.days]
    assert min(sizes) == 0
    assert [ingest(layout, day, config).read for day in counts.days] == sizes
