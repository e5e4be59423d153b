"""What one failure may mean beyond its course, and how often the course is asked again. Pure.

What many failures add up to is told in `stopping`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import (
    Diverted,
    RunRefused,
    Transient,
    Unauthorized,
    UnknownFault,
    Unreadable,
)

if TYPE_CHECKING:
    from bulkfetch._domain.errors import CourseError

PASSING, DIVERTED, TOKEN, ACCOUNT = "passing", "diverted", "token", "account"
"""The ways to fail that are no single course's fault."""
ACCOUNT_KIND: Final = "run-refused"
"""The kind of a refusal of the account itself, which no waiting mends."""


def most_retries(error: CourseError, retries: int, *, proven: bool, suspect: bool = False) -> int:
    """Return how many extra tries a course gets after this failure.

    A fault of unknown words is passing, and worth two; all of them while the service is `suspect`,
    or a bad moment at the start would be the end of the courses that it met.
    What would come again the same (a foreign shape, a request that the server blames) is worth two
    more tries, and only once this account has fetched something. A refused token, certificate or
    address is worth all of them then: what worked a moment ago may work again after a hold.
    """
    if isinstance(error, Unauthorized | RunRefused):
        return retries if proven and error.kind != ACCOUNT_KIND else 0
    if isinstance(error, Unreadable) or (isinstance(error, UnknownFault) and error.blames_request):
        return min(2, retries) if proven else 0
    if isinstance(error, UnknownFault) and suspect:
        return retries
    if isinstance(error, Transient):
        return retries if error.most_retries is None else min(error.most_retries, retries)
    return 0


def way_of(error: CourseError) -> str | None:
    """Return the way in which this one may have failed; None: it is the course's own."""
    match error:
        case Diverted():
            return DIVERTED
        case Unauthorized():
            return TOKEN
        case RunRefused():
            return ACCOUNT
        case _:
            return PASSING if is_passing(error) else None


def is_passing(error: CourseError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, UnknownFault):
        return not error.blames_request
    return isinstance(error, Transient) and not isinstance(error, Diverted)


def is_overload(error: CourseError) -> bool:
    """Whether the server said that it has too much to do."""
    return isinstance(error, Transient) and error.overload
