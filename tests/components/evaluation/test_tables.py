# SPDX-License-Identifier: Apache-2.0
"""The rows of the report's tables, by hand."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components.evaluation import tables
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry.metrics import DayMetrics
from feature_repo.specs import SIMULATOR as SPEC
from tests.run_builders import day_metrics, ingest_counts, moved, ranker_metrics, version_record

DAY = "2026-01-09"
NAMES = ["feed_sr", "dcnv2", "production"]


def task(auc: float | None, **changes: Any) -> dict[str, Any]:
    return {"auc": auc, "log_loss": 0.5, "ece": 0.012345, "n": 9_000, "positives": 1_234, **changes}


def metrics(freshness: str = "day", **aucs: float | None) -> DayMetrics:
    within = {"click": {"auc": 0.6, "members": 9, "impressions": 800}}
    rankers = {
        name: ranker_metrics(
            {"click": task(auc)},
            segments={
                "history 10 to 49": {"click": task(0.5)},
                "history 0 to 9": {"click": task(0.4)},
            },
            within_member=within,
        )
        for name, auc in aucs.items()
    }
    return day_metrics(SPEC, DAY, rankers, freshness=freshness)


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert [tables.number(x) for x in (None, math.nan, math.inf)] == ["-"] * 3
    assert tables.number(0.123456) == "0.1235"
    assert tables.number(0.123456, 2) == "0.12"


@pytest.mark.parametrize(
    ("mine", "theirs", "text", "tone"),
    [
        (0.75, 0.5, "+0.2500", "up"),
        (0.5, 0.75, "-0.2500", "down"),
        (0.5, 0.5, "+0.0000", ""),
        (None, 0.5, "", ""),
        (0.5, None, "", ""),
    ],
)
def test_a_difference_has_a_sign_and_a_tone(mine, theirs, text, tone) -> None:
    assert tables.difference(mine, theirs) == tables.Difference(text, tone)


def test_the_candidate_alone_has_differences_to_each_other_ranker() -> None:
    day = metrics(feed_sr=0.75, dcnv2=0.5, production=None)
    first, second, third = tables.quality(day, NAMES, ["click"])
    assert (first.task, first.ranker, first.first) == ("click", "feed_sr", True)
    assert [d.text for d in first.differences] == ["+0.2500", ""]
    assert (first.auc, first.ece, first.positives) == ("0.7500", "0.0123", "1,234")
    for row, name in ((second, "dcnv2"), (third, "production")):
        assert (row.ranker, row.first) == (name, False)
        assert [d.text for d in row.differences] == ["", ""]
    assert third.auc == "-"


def test_segments_are_in_the_order_of_their_numbers_after_all() -> None:
    rows = tables.segments(metrics(feed_sr=0.75, dcnv2=0.5), NAMES[:2], "click")
    assert [row.name for row in rows] == [
        "all", "history 0 to 9", "history 10 to 49", "within a member"
    ]  # fmt: skip
    assert rows[0].aucs == [0.75, 0.5]
    assert (rows[1].aucs, rows[1].n, rows[1].positives) == ([0.4, 0.4], 9_000, 1_234)
    assert (rows[3].aucs, rows[3].n, rows[3].positives) == ([0.6, 0.6], 800, None)


def test_within_a_member_is_not_shown_where_features_are_fresher() -> None:
    rows = tables.segments(metrics("immediate", feed_sr=0.75), ["feed_sr"], "click")
    assert "within a member" not in [row.name for row in rows]


def test_twelve_features_that_moved_are_shown_with_what_is_missing() -> None:
    drift = {f"f{i:02}": moved(0.01 * i).plain() for i in range(20)} | {"none": moved(None).plain()}
    rows = tables.moved(day_metrics(SPEC, DAY, {}, drift=drift))
    assert [row.name for row in rows] == [f"f{i:02}" for i in range(19, 7, -1)]
    assert (rows[0].psi, rows[0].train, rows[0].later) == (0.19, 0.1, 0.05)


def test_the_last_seven_days_of_ingest_are_shown_and_later_ones_are_not(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    days = [f"2026-01-{day:02}" for day in range(1, 12)]
    for day in days:
        layout.impressions_day(day).parent.mkdir(parents=True)
        layout.impressions_day(day).touch()
        counts = ingest_counts(day, quarantined={"b": 1_000, "a": 2}, read=int(day[-2:]))
        write_json(layout.ingest_counts(day), asdict(counts))
    layout.ingest_counts(days[5]).unlink()
    rows = tables.ingest(layout, DAY)
    assert [row.day for row in rows] == [d for d in days[2:9] if d != days[5]]
    assert rows[0].counts == [3, 20_000, 380, 1_002, 57]
    assert rows[0].reasons == "a (2); b (1,000)"
    assert tables.INGEST_COUNTS == ("read", "kept", "duplicates", "quarantined", "late")


def test_versions_are_newest_first_and_say_which_one_serves(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    names = ["2026-01-08-aaaaaaaa", "2026-01-09-bbbbbbbb"]
    refused = {"day": DAY, "model": "ab", "passed": False, "checks": []}
    for name, changes in zip(
        names, ({"metrics": {"click": task(0.7)}}, {"gate": refused}), strict=True
    ):
        record = version_record(SPEC, name, **changes)
        record.write(layout.registry / "versions" / name / "version.json")
    (layout.registry / "current").symlink_to(Path("versions") / names[0])
    new, old = tables.versions(layout, DAY, "click")
    assert (new.name, new.auc, new.passed, new.note) == (names[1], None, False, "this day's model")
    assert (old.name, old.auc, old.passed, old.note) == (names[0], 0.7, True, "in production")
    assert old.link == f"../../registry/versions/{names[0]}/version.json"
    (layout.registry / "current").unlink()
    (layout.registry / "current").symlink_to(Path("versions") / names[1])
    assert tables.versions(layout, DAY, "click")[0].note == "in production, this day's model"
