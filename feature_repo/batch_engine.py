# SPDX-License-Identifier: Apache-2.0
"""Feast's batch engine of a run: offline rows go online some at a time, in bounded memory.

`feature_store.yaml` names the class, so `feast materialize` and `feast materialize-incremental` do
what the loop's step does. It goes on where a killed one stopped. It reads the Parquet files of a
view's source, and writes through Feast's own online store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _convert_arrow_to_proto, make_tzaware

from feature_repo.offline_store import own_pattern

SLICE_BYTES = 16 * 2**20
"""Values that are written at once."""
SLICE_ROWS = 10_000
PASS_ROWS = 2_000_000
"""Rows of several days from which the newest of each key are chosen at once."""
MEMORY_LIMIT = "512MB"
"""What duckdb may hold while it chooses; the rest it puts aside."""

WRITTEN: ContextVar[Callable[[int], None] | None] = ContextVar("written", default=None)
"""Who is told how many rows went online, instead of Feast's own bar."""


class SlicedEngine(ComputeEngine):
    """Materializes a view by slices of its rows, oldest file first."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to prepare."""

    def teardown_infra(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to remove."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        span = _aware(task.start_time), _aware(task.end_time)
        files = source_files(own_pattern(view.batch_source, self.repo_config))
        resume = Resume(self._notes() / f".{view.name}.json", view, span, files)
        told = self._told(task, files)
        for number, rows in enumerate(_slices(view, files, span)):
            if number >= resume.done:
                self._write(view, rows)
                resume.note(number + 1)
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

    def _write(self, view: FeatureView, rows: pa.RecordBatch) -> None:
        """Writes a slice, but for keys that hold something newer, which a push brought."""
        types = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
        protos = _convert_arrow_to_proto(rows, view, types)
        if is_history(view) and not isinstance(self.online_store, RedisOnlineStore):
            keys = [key for key, *_ in protos]
            fields = [feature.name for feature in view.features]
            there = self.online_store.online_read(self.repo_config, view, keys, fields)
            protos = [p for p, (when, _) in zip(protos, there, strict=True) if not _newer(when, p)]
        if protos:
            self.online_store.online_write_batch(self.repo_config, view, protos, None)


class Resume:
    """How many slices of a materialization are online, kept in a file until it ends.

    Args:
        path: the file; another materialization's says nothing.
        view: the feature view.
        span: from when to when.
        files: what is read.
    """

    def __init__(
        self, path: Path, view: FeatureView, span: tuple[datetime, datetime], files: Sequence[Path]
    ) -> None:
        states = [(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        tags = sorted(view.tags.items())
        text = json.dumps([view.name, tags, [str(s) for s in span], states])
        self._path, self._key = path, sha256(text.encode()).hexdigest()
        kept: Any = {}
        with suppress(OSError, ValueError):
            kept = json.loads(path.read_text())
        self.done = int(kept["done"]) if kept.get("key") == self._key else 0

    def note(self, done: int) -> None:
        """So many slices are online."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"key": self._key, "done": done}))
        temporary.replace(self._path)

    def forget(self) -> None:
        """All of it is."""
        self._path.unlink(missing_ok=True)


def is_history(view: FeatureView) -> bool:
    """Whether a view's values are members' windows: large, and in one row a member."""
    return bool(view.tags.get("kind") == "history")


def source_files(pattern: str) -> list[Path]:
    """The files of a source by its pattern, as duckdb reads it, in the order of their names."""
    with closing(duckdb.connect()) as connection:
        rows = connection.execute("select file from glob(?) order by file", [pattern]).fetchall()
    return [Path(name) for (name,) in rows]


def _slices(
    view: FeatureView, files: Sequence[Path], span: tuple[datetime, datetime]
) -> Iterator[pa.RecordBatch]:
    """A view's rows of a span, some at a time: the newest of a key comes last, or alone."""
    if is_history(view) or len(files) == 1:
        for file in files:
            yield from _file_slices(file, span)
        return
    keys = [column.name for column in view.entity_columns]
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    for number in range(passes := rows // PASS_ROWS + 1):
        yield from _newest(files, keys, span, f"hash({', '.join(keys)}) % {passes} = {number}")


def _file_slices(file: Path, span: tuple[datetime, datetime]) -> Iterator[pa.RecordBatch]:
    """A file's rows of a span, a row group's times at a time."""
    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            times = parquet.read_row_group(group, columns=["event_timestamp"])["event_timestamp"]
            inside = pc.and_(
                pc.greater_equal(times, pa.scalar(span[0], times.type)),
                pc.less_equal(times, pa.scalar(span[1], times.type)),
            )
            if pc.any(inside).as_py():
                yield from _cut(parquet.read_row_group(group).filter(inside))


def _newest(
    files: Sequence[Path], keys: Sequence[str], span: tuple[datetime, datetime], share: str
) -> Iterator[pa.RecordBatch]:
    """The newest row of each key of a share of them, by key."""
    names = ", ".join(keys)
    with closing(duckdb.connect()) as connection:
        connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("set timezone = 'UTC'")
        tables = [pq.ParquetFile(file) for file in files]
        batches = (batch for table in tables for batch in table.iter_batches())
        rows = pa.RecordBatchReader.from_batches(tables[0].schema_arrow, batches)
        connection.register("rows", rows)
        answer = connection.execute(
            f"select * from rows where {share} and event_timestamp between ? and ? "
            f"qualify row_number() over (partition by {names} order by event_timestamp desc, "
            f"created_timestamp desc) = 1 order by {names}",
            list(span),
        )
        for batch in answer.to_arrow_reader(SLICE_ROWS):
            yield from _cut(pa.Table.from_batches([batch]))


def _cut(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Rows as slices of a bounded size."""
    each = max(rows.nbytes // max(rows.num_rows, 1), 1)
    most = max(min(SLICE_ROWS, SLICE_BYTES // each), 1)
    yield from (batch for batch in rows.combine_chunks().to_batches(most) if batch.num_rows)


def _newer(when: datetime | None, row: tuple[Any, ...]) -> bool:
    """Whether a key holds a value that became true after the row's."""
    return when is not None and _aware(when) > _aware(row[2])


def _aware(when: datetime) -> datetime:
    return make_tzaware(when).astimezone(UTC)
