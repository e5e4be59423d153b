"""A Parquet file as a target: written whole and anew beside the old one, then put in its place.

Rows of courses that the output does not hold are copied from the old file. The ledger stands in the
file's own key-value metadata, so that rows and ledger change in one rename; a lock file beside it
keeps a second load out.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from bulkfetch._domain.errors import BulkfetchError, ConfigurationError, OutputLocked
from bulkfetch._load.duck import (
    TYPES,
    connected,
    courses_sql,
    damaged,
    folder_of,
    holds_dropped,
    private_files,
    rows_sql,
    sourced,
)
from bulkfetch._load.finished import check_count
from bulkfetch._load.plan import LastLoad, Moved, check_shape, is_new
from bulkfetch._output.layout import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkfetch._load.duck import ReadableRows
    from bulkfetch._load.plan import Job

_LEDGER: Final = "bulkfetch_loads"
_LINES: Final = 1_000
"""Lines of the ledger that are kept."""


class ParquetFile:
    """One file that holds the whole table."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.name = path

    def load(self, job: Job) -> Moved | None:
        with private_files(self.path), _locked(f"{self.path}.lock"), self._old() as old:
            try:
                return self._replace(job, old)
            except BulkfetchError:
                if old is not None:  # what cannot be read may be the file that is there
                    self._require_readable(old)
                raise

    def _replace(self, job: Job, old: BinaryIO | None) -> Moved | None:
        with self._connected() as database:
            ledger = self._ledger(database, job, old)
            new = is_new(job.output, self._last(ledger), force=job.force)
            if not (new or (old and holds_dropped(database, job, _table(old)))):
                return None
            return self._write(database, job, old, ledger)

    def _connected(self) -> AbstractContextManager[Any]:
        temporary = f"{self.path}.duckdb.tmp"
        return connected(":memory:", name=self.path, temp_directory=temporary)

    @contextmanager
    def _old(self) -> Iterator[BinaryIO | None]:
        if not Path(self.path).exists():
            yield None
            return
        with failures(f"read {self.path}"):
            file = Path(self.path).open("rb")  # noqa: SIM115 - closed below
        with file:
            if file.read(4) != b"PAR1":
                raise ConfigurationError(f"{self.path} is no Parquet file: name another one")
            yield file

    def _require_readable(self, old: BinaryIO) -> None:
        try:
            with self._connected() as database:
                database.execute(f"select bit_xor(hash(old)) from {_table(old)} old")
        except BulkfetchError:
            raise damaged(self.path) from None

    def _ledger(self, database: Any, job: Job, old: BinaryIO | None) -> list[dict[str, Any]]:
        """Check the old file's shape and return its ledger, the last line last."""
        if old is None:
            return []
        found = database.execute(f"describe select * from {_table(old)}").fetchall()
        check_shape(self.path, [(name, kind) for name, kind, *_ in found], job, TYPES, grows=False)
        lines = database.execute(
            f"select value from parquet_kv_metadata('/dev/fd/{old.fileno()}') "
            f"where decode(key) = '{_LEDGER}'"
        ).fetchone()
        try:
            return list(orjson.loads(lines[0])) if lines else []
        except ValueError:
            raise damaged(self.path) from None

    def _last(self, ledger: list[dict[str, Any]]) -> LastLoad | None:
        if not ledger:
            return None
        try:
            line = ledger[-1]
            finished, endpoint = datetime.fromisoformat(line["finished"]), line.get("endpoint")
            return LastLoad(str(line["sha256"]), finished, endpoint and str(endpoint))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise damaged(self.path) from None

    def _write(
        self, database: Any, job: Job, old: BinaryIO | None, ledger: list[dict[str, Any]]
    ) -> Moved:
        with sourced(job, folder_of(self.path)) as source:
            database.execute(f"create temp table courses as {courses_sql(source)}")
            gone, kept = _counts(database, old)
            line = _line(job, gone)
            metadata = orjson.dumps([*ledger[1 - _LINES :], line]).decode()
            temporary = f"{self.path}.tmp"
            copy = (
                f"copy ({_new_rows(job, source, old)}) to {_text(temporary)} (format parquet, "
                f"compression zstd, kv_metadata {{{_LEDGER}: {_text(metadata)}}})"
            )
            try:
                (written,) = database.execute(copy).fetchone()
                source.rows.require_unchanged()
                check_count(job.output, written - kept)
                with failures(f"write {self.path}"):
                    _keep_mode(temporary, old)
                    _publish(temporary, self.path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        return Moved(gone, job.output.rows)


def _new_rows(job: Job, source: ReadableRows, old: BinaryIO | None) -> str:
    parts = []
    if old is not None:
        parts.append(
            f"select * from {_table(old)} "
            "where not exists (select 1 from courses where id = content_item_id)"
        )
    if job.output.rows:
        parts.append(rows_sql(job, source))
    if not parts:
        columns = ", ".join(f"null::{TYPES[kind]} as {name}" for name, _, kind in job.columns)
        parts.append(f"select {columns} where false")
    return " union all by name ".join(parts)


def _counts(database: Any, old: BinaryIO | None) -> tuple[int, int]:
    """Return how many rows of the old file go, and how many stay."""
    if old is None:
        return 0, 0
    gone, rows = database.execute(
        "select count(*) filter (content_item_id in (select id from courses)), count(*) "
        f"from {_table(old)}"
    ).fetchone()
    return gone, rows - gone


def _line(job: Job, deleted: int) -> dict[str, object]:
    output = job.output
    return {
        "sha256": output.sha256,
        "run_ids": output.runs,
        "endpoint": output.endpoint,
        "finished": output.finished.isoformat(),
        "courses": output.courses,
        "deleted": deleted,
        "inserted": output.rows,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _keep_mode(temporary: str, old: BinaryIO | None) -> None:
    """Let the new file be read by whoever could read the old one, and by nobody else."""
    if old is None:
        return
    was = os.fstat(old.fileno())
    mode = was.st_mode & 0o777
    try:
        os.chown(temporary, was.st_uid, was.st_gid)
    except PermissionError:  # the group is another now
        mode &= 0o707 if Path(temporary).stat().st_gid != was.st_gid else 0o777
    Path(temporary).chmod(mode)


def _publish(temporary: str, path: str) -> None:
    """Put the new file in the old one's place, safe from a power cut."""
    for name in (temporary, str(Path(path).parent)):
        if name != temporary:
            Path(temporary).replace(path)
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    with failures(f"lock {path}"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputLocked(f"another load holds {path}: run again when it is over") from None
    else:
        yield
    finally:
        os.close(fd)


def _table(file: BinaryIO) -> str:
    return f"read_parquet('/dev/fd/{file.fileno()}')"


def _text(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'"
