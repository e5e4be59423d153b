"""Slots, pace and pauses for the requests to one server: enter before each, leave after it.

The arithmetic is in `rules`, `window`, `learned`, `blame` and `crowd`; here are the clock, the
waiting, and the count of what is under way. Slots are given out in the order of asking. A wait may
be cancelled: the slot is handed on, at worst a start time goes unused. As long as nothing has to
wait, entering makes no future. One limiter may serve several streams of one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from bulkfetch._pace.blame import Blame, Verdict
from bulkfetch._pace.crowd import Crowd
from bulkfetch._pace.learned import LearnedRate
from bulkfetch._pace.rules import MOMENT, Hold, Pace, RetryBudget, Steady
from bulkfetch._pace.window import Window

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bulkfetch._config.options import Options

__all__ = ["Limiter"]

_ASKED = "Retry-After"  # the one cause of a hold that is the server's own word
_RETRY_POLL = 0.25  # seconds after which a waiting retry looks whether requests earned it


@dataclass(slots=True)
class Shut:
    """Why nothing starts, and the time of the next probe on the limiter's clock, if one is due."""

    cause: str
    until: float | None = None

    def in_words(self, now: float) -> str:
        if self.until is None or self.until <= now:
            return f"{self.cause}; probing it now"
        return f"{self.cause}; probing again in {ceil(self.until - now)} s"


class Limiter:
    """At most `concurrency` requests at once and `rate` starts a second, fewer under strain.

    `waited` holds the seconds that requests waited, added up over all of them, by cause: "rate",
    "slots", "retry budget", and the causes given to `hold`. `limit` is how many requests may be
    under way now, `in_flight` how many hold a slot, `started` how many ever got one.
    """

    __slots__ = (
        "_at_ease",
        "_blame",
        "_budget",
        "_cause",
        "_clock",
        "_concurrency",
        "_crowd",
        "_hold",
        "_learned",
        "_pace",
        "_pacing",
        "_plan",
        "_rate",
        "_reopened",
        "_retries_waiting",
        "_retry_turn",
        "_shut",
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
        self._crowd = Crowd()
        self._pace = Pace(self._rate)
        self._hold = Hold(max_hold)
        self._cause = _ASKED
        self._budget = RetryBudget(retry_budget)
        self._clock = clock if clock is time.monotonic else Steady(clock)
        self._sleep = sleep
        self._at_ease = False  # no start waits for anything but a slot
        self._turns: deque[asyncio.Future[None]] = deque()
        self._retry_turn = asyncio.Lock()
        self._pacing = self._plan = self._retries_waiting = 0
        self._waited: dict[str, float] = {}
        self._shut: list[Shut] = []
        self._reopened: asyncio.Event | None = None
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

    async def enter(self) -> None:
        """Wait for a slot, then for the time to start."""
        if self.in_flight < self.limit and not self._turns:
            self.in_flight += 1
        else:
            await self._wait_for_slot()
        if self._at_ease:  # the hot path: looking for what to wait for costs a small course 4 %
            now = self._clock()
            self._learned.used(now, now)
        else:
            try:
                await self._wait_for_start()
            except BaseException:
                self.leave()
                raise
        self.started += 1

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

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
            until = now + self._hold.left(now)
            demand = self.limit / round_trip if round_trip else inf
            self._learned.held(now, until, asked=cause == _ASKED, demand=demand)
            self._plan_anew(now)

    def shut(self, cause: str) -> Shut:
        """Start nothing until `reopen`; whoever shut it may probe past it."""
        one = Shut(cause)
        self._shut.append(one)
        if self._reopened is None:
            self._reopened = asyncio.Event()
        self._plan_anew(self._clock())
        return one

    def reopen(self, one: Shut) -> None:
        """Go on, unless somebody else shut it too."""
        self._shut.remove(one)
        if not self._shut and self._reopened is not None:
            self._reopened.set()
            self._reopened = None

    @property
    def is_shut(self) -> bool:
        return bool(self._shut)

    async def wait_until_reopened(self) -> None:
        """Wait while it is shut, without a slot."""
        if self._shut:
            began, cause = self._clock(), self._shut[-1].cause
            try:
                while self._reopened is not None:
                    await self._reopened.wait()
            finally:
                self._add(cause, self._clock() - began)

    @property
    def held(self) -> float:
        """Seconds that are left of a pause that was asked for."""
        return self._hold.left(self._clock())

    def succeeded(self, seconds: float) -> None:
        """Tell of a good answer and how many seconds it took from its start."""
        if self._window is None:
            return
        now = self._clock()
        self._blame.succeeded(now)
        self._crowd.count(now - seconds, now, good=True)
        self._learned.succeeded(now)
        self._window.succeeded(now, seconds)
        self._look_at_the_crowd(now)
        if self._window.limit != self.limit:
            self.limit = self._window.limit
            self._at_ease = False  # it may be a step beyond a known limit
            self._give_out()

    def strained(self, seconds: float = 0.0) -> None:
        """Tell of a sign of overload that took so long to come: 429, 503, a timeout."""
        if self._window is None:
            return
        now = self._clock()
        self._learned.refused()
        self._crowd.count(now - seconds, now, good=False)
        if self.in_flight <= self._window.wall:
            self._doubt(now, seconds)
        self._window.strained()
        self.limit = self._window.limit
        self._at_ease = False
        self._give_out()

    def _doubt(self, now: float, seconds: float) -> None:
        """Find out what a refusal has to do with that no known limit of requests explains."""
        assert self._window is not None
        if self._look_at_the_crowd(now):
            return
        verdict = self._blame.strained(now)
        if verdict is Verdict.FREE:
            self._window.unblamed()
            self._free(now)
        elif not self._blame.tolerated:
            self._lean_less(now, seconds, suspected=verdict is Verdict.LESS)

    def _look_at_the_crowd(self, now: float) -> bool:
        assert self._window is not None
        most = self._crowd.most(now, self._window.round_trip or 0.1)
        if most is None or most >= self._window.limit:
            return False
        self._window.keep(most, now)
        self._free(now)
        self._blame.explained()
        return True

    def _free(self, now: float) -> None:
        self._learned.unblamed()
        self._plan_anew(now)

    def _lean_less(self, now: float, seconds: float, *, suspected: bool) -> None:
        assert self._window is not None
        known = self._learned.rate(now)
        storm = self._blame.storm
        if self._learned.strained(now, now - seconds, suspected=suspected, storm=storm):
            if known == inf:
                self._window.unblamed()
            self._plan_anew(now)
            self._blame.lessened(now, now + (self._window.round_trip or 0.1))
        elif suspected and known == inf and self._blame.share >= 0.7:
            self._window.cut(now, self._blame.share)

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

    def forgive_retries(self) -> None:
        """Count the retries so far against nobody: it was shown that they harm no server."""
        self._budget.refill()

    @property
    def waited(self) -> Mapping[str, float]:
        return self._waited

    @property
    def waiting(self) -> str | None:
        """Why requests wait right now, in words for a person; None if none does."""
        now = self._clock()
        if self._shut:
            return self._shut[-1].in_words(now)
        if left := self._hold.left(now):
            return f"{self._cause}, {ceil(left)} s left"
        if self._pacing and self._pace.rate == self._rate != inf:
            return f"limit {self._rate:g}/s"
        if self._pacing and (known := self._learned.known(now)):
            return f"the server takes about {known:.2g}/s"
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
                if self._shut:
                    await self.wait_until_reopened()
                now = self._clock()
                start = self._next_start(now)
                if start > now:
                    await self._wait_until(start, now)
        finally:
            self._pacing -= 1

    async def _wait_until(self, start: float, now: float) -> None:
        """Wait for a start, as long as the plan holds; make a new plan if it was slept through."""
        plan, before = self._plan, -inf
        # A timer may be a little early; a clock that stands still will bring nothing more.
        while start - now > MOMENT and now > before and plan == self._plan:
            await self._pause(now, start)
            before, now = now, self._clock()
        if plan == self._plan and self._pace.missed(now, start):
            self._plan_anew(now)

    def _plan_anew(self, now: float) -> None:
        """Make everybody who waits for a start time ask for another when that comes."""
        self._plan += 1
        self._at_ease = False
        self._pace.restart(now)

    def _next_start(self, now: float) -> float:
        self._pace.rate = min(self._rate, self._learned.rate(now), self._step())
        start = self._pace.next_start(now, after=self._hold.next_start(now))
        self._learned.used(now, start)
        self._at_ease = self._pace.rate == inf and not self._shut and self._hold.over(now)
        return start

    def _step(self) -> float:
        """Return the pace of a step beyond a known limit: two that start at once prove nothing."""
        window = self._window
        if window is None or window.limit <= window.wall or window.round_trip is None:
            return inf
        return window.limit / window.round_trip

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
