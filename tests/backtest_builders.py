# SPDX-License-Identifier: Apache-2.0
"""Logs whose later part says something else, for laws on what may be known of it."""

from __future__ import annotations

import os

import numpy as np
import pyarrow.parquet as pq

from components.layout.files import write_parquet
from components.layout.paths import Layout
from feature_repo.specs import SIMULATOR


def other_future(layout: Layout, copy: Layout, now: int) -> Layout:
    """The log with every action turned over in what arrives from `now` on."""
    for path in (layout.posts, layout.members):
        os.link(path, copy.root / path.name)
    for day in layout.impression_days():
        table = pq.read_table(layout.impressions_day(day))
        late = table["arrival_time"].to_numpy() >= now
        for name in SIMULATOR.task_names:
            place, old = table.schema.get_field_index(name), table[name].to_numpy()
            new = np.where(late & (old >= 0), 1 - old, old).astype(np.int8)
            table = table.set_column(place, table.schema.field(name), [new])
        write_parquet(copy.impressions_day(day), table)
    return copy
