"""The one queue of a run: outcomes between the workers and whoever consumes them.

Bounded in number and in bytes, so that a slow consumer slows the workers and memory stays flat.
Outcomes, never rows: a queue per row would cost more than the rows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.model import Fetched

if TYPE_CHECKING:
    from bulkfetch._domain.model import Outcome

_OUTBOX_BYTES: Final = 2 << 20
_OUTBOX_COURSES: Final = 256
_ENOUGH: Final = 64
_ENOUGH_BYTES: Final = _OUTBOX_BYTES // 2
"""So many outcomes or bytes wake a consumer who has time."""


class Outbox:
    """Outcomes on their way to the consumer, at most 256 or 2 MiB; in the ids' order if asked."""

    def __init__(self, *, ordered: bool) -> None:
        self._error: BaseException | None = None
        self._ordered = ordered
        self._items: dict[int, Outcome] = {}
        self._nbytes = 0
        self._next = 1
        self._ended = False
        self._patient = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, number: int, outcome: Outcome) -> None:
        """Add the outcome of id `number` (from 1); waits while there is no room."""
        while self._crowded() and not self._due(number):
            self._room.clear()
            await self._room.wait()
        self._items[number] = outcome
        self._nbytes += _weight(outcome)
        if not self._patient or self._enough():
            self._news.set()

    async def get(self) -> Outcome:
        """Return the next outcome as soon as it is there; at the end raises."""
        while not self._ready():
            self._check_end()
            self._news.clear()
            await self._news.wait()
        return self._pop()

    async def take(self, deadline: float, nbytes: int) -> tuple[list[Outcome], int]:
        """Return what is there at the deadline (loop time), or before it if that is a lot.

        Also returns how many bytes their rows have; stops with the outcome that reaches `nbytes`.
        At the end raises. A task that is woken for every outcome costs a small course some 3 %.
        """
        if not self._enough():
            self._check_end()
            await self._wait_for_many(deadline)
        if self._nbytes <= nbytes and not self._ordered:
            return self._take_all()
        taken: list[Outcome] = []
        before = self._nbytes
        while before - self._nbytes < nbytes and self._ready():
            taken.append(self._pop())
        return taken, before - self._nbytes

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

    def _ready(self) -> bool:
        return self._next in self._items if self._ordered else bool(self._items)

    def _enough(self) -> bool:
        return self._ready() and (
            len(self._items) >= _ENOUGH or self._nbytes >= _ENOUGH_BYTES or self._ended
        )

    def _pop(self) -> Outcome:
        number = self._next if self._ordered else next(iter(self._items))
        outcome = self._items.pop(number)
        self._next = number + 1
        self._nbytes -= _weight(outcome)
        self._room.set()
        return outcome

    def _take_all(self) -> tuple[list[Outcome], int]:
        taken, nbytes = list(self._items.values()), self._nbytes
        self._items.clear()
        self._nbytes = 0
        self._room.set()
        return taken, nbytes

    def _check_end(self) -> None:
        if self._ended and not self._ready():
            raise self._error or StopAsyncIteration

    def _crowded(self) -> bool:
        return self._nbytes >= _OUTBOX_BYTES or len(self._items) >= _OUTBOX_COURSES

    def _due(self, number: int) -> bool:
        """Whether the consumer waits for this one, or for none any more."""
        return self._ordered and (number == self._next or self._error is not None)

    async def _wait_for_many(self, deadline: float) -> None:
        self._news.clear()
        self._patient = True
        try:
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._patient = False


def _weight(outcome: Outcome) -> int:
    return outcome.rows.nbytes if isinstance(outcome, Fetched) else 0
