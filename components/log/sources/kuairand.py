# SPDX-License-Identifier: Apache-2.0
"""KuaiRand (Gao et al., CIKM 2022) as impressions: the published CSV files or a Parquet copy.

The queries are in `kuairand_sql.py`. Duplicates stay in for ingest to remove. `hourmin` and `date`
of the log disagree with `time_ms` in many rows, and are not read. Nor are the randomly exposed log
and the published statistics of videos: those average the whole period, so they would leak.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from components.console import progress
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.sources import kuairand_sql as sql
from components.log.sources.base import SourceCounts, fresh_raw
from components.log.times import UNITS, Span, Units, limits
from feature_repo.kinds import Categorical
from feature_repo.quoting import duckdb_files
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND

MIN_DAY_ROWS = 1000
"""Untimed rows go before the first day with more rows: lone early rows are not yet the log."""

PARTIAL = ("impressions.parquet", "prehistory.parquet", "users.parquet", "items.parquet")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where a copy of KuaiRand keeps what; `prehistory` is empty in the published layout."""

    impressions: tuple[Path, ...]
    prehistory: tuple[Path, ...]
    users: tuple[Path, ...]
    items: tuple[Path, ...]


def is_kuairand(data_dir: Path) -> bool:
    """Whether a folder has the names of either layout."""
    partial = all((data_dir / name).is_file() for name in ("users.parquet", "items.parquet"))
    return partial or _csv_folder(data_dir) is not None


def find_files(data_dir: Path) -> Files:
    """The files of a copy of KuaiRand; ValueError names the first that is missing."""
    folder = _csv_folder(data_dir)
    if folder is None:
        for name in PARTIAL:
            if not (data_dir / name).is_file():
                raise ValueError(
                    f"{data_dir} has no {name}; want KuaiRand's CSV files "
                    f"(data/log_standard_*.csv, ...) or {', '.join(PARTIAL)}"
                )
        logs, before, users, items = ((data_dir / name,) for name in PARTIAL)
        return Files(impressions=logs, prehistory=before, users=users, items=items)
    return Files(
        impressions=_matching(folder, "log_standard_*.csv"),
        prehistory=(),
        users=_matching(folder, "user_features_*.csv"),
        items=_matching(folder, "video_features_basic_*.csv"),
    )


def _csv_folder(data_dir: Path) -> Path | None:
    """The folder itself or one up to two levels down that holds the standard logs."""
    around = (data_dir, data_dir / "data", *sorted(data_dir.glob("*/data")))
    folders = [folder for folder in around if any(folder.glob("log_standard_*.csv"))]
    if len(folders) > 1:
        raise ValueError(
            f"{data_dir} holds several KuaiRand sets ({', '.join(map(str, folders))}); "
            "give the folder of one of them"
        )
    return folders[0] if folders else None


def _matching(folder: Path, pattern: str) -> tuple[Path, ...]:
    files = tuple(sorted(folder.glob(pattern)))
    if not files:
        raise ValueError(f"{folder} has no {pattern}; unpack the whole KuaiRand archive there")
    return files


def import_kuairand(data_dir: Path | str, layout: Layout, spec: Spec = KUAIRAND) -> SourceCounts:
    """Writes KuaiRand into `raw/`: a file of impressions per arrival day, posts and members.

    Args:
        data_dir: a folder with the partial copy, or the published folder (or one around it).
        layout: the run to write to; what its `raw/` held is replaced.
        spec: the KuaiRand spec, or one with its columns.

    Returns:
        What was written; the notes count the timed and the untimed rows, and the members whose
        prehistory had to be moved before their first timed impression.

    Raises:
        ValueError: a file or a column is missing, or cannot be read.
    """
    files = find_files(Path(data_dir))
    layout.root.mkdir(parents=True, exist_ok=True)
    # duckdb reads what follows a `?` in a database's name as settings, and knows no escape.
    beside = None if "?" in str(layout.root) else layout.root
    with tempfile.TemporaryDirectory(dir=beside, prefix=".import-") as scratch:
        connection = duckdb.connect(str(Path(scratch) / "log.duckdb"))
        try:
            return _Import(connection, layout, spec).run(files)
        finally:
            connection.close()


class _Import:
    """One import: the tables of `kuairand_sql` in a scratch database, then files of `raw/`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, layout: Layout, spec: Spec) -> None:
        self.connection, self.layout, self.spec = connection, layout, spec
        self.log_has_author = False

    def run(self, files: Files) -> SourceCounts:
        """Reads everything before it replaces anything."""
        notes = self._read_all(files)
        posts = sql.posts(self._cardinality(), self.log_has_author)
        with fresh_raw(self.layout) as fresh:
            return SourceCounts(
                impressions=self._write_days(fresh),
                posts=self._write(fresh.raw_posts, posts, self.spec.post_schema),
                members=self._write(fresh.raw_members, sql.MEMBERS, self.spec.member_schema),
                days=tuple(fresh.raw_days()),
                notes=notes,
            )

    def _read_all(self, files: Files) -> dict[str, int]:
        """Fills every table; returns the notes."""
        self.log_has_author = "author_id" in self._columns(files.impressions[0])
        author = {"author_id": "BIGINT"} if self.log_has_author else {}
        last = sql.LAST_TIME_COLUMNS if files.prehistory else {}
        self._read("log", files.impressions, {**sql.LOG_COLUMNS, **author})
        self._check_unit("log", "time_ms", files.impressions[0])
        self._read("users", files.users, {**sql.USER_COLUMNS, **last})
        if files.prehistory:
            self._check_unit("users", "prehist_last_time_ms", files.users[0])
        self._read("items", files.items, sql.ITEM_COLUMNS)
        notes = {"timed": self._add_timed(files.impressions[0])}
        if files.prehistory:
            self._read("prehistory", files.prehistory, sql.PREHISTORY_COLUMNS)
            notes.update(self._add_untimed())
        return notes

    def _add_timed(self, file: Path) -> int:
        """Makes `raw` of the log; returns its rows. ValueError where none has a time."""
        self.connection.execute(f"CREATE TABLE raw AS {sql.timed(self._cardinality()['tab'])}")
        rows = self._number("SELECT count(*) FROM raw")
        if not rows:
            raise ValueError(f"{file} has no rows; want KuaiRand's standard log")
        if not self._number("SELECT count(day) FROM raw"):
            low, high = (self._number(f"SELECT {end}(time_ms) FROM log") for end in ("min", "max"))
            raise ValueError(
                f"{file}: no time_ms is a time between 2000 and 2099, it is {low} to {high}; "
                "want milliseconds since 1970 (UTC)"
            )
        return rows

    def _add_untimed(self) -> dict[str, int]:
        days = f"SELECT day FROM raw GROUP BY day HAVING count(*) > {MIN_DAY_ROWS}"
        first = self._number(f"SELECT coalesce((SELECT min(day) FROM ({days})), min(day)) FROM raw")
        end = int(self.spec.day_start(first))
        self.connection.execute(f"INSERT INTO raw BY NAME {sql.untimed(first - 1)}")
        late = f"SELECT count(*) FROM ({sql.last_times(end)}) WHERE wanted >= first_ms"
        return {
            "untimed": self._number("SELECT count(*) FROM prehistory"),
            "clamped_members": self._number(late),
        }

    def _cardinality(self) -> dict[str, int]:
        kinds = {f.name: f.kind for f in self.spec.features}
        cardinality = {n: k.cardinality for n, k in kinds.items() if isinstance(k, Categorical)}
        for name in ("tab", "tag", "second_tag", "music_type"):
            if name not in cardinality:
                raise ValueError(
                    f"spec {self.spec.name} has no feature {name!r}; use KuaiRand's own"
                )
        return cardinality

    def _reader(self, file: Path) -> str:
        name = duckdb_files([file])
        if file.suffix == ".parquet":
            return f"read_parquet({name})"
        return f"read_csv({name}, header = true, all_varchar = true, delim = ',', quote = '\"')"

    def _columns(self, file: Path) -> dict[str, str]:
        """The type of each column of a file, as DuckDB names it."""
        try:
            rows = self.connection.execute(
                f"DESCRIBE SELECT * FROM {self._reader(file)}"
            ).fetchall()
        except duckdb.Error as error:
            raise ValueError(f"{file} cannot be read: {first_line(error)}") from error
        return {row[0]: row[1] for row in rows}

    def _read(self, table: str, files: tuple[Path, ...], columns: dict[str, str]) -> None:
        """Fills a table from files of the same columns."""
        select = ", ".join(sql.read_column(name, kind) for name, kind in columns.items())
        for number, file in enumerate(files):
            self._check_columns(file, columns)
            verb = f"INSERT INTO {table}" if number else f"CREATE TABLE {table} AS"
            try:
                self.connection.execute(f"{verb} SELECT {select} FROM {self._reader(file)}")
            except duckdb.Error as error:
                raise ValueError(f"{file} cannot be read: {first_line(error)}") from error
        for name in sql.NOT_NULL[table]:
            empty = self._number(f"SELECT count(*) FROM {table} WHERE {name} IS NULL")
            if empty:
                raise ValueError(
                    f"{files[0]}: {name} is empty in {empty} rows; want a value in each"
                )

    def _check_columns(self, file: Path, columns: dict[str, str]) -> None:
        """ValueError where a file lacks a column, or has a time in the place of a number."""
        kinds = self._columns(file)
        missing = [name for name in columns if name not in kinds]
        if missing:
            raise ValueError(
                f"{file} has no column {missing[0]!r}; want KuaiRand's published columns"
            )
        for name, kind in columns.items():
            if kind != "VARCHAR" and kinds[name].startswith(("DATE", "TIME")):
                raise ValueError(
                    f"{file}: column {name!r} is {kinds[name]}, want a number, and of a time "
                    "milliseconds since 1970 (UTC)"
                )

    def _check_unit(self, table: str, column: str, file: Path) -> None:
        """ValueError where most of a table's times are in another unit than milliseconds."""
        units = Units()
        for unit in UNITS:
            low, high = limits(unit)
            span = self.connection.execute(
                f"SELECT count(*), min({column}), max({column}) FROM {table} "
                f"WHERE {column} >= {low} AND {column} < {high}"
            ).fetchone()
            assert span is not None
            if span[0]:
                units.note(unit, Span(*span))
        units.check(f"{file}: {column}")

    def _number(self, query: str) -> int:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def _write_days(self, layout: Layout) -> int:
        days = [
            d
            for (d,) in self.connection.execute(
                "SELECT DISTINCT day FROM raw ORDER BY day"
            ).fetchall()
        ]
        names = ", ".join(f'"{name}"' for name in self.spec.impression_schema.names)
        with progress("import", len(days)) as advance:
            for day in days:
                query = (
                    f"SELECT {names} FROM raw WHERE day = {day} "
                    f"ORDER BY arrival_time, event_time, {names}"
                )
                path = layout.raw_day(self.spec.day_name(day))
                self._write(path, query, self.spec.impression_schema)
                advance()
        return self._number("SELECT count(*) FROM raw")

    def _write(self, path: Path, query: str, schema: pa.Schema) -> int:
        table = self.connection.execute(query).to_arrow_table()
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise ValueError(f"spec {self.spec.name} wants {missing[0]!r}, which KuaiRand has not")
        write_parquet(path, table.select(schema.names).cast(schema))
        return table.num_rows


def first_line(error: Exception) -> str:
    """The first line of a library's message, for a one-sentence error."""
    return str(error).strip().splitlines()[0]
