"""What is kept of the ids that passed: those seen, and those put aside for the end.

A million ids do not become a million objects. Few are kept in memory, many in a file without a
name, in the directory of the output: where rows can be written, ids can, while /tmp may be
read-only or small.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_MOST_IN_MEMORY: Final = 50_000


class SeenIds:
    """A set that stays small: past 50,000 members it moves to an unnamed file (5 us per id).

    The file is made in `directory` (the system's temporary one by default). Raises OutputError
    when it cannot be written.
    """

    def __init__(self, directory: str | None = None, *, most: int = _MOST_IN_MEMORY) -> None:
        self._directory = directory
        self._most = most
        self._few: set[str] = set()
        self._many: sqlite3.Connection | None = None

    def add(self, course_id: str) -> bool:
        """Return whether the id is new."""
        if self._many is not None:
            with _failures(self._directory):
                cursor = self._many.execute("insert or ignore into seen values (?)", (course_id,))
            return cursor.rowcount == 1
        before = len(self._few)
        self._few.add(course_id)
        if len(self._few) == before:
            return False
        if len(self._few) > self._most:
            with _failures(self._directory):
                self._move()
        return True

    def close(self) -> None:
        if self._many is not None:
            self._many.close()

    def _move(self) -> None:
        self._many = _database(self._directory)
        self._many.execute("create table seen (id text primary key) without rowid")
        self._many.execute("begin")
        self._many.executemany("insert into seen values (?)", ((one,) for one in self._few))
        self._few.clear()


class Aside:
    """A queue of ids: all come in, then all go out; past 50,000 they move to an unnamed file."""

    def __init__(self, directory: str | None = None, *, most: int = _MOST_IN_MEMORY) -> None:
        self._directory = directory
        self._most = most
        self._few: list[str] = []
        self._file: TextIO | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, course_id: str) -> None:
        """Put one at the end; `course_id` holds no line feed."""
        self._few.append(course_id)
        self._count += 1
        if len(self._few) > self._most:
            with _failures(self._directory):
                self._move()

    def __iter__(self) -> Iterator[str]:
        """Yield all in the order in which they came; none may come afterwards."""
        if self._file is not None:
            with _failures(self._directory):
                self._file.seek(0)  # writes what is buffered first
                for line in self._file:
                    yield line[:-1]
        yield from self._few

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _move(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - as long as the run
                "w+", encoding="utf-8", newline="\n", dir=self._directory
            )
        self._file.writelines(f"{one}\n" for one in self._few)
        self._few.clear()


def _database(directory: str | None) -> sqlite3.Connection:
    """Open a private database without a name, a journal and locks, which some mounts lack."""
    fd, path = tempfile.mkstemp(prefix=".bulkfetch-ids-", dir=directory)
    os.close(fd)
    try:
        address = f"file:{quote(os.fsencode(path))}?nolock=1"
        database = sqlite3.connect(address, uri=True, isolation_level=None)
        database.execute("pragma journal_mode = off")
        database.execute("pragma synchronous = off")
    finally:
        Path(path).unlink()
    return database


@contextmanager
def _failures(directory: str | None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        where = printable(directory or tempfile.gettempdir())
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise OutputError(
            f"cannot keep the ids seen in a temporary file in {where} ({reason}): make room "
            "there, then run the same command again to go on"
        ) from None
