# SPDX-License-Identifier: Apache-2.0
"""Feast's batch engine of a run: offline rows go online some at a time, in bounded memory.

`feature_store.yaml` names the class, so `feast materialize` and `feast materialize-incremental` do
what the loop's step does. It goes on where a killed one stopped, if the store has what that wrote,
and never takes a key back to an older row. It writes through Feast's own online store; which rows,
online_slices.py says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.offline_store import own_pattern
from feature_repo.online_rows import Row, entity_key, online_rows
from feature_repo.online_slices import (
    Interval,
    aware,
    files_in,
    is_history,
    slices,
    source_files,
)

WRITTEN: ContextVar[Callable[[int], None] | None] = ContextVar("written", default=None)
"""Who is told how many rows went online, instead of Feast's own bar."""


Probe = tuple[dict[str, int], int]
"""The keys of a row and when it became true, in seconds."""
PROBES = 8
"""Of a slice that is online so many rows are looked for before the next ones are written."""


class SlicedEngine(ComputeEngine):
    """Materializes a view by slices of its rows, oldest file first."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to prepare."""

    def teardown_infra(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to remove."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view, interval = task.feature_view, Interval(aware(task.start_time), aware(task.end_time))
        files = source_files(own_pattern(view.batch_source, self.repo_config))
        files = files_in(view, files, interval)
        resume = Resume(self._notes() / f".{view.name}.json", view, interval, files)
        if not self._has(view, resume.probes):
            resume.forget()
        told, behind = self._told(task, files), _is_behind(view, interval)
        for number, rows in enumerate(slices(view, files, interval)):
            if number >= resume.done:
                self._write(view, rows, behind or is_history(view))
                resume.note(number + 1, _probes(view, rows))
            told(rows.num_rows)
        resume.forget()
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=name, status=MaterializationJobStatus.SUCCEEDED)

    def _told(self, task: MaterializationTask, files: Sequence[Path]) -> Callable[[int], Any]:
        """Who is told of rows: whoever asked, else Feast's bar."""
        tell = WRITTEN.get()
        if tell or not task.tqdm_builder:
            return tell or (lambda rows: None)
        return task.tqdm_builder(sum(pq.read_metadata(file).num_rows for file in files)).update

    def _notes(self) -> Path:
        return Path(self.repo_config.repo_path or ".") / "materializing"

    def _write(self, view: FeatureView, rows: pa.RecordBatch, look: bool) -> None:
        """Writes a slice; if told to look, without the keys that hold something newer."""
        protos = online_rows(rows, view)
        # Redis looks itself.
        if look and not isinstance(self.online_store, RedisOnlineStore):
            keys = [key for key, *_ in protos]
            fields = [feature.name for feature in view.features]
            there = self.online_store.online_read(self.repo_config, view, keys, fields)
            protos = [p for p, (when, _) in zip(protos, there, strict=True) if not _newer(when, p)]
        if protos:
            self.online_store.online_write_batch(self.repo_config, view, protos, None)

    def _has(self, view: FeatureView, probes: Sequence[Probe]) -> bool:
        """Whether these rows are online, or newer ones of their keys."""
        keys = [entity_key(list(values), list(values.values())) for values, _ in probes]
        fields = [feature.name for feature in view.features]
        there = self.online_store.online_read(self.repo_config, view, keys, fields) if keys else []
        return all(
            when is not None and int(aware(when).timestamp()) >= second
            for (when, _), (_, second) in zip(there, probes, strict=True)
        )


class Resume:
    """How many slices of a materialization are online, kept in a file until it ends.

    Attributes:
        done: how many.
        probes: some rows of the last of them: a store that was emptied since, or is another one,
            has them not.

    Args:
        path: the file; another materialization's says nothing.
        view: the feature view.
        interval: what is brought.
        files: what is read.
    """

    def __init__(
        self, path: Path, view: FeatureView, interval: Interval, files: Sequence[Path]
    ) -> None:
        states = [(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        tags = sorted(view.tags.items())
        text = json.dumps([view.name, tags, str(interval), states])
        self._path, self._key = path, sha256(text.encode()).hexdigest()
        kept: Any = {}
        with suppress(OSError, ValueError):
            kept = json.loads(path.read_text())
        ours = kept.get("key") == self._key
        self.done: int = kept["done"] if ours else 0
        self.probes: list[Probe] = kept["probes"] if ours else []

    def note(self, done: int, probes: Sequence[Probe]) -> None:
        """So many slices are online, the last of them with these rows."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"key": self._key, "done": done, "probes": probes}))
        temporary.replace(self._path)

    def forget(self) -> None:
        """Nothing is told of what is online: all of it is, or none."""
        self.done, self.probes = 0, []
        self._path.unlink(missing_ok=True)


def _probes(view: FeatureView, rows: pa.RecordBatch) -> list[Probe]:
    """Some rows of a slice, from its first to its last."""
    places = sorted({place * (rows.num_rows - 1) // PROBES for place in range(PROBES + 1)})
    keys = rows.select([column.name for column in view.entity_columns]).take(places).to_pylist()
    times = rows["event_timestamp"].take(pa.array(places)).to_pylist()
    return [(key, int(when.timestamp())) for key, when in zip(keys, times, strict=True)]


def _is_behind(view: FeatureView, interval: Interval) -> bool:
    """Whether a view is online as of a later time than an interval's end.

    Else what an interval brings of a key is never older than what is online.
    """
    last = view.most_recent_end_time
    return last is not None and aware(last) > interval.end


def _newer(when: datetime | None, row: Row) -> bool:
    """Whether a key holds a value that became true after the row's."""
    return when is not None and aware(when) > aware(row[2])
