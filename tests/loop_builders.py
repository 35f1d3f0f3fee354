# SPDX-License-Identifier: Apache-2.0
"""A tiny simulated log and a configuration that trains on it in a second or two."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from components.config import DailyConfig, GateConfig, TrainConfig
from components.layout.paths import Layout
from components.log.sources import SimulatorConfig, simulate
from model import DCNv2Config, FeedSRConfig, HeadConfig

OPEN_GATE = GateConfig(
    min_auc=0.0, max_calibration_error=1.0, min_over_baseline=-1.0, max_auc_drop=1.0
)
"""A gate that a model of a few steps passes, where the test is not about the gate."""

UNREPRODUCIBLE = ("kfp", "pipeline.log", "config.yaml", ".lock", "ledger")
"""Names of files that tell when something ran, not what came of it."""


def tiny_config(gate: GateConfig = OPEN_GATE) -> DailyConfig:
    """One pass over a few sequences, for both rankers."""
    train = TrainConfig(global_batch=16, micro_batch=16, epochs=1)
    return DailyConfig(
        spec_name="simulator",
        feed_sr=FeedSRConfig(width=16, layers=1, heads=1),
        dcnv2=DCNv2Config(),
        cold=train,
        warm=train,
        gate=gate,
        parity_requests=2,
    )


def small_config() -> DailyConfig:
    """Rankers as small as they go, for tests that train many of them."""
    head = HeadConfig(name="mlp", width=16, hidden=1)
    train = TrainConfig(global_batch=64, micro_batch=64)
    return DailyConfig(
        spec_name="simulator",
        feed_sr=FeedSRConfig(width=16, layers=1, heads=2, head=head),
        dcnv2=DCNv2Config(head=head),
        cold=train,
        warm=train,
    )


def write_config(path: Path, config: DailyConfig) -> str:
    """The configuration as the JSON file that a command or a step takes."""
    path.write_text(config.model_dump_json())
    return str(path)


def tiny_log(root: Path, days: int = 5) -> Layout:
    """A log of forty members."""
    layout = Layout.at(root)
    simulate(
        layout, SimulatorConfig(days=days, members=40, posts_per_day=40, impressions=days * 700)
    )
    return layout


def digests(root: Path, *folders: str) -> dict[str, str]:
    """SHA-256 of every file below these folders of a root, by its path."""
    found = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not any(part in UNREPRODUCIBLE for part in inside.parts):
                found[str(inside)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def online_rows(layout: Layout) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the local online store by table: key, feature, value, event time.

    When a row was written (`created_ts`) is left out.
    """
    with closing(sqlite3.connect(layout.feast / "online_store.db")) as store:
        names = store.execute("select name from sqlite_master where type = 'table'").fetchall()
        return {
            name: store.execute(
                f"select entity_key, feature_name, value, event_ts from {name} order by 1, 2"
            ).fetchall()
            for (name,) in names
        }
