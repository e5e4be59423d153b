"""The calls around an export: which courses are there, and would a run work at all.

Both go through the same fetcher as the export, so that tokens, namespaces and retries behave the
same; what one course may shrug off is final here, and is raised as the run's own error.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from bulkfetch._domain.errors import (
    NEVER_CONNECTED,
    CourseError,
    Diverted,
    Refused,
    RunError,
    ServerRefuses,
    TemporarilyUnavailable,
    Transient,
    UnknownFault,
)
from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES, ContentItem, Failed, Fetched
from bulkfetch._engine.course import Fetcher
from bulkfetch._engine.setup import Setup, equipped
from bulkfetch._engine.stopping import UNCONNECTED_PATIENCE
from bulkfetch._pace.limiter import Limiter

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from bulkfetch._config.options import Options
    from bulkfetch._domain.model import Method, Outcome
    from bulkfetch._http.transport import Transport
    from bulkfetch._soap.protocol import Spelling

_NO_COURSE: Final = "00000000-0000-4000-8000-000000000000"
"""An id that no course has, though of the right form, for servers that look at it."""
_NOT_THERE: Final = ("unknown-content-item", "wrong-parameters")
"""What an account that works is answered for it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What one cheap call showed: the namespaces that work, seconds it took, and the words."""

    spelling: Spelling
    seconds: float
    message: str


async def discover(
    options: Options,
    *,
    session: ClientSession | None = None,
    transport: Transport | None = None,
) -> list[ContentItem]:
    """Return the account's content items, in the server's order.

    The service does not page this list and leaves out linked copies, so it may lack courses.
    Raises ServerRefuses or TemporarilyUnavailable.
    """
    outcome, _ = await _ask_once(GET_CONTENT, "", options, session, transport)
    if isinstance(outcome, Failed):
        raise _as_run_error(outcome)
    lines = b"".join(outcome.rows.ndjson()).splitlines()
    outcome.rows.close()
    return [_content_item(orjson.loads(line)) for line in lines]


async def check(
    options: Options,
    *,
    course_id: str = _NO_COURSE,
    session: ClientSession | None = None,
    transport: Transport | None = None,
) -> Checked:
    """Make one cheap call that shows whether endpoint, namespaces and token work.

    With the id of a real course it shows the permission, too. Raises ServerRefuses or
    TemporarilyUnavailable with what is wrong, in words.
    """
    began = time.monotonic()
    outcome, spelling = await _ask_once(GET_FINAL_STATUSES, course_id, options, session, transport)
    seconds = time.monotonic() - began
    if isinstance(outcome, Fetched):
        rows = len(outcome.rows)
        outcome.rows.close()
        return Checked(spelling, seconds, f"course {course_id} has {rows} learners")
    refusal = outcome.error.kind if isinstance(outcome.error, Refused) else None
    if course_id == _NO_COURSE and refusal in _NOT_THERE:
        return Checked(spelling, seconds, "endpoint, namespaces and token work")
    if refusal == "unknown-content-item":
        raise ServerRefuses(f"the server does not know course {course_id}")
    raise _as_run_error(outcome)


async def _ask_once(
    method: Method,
    value: str,
    options: Options,
    session: ClientSession | None,
    transport: Transport | None,
) -> tuple[Outcome, Spelling]:
    connecting = _Connecting()
    setup = Setup(ids=(), options=options, session=session, transport=transport)
    async with equipped(setup) as (way, tokens):
        fetcher = Fetcher(
            method,
            options,
            transport=way,
            tokens=tokens,
            limiter=Limiter(1, max_hold=options.max_retry_after),
            attempted=connecting.attempted,
            waits=lambda *_: None,
            sleep=connecting.rest,
        )
        outcome = await fetcher.fetch(value)
        return outcome, fetcher.spelling.current


class _Connecting:
    """Ends the tries of one call soon when nobody was ever reached: whoever waits is a person."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._failure: CourseError | None = None

    def attempted(self, _id: str, _number: int, _seconds: float, error: CourseError | None) -> None:
        self._failure = error

    async def rest(self, seconds: float) -> None:
        error = self._failure
        wait = time.monotonic() - self._began + seconds
        if error and error.kind in NEVER_CONNECTED and wait > UNCONNECTED_PATIENCE:
            raise error
        await asyncio.sleep(seconds)


def _as_run_error(outcome: Failed) -> RunError:
    error = outcome.error
    refused = isinstance(error, Diverted) or (
        isinstance(error, UnknownFault) and error.blames_request
    )
    if isinstance(error, Transient) and not refused:
        tries = "1 try" if outcome.attempts == 1 else f"{outcome.attempts} tries"
        return TemporarilyUnavailable(f"{error.message} ({tries}); try again later")
    if error.kind == "permission-denied":
        return ServerRefuses(
            "the account is not permitted to read this: it needs 'Can edit' access to the courses"
        )
    return ServerRefuses(error.message)


def _content_item(row: dict[str, object]) -> ContentItem:
    item_id, title, kind = (row.pop(name, None) for name in ("contentItemId", "title", "type"))
    return ContentItem(
        str(item_id),
        title if isinstance(title, str) else None,
        kind if isinstance(kind, str) else None,
        row,
    )
