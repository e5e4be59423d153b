"""The calls around an export: which courses are there, and would a run work at all.

Both go through the same fetcher as the export, so that tokens, namespaces and retries behave the
same; what one course may shrug off is final here, and is raised as the run's own error.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from bulkfetch._direct import open_transport
from bulkfetch._errors import Refused, RunError, ServerRefuses, TemporarilyUnavailable, Transient
from bulkfetch._fetch import Fetcher
from bulkfetch._limiter import Limiter
from bulkfetch._model import GET_CONTENT, GET_FINAL_STATUSES, ContentItem, Failed, Fetched
from bulkfetch._token import make_provider

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from bulkfetch._model import Method, Outcome
    from bulkfetch._options import Options
    from bulkfetch._protocol import Spelling
    from bulkfetch._transport import Transport

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
    async with AsyncExitStack() as stack:
        if transport is None:
            transport = await stack.enter_async_context(open_transport(options, session))
        fetcher = Fetcher(
            method,
            options,
            transport=transport,
            tokens=make_provider(options, transport),
            limiter=Limiter(1, max_hold=options.max_retry_after),
            attempted=lambda *_: None,
            waits=lambda _: None,
        )
        outcome = await fetcher.fetch(value)
        return outcome, fetcher.spelling.current


def _as_run_error(outcome: Failed) -> RunError:
    error = outcome.error
    if isinstance(error, Transient):
        return TemporarilyUnavailable(
            f"{error.message} ({outcome.attempts} tries); try again later"
        )
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
