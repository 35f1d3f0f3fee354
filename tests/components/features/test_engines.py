# SPDX-License-Identifier: Apache-2.0
"""A step that an engine runs twice, as Spark may, says and leaves the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from components.features import histories as histories_module
from components.features import offline
from components.features.histories import histories
from components.features.offline import features
from components.layout.paths import Layout
from components.log.engines import Rows, Step
from tests.engine_builders import InParts
from tests.log_builders import random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC, buckets=3)


class Twice(InParts):
    """Runs every step twice, one after the other, and takes the last word."""

    def by_bucket(self, rows: Sequence[Rows], buckets: int, step: Step) -> Iterator[pa.Table]:
        def again(bucket: int, tables: Sequence[pa.Table]) -> pa.Table:
            step(bucket, tables)
            return step(bucket, tables)

        yield from super().by_bucket(rows, buckets, again)


def files(layout: Layout) -> dict[str, bytes]:
    paths = [path for path in layout.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("engine", [InParts(), Twice()], ids=["in parts", "twice"])
def test_files_are_those_of_the_local_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: InParts
) -> None:
    local, other = Layout.at(tmp_path / "local"), Layout.at(tmp_path / "other")
    days = random_log(SPEC, 8, rows=400, members=12, posts=9, days=9).write(local)
    shutil.copytree(local.root, other.root)
    for day in (days[-7], days[-6], days[-3], days[-1]):
        features(local, day, CONFIG)
        histories(local, day, CONFIG)
        with monkeypatch.context() as patch:
            for module in (offline, histories_module):
                patch.setattr(module, "engine_named", lambda name, root: engine)
            assert features(other, day, CONFIG)["affinity"] > 0
            histories(other, day, CONFIG)
        assert files(other) == files(local), day
