"""PostgreSQL as a target: a binary COPY straight into the table, in one transaction.

The rows are read twice, hashed both times: once for the courses whose old rows go, once for the
rows themselves. Memory stays at one block of rows. Readers see the old rows until the commit; a
second load, and whoever else would write the table, waits or is told so.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson

from bulkfetch._domain.errors import (
    BulkfetchError,
    ConfigurationError,
    OutputError,
    OutputLocked,
    TemporarilyUnavailable,
)
from bulkfetch._domain.text import printable
from bulkfetch._load.courses import CourseCount, runs
from bulkfetch._load.finished import blocks_of, check_count
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulkfetch._load.plan import Job

_PATIENCE: Final = "10s"
"""How long the table's other users are waited for, unless the connection says otherwise."""
_CONNECTION: Final = {
    "connect_timeout": ("10", "PGCONNECT_TIMEOUT"),
    "application_name": ("bulkfetch load", "PGAPPNAME"),
    "keepalives_idle": ("30", None),
    "keepalives_interval": ("10", None),
    "keepalives_count": ("3", None),
    "tcp_user_timeout": ("60000", None),
}
"""A dead connection is noticed within a minute; each with the variable that also sets it."""
SECRETS: Final = ("password", "sslpassword", "oauth_client_secret")
"""Parameters of a connection that are never shown."""
_MEND: Final = "correct the address in --to, or the variable, service or file that it came from"
_SIGN_IN: Final = (
    "give the right user in --to and its password in PGPASSWORD, PGPASSFILE or a service file"
)
_LASTING: Final = {
    "authentication failed|no password supplied|authentication method requirement": _SIGN_IN,
    "not permitted to log in|[Pp]ermission denied|pg_hba.conf": (
        "let PostgreSQL's administrator admit this user, or name another"
    ),
    '(database|role) ".*" does not exist|no such (database|user)': (
        "name one that is there, or create it first"
    ),
    "[Ii]nvalid .*value|invalid port number|bad value|could not parse|does not exist"
    "|certificate file|private key|root certificate|certificate verify failed"
    "|does not match host name|does not support SSL|SSL not in use|unrecognized configuration"
    '|service (file )?".*" not found|invalid (user|database)|invalid connection option'
    '|server does not support "': _MEND,
}
"""Why a connection fails that no later one mends: libpq gives words, no code. All else may pass."""
TYPES: Final = {
    kind: kind for kind in ("text", "double precision", "json", "timestamp with time zone")
}
_WIRE: Final = {"double precision": "float8", "timestamp with time zone": "timestamptz"}


class PostgresTable:
    """A table on a PostgreSQL server; `address` may hold a password, which is never shown."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.name = "PostgreSQL"

    def load(self, job: Job) -> Moved | None:
        with _connected(self._address) as connection:
            info = connection.info
            self.name = printable(f"postgresql://{info.host}:{info.port}/{info.dbname}")
            with connection.cursor() as cursor:
                _take(cursor, job)
                _create(cursor, job)
                new = is_new(job.output, _last(cursor, job), force=job.force)
                if not (new or _holds_dropped(cursor, job)):
                    return None
                moved = _replace(cursor, job)
            _commit(connection)
            return moved


def _take(cursor: Any, job: Job) -> None:
    """Keep a second load out, and bound every wait for a lock."""
    cursor.execute("select current_setting('lock_timeout')")
    if cursor.fetchone()[0] == "0":
        cursor.execute(f"set local lock_timeout = '{_PATIENCE}'")
    cursor.execute("select pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [job.table.sql])
    if not cursor.fetchone()[0]:
        raise OutputLocked(f"another load into {job.table.sql} is under way: run again later")


def _create(cursor: Any, job: Job) -> None:
    """Make both tables if they are not there; lock the table and check its shape."""
    table, loads = job.table.sql, job.table.loads.sql
    cursor.execute(
        "select oid::regclass::text, relkind::text from pg_class "
        "where oid in (to_regclass(%s), to_regclass(%s))",
        [table, loads],
    )
    check_kinds(cursor.fetchall())
    cursor.execute("select to_regclass(%s) is null, to_regclass(%s) is null", [table, loads])
    no_table, no_loads = cursor.fetchone()
    if no_table:
        columns = ", ".join(f"{name} {kind}{required(name)}" for name, _, kind in job.columns)
        cursor.execute(f"create table {table} ({columns})")
        cursor.execute(f"create index on {table} (content_item_id)")
    if no_loads:
        cursor.execute(
            f"create table {loads} (sha256 text, run_ids json, finished timestamptz, "
            "courses bigint, deleted bigint, inserted bigint, "
            '"at" timestamptz)'
        )
    cursor.execute(
        "select attname, format_type(atttypid, null) from pg_attribute join pg_class "
        "on pg_class.oid = attrelid where attrelid = to_regclass(%s) and attnum > 0 "
        "and not attisdropped order by attnum",
        [table],
    )
    check_shape(f"table {table}", cursor.fetchall(), job, TYPES)
    cursor.execute(f"lock table {table}, {loads} in share row exclusive mode")


def _last(cursor: Any, job: Job) -> LastLoad | None:
    cursor.execute(f'select sha256, finished from {job.table.loads.sql} order by "at" desc limit 1')
    line = cursor.fetchone()
    return LastLoad(*line) if line else None


def _holds_dropped(cursor: Any, job: Job) -> bool:
    """Whether the table holds rows of a course that is to go though it is not in the output."""
    cursor.execute(
        f"select exists (select 1 from {job.table.sql} where content_item_id = any(%s))",
        [list(job.drop)],
    )
    return bool(cursor.fetchone()[0])


def _commit(connection: Any) -> None:
    """Commit; a connection that is lost before the answer leaves open whether that was done."""
    try:
        connection.commit()
    except Exception:
        if connection.broken:
            raise TemporarilyUnavailable(
                "the connection to PostgreSQL was lost at the commit, so it is not known whether "
                "the rows are in: run the same command again, it loads them or finds them there"
            ) from None
        raise


def _replace(cursor: Any, job: Job) -> Moved:
    output = job.output
    deleted = _delete(cursor, job)
    names = ", ".join(quoted(name) for name, _, _ in job.columns)
    inserted = 0
    with cursor.copy(f"copy {job.table.sql} ({names}) from stdin (format binary)") as copy:
        copy.set_types([_WIRE.get(kind, kind) for _, _, kind in job.columns])
        write = copy.write_row
        for row in _rows(blocks_of(output, job.progress), stamped=output.stamped):
            write(row)
            inserted += 1
    check_count(output, inserted)
    cursor.execute(
        f"insert into {job.table.loads.sql} values (%s, %s, %s, %s, %s, %s, clock_timestamp())",
        [output.sha256, run_ids(output), output.finished, output.courses, deleted, inserted],
    )
    return Moved(deleted, inserted)


def _delete(cursor: Any, job: Job) -> int:
    """Delete the rows of the courses that the output holds; return how many."""
    cursor.execute("create temporary table bulkfetch_courses (id text) on commit drop")
    with cursor.copy("copy bulkfetch_courses from stdin") as copy:
        for name in (*job.output.empty_courses, *job.drop):
            copy.write_row((name,))
        found = CourseCount(job.output)
        for key, _ in runs(blocks_of(job.output)):
            if found.see(key):
                copy.write_row((orjson.loads(key),))
    found.check()
    cursor.execute("analyze bulkfetch_courses")
    cursor.execute(
        f"delete from {job.table.sql} where content_item_id in (select id from bulkfetch_courses)"
    )
    return int(cursor.rowcount)


def _rows(blocks: Iterable[bytes], *, stamped: bool) -> Iterator[tuple[object, ...]]:
    """Yield rows as the table's columns; a bare loop, since millions pass through it."""
    known = ("contentItemId", "userId", "status", "progress")
    stamps = ("_fetched_at", "_run_id") if stamped else ()
    for block in blocks:
        for row in orjson.loads(b"[" + block[:-1].replace(b"\n", b",") + b"]"):
            extra = None
            if len(row) > 4 + len(stamps):
                extra = {key: row[key] for key in row if key not in known and key not in stamps}
            values = (row["contentItemId"], row["userId"], row["status"], row["progress"], extra)
            yield (*values, _time(row["_fetched_at"]), row["_run_id"]) if stamped else values


@lru_cache(maxsize=8)
def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Open a connection whose transaction is undone unless committed; its errors are ours."""
    try:
        import psycopg  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "PostgreSQL needs the package psycopg: pip install 'bulkfetch[postgres]'"
        ) from None
    hidden = _conninfo(psycopg, address)
    try:
        connection = psycopg.connect(address, **_defaults(hidden))
        # Whatever the server's default: what another load commits while we wait must be seen.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    except psycopg.Error as error:
        raise _unconnected(psycopg, error, hidden) from None
    try:
        yield connection
    except psycopg.Error as error:
        raise _told(psycopg, error, _scrubbed(error, hidden)) from None
    except BulkfetchError:  # some are ValueErrors too
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"a row is not what it should be ({type(error).__name__}): "
            "a field is missing or of another type"
        ) from None
    finally:
        connection.close()


def _conninfo(psycopg: Any, address: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        found = {"host": "@"}
    ports = str(found.get("port", "1")).split(",")
    if "@" in str(found.get("host", "")) or not all(map(str.isdigit, ports)):
        # What libpq says of such an address may show a piece of the password.
        raise ConfigurationError(
            "the address of PostgreSQL cannot be read: write postgresql://USER@HOST:PORT/DATABASE, "
            "special characters as %40 for @; the password belongs into PGPASSWORD or PGPASSFILE"
        )
    return found


def _defaults(given: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, (value, variable) in _CONNECTION.items()
        if name not in given and (variable is None or variable not in os.environ)
    }


def _unconnected(psycopg: Any, error: Exception, hidden: dict[str, Any]) -> Exception:
    """Tell what time mends from what somebody has to; of several hosts each has its line."""
    lines = str(error).strip().split("\n")
    for line in lines:
        for words, todo in _LASTING.items():
            if re.search(words, line):
                said = _scrubbed(line, hidden)
                return ConfigurationError(f"PostgreSQL cannot be used so: {said}: {todo}")
    said = _scrubbed(lines[0] or type(error).__name__, hidden)
    if isinstance(error, psycopg.OperationalError):
        return TemporarilyUnavailable(f"PostgreSQL cannot be reached: {said}")
    return ConfigurationError(f"PostgreSQL cannot be used so: {said}: {_MEND}")


def _scrubbed(error: object, hidden: dict[str, Any]) -> str:
    """Return the first line of what was said, without any password."""
    said = str(error).partition("\n")[0].strip() or type(error).__name__
    for secret in (*map(hidden.get, SECRETS), os.environ.get("PGPASSWORD")):
        if secret:
            said = said.replace(str(secret), "***")
    return printable(said, 300)


def _told(psycopg: Any, error: Exception, said: str) -> Exception:
    """Say in our words what went wrong inside; the server has undone everything."""
    errors = psycopg.errors
    if isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected):
        return OutputLocked(f"the table is held by somebody else: run again later ({said})")
    if isinstance(error, psycopg.OperationalError):
        return TemporarilyUnavailable(
            f"PostgreSQL ended the load ({said}): the table is as it was before; run it again"
        )
    if isinstance(error, errors.NotNullViolation) and error.diag.column_name in REQUIRED:
        return OutputError(f"a row has no {REQUIRED[error.diag.column_name]}: it is damaged")
    if isinstance(error, errors.InvalidSchemaName):
        return ConfigurationError(f"{said}: create it first, or name another table")
    if isinstance(error, psycopg.DataError):
        return OutputError(f"PostgreSQL cannot hold a value of the rows: {said}")
    return ConfigurationError(f"PostgreSQL does not take the rows: {said}")
