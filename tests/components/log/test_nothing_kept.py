# SPDX-License-Identifier: Apache-2.0
"""A day that keeps no row ends at ingest, in one sentence with the tally, and loses nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.duplicates import DIFFERS
from components.loop.daily import summary
from components.loop.steps import run_step
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.log_builders import FIRST_DAY, random_log, small_config, small_spec
from tests.raw_builders import digest, make_impressions, set_value, stack, write_log

BEFORE, DAY, NEXT = "2026-02-02", "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def ingest(layout: Layout, day: str) -> dict:
    return run_step("ingest", str(layout.root), day, "demo")


def every(table: pa.Table, name: str, value: object) -> pa.Table:
    place = table.schema.get_field_index(name)
    values = pa.array([value] * table.num_rows, table.schema.field(name).type)
    return table.set_column(place, table.schema.field(name).with_nullable(True), values)


def test_every_row_refused(layout: Layout) -> None:
    good = make_impressions(SIMULATOR, BEFORE, 9)
    bad = every(make_impressions(SIMULATOR, DAY, 6), "surface", 4)
    bad = set_value(set_value(bad, "position", 0, -9), "position", 5, -9)
    write_log(layout, SIMULATOR, {BEFORE: good, DAY: bad})
    for _ in range(2):
        with pytest.raises(ValueError, match=f"no row of {DAY} was kept") as error:
            ingest(layout, DAY)
        where = layout.quarantine_day(DAY)
        assert str(error.value) == (
            f"no row of {DAY} was kept: 6 read, 0 duplicates of earlier rows, 6 refused "
            f"(surface is not in [-1, 4): 4; position is below -1: 2); look at {where}, mend the "
            "log and bring it again"
        )
        refused = pq.read_table(where).drop_columns("reason")
        assert refused.to_pylist() == bad.to_pylist()
        counts = json.loads(layout.ingest_counts(DAY).read_text())
        assert (counts["read"], counts["kept"]) == (6, 0)
        assert pq.read_table(layout.impressions_day(DAY)).num_rows == 0
        assert pq.read_table(layout.impressions_day(BEFORE)).num_rows == 9


def test_a_mended_day_goes_on(layout: Layout) -> None:
    good = make_impressions(SIMULATOR, DAY, 6)
    write_log(layout, SIMULATOR, {DAY: every(good, "surface", 4)})
    with pytest.raises(ValueError, match="6 refused"):
        ingest(layout, DAY)
    write_log(layout, SIMULATOR, {DAY: good})
    assert ingest(layout, DAY)["kept"] == 6


def test_a_day_that_was_good_holds_nothing_of_what_it_held(layout: Layout) -> None:
    good = make_impressions(SIMULATOR, DAY, 6)
    write_log(layout, SIMULATOR, {DAY: good})
    ingest(layout, DAY)
    write_log(layout, SIMULATOR, {DAY: every(good, "surface", 4)})
    with pytest.raises(ValueError, match="6 refused"):
        ingest(layout, DAY)
    assert pq.read_table(layout.impressions_day(DAY)).num_rows == 0


def test_every_row_there_already(layout: Layout) -> None:
    """A day that brings an earlier day's rows again, and nothing else."""
    first = make_impressions(SIMULATOR, DAY, 6)
    again = every(first, "arrival_time", START + DAY_MS + 7)
    write_log(layout, SIMULATOR, {DAY: first, NEXT: again})
    message = f"no row of {NEXT} was kept: 6 read, 6 duplicates of earlier rows; choose another day"
    with pytest.raises(ValueError, match=re.escape(message)):
        ingest(layout, NEXT)
    other = set_value(again, "position", 2, 3 - again["position"][2].as_py())
    write_log(layout, SIMULATOR, {NEXT: other})
    message = f"6 read, 5 duplicates of earlier rows, 1 refused ({DIFFERS}: 1); look at"
    with pytest.raises(ValueError, match=re.escape(message)):
        ingest(layout, NEXT)


def test_no_row_at_all(layout: Layout) -> None:
    write_log(layout, SIMULATOR, {DAY: SIMULATOR.impression_schema.empty_table()})
    message = f"{layout.raw_day(DAY)} holds no rows: there is nothing of {DAY} to rank"
    with pytest.raises(ValueError, match=re.escape(message)):
        ingest(layout, DAY)
    assert json.loads(layout.ingest_counts(DAY).read_text())["read"] == 0


def test_a_quiet_or_a_bad_day_between_others_holds_nobody_up(layout: Layout) -> None:
    good = {d: make_impressions(SIMULATOR, d, 6, seed=i) for i, d in enumerate((BEFORE, DAY, NEXT))}
    last = "2026-02-05"
    days = {
        BEFORE: good[BEFORE],
        DAY: SIMULATOR.impression_schema.empty_table(),
        NEXT: every(good[NEXT], "surface", -2),
        last: make_impressions(SIMULATOR, last, 5, seed=9),
    }
    write_log(layout, SIMULATOR, days)
    values = ingest(layout, last)
    assert (values["days"], values["read"], values["kept"], values["quarantined"]) == (4, 17, 11, 6)
    assert values["empty"] == NEXT
    told = f"4 days, 17 read, 11 kept, 6 quarantined; nothing of {NEXT}; cold start: there is no "
    assert summary("ingest", values) == f"{told}model in production"
    before = digest(layout.root / "impressions")
    values = ingest(layout, last)
    assert summary("ingest", values).startswith("1 days, 5 read, 5 kept, 0 quarantined; cold")
    assert digest(layout.root / "impressions") == before


def test_a_day_of_untimed_rows_alone_is_kept(layout: Layout) -> None:
    untimed = every(make_impressions(SIMULATOR, DAY, 6), "timed", False)
    write_log(layout, SIMULATOR, {DAY: untimed})
    assert ingest(layout, DAY)["kept"] == 6


def test_one_good_row_is_enough(layout: Layout) -> None:
    bad = every(make_impressions(SIMULATOR, DAY, 6), "surface", 4)
    write_log(layout, SIMULATOR, {DAY: stack([bad, make_impressions(SIMULATOR, DAY, 7).slice(6)])})
    assert ingest(layout, DAY)["kept"] == 1


SPEC = small_spec("simulator")


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (True, False, "no timed impression was served on 2022-04-19: no model can be judged"),
        (None, True, "nothing to train on: no impression of the log through 2022-04-18"),
    ],
    ids=["untimed", "none before"],
)
def test_a_day_without_targets_ends_before_anything_is_trained(
    layout: Layout, first: bool | None, last: bool, message: str
) -> None:
    """The last day has untimed rows alone, or is the first that has any."""
    log = random_log(SPEC, 1, rows=40, days=1)
    start = int(SPEC.day_start(FIRST_DAY))
    shift = DAY_MS if last else 0
    impressions = every(log.impressions, "timed", True)
    times = {"event_time": start + 5, "arrival_time": start + 9}
    for name, time_ms in times.items():
        impressions = every(impressions, name, time_ms + shift)
    untimed = every(every(impressions, "timed", False), "arrival_time", start + DAY_MS + 9)
    days = [impressions if first else impressions.slice(0, 0), impressions if last else untimed]
    names = [SPEC.day_name(FIRST_DAY + i) for i in range(2)]
    for name, table in zip(names, days, strict=True):
        write_parquet(layout.impressions_day(name), table)
    write_parquet(layout.posts, log.posts)
    write_parquet(layout.members, log.members)
    config = layout.root / "config.json"
    config.write_text(small_config(SPEC).model_dump_json())
    for step in ("features", "histories", "materialize"):
        run_step(step, str(layout.root), names[1], str(config))
    with pytest.raises(ValueError, match=message):
        run_step("sequences", str(layout.root), names[1], str(config))
