# SPDX-License-Identifier: Apache-2.0
"""The rows that are refused: as they came, each with its reason, and counted by reason.

This module knows nothing of why a row is refused.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from components.log.checks import Reasons


def refused_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of refused rows: those they came with, null or not, and `reason`."""
    came = [field.with_nullable(True) for field in schema]
    return pa.schema([*came, pa.field("reason", pa.string())])


def refused_rows(raw: pa.Table, reasons: Reasons) -> pa.Table:
    """The refused rows as they came, with `reason`."""
    bad = reasons != ""
    reason = pa.array(reasons[bad].tolist(), pa.string())
    return raw.filter(pa.array(bad, pa.bool_())).append_column("reason", reason)


def tally(reasons: Reasons) -> dict[str, int]:
    """How many rows are refused for each reason, by its name."""
    return dict(sorted(Counter(reasons[reasons != ""].tolist()).items()))
