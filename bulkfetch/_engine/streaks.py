"""What failed since the last good answer, in streaks of one kind.

A streak holds distinct courses, not attempts. It is counted by what its failures say of the server
(a way), and by what makes two answers the same (a key), since one answer for every course is no
course's own. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from bulkfetch._domain.errors import CourseError, Refused, UnknownFault, Unreadable
from bulkfetch._engine.ways import ACCOUNT, DIVERTED, PASSING, TOKEN, way_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_K = TypeVar("_K")
_MOST_KEYS: Final = 1_000
_WORST_FIRST: Final = (ACCOUNT, TOKEN, DIVERTED, PASSING)

# What differs between two failures of one cause: quoted values, UUIDs, hex and digit runs.
_VARIABLE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\b[0-9a-fA-F][0-9a-fA-F-]{5,}\b|\d+")


class Key(NamedTuple):
    """What makes two failures one: verdict, kind, fault code, and the text without its values."""

    verdict: type[CourseError]
    kind: str
    code: str
    text: str

    @classmethod
    def of(cls, course_id: str, error: CourseError) -> Key:
        code = error.code if isinstance(error, UnknownFault) else ""
        own = rf"(?<!\w){re.escape(_VARIABLE.sub('*', course_id))}(?!\w)"
        text = re.sub(own, "*", _VARIABLE.sub("*", error.message))
        return cls(type(error), error.kind, code, text)


@dataclass(slots=True)
class Streak:
    """Distinct courses that failed in one way since the last good answer, and since when."""

    since: float
    last: CourseError
    courses: set[str]

    def __len__(self) -> int:
        return len(self.courses)


class Streaks:
    """All streaks: `ways` by way, `keys` by key. Iterating gives them, the worst first."""

    def __init__(self) -> None:
        self.ways: dict[str, Streak] = {}
        self.keys: dict[Key, Streak] = {}

    def __iter__(self) -> Iterator[Streak]:
        for way in _WORST_FIRST:
            if way in self.ways:
                yield self.ways[way]
        yield from self.keys.values()

    def add(self, now: float, course_id: str, error: CourseError) -> None:
        """Count a failed attempt; of too many keys the oldest is forgotten."""
        if isinstance(error, Refused | UnknownFault | Unreadable):
            key = Key.of(course_id, error)
            if key not in self.keys and len(self.keys) >= _MOST_KEYS:
                del self.keys[next(iter(self.keys))]
            _add(self.keys, key, now, course_id, error)
        if way := way_of(error):
            _add(self.ways, way, now, course_id, error)

    def end(self, *ways: str) -> None:
        for way in ways:
            self.ways.pop(way, None)

    def clear(self) -> None:
        self.ways.clear()
        self.keys.clear()


def _add(
    streaks: dict[_K, Streak], key: _K, now: float, course_id: str, error: CourseError
) -> None:
    streak = streaks.setdefault(key, Streak(now, error, set()))
    streak.courses.add(course_id)
    streak.last = error
