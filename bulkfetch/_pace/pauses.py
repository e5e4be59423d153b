"""Whether a server asks for pauses at any pace: an experiment, on a given `now`.

Below a limit its pauses become rare. Those of a server that is ill now and then come after as many
requests as before, however slow these are, and each cut of the rate only adds to what they cost.
The numbers came out of simulated servers in virtual time (`python -m benchmarks.pacing`).
"""

from __future__ import annotations

from collections import deque
from math import inf

__all__ = ["PauseTrial"]

_VAIN = 4  # pauses that came though the rate was cut for each of them, ...
_LOWER = 0.5  # ... to this share in all, at most, ...
_FEWEST = 8  # ... and after so many requests each, call for a trial
_TRIAL = 3  # pauses end a trial: ...
_RARER = 2  # ... the pace is to blame if they came after so many times as many requests,
_RARE = 3  # or if none came for so many times as many
_SURE = 12  # pauses at full pace show that it is to blame after all ...
_MORE = 2  # ... if so many times the share is refused
_MOST = 64


class PauseTrial:
    """Judges each pause that was asked for, and may slow down for a moment to see what that does.

    The pace of a trial is about what the server gave lately in all, its pauses included: a limit
    asks for few at that.
    """

    __slots__ = (
        "_back_to",
        "_began",
        "_counts",
        "_high",
        "_last",
        "_refusals",
        "_share",
        "_usual",
        "_vain",
        "accepted",
        "anyway",
        "rare",
        "refused",
    )

    def __init__(self) -> None:
        self.accepted = self.refused = 0
        """Requests since the last pause, as whoever sees one counts them."""
        self.rare = inf
        """How many accepted ones without a pause end a trial."""
        self.anyway = False
        """Whether pauses come at any pace."""
        self._counts: deque[int] = deque(maxlen=_MOST)
        self._refusals: deque[int] = deque(maxlen=_MOST)
        self._usual = 0.0  # accepted requests between two pauses before a trial; 0: there is none
        self._share = 0.0  # of requests refused then
        self._last, self._began = -inf, 0.0
        self._high = self._back_to = 0.0
        self._vain = _VAIN

    def asked(self, now: float, level: float, *, soon: bool) -> float | None:
        """Judge a pause; `soon`: it came soon after the rate was cut to `level`.

        Return a rate to try, infinity if the pace is not to blame, None if it may be.
        """
        accepted, refused, last = self.accepted, self.refused, self._last
        self.accepted, self.refused, self._last = 0, 0, now
        if not accepted and (level or self.anyway):
            if not (self._usual or self.anyway):
                self._clear()
            return inf  # an outage teaches nothing
        self._counts.append(accepted)
        self._refusals.append(refused)
        number, total = len(self._counts), sum(self._counts)
        if self.anyway:
            return self._at_full_pace()
        if self._usual:
            return self._in_trial(number, total)
        if not soon or last == -inf:
            self._clear()
            return None
        if number == 1:
            self._began, self._high = last, level
        if number < self._vain or total < _FEWEST * number or level > _LOWER * self._high:
            if number == _MOST:
                self._clear()
            return None
        self._usual, self._back_to = total / number, level
        self._share = self._refused_share(number)
        self.rare = _RARE * self._usual
        self._clear()
        return total / (now - self._began)

    def over(self) -> float:
        """End a trial in which pauses have become rare; returns the level before it."""
        self._blame_the_pace()
        return self._back_to

    def forget(self) -> None:
        """End a trial, since the limit that it is about was given up."""
        if not self.anyway:
            self._usual, self.rare = 0.0, inf
            self._clear()

    def _in_trial(self, number: int, total: int) -> float | None:
        if number < _TRIAL:
            return inf
        if total > _RARER * number * self._usual:
            self._blame_the_pace()
            return None
        self.anyway, self.rare = True, inf
        self._clear()
        return inf

    def _at_full_pace(self) -> float | None:
        if len(self._counts) < _SURE or self._refused_share(_SURE) <= _MORE * self._share:
            return inf
        self._blame_the_pace()
        return None

    def _refused_share(self, pauses: int) -> float:
        """Return the share of requests refused over the last pauses."""
        refused = sum(list(self._refusals)[-pauses:])
        return refused / (refused + sum(list(self._counts)[-pauses:]))

    def _clear(self) -> None:
        self._counts.clear()
        self._refusals.clear()

    def _blame_the_pace(self) -> None:
        """End a trial or its success; the next trial takes longer to come."""
        self.anyway = False
        self._vain = min(2 * self._vain, _MOST)
        self.forget()
