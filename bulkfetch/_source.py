"""Ids in, one by one: each once, none that is settled, none before it is needed.

A million ids do not become a million objects: the ids seen are kept in a set until there are many,
then in a private temporary database on disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final

from bulkfetch._errors import ConfigurationError, OutputError
from bulkfetch._protocol import check_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Iterator

_MOST_IN_MEMORY: Final = 50_000
_BREATH: Final = 1_000
_END: Final = object()


class SeenIds:
    """A set that stays small: past 50,000 members it moves to an unnamed file (5 us per id)."""

    def __init__(self, most_in_memory: int = _MOST_IN_MEMORY) -> None:
        self._most = most_in_memory
        self._few: set[str] = set()
        self._many: sqlite3.Connection | None = None

    def add(self, course_id: str) -> bool:
        """Return whether the id is new."""
        if self._many is not None:
            cursor = self._many.execute("insert or ignore into seen values (?)", (course_id,))
            return cursor.rowcount == 1
        before = len(self._few)
        self._few.add(course_id)
        if len(self._few) > self._most:
            self._move()
        return self._many is not None or len(self._few) > before

    def close(self) -> None:
        if self._many is not None:
            self._many.close()

    def _move(self) -> None:
        self._many = sqlite3.connect("", isolation_level=None)  # a private file, unlinked
        self._many.execute("pragma journal_mode = off")
        self._many.execute("pragma synchronous = off")
        self._many.execute("create table seen (id text primary key) without rowid")
        self._many.execute("begin")
        self._many.executemany("insert into seen values (?)", ((one,) for one in self._few))
        self._few.clear()


class Source:
    """Serves the workers of one run; every id at most once, and at most `limit` of them."""

    def __init__(
        self,
        ids: Iterable[str] | AsyncIterable[str],
        settled: Container[str] = frozenset(),
        limit: int | None = None,
    ) -> None:
        self._ids: Iterator[str] | None = None
        self._async_ids: AsyncIterator[str] | None = None
        if isinstance(ids, str):
            raise ConfigurationError(f"the ids are one string, {ids[:40]!r}: give a list of ids")
        if isinstance(ids, AsyncIterable):
            self._async_ids = aiter(ids)
        else:
            self._ids = iter(ids)
        self._settled = settled
        self._left = limit
        self._seen = SeenIds()
        self._turn = asyncio.Lock()
        self.given = 0
        self.duplicates = 0
        self.skipped = 0

    async def next(self) -> tuple[int, str] | None:
        """Return the next id to fetch and its number from 1, None at the end.

        Raises ConfigurationError for an id no server could mean, and whatever the ids raise.
        """
        while self._left is None or self._left > 0:
            # Not one coroutine more than needed: this is the hot path.
            course_id = await self._pull() if self._ids is None else next(self._ids, _END)
            if course_id is _END:
                return None
            if not isinstance(course_id, str):
                raise ConfigurationError(f"an id is {course_id!r}: ids are text; correct the list")
            if self._wanted(course_id):
                self.given += 1
                if self._left is not None:
                    self._left -= 1
                return self.given, course_id
            if self.skipped % _BREATH == 0:
                await asyncio.sleep(0)  # a long settled list must not hold up the others
        return None

    def close(self) -> None:
        self._seen.close()

    async def _pull(self) -> object:
        async with self._turn:  # an async generator serves one at a time
            assert self._async_ids is not None
            if self._left is not None and self._left <= 0:
                return _END
            return await anext(self._async_ids, _END)

    def _wanted(self, course_id: str) -> bool:
        try:
            check_id(course_id)
        except ValueError as error:
            raise ConfigurationError(f"{error}; correct the list of ids") from None
        if course_id in self._settled:
            self.skipped += 1
            return False
        if not self._is_new(course_id):
            self.duplicates += 1
            return False
        return True

    def _is_new(self, course_id: str) -> bool:
        try:
            return self._seen.add(course_id)
        except sqlite3.Error as error:
            raise OutputError(
                f"cannot keep the ids seen in a temporary file ({error}): free some space there, "
                "then run the same command again to go on"
            ) from None
