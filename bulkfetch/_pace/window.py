"""How many requests at once are worth it, learned from a server's answers: arithmetic on a `now`.

Whether refusals have to do with that is told in `blame`. The numbers came out of simulated servers
in virtual time (`python -m benchmarks.pacing`).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Window"]

_FIRST_LIMIT = 8
_SLOWER = 1.4  # an answer that takes this much longer than the fastest round ...
_SLOWER_BY = 0.025  # ... and these seconds more is suspicious; a busy client alone stays below
_LESS = 0.7  # the share of the window that a trial keeps
_AS_GOOD = 0.92  # a trial that keeps this share of the throughput has cost nothing
_TRIAL_ROUNDS = 4
_REST_ROUNDS = 100  # after a trial that cost throughput: its price stays under 1 %
_FEW = 0.5  # a round with a smaller share of refusals may be one of bad luck, and climbs
_MOST = 0.5  # from this share of refusals on the right limit is anywhere below
_LEAST_REST, _MOST_REST = 10, 200  # answers before a step beyond the limit that was refused last
_STAY_ROUNDS = 30  # after one that cost nothing, before the window climbs again


class Window:
    """How many requests may be under way: from 8 up to `ceiling`, fewer while the server strains.

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
        "_behind_wall",
        "_best",
        "_ceiling",
        "_cut_at",
        "_decide",
        "_flow",
        "_full",
        "_last_wall",
        "_left",
        "_lowest",
        "_rest",
        "_rest_answers",
        "_seconds",
        "_since",
        "_smooth",
        "_stay",
        "_steep",
        "_strains",
        "limit",
        "wall",
    )

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.limit = min(_FIRST_LIMIT, ceiling)
        self._steep = True
        self._cut_at = -inf
        self._lowest = inf
        self._smooth = 0.0
        self._rest = self._stay = 0
        self.wall, self._behind_wall, self._best = ceiling, 0, 0
        self._last_wall, self._rest_answers = 0, _LEAST_REST
        self._full, self._flow = self.limit, 0.0
        self._begin(self._end_round, self.limit, 0.0)

    def succeeded(self, now: float, seconds: float) -> None:
        """Count one good answer that took `seconds`."""
        self._seconds += seconds
        self._left -= 1
        if self._left <= 0:
            self._decide(now)

    def strained(self) -> None:
        """Count one refusal; it ends a step beyond what was known to be taken."""
        self._strains += 1
        if self.limit > self.wall:
            self.limit = self.wall
            self._build_wall()

    def _build_wall(self) -> None:
        same = abs(self.limit - self._last_wall) <= 1
        self._rest_answers = min(_MOST_REST, self._rest_answers * 2) if same else _LEAST_REST
        self.wall = self._last_wall = self.limit
        self._behind_wall = 0

    def cut(self, now: float, share: float) -> None:
        """Go down for a share of refusals."""
        if 0 <= now - self._cut_at < (self._smooth or 0.1):
            return  # what was under way at the last cut still comes in
        self._cut_at = now
        self._steep = False
        self.limit = max(1, int(self.limit * (0.9 - 0.4 * share)))
        if share < _MOST:
            self._build_wall()
        self._begin(self._end_round, self.limit, now)

    def keep(self, limit: int, now: float) -> None:
        """Go down to a limit that is known; a step beyond it is tried now and then."""
        self._cut_at = now
        self._steep = False
        self.limit = max(1, min(self.limit, limit))
        self._build_wall()
        self._begin(self._end_round, self.limit, now)

    def unblamed(self) -> None:
        """Take the cuts back: strain has nothing to do with how many are under way."""
        self._steep = True
        self.wall = self._ceiling
        self.limit = max(self.limit, min(self._best, self._ceiling))

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
        self._best = max(self._best, self.limit)
        if self._strains <= _FEW * self._answers and self._stay <= 0:
            self._climb()
        self._begin(self._end_round, self.limit, now)

    def _climb(self) -> None:
        if self.limit > self.wall:
            self.wall = self._ceiling  # a step beyond it has gone well
        self._behind_wall += self._answers
        if self.limit == self.wall and self._behind_wall < self._rest_answers:
            return
        self.limit = min(self._ceiling, self.limit * 2 if self._steep else self.limit + 1)

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
