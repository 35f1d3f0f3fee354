# SPDX-License-Identifier: Apache-2.0
"""Sources of impressions: KuaiRand, your own Parquet, the simulator; each writes `raw/`."""

from __future__ import annotations

from pathlib import Path

from components.layout.paths import absolute
from components.log.sources.base import Source, SourceCounts
from components.log.sources.kuairand import import_kuairand, is_kuairand
from components.log.sources.parquet import import_parquet, is_parquet
from components.log.sources.simulator import SimulatorConfig, simulate

__all__ = [
    "SOURCES",
    "SimulatorConfig",
    "Source",
    "SourceCounts",
    "detect_source",
    "import_kuairand",
    "import_parquet",
    "simulate",
]

SOURCES = (
    Source(name="kuairand", spec_name="kuairand", matches=is_kuairand, load=import_kuairand),
    Source(name="parquet", spec_name=None, matches=is_parquet, load=import_parquet),
)
"""Sources that read a folder, in the order they are asked."""


def detect_source(data_dir: Path | str) -> Source:
    """The source whose files a folder holds; ValueError says what was looked for."""
    folder = absolute(data_dir)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {data_dir}; give the folder that holds your log")
    for source in SOURCES:
        if source.matches(folder):
            return source
    raise ValueError(
        f"{folder} holds no log that is known: want KuaiRand's published files, or "
        "impressions*.parquet, posts.parquet and members.parquet with a spec's columns"
    )
