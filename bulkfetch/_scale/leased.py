"""A shard's limiter that asks for each start at the place which paces all shards.

It asks in `enter`, for every request: the limiter's own wait is skipped whenever nothing has to
wait. Whatever holds this shard up is told to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bulkfetch._pace.limiter import Limiter, Shut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bulkfetch._config.options import Options

_MOST: Final = 32
"""Start times asked for at once, and never more than there are requests waiting."""
_ASKED: Final = "Retry-After"
_LATE: Final = 0.02
"""Seconds, or an interval of the rate if that is longer, after which a start time is lost: used
then, it would be one of a burst."""


class Leases:
    """Start times from `ask`, which returns in how many seconds each of some requests may start.

    They count from when the answer came, which is never too early.
    """

    def __init__(
        self,
        ask: Callable[[int], Awaitable[list[float]]],
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask, self._clock, self._sleep = ask, clock, sleep
        self._late = max(_LATE, 1 / rate) if rate else _LATE
        self._starts: deque[float] = deque()
        self._turn = asyncio.Lock()
        self.waiting = 0

    async def take(self) -> None:
        """Wait for a start time; raises what `ask` raises."""
        self.waiting += 1
        try:
            while True:
                start = await self._next()
                if (left := start - self._clock()) > 0:
                    await self._sleep(left)
                if self._clock() - start <= self._late:
                    return
        finally:
            self.waiting -= 1

    def drop(self) -> None:
        """Lose what was given out: it came before a hold."""
        self._starts.clear()

    async def _next(self) -> float:
        async with self._turn:
            if not self._starts:
                found = await self._ask(min(self.waiting, _MOST))
                now = self._clock()
                self._starts.extend(now + seconds for seconds in found)
            return self._starts.popleft()


class LeasedLimiter(Limiter):
    """The limiter of one shard among others; `leases` is None where no rate is set.

    `tell_hold` is called with seconds and cause when the server asks this shard to wait.
    """

    __slots__ = ("_elsewhere", "_leases", "_rate_of_all", "_tell_hold")

    def __init__(
        self, options: Options, leases: Leases, tell_hold: Callable[[float, str], object]
    ) -> None:
        """Make the limiter of a shard; the options' rate is that of all shards together."""
        super().__init__(
            options.concurrency,
            adaptive=options.adaptive,
            max_hold=options.max_retry_after,
            retry_budget=options.retry_budget,
        )
        self._rate_of_all, self._tell_hold = options.rate, tell_hold
        self._leases = leases if options.rate else None
        self._elsewhere: Shut | None = None

    async def enter(self) -> None:
        """Wait for a slot, for this shard's own pace, then for a start of all."""
        await super().enter()
        if self._leases is None:
            return
        began = self._clock()
        try:
            await self._leases.take()
            while self.is_shut or self.held:
                self._leases.drop()
                await self._wait_for_start()
                await self._leases.take()
        except BaseException:
            self.leave()
            raise
        finally:
            self._add("rate", self._clock() - began)

    def hold(self, seconds: float, cause: str = _ASKED) -> None:
        """Start nothing for a while; what the server asked for the other shards get to know."""
        super().hold(seconds, cause)
        if cause == _ASKED:
            self._tell_hold(seconds, cause)

    @property
    def own_shut(self) -> str | None:
        """What this shard waits for of its own accord, if it does."""
        mine = [one.cause for one in self._shut if one is not self._elsewhere]
        return mine[-1] if mine else None

    def hear(self, news: Mapping[str, Any]) -> None:
        """Do as the other shards do: wait while they are held, go on when they do."""
        if news["held"] > self.held:
            super().hold(news["held"], news["cause"])
        if news["shut"] and self._elsewhere is None:
            self._elsewhere = self.shut(news["shut"])
        elif not news["shut"] and self._elsewhere is not None:
            self.reopen(self._elsewhere)
            self._elsewhere = None

    @property
    def waiting(self) -> str | None:
        if self._elsewhere is not None and self.own_shut is None:
            return f"{self._elsewhere.cause}; another shard probes it"
        said = super().waiting
        if said is None and self._leases is not None and self._leases.waiting:
            return f"limit {self._rate_of_all:g}/s"
        return said
