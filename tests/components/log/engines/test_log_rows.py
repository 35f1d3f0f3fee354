# SPDX-License-Identifier: Apache-2.0
"""A query's rows day by day are those of all days together."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from components.layout.paths import Layout
from components.log.engines import LogRows
from tests.log_builders import random_log, small_spec

SPEC = small_spec("kuairand")


def test_the_days_together_are_the_days_one_by_one(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    days = random_log(SPEC, 1).write(layout)
    wanted = pa.table({"member_id": pa.array([1, 3], pa.int64())})
    rows = LogRows(
        layout=layout,
        through_day=days[-1],
        days=frozenset({*days[1:], "2035-01-01"}),
        sql="select member_id, actor_id from events semi join wanted using (member_id)",
        keys=("member_id",),
        tables={"wanted": wanted},
    )
    assert rows.parts == days[1:]
    with rows.reader(rows.parts) as reader:
        together = reader.read_all()
    apart = []
    for part in rows.parts:
        with rows.reader([part]) as reader:
            apart.append(reader.read_all())
    assert together.num_rows > 0
    order = [(name, "ascending") for name in together.column_names]
    assert pa.concat_tables(apart).sort_by(order).equals(together.sort_by(order))
    with rows.reader(()) as reader:
        assert reader.schema == together.schema
        assert reader.read_all().num_rows == 0
