"""`load`: an output into a table, so that the table holds what the output says, no more, no less.

Courses are replaced whole: every course that the output fetched loses its old rows and gets the new
ones, in one transaction with a line in a ledger. Courses that failed keep their rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import ConfigurationError, OutputError
from bulkfetch._load.duck import DuckFile
from bulkfetch._load.finished import read_finished, read_missing
from bulkfetch._load.parquet import ParquetFile
from bulkfetch._load.plan import Job, Table
from bulkfetch._load.postgres import PostgresTable
from bulkfetch._output.layout import Layout

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from bulkfetch._load.plan import Warehouse

_TABLE: Final = "statuses"
_ADDRESS: Final = re.compile(
    r"^:|://|^//.*@|^\w{2,}:|^[^/]*:[^/]*@|(password|token|secret)[^/=]*=", re.IGNORECASE
)
"""What is no file but DuckDB's memory, another machine, or a connection string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a load did; `new` is false when the output was there already and nothing was done."""

    target: str
    """For people; without a password."""
    new: bool
    rows: int
    """Brought in."""
    deleted: int
    """Old rows of the courses that the output holds, and of those dropped."""
    courses: int
    """Fetched ones, those without rows included."""
    left_alone: int
    """Courses that failed or were refused, whose old rows stay."""
    unknown: tuple[str, ...]
    """Ids that the server does not know; their old rows stay unless `dropped`."""
    dropped: bool
    unlisted: int = 0
    """Of those left alone, the courses that no list names any more: some may be unknown."""
    lacks: str = ""
    """In words what the output lacks of the ids it was given, or of its parts, if anything."""


def load(
    output: str | os.PathLike[str],
    *,
    to: str,
    table: str | None = None,
    force: bool = False,
    drop_unknown: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Loaded:
    """Put a finished output into `duckdb:FILE`, `parquet:FILE` or `postgresql://…`.

    `table` is `statuses` by default; a Parquet file has none. `force` takes an output that is older
    than the last one, or the same once more; `drop_unknown` deletes the rows of courses that the
    server no longer knows. `progress` is called with the bytes read and their number. Raises
    ConfigurationError (usage, unfinished, older, a table of another shape), OutputLocked and
    TemporarilyUnavailable (target in use, unreachable), OutputError (the file is not what its
    manifest says, disk); the table is then as it was before.
    """
    target = _warehouse(to, table)
    finished = read_finished(output)
    missing = read_missing(finished)
    if drop_unknown and missing.unlisted:
        raise OutputError(
            f"{Layout.of(output).failed} lacks {missing.unlisted:,} of the courses that failed or "
            "were refused, so it is not known which to drop: bring it back, or leave out "
            "--drop-unknown"
        )
    job = Job(
        output=finished,
        drop=missing.unknown if drop_unknown else (),
        table=Table.of(_TABLE if table is None else table),
        force=force,
        progress=progress,
    )
    moved = target.load(job)
    return Loaded(
        target=target.name,
        new=moved is not None,
        rows=moved.inserted if moved else 0,
        deleted=moved.deleted if moved else 0,
        courses=finished.courses,
        left_alone=finished.missing - len(job.drop),
        unknown=missing.unknown,
        dropped=drop_unknown,
        unlisted=missing.unlisted,
        lacks=finished.lacks,
    )


def _warehouse(to: str, table: str | None) -> Warehouse:
    kind, colon, rest = to.partition(":")
    if kind in {"postgresql", "postgres"} and rest.startswith("//"):
        return PostgresTable(to)
    if not (colon and rest) or kind not in {"duckdb", "parquet"}:
        # Only a word before a colon is shown: the rest may be a connection string with a password.
        shown = f"{kind[:20]!r}" if colon and kind.isidentifier() else "what --to says"
        raise ConfigurationError(
            f"{shown} is no target: write duckdb:FILE, parquet:FILE or postgresql://HOST/DATABASE"
        )
    if _ADDRESS.search(rest):  # not shown either: it may hold a password or a token
        raise ConfigurationError(
            f"what follows {kind}: is no target, no file of this machine: write {kind}:FILE "
            "(and ./FILE if its name holds a colon)"
        )
    if Path(rest).exists() and not Path(rest).is_file():
        raise ConfigurationError(f"{rest} is {_what(rest)}: write {kind}:FILE")
    if kind == "duckdb":
        return DuckFile(rest)
    if table is not None:
        raise ConfigurationError("a Parquet file holds one table without a name: leave out --table")
    return ParquetFile(rest)


def _what(path: str) -> str:
    return "a folder" if Path(path).is_dir() else "no regular file"
