# SPDX-License-Identifier: Apache-2.0
"""The rows that are refused: kept as they came, each with its reason, and counted by reason.

This module knows nothing of why a row is refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from components.layout.files import write_parquet
from components.log.checks import Reasons


def write_refused(path: Path, raw: pa.Table, reasons: Reasons) -> None:
    """Writes the refused rows as they came, with `reason`."""
    bad = reasons != ""
    reason = pa.array(reasons[bad].tolist(), pa.string())
    write_parquet(path, raw.filter(bad).append_column("reason", reason))


def tally(reasons: Reasons) -> dict[str, int]:
    """How many rows are refused for each reason, by its name."""
    return dict(sorted(Counter(reasons[reasons != ""].tolist()).items()))
