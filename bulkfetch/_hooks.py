"""Where an embedding program may listen in: plain callables, all optional.

They run on the event loop between two steps of the engine, so they should be quick; what they
raise comes out of the run as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkfetch._errors import CourseError
    from bulkfetch._model import Outcome


class Attempt(NamedTuple):
    """One request: for which course, its seconds, how it failed (None: answered with rows)."""

    course_id: str
    number: int
    seconds: float
    error: CourseError | None


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause before course `course_id` is tried again: for how many seconds, and after what."""

    course_id: str
    seconds: float
    cause: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What reached the disk: courses, rows, seconds that writing and syncing them took."""

    courses: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callables that are told of outcomes, attempts, waits and commits."""

    outcome: Callable[[Outcome], object] | None = None
    attempt: Callable[[Attempt], object] | None = None
    wait: Callable[[Wait], object] | None = None
    commit: Callable[[Commit], object] | None = None
