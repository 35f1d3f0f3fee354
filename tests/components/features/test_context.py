# SPDX-License-Identifier: Apache-2.0
"""Context counted over the log: each target's own cutoff, its member's profile, its post."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from components.features.context import AsOfContext
from components.log.columns import column, records
from components.log.impressions import with_content
from feature_repo.spec import DAY_MS
from tests.log_builders import FIRST_DAY, random_log, small_spec

SPEC = small_spec("simulator")
PROFILE = SPEC.view("member_profile")
START = int(SPEC.day_start(FIRST_DAY))


def asked(member: int, time_ms: int, like: pa.Table) -> pa.Table:
    """An impression of a member at a time, else as another."""
    for name, value in (("member_id", member), ("event_time", time_ms)):
        place = like.schema.get_field_index(name)
        like = like.set_column(place, like.schema.field(name), pa.array([value], pa.int64()))
    return like


def test_a_member_has_their_own_profile_or_the_default() -> None:
    """Ids below, between and above the known ones have none; the table has any order."""
    log = random_log(SPEC, 3, members=6)
    known = log.members.take([3, 0, 2])
    ids = column(known, "member_id").tolist()
    impressions = with_content(log.impressions, log.posts, SPEC)
    context = AsOfContext(impressions, known, SPEC, "day")
    members = [0, *ids, 3, 2**40, 1]
    targets = pa.concat_tables([asked(m, START, impressions.slice(0, 1)) for m in members])
    got = context.views(targets)["member_profile"]
    rows = {m: records(known.slice(i, 1), PROFILE)[0] for i, m in enumerate(ids)}
    assert sorted(rows) == [1, 3, 4]
    for member, record in zip(members, got, strict=True):
        assert record.tobytes() == rows.get(member, PROFILE.default[0]).tobytes(), member


@pytest.mark.parametrize(
    ("freshness", "seen"),
    [("day", [np.nan, np.nan, 2]), ("30m", [np.nan, 1, 2]), ("immediate", [1, 2, 2])],
)
def test_each_target_knows_what_had_arrived_by_its_own_cutoff(
    freshness: str, seen: list[float]
) -> None:
    log = random_log(SPEC, 3)
    impressions = with_content(log.impressions, log.posts, SPEC).slice(0, 1)
    minute = 60_000
    rows = []
    for arrival in (START + 60 * minute, START + 90 * minute):
        row = asked(7, arrival, impressions)
        for name, value in (("arrival_time", arrival), ("timed", True)):
            place = row.schema.get_field_index(name)
            row = row.set_column(place, row.schema.field(name), pa.array([value]))
        rows.append(row)
    context = AsOfContext(pa.concat_tables(rows), log.members, SPEC, freshness)
    times = [START + 61 * minute, START + 91 * minute, START + DAY_MS]
    targets = pa.concat_tables([asked(7, time, impressions) for time in times])
    views = context.views(targets)
    assert sorted(views) == sorted(v.name for v in SPEC.views if v.kind != "content")
    got = views["member_activity"]["member_impressions"].tolist()
    assert got == pytest.approx(seen, nan_ok=True)
    matrix = context.matrix(targets)
    place = SPEC.context_slices["member_impressions"]
    assert matrix[:, place][:, 0].tolist() == pytest.approx(seen, nan_ok=True)
    ages = matrix[:, SPEC.context_slices["post_age_hours"]][:, 0]
    created = int(column(impressions, "created_ms")[0])
    want = [(time - created) / 3_600_000 if created >= 0 else np.nan for time in times]
    assert ages.tolist() == pytest.approx(want, rel=1e-6, nan_ok=True)
