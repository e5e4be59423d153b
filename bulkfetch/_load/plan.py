"""What a load does, decided before anything is touched: names, columns, whether there is anything.

Pure. The three targets share the table's shape, the ledger's line and the rules by which an output
is taken, already there, or refused as older.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from bulkfetch._load.finished import FinishedOutput

COLUMNS: Final = (
    ("content_item_id", "contentItemId", "text"),
    ("user_id", "userId", "text"),
    ("status", "status", "text"),
    ("progress", "progress", "double precision"),
    ("extra", None, "json"),
)
"""Name in the table, name in a row, type in PostgreSQL's words."""
STAMP: Final = (
    ("fetched_at", "_fetched_at", "timestamp with time zone"),
    ("run_id", "_run_id", "text"),
)
REQUIRED: Final = {"content_item_id": "contentItemId", "user_id": "userId"}
"""What no row lacks."""
_LONGEST: Final = 63 - len("_loads")
"""PostgreSQL cuts longer names off without a word."""
_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a type",
}
"""What stands in PostgreSQL under a name like a table's, by `pg_class.relkind`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, with its schema if one was given, quoted as SQL wants it."""

    schema: str | None
    name: str

    @classmethod
    def of(cls, text: str) -> Table:
        *schemas, name = parts = text.split(".")
        for part in parts:
            if (
                len(schemas) > 1
                or not part
                or len(part.encode()) > _LONGEST
                or not re.fullmatch(r"[^\x00-\x1f]+", part)
            ):
                raise ConfigurationError(
                    f"--table {printable(text)!r} is no name of a table: give NAME or SCHEMA.NAME, "
                    f"each of at most {_LONGEST} bytes"
                )
        return cls(schemas[0] if schemas else None, name)

    @property
    def sql(self) -> str:
        return ".".join(quoted(part) for part in (self.schema, self.name) if part)

    @property
    def loads(self) -> Table:
        """The ledger beside it: one line for each load."""
        return Table(self.schema, f"{self.name}_loads")


def quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class LastLoad:
    """The last line of a ledger."""

    sha256: str
    finished: datetime
    endpoint: str | None = None
    """Where the ledger tells it, which only that of a Parquet file does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One output on its way into one table."""

    output: FinishedOutput
    drop: tuple[str, ...]
    """Courses without rows in the output whose old rows go all the same."""
    table: Table
    force: bool
    progress: Callable[[int, int], object] | None

    @property
    def columns(self) -> Sequence[tuple[str, str | None, str]]:
        return (*COLUMNS, *STAMP) if self.output.stamped else COLUMNS


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows that a load took away and brought."""

    deleted: int
    inserted: int


class Warehouse(Protocol):
    """A place that tables stand in."""

    name: str
    """For people; never holds a password."""

    def load(self, job: Job) -> Moved | None:
        """Replace the courses of the output in one transaction; None: they are there already."""


def is_new(output: FinishedOutput, last: LastLoad | None, *, force: bool) -> bool:
    """Whether the output is still to be loaded.

    Raises ConfigurationError for an older one, or one of another account.
    """
    if last is None or force:
        return True
    if last.endpoint is not None and output.endpoint != last.endpoint:
        raise ConfigurationError(
            f"{output.path} is of {printable(str(output.endpoint))}, what was loaded last of "
            f"{printable(last.endpoint)}: load it to another place; if it is the same account "
            "after a move, say --force"
        )
    if (last.sha256, last.finished) == (output.sha256, output.finished):
        return False
    if output.finished < last.finished:
        raise ConfigurationError(
            f"{output.path} was finished at {output.finished.isoformat()}, before the one that was "
            f"loaded last ({last.finished.isoformat()}): load newer ones, or insist with --force"
        )
    return True


def check_kinds(found: Sequence[tuple[str, str]]) -> None:
    """Raise ConfigurationError if a name is taken by what is no table; (name, its relkind)."""
    for name, kind in found:
        if kind not in {"r", "p"}:
            what = _KINDS.get(kind, "something else")
            raise ConfigurationError(f"{printable(name)} is {what}, no table: name another table")


def check_shape(
    name: str,
    found: Sequence[tuple[str, str]],
    job: Job,
    types: dict[str, str],
    *,
    grows: bool = True,
) -> None:
    """Raise ConfigurationError unless a table has our columns; `types` says them in its words.

    `grows`: whether columns can be added to what is there; to a Parquet file nobody can.
    """
    short = [(column, types[kind]) for column, _, kind in COLUMNS]
    full = short + [(column, types[kind]) for column, _, kind in STAMP]
    if list(found) == full or (list(found) == short and not job.output.stamped):
        return
    if list(found) == short:
        lacking = ", ".join(f"{column} {kind}" for column, kind in full[len(short) :])
        todo = f"add {lacking}, or name another" if grows else "name another"
        raise ConfigurationError(
            f"{name} has no columns for the stamps (--stamp) of {job.output.path}: {todo}"
        )
    shown = ", ".join(f"{column} {kind}" for column, kind in found)
    wanted = ", ".join(f"{column} {kind}" for column, kind in short)
    raise ConfigurationError(
        f"{name} is of another shape: it has {printable(shown, 400)}; it needs {wanted}; "
        "name another one"
    )


def required(column: str) -> str:
    return " not null" if column in REQUIRED else ""


def run_ids(output: FinishedOutput) -> str:
    return orjson.dumps(output.runs).decode()
