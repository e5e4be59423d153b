"""What the stop rules advise, carried out: hold, ask the control, go on or end the run.

One request at a time while the run is held, past the limiter, at once and then after growing
pauses. A hold ends by itself when a request that was under way brings a good answer after all.
Before the run is ended, older requests may still finish; they are waited for, but never for long.
Whenever its task is cancelled, the limiter, which others may share, is open again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import CourseError, Transient
from bulkfetch._engine.stopping import GiveUp, RenewToken, Suspend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from bulkfetch._domain.errors import RunError
    from bulkfetch._engine.course import Fetcher
    from bulkfetch._engine.stopping import Stopping
    from bulkfetch._pace.limiter import Limiter, Shut

_SHORTEST_PROBE: Final = 0.1
_LAST_PAUSES: Final = (0.0, 1.0, 2.0)
"""Before the probes at the end of a list, each of another control."""


class Holding:
    """Follows the advice of `stopping` for one run.

    `probe` asks for a course past the limiter and returns how it failed, `stop` ends the run,
    `spawn` starts a task of it, `held` is told of each hold: Unix time, seconds, cause.
    """

    def __init__(
        self,
        stopping: Stopping,
        fetcher: Fetcher,
        limiter: Limiter,
        *,
        probe: Callable[[str], Awaitable[CourseError | None]],
        stop: Callable[[BaseException], object],
        spawn: Callable[[Coroutine[object, object, None]], object],
        held: Callable[[float, float, str], object] = lambda *_: None,
    ) -> None:
        self._stopping = stopping
        self._fetcher = fetcher
        self._limiter = limiter
        self._ask = probe
        self._stop = stop
        self._spawn = spawn
        self._held = held
        self._news = asyncio.Event()
        self._rested = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._shut: Shut | None = None
        self._began = 0.0
        self._at_work = self._closed = False

    def close(self) -> None:
        """Look no more, and let go of the limiter."""
        self._closed = True
        self._rest()
        if self._timer:
            self._timer.cancel()

    def look(self) -> None:
        """Ask what to do, after an answer or when the time for it has come."""
        self._news.set()
        if self._at_work or self._closed:
            return
        now = time.monotonic()
        match self._stopping.advice(now):
            case Suspend(cause):
                self._shut_for(cause)
                self._begin(self._hold)
            case GiveUp(error):
                self._shut_for("the run ends")
                self._begin(self._end_when_quiet, error)
            case RenewToken():
                self._begin(self._renew)
            case None:
                self._look_again(now)

    async def last_control(self) -> CourseError | None:
        """At the end of a list, ask a control; return how the last one failed, None: all is well.

        Raises what made asking impossible.
        """
        self.close()
        error = None
        for pause in _LAST_PAUSES:
            await asyncio.sleep(max(pause, self._limiter.held))
            error = await self._probe()
            self._stopping.probed(time.monotonic(), error)
            if not self._stopping.in_streak:
                return None
        return error

    async def at_rest(self) -> None:
        """Wait until a hold that is going on is over."""
        while self._at_work:
            await self._rested.wait()

    def _shut_for(self, cause: str) -> None:
        self._shut, self._began = self._limiter.shut(cause), time.time()

    def _begin(self, work: Callable[..., Awaitable[bool]], *args: object) -> None:
        """Have the work done by a task; what must be so from this moment on was done before."""
        self._at_work = True
        self._rested.clear()
        self._spawn(self._carry_out(work, *args))

    async def _carry_out(self, work: Callable[..., Awaitable[bool]], *args: object) -> None:
        try:
            ended = await work(*args)
        except Exception as error:  # noqa: BLE001 - of the token's source: the consumer's
            self._stop(error)
            ended = True
        finally:
            self._rest()
        if ended:
            self.close()
        else:
            self.look()

    def _rest(self) -> None:
        """Be done with the work, also when its task was cancelled before it began."""
        self._at_work = False
        self._rested.set()
        if self._shut is not None:
            shut, self._shut = self._shut, None
            self._limiter.reopen(shut)
            self._held(self._began, time.time() - self._began, shut.cause)

    def _look_again(self, now: float) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        due = self._stopping.wake(now) - now
        if 0 < due < inf:
            self._timer = asyncio.get_running_loop().call_later(due, self.look)

    async def _hold(self) -> bool:
        """Go on when a probe is good or an older request brings something; true: the run ends."""
        while self._stopping.troubled(now := time.monotonic()):
            pause = max(self._stopping.pause(now), self._limiter.held)
            if await self._cleared_within(pause):
                break
            error = await self._probe(within=self._probe_seconds())
            advice = self._stopping.probed(time.monotonic(), error)
            if self._stopping.absolved:
                self._limiter.forgive_retries()
            if isinstance(advice, GiveUp):
                return await self._end_when_quiet(advice.error)
        return False

    def _probe_seconds(self) -> float | None:
        """Return how long a probe may take: where nothing ever came, not beyond the patience."""
        now = time.monotonic()
        wake = self._stopping.wake(now)
        if self._stopping.proven or wake == inf:
            return None
        return max(_SHORTEST_PROBE, wake - now)

    async def _probe(self, within: float | None = None) -> CourseError | None:
        course_id = self._stopping.control()
        if course_id is None:
            return None
        try:
            async with asyncio.timeout(within):
                return await self._ask(course_id)
        except TimeoutError:
            return Transient("timeout", "the probe was not answered in time", overload=True)

    async def _cleared_within(self, seconds: float) -> bool:
        """Wait, telling how long; true as soon as there is no reason to hold any more."""
        deadline = time.monotonic() + seconds
        if self._shut is not None:
            self._shut.until = deadline
        while self._stopping.troubled(now := time.monotonic()):
            if now >= deadline:
                return False
            await self._news_within(deadline - now)
        return True

    async def _end_when_quiet(self, error: RunError) -> bool:
        """End the run, unless a request that is under way brings a good answer first."""
        deadline = time.monotonic() + self._stopping.wait_for_older
        while self._fetcher.in_flight and (now := time.monotonic()) < deadline:
            await self._news_within(deadline - now)
            if not self._stopping.troubled(time.monotonic()):
                return False
        self._stop(error)
        return True

    async def _news_within(self, seconds: float) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _renew(self) -> bool:
        with suppress(CourseError):  # the next answers will tell
            await self._fetcher.renew_token()
        return False
