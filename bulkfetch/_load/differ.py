"""What changed within one course, told from its rows before and after.

Pure. Equal lines cancel first; only those that differ are parsed and compared by value, so
`100.0` and `1e2` are the same, and so are rows with other stamps. A learner may stand in a course
several times: each row counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.model import FinalStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAMP: Final = re.compile(
    rb',"_fetched_at":"[^"\\\n]*+","_run_id":"(?:[^"\\\n]++|\\.)*+"(?=\}(?:\n|\Z))'
)
_STAMPS: Final = ("_fetched_at", "_run_id")


@dataclass(frozen=True, slots=True)
class Added:
    """A row that the old output does not hold."""

    row: FinalStatus


@dataclass(frozen=True, slots=True)
class Changed:
    """A row of the same learner in the same course, with other values."""

    row: FinalStatus
    old: FinalStatus


@dataclass(frozen=True, slots=True)
class Removed:
    """A row that the new output, though it fetched the course, no longer holds."""

    row: FinalStatus


Change: TypeAlias = Added | Changed | Removed


def changes(gone: list[bytes], came: list[bytes]) -> Iterator[Change]:
    """Yield what became of rows of one course: the lines that may differ, before and after."""
    gone, came = _unequal(gone, came)
    lost: defaultdict[str, list[FinalStatus]] = defaultdict(list)
    for row in map(parsed, gone):
        lost[row.user_id].append(row)
    others = [row for row in map(parsed, came) if not _took(lost[row.user_id], row)]
    for row in others:
        rows = lost[row.user_id]
        yield Changed(row, rows.pop(0)) if rows else Added(row)
    for rows in lost.values():
        yield from map(Removed, rows)


def unstamped(lines: bytes) -> bytes:
    """Cut off when and by which run the rows were fetched."""
    return _STAMP.sub(b"", lines)


def parsed(line: bytes) -> FinalStatus:
    """Read one row, without its stamp; raises OutputError if it is none."""
    try:
        row: dict[str, Any] = orjson.loads(line)
        take = row.pop
        known = take("contentItemId"), take("userId"), take("status"), take("progress")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise OutputError("a row of a course cannot be read: it is damaged") from None
    extra = {name: row[name] for name in row if name not in _STAMPS} if row else None
    return FinalStatus(*known, extra or None)


def _unequal(gone: list[bytes], came: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the lines of either that the other lacks, each as often as it does."""
    if set(gone).isdisjoint(came):
        return gone, came
    old, new = Counter(gone), Counter(came)
    return list((old - new).elements()), list((new - old).elements())


def _took(rows: list[FinalStatus], row: FinalStatus) -> bool:
    """Take an equal row out of a list, if there is one."""
    found = row in rows
    if found:
        rows.remove(row)
    return found
