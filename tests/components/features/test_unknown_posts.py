# SPDX-License-Identifier: Apache-2.0
"""Posts that were shown before they were declared are known until they are."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.unknown_posts import declared_since, note_unknown
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import column
from tests.log_builders import random_log, small_spec

SPEC = small_spec("simulator")


def test_a_post_is_unknown_until_it_is_declared(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 1, rows=200, days=3)
    days = log.write(layout)
    shown = [set(pq.read_table(layout.impressions_day(d))["post_id"].to_pylist()) for d in days]
    write_parquet(layout.posts, log.posts.filter(pa.array(column(log.posts, "post_id") > 4)))
    first = declared_since(layout, None, "k")
    assert (len(first.post_ids), first.first_day, first.complete) == (0, "", True)
    note_unknown(layout, days[0], "k")
    note_unknown(layout, days[1], "k")
    nothing = declared_since(layout, days[1], "k")
    assert (len(nothing.post_ids), nothing.complete) == (0, True)
    assert not declared_since(layout, days[1], "another spec").complete
    assert not declared_since(layout, days[0], "k").complete
    write_parquet(layout.posts, log.posts.filter(pa.array(column(log.posts, "post_id") > 2)))
    declared = declared_since(layout, days[1], "k")
    assert set(declared.post_ids.tolist()) == (shown[0] | shown[1]) & {3, 4}
    assert declared.first_day == next(d for d, p in zip(days, shown, strict=True) if p & {3, 4})
    note_unknown(layout, days[2], "k")
    assert not len(declared_since(layout, days[2], "k").post_ids)
    kept = (layout.state("unknown_posts") / "posts.parquet").read_bytes()
    note_unknown(layout, days[1], "k")
    assert (layout.state("unknown_posts") / "posts.parquet").read_bytes() == kept, "an older day"
    (layout.state("unknown_posts") / "posts.parquet").unlink()
    note_unknown(layout, days[2], "k")
    assert (layout.state("unknown_posts") / "posts.parquet").read_bytes() == kept, "at once"
