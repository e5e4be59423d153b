"""Slots, pace and pauses for the requests to one server: enter before each, leave after it.

The arithmetic is in `_pacing`; here are the clock, the waiting, and the count of what is under
way. Slots are given out in the order of asking. Every wait may be cancelled: the slot is handed
on, at worst a start time goes unused. As long as nothing has to wait, entering makes no future
and reads no clock. One limiter may serve several streams of one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from bulkfetch._adaptive import Blame, LearnedRate, Window
from bulkfetch._pacing import Hold, Pace, RetryBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bulkfetch._options import Options

__all__ = ["Limiter"]

_ASKED = "Retry-After"  # the one cause of a hold that is the server's own word
_RETRY_POLL = 0.25  # seconds after which a waiting retry looks whether requests earned it


class Limiter:
    """At most `concurrency` requests at once and `rate` starts a second, fewer under strain.

    `waited` holds the seconds that requests waited, added up over all of them, by cause: "rate",
    "slots", "retry budget", and the causes given to `hold`. `limit` is how many requests may be
    under way now, `in_flight` how many hold a slot, `started` how many ever got one.
    """

    __slots__ = (
        "_blame",
        "_budget",
        "_calm",
        "_cause",
        "_clock",
        "_concurrency",
        "_hold",
        "_learned",
        "_pace",
        "_pacing",
        "_plan",
        "_rate",
        "_retries_waiting",
        "_retry_turn",
        "_sleep",
        "_turns",
        "_waited",
        "_window",
        "in_flight",
        "limit",
        "started",
    )

    def __init__(
        self,
        concurrency: int,
        rate: float | None = None,
        *,
        adaptive: bool = True,
        max_hold: float = 300,
        retry_budget: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._concurrency = concurrency
        self._rate = inf if rate is None else rate
        self._window = Window(concurrency) if adaptive else None
        self._learned = LearnedRate()
        self._blame = Blame()
        self._pace = Pace(self._rate)
        self._hold = Hold(max_hold)
        self._cause = _ASKED
        self._budget = RetryBudget(retry_budget)
        self._clock, self._sleep = clock, sleep
        self._calm = rate is None
        self._turns: deque[asyncio.Future[None]] = deque()
        self._retry_turn = asyncio.Lock()
        self._pacing = self._plan = self._retries_waiting = 0
        self._waited: dict[str, float] = {}
        self.limit = self._window.limit if self._window else concurrency
        self.in_flight = self.started = 0

    @classmethod
    def of(cls, options: Options) -> Limiter:
        """Make the limiter that a run with these options makes for itself."""
        return cls(
            options.concurrency,
            options.rate,
            adaptive=options.adaptive,
            max_hold=options.max_retry_after,
            retry_budget=options.retry_budget,
        )

    async def __aenter__(self) -> None:
        """Wait for a slot, then for the time to start."""
        if not self.enter_at_once():
            await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def enter_at_once(self) -> bool:
        """Take a slot if nothing has to be waited for: no pace, no pause, nobody who came before.

        Without the two coroutines of `async with`, which cost a small request half a percent.
        """
        if not self._calm or self.in_flight >= self.limit or self._turns:
            return False
        self.in_flight += 1
        self.started += 1
        return True

    async def enter(self) -> None:
        """Wait for a slot, then for the time to start; call it when `enter_at_once` says no."""
        await self._wait_for_slot()
        try:
            await self._wait_for_start()
        except BaseException:
            self.leave()
            raise
        self.started += 1

    def leave(self) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        if self._turns:
            self._give_out()

    def hold(self, seconds: float, cause: str = _ASKED) -> None:
        """Start nothing for `seconds`, at most `max_hold`; requests under way go on."""
        now = self._clock()
        round_trip = self._window.round_trip if self._window else None
        if self._hold.extend(now, seconds, crowd=self.limit, within=round_trip or 1.0):
            self._cause = cause
            self._learned.held(now, now + self._hold.left(now), asked=cause == _ASKED)
            self._plan_anew(now)

    def succeeded(self, seconds: float) -> None:
        """Tell of a good answer and how many seconds it took from its start."""
        if self._window is None:
            return
        now = self._clock()
        if self._blame.active:
            self._blame.succeeded(now, limit=self.limit, rate=self._pace.rate)
        self._learned.succeeded(now)
        self._window.succeeded(now, seconds)
        if self._window.limit != self.limit:
            self.limit = self._window.limit
            self._give_out()

    def strained(self) -> None:
        """Tell of a sign of overload: 429, 503, a timeout."""
        if self._window is None:
            return
        now = self._clock()
        if self._blame.strained(now, limit=self.limit, rate=self._pace.rate):
            self._learned.unblamed()
            self._window.unblamed()
            self._plan_anew(now)
        elif not self._blame.tolerated:
            if self._learned.strained(now):
                self._plan_anew(now)
            self._window.strained(now)
            self.limit = self._window.limit

    async def allow_retry(self) -> None:
        """Wait until the retry budget has room for one more retry, and take it."""
        self._retries_waiting += 1
        began = self._clock()
        try:
            async with self._retry_turn:
                while wait := self._budget.take(self._clock(), requests=self.started):
                    await self._sleep(min(wait, _RETRY_POLL))
        finally:
            self._retries_waiting -= 1
            self._add("retry budget", self._clock() - began)

    @property
    def waited(self) -> Mapping[str, float]:
        return self._waited

    @property
    def waiting(self) -> str | None:
        """Why requests wait right now, in words for a person; None if none does."""
        now = self._clock()
        if left := self._hold.left(now):
            return f"{self._cause} {left:.0f} s"
        if self._pacing and self._pace.rate == self._rate != inf:
            return f"limit {self._rate:g}/s"
        if self._pacing and self._pace.rate != inf:
            return f"the server takes about {self._pace.rate:.2g}/s"
        if self._turns and self.limit < self._concurrency:
            return f"the server strains: {self.limit} of {self._concurrency} at once"
        return "retry budget" if self._retries_waiting else None

    def _give_out(self) -> None:
        while self._turns and self.in_flight < self.limit:
            turn = self._turns.popleft()
            if not turn.done():  # else cancelled, and about to leave
                self.in_flight += 1
                turn.set_result(None)

    async def _wait_for_slot(self) -> None:
        if self.in_flight < self.limit and not self._turns:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        began = self._clock()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # passed over already
                    self._turns.remove(turn)
            else:
                self.leave()  # the slot came in the same moment
            raise
        finally:
            self._add("slots", self._clock() - began)

    async def _wait_for_start(self) -> None:
        self._pacing += 1
        try:
            plan = -1
            while plan != self._plan:
                plan = self._plan
                now = self._clock()
                start = self._next_start(now)
                while start > now and plan == self._plan:
                    await self._pause(now, start)
                    now = self._clock()
        finally:
            self._pacing -= 1

    def _plan_anew(self, now: float) -> None:
        """Make everybody who waits for a start time ask for another when that comes."""
        self._plan += 1
        self._calm = False
        self._pace.restart(now)

    def _next_start(self, now: float) -> float:
        self._pace.rate = min(self._rate, self._learned.rate(now))
        over = self._hold.over(now)
        self._calm = over and self._pace.rate == inf
        return self._pace.next_start(now, after=self._hold.next_start(now))

    async def _pause(self, now: float, start: float) -> None:
        held = self._hold.left(now)
        cause = self._cause
        try:
            await self._sleep(start - now)
        finally:
            seconds = self._clock() - now
            if held:
                self._add(cause, min(held, seconds))
            if seconds > held:
                self._add("rate", seconds - held)

    def _add(self, cause: str, seconds: float) -> None:
        self._waited[cause] = self._waited.get(cause, 0.0) + seconds
