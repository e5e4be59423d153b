"""What the shards of one run share, as one place knows it: the rate, holds, progress, the end.

Start times are given out once and never taken back, so that the rate holds whatever dies; those of
a dead worker are lost. Pure: time is an argument, and what comes in and goes out are plain values.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from bulkfetch._pace.rules import Hold, Pace

if TYPE_CHECKING:
    from collections.abc import Mapping

_AHEAD: Final = 1.0
"""Seconds for which start times are given out at once; beyond, one for each who asks."""
_SILENT: Final = 5.0
"""Seconds after which a shard that says nothing holds nobody up any more."""
CLIENT_SILENT: Final = 60.0
"""Seconds after which a client that does not look is taken for gone."""


class SharedRun:
    """The state of one run; `rate` is for all its shards together, None is without any."""

    def __init__(self, rate: float | None, longest_hold: float, *, now: float) -> None:
        self._pace = Pace(inf if rate is None else rate)
        self._hold = Hold(longest_hold)
        self._cause = ""
        self._shut: dict[str, tuple[str, float]] = {}
        self._states: dict[str, Mapping[str, Any]] = {}
        self._looked = now
        self._stop: str | None = None

    def lease(self, now: float, count: int) -> list[float]:
        """Return in how many seconds from `now` each of up to `count` requests may start."""
        starts: list[float] = []
        while len(starts) < count and not (starts and starts[-1] > _AHEAD):
            starts.append(self._pace.next_start(now, after=self._hold.next_start(now)) - now)
        return starts

    def hold(self, now: float, seconds: float, cause: str) -> None:
        """Keep all shards from starting anything for so long, at most the longest hold."""
        if self._hold.extend(now, seconds, crowd=1):
            self._cause = cause

    def pulse(
        self, now: float, shard: str, state: Mapping[str, Any] | None, shut: str | None
    ) -> dict[str, Any]:
        """Hear how a shard is and what it has shut for; say what the others know.

        `held` are the seconds left of a hold and `cause` its reason, `shut` what another shard
        waits for, `stop` why the run ends, None while it goes on.
        """
        if state is not None:
            self._states[shard] = state
        self._shut.pop(shard, None)
        if shut is not None:
            self._shut[shard] = (shut, now)
        others = [
            cause
            for other, (cause, at) in self._shut.items()
            if other != shard and now - at < _SILENT
        ]
        if self._stop is None and now - self._looked > CLIENT_SILENT:
            self.stop("the client that began the run is gone: run its command again to go on")
        return {
            "held": self._hold.left(now),
            "cause": self._cause,
            "shut": others[0] if others else None,
            "stop": self._stop,
        }

    def look(self, now: float) -> list[Mapping[str, Any]]:
        """Return the last state of each shard that has told one; the client is there."""
        self._looked = now
        return list(self._states.values())

    def stop(self, why: str) -> None:
        """Let every shard end in good order; the first reason counts."""
        self._stop = self._stop or why
