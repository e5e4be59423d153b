"""How many requests a second a server takes, learned from its answers: arithmetic on a given `now`.

Whether refusals have to do with that is told in `blame`. The numbers came out of simulated servers
in virtual time (`python -m benchmarks.pacing`).
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import Final

from bulkfetch._pace.pauses import PauseTrial

__all__ = ["LearnedRate"]

_SPAN = 2.0  # seconds over which accepted requests are counted
_ENOUGH = 0.25  # less than this many seconds says nothing about a rate
_NOISE = 0.04  # a smaller share of refusals, or a lone one, is no reason to go slower for seconds
_PERIOD = 20.0, 90.0  # seconds from a cut to the next probe, at least and at most
_PERIOD_REQUESTS = 500  # and between these bounds as long as so many requests take
_SOONER: Final = (16, 8, 4, 2, 1)
"""The first guesses are rough: the first probes come sooner by these factors."""
_MANY = 8  # accepted requests tell a rate
_LEAST_RATE = 1.0
_FURTHEST = 4  # a guess is climbed from, this many times as long, before it is given up
_ONE = 0.05  # seconds within which a refusal and the pause it asks for are one sign
_PROBE_BELOW = 0.98  # the share of the accepted rate at which the climb rests


class LearnedRate:
    """The server's own limit of requests per second, as its refusals tell it.

    Fewer requests at once do not keep a fast server's limit per second, so refusals also set a
    rate: a little less than what was accepted. It climbs back to just under that rate, stays
    there, then rises ever faster until the next refusal (the curve is TCP CUBIC's, RFC 9438), so
    that a probe costs few refusals and recovery is quick. A further cut soon after the last one
    comes ever later: set by what was accepted, one cut is enough if the rate is the trouble.
    Refusals of everything are an outage and teach nothing; limits of less than one request a
    second are left to Retry-After.
    """

    __slots__ = (
        "_asked",
        "_before",
        "_cut_at",
        "_first",
        "_floor",
        "_good",
        "_lately",
        "_learnt",
        "_lessened",
        "_level",
        "_pauses",
        "_peak",
        "_proven",
        "_refused",
        "_since",
        "_starts",
    )

    def __init__(self) -> None:
        self._level = self._peak = 0.0
        self._cut_at = self._since = self._asked = self._first = -inf
        self._lessened = -inf
        self._good = self._refused = 0
        self._before = (0, 0, 0.0)
        self._starts: deque[float] = deque(maxlen=64)
        """When the last requests were to start."""
        self._floor = 0.0
        """The level before the last probe, as long as it is not seen to be too much itself."""
        self._lately: deque[float] = deque(maxlen=4096)
        """When the last accepted requests came back."""
        self._learnt = 0
        self._proven = 0.0
        self._pauses = PauseTrial()

    def rate(self, now: float) -> float:
        """Return the requests per second to keep to now; infinity as long as none is known."""
        if not self._level:
            return inf
        period = self._period()
        done = max(0.0, now - self._cut_at) / period - 1
        if done < 0:
            return self._level * (1 + 0.05 * done**3)
        done /= sqrt(self._sooner)
        if done >= (1 if self._learnt else _FURTHEST):  # that limit is no more
            self.unblamed()
            return inf
        return self._level * (1 + 8.0 * done**3)

    def known(self, now: float) -> float | None:
        """Return the rate that the server was seen to take; None while it is looked for anew."""
        rate = self.rate(now)
        return rate if rate <= self._level else None

    def succeeded(self, now: float) -> None:
        """Count one accepted request."""
        self._good += 1
        self._lately.append(now)
        pauses = self._pauses
        pauses.accepted += 1
        if pauses.accepted >= pauses.rare:
            self._level, self._cut_at = pauses.over(), max(self._cut_at, now)
        if now - self._since >= _SPAN:
            self._end_span(now, now)

    def strained(self, now: float, began: float, *, suspected: bool, storm: bool = False) -> bool:
        """Count one refused request that began then; true when the rate was cut for it.

        It is if the load is `suspected`, or was more than what is known to be taken; in a `storm`
        at once, down to what was answered.
        """
        good, refused, seconds = self._recent(now)
        waited = now - self._cut_at
        if self._level and now - self._first > 2 * _SPAN:
            self._first = now
            self._proven = min(self.rate(began), self._pace_before(began))
        self._refused += 1
        refused += 1
        if storm and good and not self._level:  # whatever the second may still bring, less will do
            self._pauses.forget()
            self._cut(now, good / max(1.0, seconds), rough=True)
            return True
        enough = _ENOUGH if self._level else _SPAN / 2
        if not good or seconds < enough:
            return False
        probing = self._level and waited > self._period()
        if not (suspected or probing):
            return False
        if not probing and refused < max(2, _NOISE * (good + refused)):
            return False
        self._pauses.forget()
        self._cut(now, self._accepted(now, good, refused, seconds))
        return True

    def unblamed(self) -> None:
        """Forget the limit: refusals have nothing to do with the rate."""
        self._level = self._proven = 0.0
        self._first = -inf
        self._learnt = 0
        self._pauses.forget()

    def held(self, now: float, until: float, *, asked: bool, demand: float = inf) -> None:
        """Leave the time from `now` to `until`, in which nothing starts, out of all counts.

        When the server `asked` for the pause, that alone is worth a cut: with each pause at stake
        the rate should soon be right, unless pauses come at any pace (`PauseTrial`). As long as too
        little was accepted to tell, it is a part of the rate before, or of the `demand`: as many as
        are under way in a round trip.
        """
        good, _, seconds = self._recent(now)
        blamed = asked and now >= self._since and not self._tried(now)
        if blamed and now - self._lessened > _ONE:
            known = min(demand, self.rate(now))
            if self._level and self._proven:
                self._cut(now, min(known, self._proven))
            elif good >= _MANY and seconds >= _SPAN / 2:
                self._cut(now, good / seconds, rough=known == inf or not self._level)
            elif known < inf:
                self._cut(now, 0.7 * known, rough=True)
        if now >= self._since:
            self._end_span(now, until)
        self._starts.clear()
        self._since = max(self._since, until)
        self._cut_at = max(self._cut_at, until)
        self._asked = max(self._asked, until)

    def refused(self) -> None:
        """Count one refused request, whatever comes of it."""
        self._pauses.refused += 1

    def _tried(self, now: float) -> bool:
        """Have a pause judged; return whether there is no more to do for it."""
        known = self._pauses.anyway
        soon = bool(self._level) and now - self._cut_at < self._period()
        rate = self._pauses.asked(now, self._level, soon=soon)
        if rate is None:
            return False
        if rate < inf:
            self._cut(now, rate)
        elif self._pauses.anyway and not known:
            self.unblamed()
        return True

    def used(self, now: float, start: float) -> None:
        """Note a start that was planned now.

        The rate climbs only while starts wait for it, for else nothing proves it.
        """
        if start <= now and self._level:
            self._cut_at += max(0.0, now - self._asked)
        self._asked = max(self._asked, now)
        self._starts.append(start)

    def _accepted(self, now: float, good: int, refused: int, seconds: float) -> float:
        newest = now - self._since  # while the rate climbs, the mean lags behind it
        span = 1.0 if refused > good else 0.5
        while self._lately and self._lately[0] < now - span:
            self._lately.popleft()
        lately = len(self._lately) / span if len(self._lately) > 30 and seconds >= 1 else 0.0
        return max(
            good / max(seconds, 1e-6), lately, self._good / newest if newest >= _SPAN / 2 else 0.0
        )

    def _pace_before(self, began: float) -> float:
        """Return the pace of the last starts until a request that was refused."""
        starts = [start for start in self._starts if start <= began][-_MANY - 1 : -1]
        if len(starts) < _MANY:
            return inf
        return (_MANY - 1) / max(starts[-1] - starts[0], 1e-3)

    def _cut(self, now: float, accepted: float, *, rough: bool = False) -> None:
        waited = now - self._cut_at
        known = self.rate(now)
        if known == inf:
            least = 0.5 * self._peak  # a quiet moment is not a limit
        elif waited > self._period():
            self._floor = self._level
            least = max(0.5 * known, self._proven)
        else:  # a server without burst takes half of a pace that is only a little too fast
            if known < 1.02 * self._floor:
                self._floor = 0.0
            taken = max(accepted, self._floor)
            least = min(sqrt(taken * known), 1.5 * taken) if accepted < 0.7 * known else 0.0
            accepted *= 0.97
        self._proven, self._first = 0.0, -inf
        self._lessened = now
        self._lately.clear()
        self._learnt = 0 if rough else self._learnt + 1
        self._level = _PROBE_BELOW * max(min(accepted, known), least, _LEAST_RATE)
        self._cut_at = self._asked = now
        self._end_span(now, now)
        self._before = (0, 0, 0.0)

    def _period(self) -> float:
        shortest, longest = _PERIOD
        if not self._level:
            return 0.0
        if not self._learnt:  # a guess
            return shortest / self._sooner
        return max(shortest, min(longest, _PERIOD_REQUESTS / self._level)) / self._sooner

    @property
    def _sooner(self) -> int:
        return _SOONER[max(0, min(self._learnt, len(_SOONER)) - 1)]

    def _recent(self, now: float) -> tuple[int, int, float]:
        good, refused, seconds = self._before
        return good + self._good, refused + self._refused, seconds + max(0.0, now - self._since)

    def _end_span(self, now: float, start: float) -> None:
        seconds = now - self._since if self._since > -inf else 0.0
        self._before = self._good, self._refused, max(0.0, seconds)
        if seconds >= _SPAN:
            self._peak = max(self._peak, self._good / seconds)
        self._since = start
        self._good = self._refused = 0
