"""Whether refusals come from the load on a server or would come anyway: a test, on a given `now`.

`window` and `learned` go slower only when this says so, and what they did is taken back when it
turns out to be bad luck. The numbers came out of `python -m benchmarks.pacing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf, log

__all__ = ["Blame", "Verdict"]

_LATEST = 10  # answers ...
_AT_FIRST = 3  # refusals, with nothing good at all, that are a bunch already
_MANY = 5  # ... of which so many refused are a bunch
_SHORT, _SHORT_REFUSALS = 50, 4  # so many of a sample are suspicious, ...
_LONG, _LONG_SHARE = 200, 0.04  # ... and so are fewer that go on
_UNDECIDED = 100  # answers of a test that has shown nothing, before a clearer one
_TEST = 400  # answers after which a test that has shown nothing ends
_EVERY = 3  # answers from one look at a test to the next; odd, as good and bad may alternate
_SURE = 2.5  # logarithm of how much likelier one of the two must be
_CLEARLY = 3.5  # the same for a share that fell, whatever to
_LEFT = 0.015  # the share of refusals that a pace below the limit leaves, at most
_TIMES_KNOWN = 4  # and once a gentler pace has helped, that is not soon believed
_LUCK = 0.45  # more than this is refused for bad luck only by the worst of servers
_TIMES = 2  # a burst used up looks like bad luck once, not twice


class Verdict(Enum):
    """What a refusal calls for."""

    NOTHING = 0
    LESS = 1
    """Go slower: it may be the load."""
    FREE = 2
    """It has just turned out to be bad luck: take back what was done for it."""


@dataclass(slots=True)
class _Sample:
    since: float
    requests: int = 0
    refused: int = 0

    def count(self, *, refused: bool) -> None:
        self.requests += 1
        self.refused += refused

    @property
    def share(self) -> float:
        return self.refused / self.requests


class Blame:
    """Whether refusals come from the load that is put on the server, or would come anyway.

    Refusals of a limit come in bunches, follow the pace and stop below it; bad luck is
    independent of both. So a few that are scattered call for nothing. A bunch, or a share that
    goes on, calls for less, and that is a test: either the refusals fall to what the lower pace
    leaves of them, or they are as many as before. As soon as one of the two is `_SURE` enough the
    test ends; as many as before twice running is bad luck, and refusals of that share are
    tolerated until there are more of them.
    """

    __slots__ = ("_before", "_due", "_latest", "_load", "_pace", "_sample", "_vain", "tolerated")

    def __init__(self) -> None:
        self.tolerated = 0.0
        """The share of refusals that the load is not to blame for; 0: none is known."""
        self._latest = 0  # a bit for each of the last answers, set if refused
        self._sample = _Sample(-inf)
        self._before: _Sample | None = None  # what the running test compares with
        self._pace = 0.0  # requests per second in that sample
        self._load = False
        self._vain = 0
        self._due = False  # another step down, before the next look

    @property
    def share(self) -> float:
        """The share of refusals lately."""
        many = self._latest.bit_count() / _LATEST
        return max(many, self._sample.share) if self._sample.requests else many

    @property
    def storm(self) -> bool:
        """Whether nothing has been good lately."""
        return self._latest.bit_count() == _LATEST

    def succeeded(self, now: float) -> None:
        """Count one good answer."""
        sample = self._count(now, refused=False)
        if self._before is not None and sample.requests % _EVERY == 0 and self._test() < 0:
            self._end_test()  # fewer than before: it was the load
            self._load = True
        elif sample.requests >= (_LONG if self._before is None else _TEST):
            self._end_test()
            self._sample = _Sample(now)

    def strained(self, now: float) -> Verdict:
        """Count one refusal."""
        sample = self._count(now, refused=True)
        if now < sample.since:
            return Verdict.NOTHING
        if self.tolerated:
            return self._tolerate(sample)
        if self._due:
            return Verdict.LESS
        if self._before is not None and self._test() > 0:
            if sample.share > self._before.share and _apart(self._before, sample) > _SURE:
                self._before, self._vain = None, 0
            elif self._slower(sample, now):
                self._vain += 1
            if self._vain < (_TIMES_KNOWN if self._load or sample.share > _LUCK else _TIMES):
                self._due = True
                return Verdict.LESS
            known = self._before.share if self._before else 0.0
            self.tolerated = min(0.7, 2 * max(sample.share, known) + 0.06)
            self._end_test()
            self._load = False
            self._sample, self._latest = _Sample(now), 0
            return Verdict.FREE
        if self._before is not None and not self._load and self._latest.bit_count() < _LATEST:
            if sample.requests >= _UNDECIDED and sample.share > _LONG_SHARE:
                return Verdict.LESS
            return Verdict.NOTHING  # first see what the last step down has changed
        return Verdict.LESS if self._suspicious(sample) else Verdict.NOTHING

    def lessened(self, now: float, settled: float) -> None:
        """Begin a test: less is asked of the server from `now` on, seen from `settled` on."""
        self._due = False
        pace = self._sample.requests / max(now - self._sample.since, 1e-3)
        if self._before is None or (pace > self._pace and self._sample.requests >= _SHORT / 2):
            self._before, self._pace = self._sample, pace
        self._sample, self._latest = _Sample(settled), 0

    def explained(self) -> None:
        """Forget all doubts: it has turned out what the refusals follow."""
        self._end_test()
        self._sample, self._latest = _Sample(-inf), 0

    def _count(self, now: float, *, refused: bool) -> _Sample:
        if self._sample.since == -inf:
            self._sample.since = now
        if now >= self._sample.since:  # else begun before less was asked
            self._sample.count(refused=refused)
            self._latest = (self._latest << 1 | refused) & ((1 << _LATEST) - 1)
        return self._sample

    def _suspicious(self, sample: _Sample) -> bool:
        if sample.refused == sample.requests:
            return sample.refused >= _AT_FIRST
        if self._latest.bit_count() >= _MANY:
            return True
        if self._before is not None:
            return sample.requests >= _SHORT and sample.share > _LONG_SHARE
        if sample.requests < _LONG / 2:
            return sample.requests >= _SHORT / 2 and sample.refused >= max(
                _SHORT_REFUSALS, _SHORT_REFUSALS * sample.requests / _SHORT
            )
        return sample.refused >= _LONG_SHARE * _LONG

    def _tolerate(self, sample: _Sample) -> Verdict:
        if sample.requests < _SHORT or sample.share <= self.tolerated:
            return Verdict.NOTHING
        self.tolerated = 0.0
        return Verdict.LESS

    def _test(self) -> int:
        """1: as many as before; -1: fewer, as the pace would have it; 0: not known yet."""
        before, after = self._before, self._sample
        if before is None or after.requests < _LATEST or after.refused == after.requests:
            return 0
        if after.share < before.share and _apart(before, after) > _CLEARLY:
            return -1
        likelier = _log_ratio(before, after)
        return (likelier > _SURE) - (likelier < -_SURE)

    def _slower(self, sample: _Sample, now: float) -> bool:
        """Whether less was asked of the server than it had taken before."""
        assert self._before is not None
        pace = sample.requests / max(now - sample.since, 1e-3)
        return pace < self._pace * (1 - self._before.share)

    def _end_test(self) -> None:
        self._before, self._vain, self._due = None, 0, False


def _log_ratio(before: _Sample, after: _Sample) -> float:
    """Logarithm of how much likelier `after` is with the share of `before` than with fewer."""
    same = fewer = -inf
    for step in range(1, 80):
        share = step / 80
        now = min(share / 4, _LEFT)
        was = _log_likelihood(before, share)
        same = max(same, was + _log_likelihood(after, share))
        fewer = max(fewer, was + _log_likelihood(after, now))
    return same - fewer


def _apart(before: _Sample, after: _Sample) -> float:
    """Logarithm of how much likelier the two are with a share each than with one."""
    both = _Sample(0, before.requests + after.requests, before.refused + after.refused)
    return _likeliest(before) + _likeliest(after) - _likeliest(both)


def _likeliest(sample: _Sample) -> float:
    return _log_likelihood(sample, min(max(sample.share, 1e-3), 1 - 1e-3))


def _log_likelihood(sample: _Sample, share: float) -> float:
    return sample.refused * log(share) + (sample.requests - sample.refused) * log(1 - share)
