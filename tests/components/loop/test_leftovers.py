# SPDX-License-Identifier: Apache-2.0
"""What a kill leaves is known by its name and place, and nothing else is."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest

from components.layout.files import write_json, write_parquet
from components.layout.paths import Layout
from components.loop.leftovers import leftovers
from components.loop.prune import prune
from components.training.checkpoints import Checkpoint, save_checkpoint
from components.training.shards import write_shards
from model.files import write_folder
from tests.retention_builders import CONFIG, counted, logged

DAY = "2022-04-20"
TABLE = pa.table({"x": [1]})


def shards(layout: Layout) -> None:
    with write_shards(layout.sequences("train", DAY), {}):
        pass


def checkpoint(layout: Layout) -> None:
    state = Checkpoint(step=3, inputs="", model={}, optimizer={}, state={})
    save_checkpoint(layout.checkpoints(DAY, "dcnv2"), state)


WRITERS: dict[str, Callable[[Layout], object]] = {
    "posts": lambda layout: write_parquet(layout.posts, TABLE),
    "raw": lambda layout: write_parquet(layout.raw_members, TABLE),
    "raw day": lambda layout: write_parquet(layout.raw_day(DAY), TABLE),
    "impressions": lambda layout: write_parquet(layout.impressions_day(DAY), TABLE),
    "quarantine": lambda layout: write_parquet(layout.quarantine_day(DAY), TABLE),
    "ingest": lambda layout: write_json(layout.ingest_counts(DAY), {}),
    "features": lambda layout: write_parquet(layout.feature_day("affinity", DAY), TABLE),
    "histories": lambda layout: write_parquet(layout.history_bucket(7), TABLE),
    "state": lambda layout: write_parquet(layout.state("affinity") / "bucket=00001.parquet", TABLE),
    "dropped": lambda layout: write_parquet(layout.dropped_bucket(DAY, 1), TABLE),
    "ledger": lambda layout: write_json(layout.root / "ledger" / "online.json", {}),
    "plan": lambda layout: write_json(layout.run(DAY) / "plan.json", {}),
    "shards": shards,
    "model": lambda layout: write_folder(layout.model(DAY, "feed_sr"), {"config.json": b"{}"}),
    "checkpoint": checkpoint,
}


class Killed(BaseException):
    """The process is gone: nothing tidies up."""


@pytest.mark.parametrize("what", WRITERS)
def test_what_a_killed_writer_leaves_is_known(tmp_path: Path, what: str) -> None:
    """The writer's own code makes the temporary name; then nothing more happens."""
    layout = Layout.at(tmp_path)
    made: list[Path] = []

    def noted(kind: str) -> Callable[..., object]:
        real = getattr(tempfile, kind)

        def make(*arguments: object, **options: object) -> object:
            name = real(*arguments, **options)
            made.append(Path(name[1] if isinstance(name, tuple) else name))
            raise Killed

        return make

    with (
        patch("tempfile.mkstemp", noted("mkstemp")),
        patch("tempfile.mkdtemp", noted("mkdtemp")),
        patch("components.training.shards.mkdtemp", noted("mkdtemp")),
        pytest.raises(Killed),
    ):
        WRITERS[what](layout)
    assert [path for path in made if path.exists()] == list(leftovers(tmp_path))


def test_those_who_take_no_lock_may_be_at_it(tmp_path: Path) -> None:
    names = [
        f"runs/{DAY}/.report.html.abcd1234",
        f"requests/day={DAY}/.1700000000000-12-1.arrow",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert list(leftovers(tmp_path)) == []
    long_ago = time.time() - 7_200
    for name in names:
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert [str(path.relative_to(tmp_path)) for path in leftovers(tmp_path)] == names


def test_folders_go_with_what_is_in_them(tmp_path: Path) -> None:
    layout, days = logged(tmp_path / "root", seed=1)
    counted(layout, days[-1])
    folder = layout.root / "sequences" / f".train-{DAY}.abcd1234"
    engine = layout.root / ".engine-abcd1234" / "deep"
    for parent in (folder, engine):
        parent.mkdir(parents=True)
        (parent / "00000.arrow").write_bytes(b"half")
    sizes = prune(layout, CONFIG, 99).sizes
    assert (sizes["leftovers"].files, sizes["leftovers"].bytes) == (2, 8)
    assert not folder.exists()
    assert not engine.parent.exists()
