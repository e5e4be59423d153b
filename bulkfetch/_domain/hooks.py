"""Where an embedding program may listen in: plain callables, all optional.

They run on the event loop between two steps of the engine, so they should be quick; what they
raise comes out of the run as it is. Nobody would await them: an async one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple

from bulkfetch._domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkfetch._domain.errors import CourseError
    from bulkfetch._domain.model import Outcome


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
    """Callables that are told of outcomes, attempts, waits and commits.

    `a | b` tells both, `a` first. Raises ConfigurationError for a hook that is async or cannot be
    called.
    """

    outcome: Callable[[Outcome], object] | None = None
    attempt: Callable[[Attempt], object] | None = None
    wait: Callable[[Wait], object] | None = None
    commit: Callable[[Commit], object] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name))

    def __or__(self, other: Hooks) -> Hooks:
        if not isinstance(other, Hooks):
            return NotImplemented
        names = (item.name for item in fields(self))
        return Hooks(*(_both(getattr(self, name), getattr(other, name)) for name in names))


def _check(name: str, hook: Any) -> None:
    if hook is None:
        return
    if not callable(hook):
        raise ConfigurationError(f"the hook {name}={hook!r} cannot be called: give a function")
    while isinstance(hook, partial):
        hook = hook.func
    for call in (hook, type(hook).__call__):
        if iscoroutinefunction(call) or isasyncgenfunction(call):
            raise ConfigurationError(
                f"the hook {name}={hook!r} is async, and nobody would await it: give a plain "
                "function, which may put what it is told into an asyncio.Queue"
            )


def _both(
    first: Callable[[Any], object] | None, second: Callable[[Any], object] | None
) -> Callable[[Any], object] | None:
    if first is None or second is None:
        return first or second

    def tell(told: Any) -> None:
        first(told)
        second(told)

    return tell
