"""How hard to lean on a server, learned from its answers: arithmetic on a given `now`.

`Window` finds how many requests at once are worth it, `LearnedRate` how many a second are taken,
`Blame` whether refusals have to do with either. Each was tuned against simulated servers in
virtual time (`python -m benchmarks.pacing`); the numbers below are what came out of that.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Blame", "LearnedRate", "Window"]

_FIRST_LIMIT = 4
_SLOWER = 1.4  # an answer that takes this much longer than the fastest round ...
_SLOWER_BY = 0.025  # ... and these seconds more is suspicious; a busy client alone stays below
_LESS = 0.7  # the share of the window that a trial keeps
_AS_GOOD = 0.92  # a trial that keeps this share of the throughput has cost nothing
_TRIAL_ROUNDS = 4
_REST_ROUNDS = 100  # after a trial that cost throughput: its price stays under 1 %
_STAY_ROUNDS = 30  # after one that cost nothing, before the window climbs again


class Window:
    """How many requests may be under way: from 4 up to `ceiling`, fewer while the server strains.

    It counts in rounds: as many answers as may be under way, so about one round trip. Until the
    first sign of strain each round of successes doubles the limit, from then on adds one. Strain
    takes it down by x0.5 to x0.9, the more the larger the share of strained answers, at most once
    in a round trip.

    Slow answers alone prove nothing: the course may be large, the network far, this process busy.
    So they start a trial: the throughput is measured, then measured again with x0.7 of the
    window. Only if it is as good the shorter window stays; otherwise the old one comes back and
    the slower answers are what is normal from now on.
    """

    __slots__ = (
        "_answers",
        "_ceiling",
        "_cut_at",
        "_decide",
        "_flow",
        "_full",
        "_left",
        "_lowest",
        "_rest",
        "_seconds",
        "_since",
        "_smooth",
        "_stay",
        "_steep",
        "_strains",
        "limit",
    )

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(_FIRST_LIMIT, ceiling)
        self._steep = True
        self._cut_at = -inf
        self._lowest = inf
        self._smooth = 0.0
        self._rest = self._stay = 0
        self._full, self._flow = self.limit, 0.0
        self._begin(self._end_round, self.limit, 0.0)

    def succeeded(self, now: float, seconds: float) -> None:
        """Count one good answer that took `seconds`."""
        self._seconds += seconds
        self._left -= 1
        if self._left <= 0:
            self._decide(now)

    def strained(self, now: float) -> None:
        """Count one sign of overload: a refusal for load, a timeout."""
        self._strains += 1
        if 0 <= now - self._cut_at < (self._smooth or 0.1):
            return  # what was under way at the last cut still comes in
        answered = self._answers - self._left
        share = self._strains / (self._strains + answered)
        self._cut_at = now
        self._steep = False
        self.limit = max(1, int(self.limit * (0.9 - 0.4 * share)))
        self._begin(self._end_round, self.limit, now)

    def unblamed(self) -> None:
        """Take the cuts back: strain has nothing to do with how many are under way."""
        self._steep = True

    @property
    def round_trip(self) -> float | None:
        """How many seconds a good answer takes these days; None until there was one."""
        return self._smooth or None

    def _begin(self, decide: Callable[[float], None], answers: int, now: float) -> None:
        self._decide, self._answers, self._left, self._since = decide, answers, answers, now
        self._seconds, self._strains = 0.0, 0

    def _end_round(self, now: float) -> None:
        mean = self._seconds / self._answers
        self._smooth = (self._smooth + mean) / 2 if self._smooth else mean
        self._lowest = min(self._lowest, self._smooth)
        self._rest -= 1
        self._stay -= 1
        if self._suspicious():
            self._steep = False
            self._begin(self._end_full, _TRIAL_ROUNDS * self.limit, now)
            return
        if not self._strains and self._stay <= 0:
            self.limit = min(self._ceiling, self.limit * 2 if self._steep else self.limit + 1)
        self._begin(self._end_round, self.limit, now)

    def _suspicious(self) -> bool:
        slow = self._smooth > _SLOWER * self._lowest + _SLOWER_BY
        return slow and self._rest <= 0 and self.limit > 2

    def _end_full(self, now: float) -> None:
        self._flow = self._measured(now)
        self._full = self.limit
        self.limit = max(1, int(self.limit * _LESS))
        self._begin(self._end_settling, self._full, now)

    def _end_settling(self, now: float) -> None:
        self._begin(self._end_trial, _TRIAL_ROUNDS * self.limit, now)

    def _end_trial(self, now: float) -> None:
        self._smooth = self._seconds / self._answers
        if self._measured(now) < _AS_GOOD * self._flow:
            self.limit = self._full
            self._lowest = self._smooth
            self._rest = _REST_ROUNDS
        else:
            self._stay = _STAY_ROUNDS
        self._begin(self._end_round, self.limit, now)

    def _measured(self, now: float) -> float:
        return self._answers / max(now - self._since, 1e-6)


_SPAN = 2.0  # seconds over which accepted requests are counted
_ENOUGH = 0.25  # less than this many seconds says nothing about a rate
_NOISE = (
    0.04  # a smaller share of refusals is no reason to go slower for seconds; nor is a lone one
)
_PERIOD = 12.0, 60.0  # seconds from a cut to the next probe, at least and at most
_PERIOD_REQUESTS = 300  # and between these bounds as long as so many requests take
_LEAST_RATE = 1.0
_PROBE_BELOW = 0.98  # the share of the accepted rate at which the climb rests
_LONGEST_PATIENCE = 16.0  # seconds between cuts while they do not help


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
        "_before",
        "_cut_at",
        "_good",
        "_level",
        "_patience",
        "_peak",
        "_refused",
        "_since",
    )

    def __init__(self) -> None:
        self._level = self._peak = 0.0
        self._cut_at = self._since = -inf
        self._patience = 1.0
        self._good = self._refused = 0
        self._before = (0, 0, 0.0)

    def rate(self, now: float) -> float:
        """Return the requests per second to keep to now; infinity as long as none is known."""
        if not self._level:
            return inf
        period = self._period()
        done = max(0.0, now - self._cut_at) / period - 1
        if done >= 1:  # nine times what was once refused: that limit is no more
            self._level = 0.0
            return inf
        return self._level * (1 + (0.08 if done < 0 else 8.0) * done**3)

    def succeeded(self, now: float) -> None:
        """Count one accepted request."""
        self._good += 1
        if now - self._since >= _SPAN:
            self._end_span(now, now)

    def strained(self, now: float) -> bool:
        """Count one refused request; true when the rate was cut for it."""
        self._refused += 1
        good, refused, seconds = self._recent(now)
        waited = now - self._cut_at
        if not good or seconds < _ENOUGH or waited < self._patience:
            return False
        if refused < max(2, _NOISE * (good + refused)):
            return False
        change = 2.0 if waited < self._period() else 0.5
        self._patience = min(_LONGEST_PATIENCE, max(1.0, self._patience * change))
        newest = now - self._since  # while the rate climbs, the mean lags behind it
        accepted = max(good / seconds, self._good / newest if newest >= _SPAN / 2 else 0.0)
        self._cut(now, accepted)
        return True

    def unblamed(self) -> None:
        """Forget the limit: refusals have nothing to do with the rate."""
        self._level = 0.0
        self._patience = 1.0

    def held(self, now: float, until: float, *, asked: bool) -> None:
        """Leave the time from `now` to `until`, in which nothing starts, out of all counts.

        When the server `asked` for the pause, that alone is worth a cut: with each pause at stake
        the rate should soon be right. The sooner the pause came, the further off the rate was.
        """
        good, _, seconds = self._recent(now)
        if asked and good and now >= self._since:
            accepted = good / max(seconds, _ENOUGH / 4)
            self._cut(now, accepted if seconds >= 1 else 0.7 * min(accepted, self.rate(now)))
        if now >= self._since:
            self._end_span(now, until)
        self._since = max(self._since, until)
        self._cut_at = max(self._cut_at, until)

    def _cut(self, now: float, accepted: float) -> None:
        known = self.rate(now)
        least = 0.5 * (self._peak if known == inf else known)  # a quiet moment is not a limit
        self._level = _PROBE_BELOW * max(min(accepted, known), least, _LEAST_RATE)
        self._cut_at = now
        self._end_span(now, now)
        self._before = (0, 0, 0.0)

    def _period(self) -> float:
        shortest, longest = _PERIOD
        return max(shortest, min(longest, _PERIOD_REQUESTS / self._level)) if self._level else 0.0

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


_SAMPLE = 60  # requests that make a share worth something, ...
_SAMPLE_REFUSALS = 6  # ... if so many were refused; ...
_LONG_SAMPLE = 400  # ... or so many requests whatever was refused; limits count by whole seconds
_GENTLER = 0.8  # a sample at this share of the earlier pace can be held against it
_NO_LESS = 0.6  # refusals that keep this share of theirs have not gone down
_TOLERANCE = 1.5  # so much more than known, and they are looked at again


class Blame:
    """Whether refusals come from the load that is put on the server, or would come anyway.

    A server that has all the load it can take refuses less of a gentler one; one that fails a
    share of whatever it is asked does not. So samples are compared: if one that began with less
    than 0.8 of the window or rate of an earlier one was refused nearly the same share, going
    slower was for nothing, and refusals of that share are tolerated until there are more of them.
    """

    __slots__ = (
        "_began",
        "_good",
        "_hinted",
        "_refused",
        "_rough",
        "_since",
        "active",
        "tolerated",
    )

    def __init__(self) -> None:
        self._hinted = False
        self.active = False
        """Whether answers must be counted: there was a refusal lately."""
        self.tolerated = 0.0
        """The share of refusals that the load is not to blame for; 0: none is known."""
        self._rough = (0, 0.0, 0.0)  # window, requests per second, refused share
        self._began = (0, inf)  # window and rate allowed when this sample began
        self._good = self._refused = 0
        self._since = -inf

    def succeeded(self, now: float, *, limit: int, rate: float) -> None:
        """Count one good answer; needed only while `active`. `limit` and `rate` are in force."""
        self._good += 1
        if self._good + self._refused >= _LONG_SAMPLE and now - self._since >= _SPAN:
            self._end_sample(now, limit, rate)

    def strained(self, now: float, *, limit: int, rate: float) -> bool:
        """Count one refusal; true when it has just turned out that the load is not to blame."""
        if not self.active:
            self.active = True
            self._begin_sample(now, limit, rate)
        self._refused += 1
        if self._refused < _SAMPLE_REFUSALS or self._good + self._refused < _SAMPLE:
            return False
        return now - self._since >= _SPAN and self._end_sample(now, limit, rate)

    def _begin_sample(self, now: float, limit: int, rate: float) -> None:
        self._good = self._refused = 0
        self._since = now
        self._began = (limit, rate)

    def _end_sample(self, now: float, limit: int, rate: float) -> bool:
        requests = self._good + self._refused
        share, pace = self._refused / requests, requests / (now - self._since)
        window, allowed = self._began
        self._begin_sample(now, limit, rate)
        before, earlier, refused = self._rough
        gentler = window <= _GENTLER * before or allowed <= _GENTLER * earlier
        if not share:
            self.active, self.tolerated, self._hinted = False, 0.0, False
        elif self.tolerated:
            if share > self.tolerated:
                self.tolerated, self._hinted = 0.0, False
                self._rough = (window, pace, share)
        elif self._changed(pace, share, min(allowed, rate), gentler=gentler):
            self._rough, self._hinted = (window, pace, share), False
        elif gentler:
            vain = share >= _NO_LESS * refused and _accepts_alike(earlier / pace, refused, share)
            if vain and self._hinted:
                self.tolerated = _TOLERANCE * max(share, refused) + _NOISE
                return True
            self._hinted = vain  # the server may just have changed: a second sample must agree
        return False

    def _changed(self, pace: float, share: float, allowed: float, *, gentler: bool) -> bool:
        """Whether the server is another than in the rough sample: that one is no measure now."""
        _, earlier, refused = self._rough
        if gentler:
            return share > 2 * refused  # worse, though less was asked of it
        slower = pace < _GENTLER * earlier and allowed > pace / _GENTLER  # of its own accord
        return pace >= earlier or slower


def _accepts_alike(slowed: float, before: float, now: float) -> bool:
    # A full server takes the same number of fewer requests: then the accepted share has risen.
    return 1 - now < (1 - before) * float(max(1.0, slowed) ** 0.3)
