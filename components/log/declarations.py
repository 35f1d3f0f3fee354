# SPDX-License-Identifier: Apache-2.0
"""Which declaration of a post and of a member stands: a post's first, a member's last.

Reads and writes the two tables beside the impressions, and knows nothing of those.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.checks import Reasons, member_reasons, post_reasons
from components.log.columns import Mask
from components.log.counts import TableCounts
from components.log.duplicates import first_rows, same_rows
from components.log.quarantine import tally, write_refused
from components.log.schema import read_table
from feature_repo.spec import Spec

DECLARED = "differs from an earlier declaration of the same post"


def ingest_posts(layout: Layout, spec: Spec, day: str) -> tuple[pa.Table, TableCounts]:
    """Writes the posts table with the first declaration of each post; returns it, and its counts.

    Content is immutable: a declaration that differs from an earlier one, this day's or an earlier
    day's, is refused. The first day of a log begins anew.
    """
    raw = read_table(layout.raw_posts, spec.post_schema)
    reasons = post_reasons(raw, spec)
    declared = _declared_before(layout, spec, day, raw)
    known, both = declared.num_rows, pa.concat_tables([declared, raw])
    good = np.append(np.ones(known, np.bool_), reasons == "")
    first = first_rows(both, good, ("post_id",))
    same = same_rows(both, first)[known:]
    reasons = np.where((reasons == "") & ~same, DECLARED, reasons)
    stands = first == np.arange(len(first))
    kept = both.filter(good & stands).sort_by("post_id").cast(spec.post_schema)
    # A post that an earlier day declared is kept like a new one: a day run again counts the same.
    new = first_rows(raw, reasons == "", ("post_id",)) == np.arange(raw.num_rows)
    again = (reasons == "") & ~new
    write_refused(layout.root / "quarantine" / "posts.parquet", raw, reasons)
    write_parquet(layout.posts, kept)
    return kept, _counts(raw, again, np.zeros_like(again), reasons)


def _declared_before(layout: Layout, spec: Spec, day: str, raw: pa.Table) -> pa.Table:
    """The posts that earlier days kept, none for the first day of a log."""
    if layout.posts.is_file() and any(d < day for d in layout.impression_days()):
        return read_table(layout.posts, spec.post_schema)
    return raw.slice(0, 0)


def ingest_members(layout: Layout, spec: Spec) -> tuple[pa.Table, TableCounts]:
    """Writes the members table with the last row of each, which may change; returns both."""
    raw = read_table(layout.raw_members, spec.member_schema)
    reasons = member_reasons(raw, spec)
    backwards = raw.take(np.arange(raw.num_rows)[::-1])
    last = raw.num_rows - 1 - first_rows(backwards, reasons[::-1] == "", ("member_id",))[::-1]
    again = (reasons == "") & (last != np.arange(raw.num_rows))
    same = again & same_rows(raw, last)
    kept = raw.filter((reasons == "") & ~again).sort_by("member_id").cast(spec.member_schema)
    write_refused(layout.root / "quarantine" / "members.parquet", raw, reasons)
    write_parquet(layout.members, kept)
    return kept, _counts(raw, same, again & ~same, reasons)


def _counts(raw: pa.Table, same: Mask, replaced: Mask, reasons: Reasons) -> TableCounts:
    return TableCounts(
        read=raw.num_rows,
        kept=int(((reasons == "") & ~same & ~replaced).sum()),
        duplicates=int(same.sum()),
        replaced=int(replaced.sum()),
        quarantined=tally(reasons),
    )
