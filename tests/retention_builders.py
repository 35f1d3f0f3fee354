# SPDX-License-Identifier: Apache-2.0
"""A root of some days whose every run is promoted, as the loop leaves it, without any training."""

from __future__ import annotations

import hashlib
from pathlib import Path

from components.config import DailyConfig
from components.layout.files import write_json
from components.layout.paths import Layout
from components.loop.steps import run_step
from components.registry import versions
from components.registry.plan import plan
from tests.log_builders import random_log, small_config, small_spec
from tests.loop_builders import write_config
from tests.run_builders import version_record

SPEC = small_spec("simulator")
CONFIG = small_config(SPEC, buckets=2)
STEPS = ("features", "histories", "materialize", "sequences")


def logged(root: Path, seed: int, days: int = 13) -> tuple[Layout, list[str]]:
    """A root with the checked impressions of a random log; its days."""
    layout = Layout.at(root)
    return layout, random_log(SPEC, seed, rows=40 * days, days=days).write(layout)


def counted(layout: Layout, day: str) -> None:
    """Builds features and histories through a day."""
    config = write_config(layout.root.parent / "loop.json", CONFIG)
    for step in STEPS[:2]:
        run_step(step, str(layout.root), day, config)


def run_day(layout: Layout, day: str, steps: tuple[str, ...] = STEPS) -> None:
    """A day's run through some steps; its model goes into production."""
    config = write_config(layout.root.parent / "loop.json", CONFIG)
    plan(layout, day, CONFIG, renew=True)
    for step in steps:
        run_step(step, str(layout.root), day, config)
    promoted(layout, day)


def promoted(layout: Layout, day: str, config: DailyConfig = CONFIG) -> str:
    """Puts models of a day where training leaves them, and registers and promotes one."""
    for ranker, shape in (("feed_sr", config.feed_sr), ("dcnv2", config.dcnv2)):
        trained = {
            "config": shape.model_dump(mode="json"),
            "spec_hash": config.spec.hash,
            "record": {"freshness": config.freshness},
        }
        folder = layout.model(day, ranker)
        write_json(folder / "config.json", trained)
        (folder / "model.safetensors").write_bytes(f"{ranker} of {day}".encode())
    model = layout.model(day, "feed_sr")
    fingerprint = versions.model_hash(model)
    version = f"{day}-{fingerprint[:8]}"
    folder = layout.registry / "versions" / version
    folder.mkdir(parents=True, exist_ok=True)
    for name in versions.MODEL_FILES:
        (folder / name).write_bytes((model / name).read_bytes())
    record = version_record(config.spec, version, model=fingerprint)
    record.write(folder / "version.json")
    versions.promote(layout, version)
    return version


def tree(root: Path, *without: str) -> dict[str, str]:
    """SHA-256 of each file of a root by its path, but of those below some folders."""
    digests = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and not {inside.parts[0], inside.name} & {".lock", *without}:
            digests[str(inside)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
