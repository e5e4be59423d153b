"""The one queue of a run: outcomes between the workers and whoever consumes them.

Bounded in number and in bytes, so that a slow consumer slows the workers and memory stays flat.
Outcomes, never rows: a queue per row would cost more than the rows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bulkfetch._model import Fetched

if TYPE_CHECKING:
    from bulkfetch._model import Outcome

_OUTBOX_BYTES: Final = 2 << 20
_OUTBOX_COURSES: Final = 256


class Outbox:
    """Outcomes on their way to the consumer, at most 256 or 2 MiB; in the ids' order if asked."""

    def __init__(self, *, ordered: bool) -> None:
        self._error: BaseException | None = None
        self._ordered = ordered
        self._items: dict[int, Outcome] = {}
        self._nbytes = 0
        self._next = 1
        self._ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, number: int, outcome: Outcome) -> None:
        """Add the outcome of id `number` (from 1); waits while there is no room."""
        while self._full(number):
            self._room.clear()
            await self._room.wait()
        self._items[number] = outcome
        self._nbytes += _weight(outcome)
        self._news.set()

    async def get(self, deadline: float | None = None) -> Outcome | None:
        """Return the next outcome, None at the deadline; at the end raises."""
        while (number := self._ready()) is None:
            if self._ended:
                raise self._error or StopAsyncIteration
            if not await self._wait(deadline):
                return None
        outcome = self._items.pop(number)
        self._next = number + 1
        self._nbytes -= _weight(outcome)
        self._room.set()
        return outcome

    def stop(self, error: BaseException) -> None:
        """Raise `error` at the end; what waits for a course that will not come need not wait."""
        self._error = error
        self._room.set()

    def end(self) -> None:
        """Say that no worker is left."""
        self._ended = True
        self._news.set()

    def close(self) -> None:
        """Free what nobody fetched, since whoever left may keep the run for long."""
        for outcome in self._items.values():
            if isinstance(outcome, Fetched):
                outcome.rows.close()
        self._items.clear()

    def _ready(self) -> int | None:
        if self._ordered:
            return self._next if self._next in self._items else None
        return next(iter(self._items), None)

    def _full(self, number: int) -> bool:
        if self._ordered and (number == self._next or self._error is not None):
            return False
        return len(self._items) >= _OUTBOX_COURSES or self._nbytes >= _OUTBOX_BYTES

    async def _wait(self, deadline: float | None) -> bool:
        self._news.clear()
        if deadline is None:
            return await self._news.wait()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._news.wait()
        except TimeoutError:
            return False


def _weight(outcome: Outcome) -> int:
    return outcome.rows.nbytes if isinstance(outcome, Fetched) else 0
