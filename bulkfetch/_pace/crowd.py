"""How many requests a server takes at once, read from which of them it refused.

A limit of connections, or a full queue, refuses by how many others are under way and by nothing
else: each request that found fewer was taken, each that found as many was not. Neither a limit per
second nor bad luck looks like that, so that no pace needs to be tried to tell them apart.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from math import inf
from typing import NamedTuple

__all__ = ["Crowd"]

_ANSWERS = 160  # that are remembered: some round trips of as many as are worth it at once
_REFUSED = 5  # refusals, and as many requests that were taken, tell something
_MANY = 20  # refusals are looked at anyhow
_ABOVE, _BELOW = 0.8, 0.1  # the share refused from the limit on at least, below it at most
_LONGER = 1.5  # times the mean: what has begun so long ago has most likely ended


class _Told(NamedTuple):
    began: float
    ended: float
    good: bool


class Crowd:
    """The last answers, and the limit of requests at once that explains them, if one does."""

    __slots__ = ("_due", "_since", "_told")

    def __init__(self) -> None:
        self._told: deque[_Told] = deque(maxlen=_ANSWERS)
        self._due = 0
        self._since = inf

    def count(self, began: float, ended: float, *, good: bool) -> None:
        """Note one answer and when its request began, in seconds."""
        self._told.append(_Told(began, ended, good))
        if not good:
            self._due += 1
            self._since = ended

    def most(self, now: float, round_trip: float) -> int | None:
        """Return how many at once are taken; None if the refusals do not follow that.

        It looks after every few refusals, once what was under way beside them has ended.
        """
        if self._due < _REFUSED or (
            self._due < 4 * _REFUSED and now < self._since + _LONGER * round_trip
        ):
            return None
        self._due = 0
        good = [one for one in self._told if one.good]
        if len(good) < _REFUSED or len(self._told) - len(good) < _REFUSED:
            return None
        met = self._met(good)
        refused = sorted(others for others, taken in met if not taken)
        taken = sorted(others for others, taken in met if taken)
        found, fewest = None, inf
        for limit in sorted(set(refused)):
            above = len(refused) - bisect_left(refused, limit)
            wrong = len(taken) - bisect_left(taken, limit)
            below = len(refused) - above
            if above < _REFUSED or len(taken) - wrong < _REFUSED:
                continue
            if above < _ABOVE * (above + wrong) or below > _BELOW * (below + len(taken) - wrong):
                continue
            if wrong + below < fewest:
                found, fewest = limit, wrong + below
        return found or None

    def _met(self, good: list[_Told]) -> list[tuple[int, bool]]:
        """Return how many others that were taken each request found under way."""
        began, ended = sorted(one.began for one in good), [one.ended for one in good]
        first = self._told[0].ended if len(self._told) == _ANSWERS else -inf  # some is forgotten
        longest = _LONGER * sum(one.ended - one.began for one in good) / len(good)
        last = self._told[-1].ended - longest
        return [
            (bisect_left(began, one.began) - bisect_right(ended, one.began), one.good)
            for one in self._told
            if first <= one.began <= last
        ]
