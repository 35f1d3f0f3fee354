# SPDX-License-Identifier: Apache-2.0
"""What the loop's benchmark says of steps that really ran, at toy size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from benchmarks._loop.cases import Bench, Case, Code, sized
from benchmarks._loop.figures import compared_cpu_s, growth, result
from benchmarks._loop.measure import Call, Cost, measure
from benchmarks._loop.members import full
from benchmarks._loop.windows import write
from feature_repo.specs import SIMULATOR

ROOT = Path(__file__).parents[2]


def call(root: Path, step: str, **more: Any) -> Call:
    return Call(tree=ROOT, step=step, root=root, day="2026-01-06", config=more)


def test_a_step_is_measured_with_what_it_wrote(tmp_path: Path) -> None:
    log = {"impressions": 400, "days": 2, "members": 20, "actors": 12, "start": "2026-01-05"}
    drawn = measure(call(tmp_path, "simulate", log=log))
    assert drawn.died == ""
    assert drawn.written_mib["raw"] > 0
    ingested = measure(call(tmp_path, "ingest"))
    assert ingested.died == ""
    assert ingested.cpu_s > 0.1
    assert 30 < ingested.peak_mib < 1536
    assert "raw" not in ingested.written_mib
    size = sum(p.stat().st_size for p in tmp_path.glob("impressions/*/part.parquet"))
    assert ingested.written_mib["impressions"] == pytest.approx(size / 2**20, abs=1e-3)


def test_a_death_is_recorded_by_its_last_line(tmp_path: Path) -> None:
    cost = measure(call(tmp_path, "ingest"))
    assert cost.died.startswith("ValueError: ")
    assert "2026-01-06" in cost.died
    assert cost.peak_mib > 30


def cost(cpu_s: float, died: str = "") -> Cost:
    return Cost(
        wall_s=1, cpu_s=cpu_s, peak_mib=1, read_mib=1, written_mib={}, died=died
    )  # fmt: skip


def bench(tmp_path: Path, code: Code, cpu_s: float, died: str = "") -> Bench:
    made = Bench(code, tmp_path / "root")
    made.costs = {"backfill:ingest": cost(cpu_s)}
    steps = ("features", "histories", "materialize")
    made.costs |= {f"day:{s}": cost(cpu_s, died if s == "materialize" else "") for s in steps}
    return made


def test_growth_is_over_the_first_of_its_kind_and_code(tmp_path: Path) -> None:
    old, new = Code(name="before", tree=tmp_path), Code(name="after", tree=tmp_path)
    small, large = sized(1_000), sized(100_000)
    results = growth(
        [
            result(small, old, bench(tmp_path, old, 1.0)),
            result(small, new, bench(tmp_path, new, 1.0)),
            result(large, old, bench(tmp_path, old, 2.0, died="out of memory")),
            result(large, new, bench(tmp_path, new, 10.0)),
        ]
    )
    assert [r.ratios for r in results[:2]] == [{}, {}]
    assert results[2].ratios == {"backfill_exponent": round(np.log10(2) / 2, 3)}
    assert compared_cpu_s(results[2].facts) is None
    assert results[3].ratios == {"day_over_first": 10.0, "backfill_exponent": 0.5}


def test_the_written_log_is_one_that_ingest_could_have_written(tmp_path: Path) -> None:
    rows = write(tmp_path, {"members": 30, "rows": [25, 25, 10], "start": "2026-01-05"})
    log = ds.dataset(str(tmp_path / "impressions"), format="parquet").to_table()
    assert rows == log.num_rows == 30 * 60
    assert set(pc.value_counts(log["member_id"]).field("counts").to_pylist()) == {60}
    assert log.schema.names == [*SIMULATOR.impression_schema.names, "session_id"]
    for day in ("2026-01-05", "2026-01-07"):
        table = ds.dataset(str(tmp_path / "impressions" / f"day={day}")).to_table()
        arrival = table["arrival_time"].to_numpy()
        assert (np.diff(arrival) >= 0).all()
        assert set(SIMULATOR.day(arrival)) == {SIMULATOR.day_number(day)}
    posts = ds.dataset(str(tmp_path / "posts.parquet")).to_table()
    assert pc.all(pc.is_in(log["post_id"], posts["post_id"])).as_py()
    seen = log.group_by(["member_id", "event_time", "post_id"]).aggregate([([], "count_all")])
    assert max(seen["count_all"].to_pylist()) == 1


def test_members_case_has_a_window_each_and_more_buckets_for_more_rows() -> None:
    assert full(100, 50).impressions == 100 * 60
    assert full(100, 50).buckets == 16
    assert full(100_000, 1_000).buckets == 101


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on PATH")
def test_members_with_full_windows_go_online(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.loop", "--members", "40", "--window", "120"]
    command += ["--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    (only,) = json.loads(done.stdout.splitlines()[-1])["results"]
    steps = only["facts"]["steps"]
    assert {name: step["died"] for name, step in steps.items()} == dict.fromkeys(steps, "")
    assert [name for name in steps if not name.startswith("backfill:")] == [
        "alone:online", "day:features", "day:histories", "day:redis:materialize",
        "all:sqlite:materialize",
    ]  # fmt: skip
    assert steps["alone:online"]["inside_s"] > 0
    assert only["facts"]["redis_keys"] >= 40
    assert isinstance(Case(**{k: v for k, v in only["setting"].items() if k != "code"}), Case)
