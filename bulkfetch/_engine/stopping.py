"""Many answers: whose fault is it? When to hold, whom to ask, when to stop.

Counting failures alone cannot tell a dead server from bad courses, since at the end of a list only
bad ones are left. What tells them apart is a control: once anything was fetched, a hold asks again
for a course that was fetched. If its rows come, the service works and the failures are the courses'
own; if not, the hold goes on until patience has passed. Distinct courses count, not requests, and
only since the last good answer. Before one of several is given up the control is asked, however
few they are; while it is not answered their tries begin anew, three times at most. Nothing is
settled by a final fault until rows come after it.

Pure: time is an argument. The run tells of each answer, follows the advice, and does the asking.

A server that fails for passing reasons and never gives a good answer gets at most
`breaker * (1 + retries) + concurrency + 7 + patience / 30` requests: the hold begins with the
failure of the `breaker`th course, when each of the others that are under way has its first try, and
the pauses between probes double from 1 s to 30 s, the last one ending with the patience. A server
that refuses gets as many with `refusals` in the place of `breaker`; one with the same answer for
every course, which is not tried again, `20 + concurrency`, or a tenth of the list instead of 20.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from bulkfetch._domain.errors import (
    NEVER_CONNECTED,
    CourseError,
    LocalFault,
    Refused,
    RunError,
    RunRefused,
    ServerRefuses,
    TemporarilyUnavailable,
    UnknownFault,
)
from bulkfetch._domain.wording import counted
from bulkfetch._engine.streaks import Streak, Streaks
from bulkfetch._engine.ways import (
    ACCOUNT,
    ACCOUNT_KIND,
    DIVERTED,
    PASSING,
    TOKEN,
    is_overload,
    is_passing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkfetch._config.options import Options

MANY: Final = 20
"""Courses with one and the same failure that make it the account's, not theirs."""
_FEW: Final = 2
"""... that are not a single course's trouble, once one of them used up its tries."""
_SHARE: Final = 10
"""... or this part of the list, if that is more, before any rows came, of what does not pass."""
_UNPROVEN_PATIENCE: Final = 60.0
UNCONNECTED_PATIENCE: Final = 5.0
"""Seconds after which it is not tried again where no connection was ever made."""
_UNPROVEN_WAIT: Final = 5.0
_SAME_FAULT: Final = 5
"""Courses with the same unknown fault after good answers that make it worth a new token."""
_LONGEST_PAUSE: Final = 30.0
_DOUBLINGS: Final = 5
_MOMENT: Final = 1e-3
"""Seconds that make no difference: a timer may be early by so much."""
_CONTROLS: Final = 3

_CAUSES: Final = {
    ACCOUNT: "the server refuses the account",
    TOKEN: "the server refuses the token",
    DIVERTED: "the answers do not come from the API",
}


class Suspend(NamedTuple):
    """Advice: start nothing, ask the control, at once and then after pauses; `cause` in words."""

    cause: str


class GiveUp(NamedTuple):
    """Advice: end the run with this error, once the requests under way are over."""

    error: RunError


class RenewToken(NamedTuple):
    """Advice: get a new token, the old one may be dead in unknown words."""


Advice = Suspend | GiveUp | RenewToken


class _Finding(NamedTuple):
    """A rule that is met: how long to be patient from the streak's beginning on, and then what."""

    streak: Streak
    patience: float
    cause: str
    code: int

    @property
    def due(self) -> float:
        return self.streak.since + self.patience

    def is_due(self, now: float) -> bool:
        return now > self.due - _MOMENT


class Stopping:
    """Adds up the answers of one run.

    `proven`: whether this account has fetched anything, for this output or in this run; `controls`:
    courses that were fetched, small ones first; `total`: the number of ids, where it is known.
    """

    def __init__(
        self,
        options: Options,
        *,
        proven: bool = False,
        controls: Iterable[str] = (),
        total: int | None = None,
        renewable: bool = False,
    ) -> None:
        self.proven = proven
        self.absolved = False
        """Whether a control brought rows amid failures, and none since then was of overload: they
        are the courses' own, and asking again for these courses harms nobody."""
        self._overloaded = False
        """Whether a failure since the last rows was one of overload."""
        self._breaker = options.breaker or inf
        self._refusals = options.refusals
        self._fewest = min(options.refusals, total or inf)
        self._patience = options.patience
        self._many = max(MANY, (total or 0) // _SHARE)
        self._same_fault = max(2, min(_SAME_FAULT, options.concurrency))
        self._renewable = renewable
        self._renewed = False
        self._holds_rows = self._answered = self._connected = proven
        self._streaks = Streaks()
        self._doubted: set[str] = set()
        self._controls: list[tuple[float, str]] = [(inf, course_id) for course_id in controls]
        self._asked = 0
        self._probes = 0
        self.failed_controls = 0
        """Probes without an answer of the API so far: a course that was tried meanwhile proves
        nothing."""
        self._doubtful, self._cleared = False, -inf
        self._lost = 0
        self._last_lost: CourseError | None = None

    # What the run tells

    def fetched(self, course_id: str, rows: int) -> bool:
        """Rows came: the service works, for this account too. Return whether failures went before.

        Called for each course.
        """
        self._holds_rows = True
        uneasy = self.in_streak
        if uneasy or not self.proven:
            self._works()
        self._keep_control(course_id, rows)
        return uneasy

    def failed(self, now: float, course_id: str, error: CourseError) -> None:
        """Count a failed attempt; `Unauthorized` only once a renewal did not help."""
        if isinstance(error, LocalFault):
            return
        self._connected = self._connected or error.kind not in NEVER_CONNECTED
        if is_overload(error):
            self.absolved, self._overloaded = False, True
        if isinstance(error, Refused):
            self._api_answers()
            self._doubted.add(course_id)
        self._streaks.add(now, course_id, error)

    def probed(self, now: float, error: CourseError | None) -> Advice | None:
        """Judge the answer to a probe: None when the hold is over, else what comes next.

        Rows show that the service works; after passing failures a final fault does, too.
        """
        if error is None:
            self.absolved, self._cleared = not self._overloaded, now
            self._works()
            return None
        self.absolved = False
        if isinstance(error, Refused):
            self._api_answers()
            self._cleared = now
        else:
            self.failed_controls += 1
        self._probes += 1
        return self.advice(now, after_probe=True)

    def doubt(self, now: float, tried: float) -> bool:
        """Doubt that a course which used up its tries owes it to itself; whether to hold for that.

        Until the next good answer two failing courses are a reason to hold, however high `breaker`
        is: a run of few requests at once, or of slow ones, would lose courses before so many of
        them failed. No doubt is left when a control was answered since `tried`, the time of the
        last try but one; nor where `breaker` is 0.
        """
        able = self._has_control and self._breaker != inf
        self._doubtful = self._doubtful or (able and self._cleared < tried)
        return self.troubled(now)

    def lost(self, error: CourseError) -> None:
        """Note a course that ended without rows and without a final fault."""
        self._lost += 1
        if self._last_lost is None or is_passing(error) or not is_passing(self._last_lost):
            self._last_lost = error

    # What the run asks

    def advice(self, now: float, *, after_probe: bool = False) -> Advice | None:
        """Return what to do now; None: go on."""
        found = self._finding(now)
        if not after_probe and self._token_may_be_dead(found):
            return RenewToken()
        if found is None:
            return None
        if found.is_due(now) and (after_probe or not self._has_control):
            return GiveUp(_ended(found.code, found.streak, found.cause))
        if not after_probe:
            self._probes = 0  # a hold begins
        return Suspend(found.cause)

    def pause(self, now: float) -> float:
        """Return the seconds to wait before the next probe: the first at once, the last in time."""
        if not self._probes:
            return 0.0
        pause = min(_LONGEST_PAUSE, 2.0 ** min(self._probes - 1, _DOUBLINGS))
        left = self.wake(now) - now
        return min(pause, left) if left > 0 else pause

    def control(self) -> str | None:
        """Return the course to ask for in the next probe: one that was fetched, each in turn.

        Before anything was fetched it is one that failed; None: nothing failed.
        """
        self._asked += 1
        if self._controls:
            return self._controls[self._asked % len(self._controls)][1]
        return next((next(iter(streak.courses)) for streak in self._streaks), None)

    def wake(self, now: float) -> float:
        """Return when to ask for advice though nothing happened; inf: not needed."""
        if found := self._finding(now):
            return found.due
        if (passing := self._streaks.ways.get(PASSING)) and self._breaker != inf:
            return passing.since + self._passing_patience
        return inf

    def troubled(self, now: float) -> bool:
        """Whether there is a reason to hold."""
        return self._finding(now) is not None

    @property
    def wait_for_older(self) -> float:
        """Seconds for which a stop waits for requests that are under way."""
        if self.proven:
            return self._patience
        return _UNPROVEN_WAIT if self._connected else 0.0

    def may_substitute(self, now: float) -> bool:
        """Whether a fresh course may take the place of one that rests before its retry.

        Not before the first good answer: a limiter without burst shall see as few early requests
        as there may be at once. After half of the patience they may, so that a dead start is seen.
        """
        halves = {PASSING: self._passing_patience / 2, DIVERTED: _UNPROVEN_WAIT / 2}
        return self._answered or any(
            way in self._streaks.ways and now - self._streaks.ways[way].since >= half
            for way, half in halves.items()
        )

    @property
    def suspect(self) -> bool:
        """Whether several courses failed for passing reasons, and nothing was ever fetched."""
        return not self.proven and len(self._streaks.ways.get(PASSING, ())) >= self._same_fault

    @property
    def doubted(self) -> int:
        """How many courses had a final fault that no rows came after yet."""
        return len(self._doubted)

    def doubts(self, course_id: str) -> bool:
        """Whether a final fault of this course may be the account's fault."""
        return course_id in self._doubted

    @property
    def in_streak(self) -> bool:
        """Whether anything failed since the last rows."""
        return bool(self._streaks.ways or self._streaks.keys)

    # The end of the list

    @property
    def may_end_without_control(self) -> bool:
        return not (self.in_streak and self._has_control)

    def end_unanswered(self, error: CourseError) -> RunError:
        """Return what the end of the list is when the control ended with `error`, not with rows."""
        streak = next(iter(self._streaks))
        words = "the list ended in failures, and a course that was fetched before fails too"
        return _ended(5 if is_passing(error) else 4, streak, f"{words} ({error.message})")

    def end_unproven(self) -> RunError | None:
        """Judge the end of a run whose output holds nothing; None when it may be published."""
        if self._holds_rows or self._last_lost is None:
            return None
        number, last = counted(self._lost, "course"), self._last_lost
        words = f"nothing was fetched: {number} failed, the last with: {last.message}"
        if is_passing(last):
            return TemporarilyUnavailable(f"{words}; run the same command again later")
        return ServerRefuses(words)

    def confirm(self) -> None:
        """Take the final faults for the courses' own: the run has come to a good end."""
        self._doubted.clear()

    # The rules, the worst first

    def _finding(self, now: float) -> _Finding | None:
        return self._same_answer() or self._refused() or self._failing(now)

    def _same_answer(self) -> _Finding | None:
        for key, streak in self._streaks.keys.items():
            few = self._doubtful and not issubclass(key.verdict, Refused)
            passing = is_passing(streak.last)
            # Of those that pass no more than `breaker` fail before the run is held.
            many = MANY if self.proven or passing else self._many
            if len(streak) < (_FEW if few else many):
                continue
            patience = self._passing_patience if self.proven or passing else 0.0
            return _Finding(streak, patience, "the same answer for every course in a row", 4)
        return None

    def _refused(self) -> _Finding | None:
        least = self._refusals if self.proven else self._fewest
        least = min(least, _FEW) if self._doubtful else least
        for way, words in _CAUSES.items():
            if (streak := self._streaks.ways.get(way)) is None or len(streak) < least:
                continue
            patience = self._patience if self.proven else min(self._patience, _UNPROVEN_WAIT)
            # A certificate, an address, the source of tokens: what worked may work again.
            others = way == ACCOUNT and streak.last.kind != ACCOUNT_KIND
            at_once = way == ACCOUNT and not (others and self.proven)
            cause = "no course can be fetched" if others else words
            return _Finding(streak, 0.0 if at_once else patience, cause, 4)
        return None

    def _failing(self, now: float) -> _Finding | None:
        if (streak := self._streaks.ways.get(PASSING)) is None or self._breaker == inf:
            return None
        found = _Finding(streak, self._passing_patience, "the server fails", 5)
        few = len(streak) >= _FEW or not self._answered
        enough = len(streak) >= self._breaker or (self._doubtful and len(streak) >= _FEW)
        return found if enough or (found.is_due(now) and few) else None

    def _token_may_be_dead(self, found: _Finding | None) -> bool:
        """Whether to try a new token, once a streak.

        Before any hold too: a dead one may be told in a page, a status or no words at all.
        """
        if self._renewed or not (self._renewable and self.proven):
            return False
        self._renewed = bool(found and found.patience) or any(
            key.verdict is UnknownFault and len(streak) >= self._same_fault
            for key, streak in self._streaks.keys.items()
        )
        return self._renewed

    # What the rules rest on

    @property
    def _passing_patience(self) -> float:
        if self.proven:
            return self._patience
        longest = _UNPROVEN_PATIENCE if self._connected else UNCONNECTED_PATIENCE
        return min(self._patience, longest)

    @property
    def _has_control(self) -> bool:
        return self.proven and bool(self._controls)

    def _keep_control(self, course_id: str, rows: int) -> None:
        """Keep the smallest courses; of those without rows an answer says less."""
        size = rows or inf
        if len(self._controls) == _CONTROLS and self._controls[-1][0] <= size:
            return
        kept = [control for control in self._controls if control[1] != course_id]
        self._controls = sorted([*kept, (size, course_id)])[:_CONTROLS]

    def _api_answers(self) -> None:
        """Take a final fault for what it shows: the API is there, if not for this account."""
        self._answered = True
        self._doubtful = False
        self._streaks.end(PASSING, DIVERTED)

    def _works(self) -> None:
        self.proven = self._answered = self._connected = True
        self._streaks.clear()
        self._doubted.clear()
        self._probes, self._renewed, self._overloaded = 0, False, False
        self._doubtful = False


def _ended(code: int, streak: Streak, cause: str) -> RunError:
    number = counted(len(streak), "course")
    last = streak.last.message.removeprefix(f"{cause}: ")
    if code == 4:
        return ServerRefuses(f"{cause} ({number}), the last with: {last}{_remedy(streak.last)}")
    return TemporarilyUnavailable(
        f"{cause}: {number} without a good answer between them, the last with: {last}; "
        "run the same command again later to go on"
    )


def _remedy(last: CourseError) -> str:
    """Say what to do about an answer whose own words do not."""
    if isinstance(last, Refused):
        return "; check that the ids are of this account, and that the token may read them"
    if isinstance(last, RunRefused) and last.kind == ACCOUNT_KIND:
        return "; mend the account, then run the same command again"
    return ""
