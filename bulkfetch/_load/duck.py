"""DuckDB as a target, and the engine behind Parquet: rows read by its own JSON reader, types given.

The rows are hashed first and then read by DuckDB, in parallel, from the same open file; one that
was written to meanwhile ends the load before anything counts. There is no index: the rows of a
course lie together, so the zone maps find them, and an index would double the time.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from bulkfetch._domain.errors import (
    ConfigurationError,
    OutputError,
    OutputLocked,
    TemporarilyUnavailable,
)
from bulkfetch._domain.text import printable
from bulkfetch._load.courses import CourseCount, key_of, runs
from bulkfetch._load.finished import check_count, unlinked
from bulkfetch._load.plan import (
    REQUIRED,
    LastLoad,
    Moved,
    check_kinds,
    check_shape,
    is_new,
    quoted,
    required,
    run_ids,
)
from bulkfetch._load.rows import rows_file, write_all
from bulkfetch._output.layout import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkfetch._load.plan import Job
    from bulkfetch._load.rows import RowsFile

MEMORY: Final = "200MB"
"""DuckDB's own limit; the process stays under 300 MB with it."""
_DAMAGE: Final = "corrupt|checksum|could not read enough bytes|failed to deserialize"
"""What DuckDB says of a file that is not as it was written; the type differs by version."""
TYPES: Final = {
    "text": "VARCHAR",
    "double precision": "DOUBLE",
    "json": "JSON",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True, slots=True)
class ReadableRows:
    """The rows of an output and the courses to replace, as files that DuckDB can read."""

    rows: RowsFile
    courses: BinaryIO
    extras: bool
    """Whether some row may hold children beside the documented ones."""


@contextmanager
def sourced(job: Job, directory: str) -> Iterator[ReadableRows]:
    """Prove the rows of an output to be the manifest's, and list their courses."""
    optional = [key for name, key, _ in job.columns if key and name not in REQUIRED]
    found = CourseCount(job.output)
    with rows_file(job.output, directory) as rows, unlinked(directory) as courses:
        counts = dict.fromkeys([b'":', *(b'"%b":' % key.encode() for key in optional)], 0)
        with failures(f"keep ids in a file in {directory}"):
            write_all(courses, b"".join(_line(key_of(name)) for name in _without_rows(job)))
            for lines in rows.blocks(job.progress):
                new = [_line(key) for key, _ in runs([lines]) if found.see(key)]
                write_all(courses, b"".join(new))
                # A key is followed by quote and colon, and no text holds these two unescaped.
                for name in counts:
                    counts[name] += lines.count(name)
        found.check()
        every, *each = counts.values()
        fields = len(REQUIRED) + len(each)  # a row without one of the required ends the load
        plain = every == fields * job.output.rows and set(each) <= {job.output.rows}
        yield ReadableRows(rows, courses, not plain)


def courses_sql(source: ReadableRows) -> str:
    return (
        f"select distinct id from read_json({_path(source.courses)}, columns={{id: 'VARCHAR'}}, "
        "format='newline_delimited', auto_detect=false)"
    )


def rows_sql(job: Job, source: ReadableRows) -> str:
    """Return the query that reads the rows as the table's columns."""
    keys = [(key, TYPES[kind]) for _, key, kind in job.columns if key]
    if not source.extras:
        columns = ", ".join(f"{quoted(key)}: '{kind}'" for key, kind in keys)
        return (
            f"select {_named(job, '', 'null::JSON')} from read_json({_path(source.rows)}, "
            f"columns={{{columns}}}, format='newline_delimited', auto_detect=false)"
        )
    shape = ", ".join(f'"{key}": "{kind}"' for key, kind in keys)
    nothing = ", ".join(f'"{key}": null' for key, _ in keys)
    extra = f"nullif(json_merge_patch(json, '{{{nothing}}}')::VARCHAR, '{{}}')::JSON"
    return (
        f"select {_named(job, 'r.', extra)} from (select json, "
        f"from_json_strict(json, '{{{shape}}}') r from read_ndjson_objects({_path(source.rows)}))"
    )


def _named(job: Job, row: str, extra: str) -> str:
    columns = {name: row + quoted(key) if key else extra for name, key, _ in job.columns}
    for name, key in REQUIRED.items():  # Parquet has no constraints
        value = columns[name]
        columns[name] = f"case when {value} is null then error('no {key}') else {value} end"
    return ", ".join(f"{value} as {name}" for name, value in columns.items())


class DuckFile:
    """A table in a DuckDB file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path

    def load(self, job: Job) -> Moved | None:
        # DuckDB's log beside the file holds rows too: whatever is made here is its owner's alone.
        self._require_database()
        with private_files(self.path), connected(self.path) as database:
            database.execute("begin")
            self._create(database, job)
            new = is_new(job.output, self._last(database, job), force=job.force)
            if not (new or holds_dropped(database, job, job.table.sql)):
                return None
            with sourced(job, folder_of(self.path)) as source:
                moved = self._replace(database, job, source)
            database.execute("commit")
            return moved

    def _require_database(self) -> None:
        """Refuse a file that is something else: DuckDB may take a small one for an empty one."""
        if Path(self.path).exists():
            with failures(f"read {self.path}"), Path(self.path).open("rb") as file:
                head = file.read(12)
            if not head:
                raise ConfigurationError(
                    f"{self.path} is an empty file, which DuckDB refuses: remove it"
                )
            if head[8:] != b"DUCK":
                raise ConfigurationError(f"{self.path} is no DuckDB file: name another one")

    def _create(self, database: Any, job: Job) -> None:
        table, loads = job.table, job.table.loads
        if job.table.schema:
            database.execute(f"create schema if not exists {quoted(job.table.schema)}")
        views = database.execute(
            "select view_name, 'v' from duckdb_views() where database_name = current_database() "
            "and lower(schema_name) = lower(coalesce(?, current_schema())) "
            "and lower(view_name) in (lower(?), lower(?))",
            [table.schema, table.name, loads.name],
        ).fetchall()
        check_kinds(views)
        columns = ", ".join(
            f"{name} {TYPES[kind]}{required(name)}" for name, _, kind in job.columns
        )
        database.execute(f"create table if not exists {table.sql} ({columns})")
        database.execute(
            f"create table if not exists {loads.sql} (sha256 text, run_ids json, "
            "finished timestamptz, courses bigint, deleted bigint, inserted bigint, "
            '"at" timestamptz)'
        )
        found = database.execute(
            "select column_name, data_type from duckdb_columns() join duckdb_tables() "
            "using (database_name, schema_name, table_name) where database_name = "
            "current_database() and schema_name = coalesce(?, current_schema()) "
            "and table_name = ? order by column_index",
            [table.schema, table.name],
        ).fetchall()
        check_shape(f"table {table.name} in {self.path}", found, job, TYPES)

    def _last(self, database: Any, job: Job) -> LastLoad | None:
        line = database.execute(
            f"select sha256, epoch_us(finished) from {job.table.loads.sql} "
            'order by "at" desc limit 1'
        ).fetchone()
        return last_load(*line) if line else None

    def _replace(self, database: Any, job: Job, source: ReadableRows) -> Moved:
        table, output = job.table, job.output
        (deleted,) = database.execute(
            f"delete from {table.sql} where content_item_id in ({courses_sql(source)})"
        ).fetchone()
        statement = f"insert into {table.sql} by name {rows_sql(job, source)}"
        inserted = _inserted(database, statement, job)
        database.execute(
            f"insert into {table.loads.sql} values (?, ?, ?::timestamptz, ?, ?, ?, now())",
            [
                output.sha256,
                run_ids(output),
                output.finished.isoformat(),
                output.courses,
                deleted,
                inserted,
            ],
        )
        return Moved(deleted, inserted)


def holds_dropped(database: Any, job: Job, table: str) -> bool:
    """Whether a table holds rows of a course that is to go though it is not in the output."""
    query = f"select exists (select 1 from {table} where list_contains(?, content_item_id))"
    return bool(job.drop and database.execute(query, [list(job.drop)]).fetchone()[0])


def _inserted(database: Any, statement: str, job: Job) -> int:
    """Run what brings the rows in and return their number; no rows are none to read."""
    inserted = 0
    if job.output.rows:
        (inserted,) = database.execute(statement).fetchone()
    check_count(job.output, inserted)
    return int(inserted)


def last_load(digest: str, microseconds: int) -> LastLoad:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    return LastLoad(digest, datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds))


def folder_of(path: str) -> str:
    folder = str(Path(path).absolute().parent)
    if not Path(folder).is_dir():
        raise ConfigurationError(f"there is no folder {folder}: create it first")
    return folder


@contextmanager
def private_files(path: str) -> Iterator[None]:
    """Make what is created within, DuckDB's files beside `path`, readable by the owner alone."""
    folder_of(path)
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def connected(path: str, *, name: str | None = None, **settings: str) -> Iterator[Any]:
    """Open a DuckDB database; its errors come out as ours, a transaction left open is undone.

    `name` is what errors are about, if not the database.
    """
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "DuckDB and Parquet need the package duckdb: pip install 'bulkfetch[duckdb]'"
        ) from None
    try:
        with duckdb.connect(path, config={"memory_limit": MEMORY, **settings}) as database:
            yield database
    except duckdb.Error as error:
        raise _told(duckdb, error, name or path) from None


def _told(duckdb: Any, error: Exception, path: str) -> Exception:
    """Say in our words what DuckDB said, by its first line."""
    said = printable(str(error).partition("\n")[0], 300)
    taken = isinstance(error, duckdb.ConnectionException | duckdb.TransactionException)
    if taken and "Failed to commit" not in said:  # if so, it is ours
        return OutputLocked(f"{path} is in use in this process: close it first ({said})")
    if isinstance(error, duckdb.OutOfMemoryException):
        return TemporarilyUnavailable(f"{path}: not enough memory or space: {said}")
    if told := _told_of_file(duckdb, error, path, said=said):
        return told
    if isinstance(error, duckdb.InvalidInputException | duckdb.ConversionException):
        # What DuckDB says here may show a row.
        return OutputError("a row is not what it should be: a field is missing or of another type")
    return ConfigurationError(f"{path} does not take the rows: {said}; name another table")


def _told_of_file(duckdb: Any, error: Exception, path: str, *, said: str) -> Exception | None:
    """Say what is the matter with the database's file or its disk; None: nothing is."""
    text = re.sub(r'"[^"]*"|\'[^\']*\'', "", said).replace(path, "").lower()  # paths prove nothing
    if "not a valid duckdb" in text or "version number" in text or "encrypt" in text:
        return ConfigurationError(f"{path} is no DuckDB file that this version opens: {said}")
    if isinstance(error, duckdb.InvalidInputException | duckdb.ConversionException):
        return None  # these tell of rows, whose words prove nothing
    if isinstance(error, duckdb.SerializationException) or re.search(_DAMAGE, text):
        return damaged(path)
    if isinstance(error, duckdb.IOException) and re.search("(set|conflicting) lock", text):
        return OutputLocked(f"{path} is in use by another process: close it, or run again later")
    if "No space left on device" in str(error):
        return OutputError(
            f"the disk of {path} is full: free some space, then run the same command again; "
            "what was there before is unharmed"
        )
    if isinstance(error, duckdb.IOException) or "failed to commit" in text:
        return OutputError(f"{path}: {said}; what was there before is unharmed")
    return None


def damaged(path: str) -> OutputError:
    return OutputError(
        f"{path}, as it is there already, is damaged: bring it back from a copy, or move it away "
        "and load every course again"
    )


def _without_rows(job: Job) -> tuple[str, ...]:
    return (*job.output.empty_courses, *job.drop)


def _line(key: bytes) -> bytes:
    return b'{"id":' + key + b"}\n"


def _path(file: BinaryIO | RowsFile) -> str:
    return f"'/dev/fd/{file.fileno()}'"
