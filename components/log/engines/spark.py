# SPDX-License-Identifier: Apache-2.0
"""The engine of many machines: Spark runs the same steps, a bucket a task.

Every executor sees the run's files under the same path, and has this package. Rows go from task to
task as Arrow in one binary column, so that Spark's types never touch them. A step writes its files
where it runs; what it says is put beside the run's files and read back in order, so that neither
the driver nor a shuffle holds it all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.layout.files import atomic_path
from components.log import buckets as module
from components.log.buckets import deal
from components.log.engines.engine import Engine, Rows, Step, Work
from components.log.engines.spark_session import spark_session

ASIDE = ".engine-"
"""How the folders begin that hold what steps said."""
DEALT = pa.schema(
    {"bucket": pa.int32(), "part": pa.int32(), "place": pa.int32(), "rows": pa.binary()}
)
DONE = pa.schema({"task": pa.int32(), "fault": pa.string()})
"""What a task tells Spark: its number and the sentence it failed with, null where it did not."""
MARK = -1
"""The part that no row is of: it brings every bucket into being."""

Part = tuple[int, str]
"""The source and the name of a part."""


class SparkEngine(Engine):
    """Runs steps on the session of this process.

    Args:
        root: of the run, on a volume that every executor sees.

    Raises:
        ValueError: Spark or Java is not there, or gives no executor.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._session = root, spark_session()
        for left in root.glob(f"{ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)

    def by_bucket(self, rows: Sequence[Rows], buckets: int, step: Step) -> Iterator[pa.Table]:
        """See `Engine.by_bucket`."""
        parts = [(number, part) for number, own in enumerate(rows) for part in own.parts]
        sources = [own.reader(()) for own in rows]
        schemas = []
        for source in sources:
            with source as reader:
                schemas.append(reader.schema)
        with self._aside() as folder:
            self._session.conf.set("spark.sql.shuffle.partitions", str(buckets))
            frame = self._tasks(len(parts) + 1)
            frame = frame.mapInArrow(_dealing(rows, parts, buckets), _ddl(DEALT))
            frame = frame.groupBy("bucket")
            frame = frame.applyInArrow(_stepping(step, parts, schemas, folder), _ddl(DONE))
            _finish(frame)
            for number in range(buckets):
                yield _read(folder / f"{number}.arrow")

    def each(self, items: Iterable[pa.Table], work: Work) -> Iterator[pa.RecordBatch]:
        """See `Engine.each`."""
        with self._aside() as folder:
            count = 0
            for item in items:
                _write(folder / f"item{count}.arrow", item)
                count += 1
            if count:
                _finish(self._tasks(count).mapInArrow(_working(work, folder), _ddl(DONE)))
            for number in range(count):
                with pa.OSFile(str(folder / f"{number}.arrow")) as file:
                    yield from pa.ipc.open_stream(file)

    def _tasks(self, count: int) -> Any:
        """A row a task, with its number as `id`."""
        return self._session.range(0, count, 1, count)

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=ASIDE, dir=self._root) as folder:
            yield Path(folder)


def _dealing(rows: Sequence[Rows], parts: Sequence[Part], buckets: int) -> Callable[..., Any]:
    """Reads parts and deals their rows to buckets; the last part brings every bucket."""

    def dealing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part in _numbers(batches):
            if part == len(parts):
                for bucket in range(buckets):
                    yield _dealt(bucket, MARK, 0, b"")
                continue
            source, name = parts[part]
            for place, table in enumerate(_tables(rows[source], name)):
                for bucket, share in enumerate(deal(table, rows[source].keys, buckets)):
                    if share.num_rows:
                        yield _dealt(bucket, part, place, _packed(share))

    return dealing


def _stepping(
    step: Step, parts: Sequence[Part], schemas: Sequence[pa.Schema], folder: Path
) -> Callable[..., Any]:
    """Runs a step on a bucket's rows of each source, in the order of the source."""

    def stepping(dealt: pa.Table) -> pa.Table:
        bucket = dealt["bucket"][0].as_py()
        shares: list[list[pa.Table]] = [[schema.empty_table()] for schema in schemas]
        for row in dealt.sort_by([("part", "ascending"), ("place", "ascending")]).to_pylist():
            if row["part"] != MARK:
                shares[parts[row["part"]][0]].append(_unpacked(row["rows"]))
        tables = [pa.concat_tables(share) for share in shares]
        path = folder / f"{bucket}.arrow"
        return _done(bucket, lambda: _write(path, step(bucket, tables)))

    return stepping


def _working(work: Work, folder: Path) -> Callable[..., Any]:
    """Does a piece of work on each of its items."""

    def working(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in _numbers(batches):
            yield from _done(number, partial(write_all, number)).to_batches()

    def write_all(number: int) -> None:
        with atomic_path(folder / f"{number}.arrow") as temporary:
            _write_batches(temporary, work(_read(folder / f"item{number}.arrow")))

    return working


def _done(task: int, run: Callable[[], None]) -> pa.Table:
    """Runs a task; a user's mistake is a sentence, anything else fails the task."""
    fault = None
    try:
        run()
    except (ValueError, OSError) as error:
        fault = str(error)
    return pa.table({"task": [task], "fault": [fault]}, DONE)


def _finish(frame: Any) -> None:
    """Runs all tasks; ValueError says what the first one failed with."""
    faults = [row["fault"] for row in frame.where("fault is not null").collect()]
    if faults:
        raise ValueError(faults[0])


def _numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column("id").to_pylist()


def _tables(rows: Rows, part: str) -> Iterator[pa.Table]:
    """The rows of a part, many at a time."""
    with rows.reader([part]) as reader:
        held: list[pa.RecordBatch] = []
        for batch in reader:
            held.append(batch)
            if sum(own.num_rows for own in held) >= module.ROWS_IN_MEMORY:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)


def _dealt(bucket: int, part: int, place: int, rows: bytes) -> pa.RecordBatch:
    values = {"bucket": [bucket], "part": [part], "place": [place], "rows": [rows]}
    return pa.RecordBatch.from_pydict(values, DEALT)


def _packed(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=module.ASIDE) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _unpacked(rows: bytes) -> pa.Table:
    return pa.ipc.open_stream(rows).read_all()


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def _write(path: Path, table: pa.Table) -> None:
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table.combine_chunks())


def _write_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes batches as they come; an empty stream where there is none."""
    iterator = iter(batches)
    first = next(iterator, None)
    schema = first.schema if first is not None else pa.schema([])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        if first is not None:
            writer.write_batch(first)
        for batch in iterator:
            writer.write_batch(batch)


def _ddl(schema: pa.Schema) -> str:
    """A schema as Spark's SQL says it."""
    names = {pa.int32(): "int", pa.binary(): "binary", pa.string(): "string"}
    return ", ".join(f"`{field.name}` {names[field.type]}" for field in schema)
