"""When the next request may start, and when no more should: arithmetic on a given `now`.

Nothing here reads a clock, sleeps or knows asyncio, so that every rule can be tested by table and
by property. Each class holds one rule; the limiter puts them together. `now` is in seconds and
never goes back: whoever reads a clock that may, reads it through `Steady`.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOMENT", "Hold", "Pace", "RetryBudget", "Steady", "retry_pause"]

MOMENT = 1e-6  # seconds that are none to a person, and more than a clock's rounding
_MADE_UP = 0.02  # seconds of lateness that are made up at any rate


class Steady:
    """A clock that goes on from where it was when the one below it steps back."""

    __slots__ = ("_clock", "_lost", "_seen")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen, self._lost = -inf, 0.0

    def __call__(self) -> float:
        now = self._clock() + self._lost
        if now < self._seen:
            self._lost += self._seen - now
            now = self._seen
        self._seen = now
        return now


class Pace:
    """Start times at least `1 / rate` seconds apart; idle time is not saved up for a burst.

    `rate` may change between starts; infinity paces nothing.
    """

    __slots__ = ("_next", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._next = -inf

    def next_start(self, now: float, *, after: float = -inf) -> float:
        """Reserve the next start: not before `now`, nor before `after`."""
        start = max(now, after, self._next)
        self._next = start + 1 / self.rate
        return start

    def missed(self, now: float, start: float) -> bool:
        """Whether it is too late for a start: kept now, it would be one of a burst."""
        return now - start > max(1 / self.rate, _MADE_UP)

    def restart(self, now: float) -> None:
        """Give all reservations after `now` back; those who held one must reserve anew."""
        self._next = min(self._next, now + 1 / self.rate)


class Hold:
    """Until when the whole host is left alone; what waited for its end starts spread out.

    No hold is longer than `longest` seconds, whatever the server asks for.
    """

    __slots__ = ("_longest", "_spread", "_spread_until", "_until")

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._until = self._spread_until = -inf
        self._spread = Pace(inf)

    def extend(self, now: float, seconds: float, *, crowd: int, within: float = 1.0) -> bool:
        """Hold for `seconds` from now; false when a longer hold is in force already.

        The first `crowd` starts afterwards are spread over `within` seconds, at most one.
        Anything but a positive number of seconds holds nothing.
        """
        length = min(seconds, self._longest)
        if not length > self.left(now):
            return False
        spread = min(1.0, within)
        self._until = now + length
        self._spread_until = self._until + spread
        self._spread = Pace(crowd / spread)
        return True

    def left(self, now: float) -> float:
        """Return how many seconds of the hold are left."""
        return max(0.0, self._until - now)

    def over(self, now: float) -> bool:
        """Whether neither the hold nor the spread after it is in force."""
        return not self.left(now) and now >= self._spread_until

    def next_start(self, now: float) -> float:
        """Reserve the earliest start that the hold allows."""
        if self.over(now):
            return now
        return self._spread.next_start(now, after=self._until)


class RetryBudget:
    """Retries as a share of all requests within the last `window` seconds, plus a `minimum`.

    A retry beyond it waits; none is dropped. One that was allowed counts from then on, also
    while it waits out its pause.
    """

    __slots__ = ("_allowed", "_marks", "_minimum", "_share", "_window")

    def __init__(self, share: float, minimum: int = 100, *, window: float = 10.0) -> None:
        self._share = share
        self._minimum = minimum
        self._window = window
        self._allowed: deque[float] = deque()
        self._marks: deque[tuple[float, int]] = deque()

    def take(self, now: float, *, requests: int) -> float:
        """Take one retry and return 0, or return the seconds after which one is free at the latest.

        `requests` is the number of all requests started so far. It is noted at each call only, so
        that requests cost nothing; the count of the window may therefore be too low, never too
        high.
        """
        self._forget(now)
        if not self._marks or now - self._marks[-1][0] >= self._window / 20:
            self._marks.append((now, requests))
        recent = requests - self._marks[0][1]
        if len(self._allowed) < self._minimum + int(self._share * recent):
            self._allowed.append(now)
            return 0.0
        wait = self._allowed[0] + self._window - now if self._allowed else self._window
        return max(wait, MOMENT)

    def refill(self) -> None:
        """Count no retry that was allowed before: the full minimum is free again."""
        self._allowed.clear()

    def _forget(self, now: float) -> None:
        while self._marks and self._marks[0][0] <= now - self._window:
            self._marks.popleft()
        while self._allowed and self._allowed[0] <= now - self._window:
            self._allowed.popleft()


def retry_pause(
    attempt: int,
    *,
    backoff: float,
    max_backoff: float,
    random: Callable[[], float],
    retry_after: float | None = None,
    max_retry_after: float = 300.0,
    overload: bool = False,
) -> float:
    """Return the seconds to wait after try number `attempt` (from 1) failed.

    Ordinary failures wait a random time below `backoff`, doubled with each try (full jitter). An
    overloaded server is given at least half of that, and any server the time it asks for, up to
    `max_retry_after`. `random` returns numbers from 0 to 1.
    """
    longest = min(max_backoff, backoff * 2.0 ** min(attempt - 1, 60))
    jitter = longest * random()
    if retry_after is not None and retry_after > 0:
        return min(retry_after, max_retry_after) + jitter
    return (longest + jitter) / 2 if overload else jitter
