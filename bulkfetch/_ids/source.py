"""Ids in, one by one: each once, none that is settled, none before it is needed.

What never was asked comes before what failed in an earlier run, so that no head of bad ids blocks
a list for ever. A shard takes its share by the id's checksum: the same id is always in the same
shard, whatever else is in the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final, TypeGuard
from zlib import crc32

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import printable
from bulkfetch._ids.check import check_id
from bulkfetch._ids.spill import Aside, SeenIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Iterator

_BREATH: Final = 1_000
_SILENCE: Final = 0.1
"""Seconds after which a pipe that neither says more nor ends is taken for one that goes on."""
_END: Final = object()


class Source:
    """Serves the workers of one run; every id at most once, and at most `limit` of them.

    Ids in `last` are put aside and given after all others, in their order. `shard` (i, n) takes
    only ids whose crc32 modulo n is i. What is kept of many ids lies in the directory `spill`, by
    default the system's temporary one.
    """

    def __init__(
        self,
        ids: Iterable[str] | AsyncIterable[str],
        settled: Container[str] = frozenset(),
        limit: int | None = None,
        *,
        last: Container[str] = frozenset(),
        spill: str | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        self._ids: Iterator[str] | None = None
        self._async_ids: AsyncIterator[str] | None = None
        if isinstance(ids, str):
            start = printable(ids, 40)
            raise ConfigurationError(f"the ids are one string, {start!r}: give a list of ids")
        if isinstance(ids, AsyncIterable):
            self._async_ids = aiter(ids)
        else:
            self._ids = iter(ids)
        self._settled = settled
        self._last = last
        self._limit = limit
        self._shard = shard
        self._known = SeenIds(spill)
        self._aside = Aside(spill)
        self._again: Iterator[str] | None = None
        """The ids put aside, once all others were given."""
        self._turn = asyncio.Lock()
        self.seen = 0
        """Ids looked at."""
        self.elsewhere = 0
        """Ids of other shards."""
        self.given = 0
        self.duplicates = 0
        self.skipped = 0
        """Ids that earlier runs had settled."""
        self.limited = False
        """Whether the limit cut the list, or may have (a pipe goes on); known at the end."""

    async def next(self) -> tuple[int, str] | None:
        """Return the next id to fetch and its number from 1, None at the end.

        Raises ConfigurationError for an id no server could mean, OutputError when the ids seen
        find no room, and whatever the ids raise.
        """
        while self._again is None and not self.limited:
            if self.seen % _BREATH == 0:
                await asyncio.sleep(0)  # a long list of settled or repeated ids holds nobody up
            # Not one coroutine more than needed: this is the hot path.
            course_id = await self._pull() if self._ids is None else next(self._ids, _END)
            if course_id is _END:
                self._again = self._again or iter(self._aside)
            elif self._wanted(course_id):
                return self._give(course_id)
        again = next(self._again, None) if self._again else None
        return None if again is None else self._give(again)

    def close(self) -> None:
        self._known.close()
        self._aside.close()

    def _give(self, course_id: str) -> tuple[int, str] | None:
        if self._limit is not None and self.given >= self._limit:
            self.limited = True
            return None
        self.given += 1
        return self.given, course_id

    async def _pull(self) -> object:
        assert self._async_ids is not None
        async with self._turn:  # an async generator serves one at a time
            if self._limit is None or self.given < self._limit:
                return await anext(self._async_ids, _END)
            return _END if self.limited else await self._look_past(self._async_ids)

    async def _look_past(self, ids: AsyncIterator[str]) -> object:
        """Return what comes after the limit; wait for nothing that may never come."""
        try:
            async with asyncio.timeout(_SILENCE) as silence:
                return await anext(ids, _END)
        except TimeoutError:
            if not silence.expired():
                raise
            self.limited = True
            return _END

    def _wanted(self, course_id: object) -> TypeGuard[str]:
        self.seen += 1
        if not isinstance(course_id, str):
            raise ConfigurationError(f"an id is {course_id!r}: ids are text; correct the list")
        try:
            check_id(course_id)
        except ValueError as error:
            raise ConfigurationError(f"{error}; correct the list of ids") from None
        if self._shard and not _falls_into(self._shard, course_id):
            self.elsewhere += 1
            return False
        if course_id in self._settled:
            self.skipped += 1
            return False
        if not self._known.add(course_id):
            self.duplicates += 1
            return False
        if course_id in self._last:
            self._aside.add(course_id)
            return False
        return True


def shard_of(course_id: str, count: int) -> int:
    """Return into which of `count` shards an id falls: always the same."""
    return crc32(course_id.encode()) % count


def _falls_into(shard: tuple[int, int], course_id: str) -> bool:
    index, count = shard
    return shard_of(course_id, count) == index
