"""One course, from its id to its outcome: all attempts, in one frame that holds its rows.

An attempt begins with empty rows and ends with a proven response or an error; the type of the
error says what happens next. tenacity decides how often and how long to wait. Tokens are renewed,
namespaces respelled and stale connections replaced inside an attempt, since none of these is the
course's fault.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bulkfetch._errors import (
    CourseError,
    LocalFault,
    NamespaceRefused,
    SoapFault,
    StaleConnection,
    Transient,
    Unauthorized,
)
from bulkfetch._hooks import Wait
from bulkfetch._model import Failed, Fetched
from bulkfetch._pacing import retry_pause
from bulkfetch._parser import Limits, ResponseParser
from bulkfetch._protocol import (
    Spelling,
    check_reply,
    encode_request,
    judge_fault,
    may_hold_fault,
    request_headers,
)
from bulkfetch._records import RowFormat
from bulkfetch._rows import Spool
from bulkfetch._transport import Sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bulkfetch._limiter import Limiter
    from bulkfetch._model import Method, Outcome
    from bulkfetch._options import Options
    from bulkfetch._setting import Secret
    from bulkfetch._token import TokenProvider
    from bulkfetch._transport import Reply, Transport

_log = logging.getLogger("bulkfetch")

_FAULT_BYTES: Final = 1 << 20
_SLOW_AFTER: Final = 30.0
_LOCAL_PAUSE: Final = 1.0
_LOCAL_TRIES: Final = 60


@dataclass(slots=True)
class _Course:
    """What one course gathers on its way to an outcome."""

    course_id: str
    rows: Spool
    attempts: int = 0
    renewed: bool = False
    stale: bool = False
    local: int = 0
    first: Transient | None = field(default=None)


class Fetcher:
    """Fetches courses with one method; as many at a time as there are callers.

    `in_flight` holds the ids whose request is under way; `sleep` is how retries wait.
    """

    def __init__(  # noqa: PLR0913 - the parts it puts together, once
        self,
        method: Method,
        options: Options,
        *,
        transport: Transport,
        tokens: TokenProvider,
        limiter: Limiter,
        attempted: Callable[[str, int, float, CourseError | None], None],
        waits: Callable[[Wait], None],
        spool_directory: str | None = None,
        run_id: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.in_flight: set[str] = set()
        self.spelling = _Spellings(options)
        self._method = method
        self._options = options
        self._transport = transport
        self._tokens = tokens
        self._limiter = limiter
        self._attempted = attempted
        self._waits = waits
        self._directory = spool_directory
        self._run_id = run_id
        self._sleep = sleep
        self._halfway = False
        self._format = RowFormat(method)
        self._headers = request_headers(method)
        self._limits = Limits(options.max_bytes, options.max_rows, options.max_row_bytes)

    async def fetch(self, course_id: str) -> Outcome:
        """Return the outcome; only cancellation and RunError come out as exceptions."""
        began = time.monotonic()
        course = _Course(course_id, Spool(self._directory))
        try:
            await self._all_attempts(course)
        except CourseError as error:
            course.rows.close()
            bare = _without_frames(error)
            return Failed(course_id, bare, course.attempts, time.monotonic() - began)
        except BaseException:
            course.rows.close()
            raise
        return Fetched(course_id, course.rows, course.attempts, time.monotonic() - began)

    async def _all_attempts(self, course: _Course) -> None:
        try:  # directly: tenacity costs 19 us a call, a sixth of a small request
            await self._attempt(course)
        except Transient as error:
            course.first = error
            await AsyncRetrying(
                retry=retry_if_exception_type(Transient),
                stop=self._enough,
                wait=self._pause_after,
                sleep=self._sleep,
                before_sleep=self._tell_wait,
                reraise=True,
            )(self._attempt_again, course)

    async def _attempt_again(self, course: _Course) -> None:
        if course.first is not None:
            error, course.first = course.first, None
            raise error
        await self._limiter.allow_retry()
        await self._attempt(course)

    def _enough(self, state: RetryCallState) -> bool:
        error = _failure(state)
        most = self._options.retries
        if error.most_retries is not None:
            most = min(most, error.most_retries)
        return state.attempt_number > most

    def _pause_after(self, state: RetryCallState) -> float:
        error = _failure(state)
        return retry_pause(
            state.attempt_number,
            backoff=self._options.backoff,
            max_backoff=self._options.max_backoff,
            random=random.random,
            retry_after=error.retry_after,
            max_retry_after=self._options.max_retry_after,
            overload=error.overload,
        )

    def _tell_wait(self, state: RetryCallState) -> None:
        course: _Course = state.args[0]
        error = _failure(state)
        seconds = state.next_action.sleep if state.next_action else 0.0
        _log.info("course %s: %s; again in %.1f s", course.course_id, error.message, seconds)
        self._waits(Wait(course.course_id, seconds, error.kind))

    async def _attempt(self, course: _Course) -> None:
        """Try once; what is not the course's fault is mended and tried again at once."""
        course.attempts += 1
        course.stale = False
        while True:
            course.rows.clear()
            token = self._tokens.at_hand() or await self._token(course)
            spelling = self.spelling.current
            try:
                await self._request(course, token, spelling)
            except (StaleConnection, LocalFault, Unauthorized, NamespaceRefused) as error:
                await self._mend(error, course, token, spelling)
            else:
                self.spelling.worked()
                return

    async def _token(self, course: _Course) -> Secret:
        began = time.monotonic()
        try:
            return await self._tokens.get()
        except Transient as error:  # counts as a request, so that the breaker sees it
            seconds = time.monotonic() - began
            self._attempted(course.course_id, course.attempts, seconds, error)
            raise

    async def _mend(
        self, error: CourseError, course: _Course, token: Secret, spelling: Spelling
    ) -> None:
        """Remove the cause of an error that is not the course's; raise it if that is no use."""
        match error:
            case StaleConnection() if not course.stale:
                course.stale = True
            case LocalFault() if course.local < _LOCAL_TRIES:
                course.local += 1
                self._limiter.strained()
                self._limiter.hold(_LOCAL_PAUSE, "this machine is short of sockets or files")
            case Unauthorized() if not course.renewed:
                course.renewed = True
                await self._tokens.renew(token)
            case NamespaceRefused() if self.spelling.turn(error, spelling):
                pass
            case _:
                raise error

    async def _request(self, course: _Course, token: Secret, spelling: Spelling) -> None:
        """Send one request within the limiter, and tell limiter, tally and hooks how it went."""
        body = Sealed(encode_request(self._method, token, course.course_id, spelling=spelling))
        error: CourseError | None = None
        if not self._limiter.enter_at_once():
            await self._limiter.enter()
        try:
            began = time.monotonic()
            self.in_flight.add(course.course_id)
            try:
                await self._converse(course, body, token)
            except CourseError as caught:
                error = caught
                error.args = (token.hidden_in(error.message),)
            finally:
                self.in_flight.discard(course.course_id)
            seconds = time.monotonic() - began
            if error is None:
                self._limiter.succeeded(seconds)
            else:
                self._lean_less(error)
        finally:
            self._limiter.leave()
        self._attempted(course.course_id, course.attempts, seconds, error)
        if error is not None:
            raise error

    def _lean_less(self, error: CourseError) -> None:
        if isinstance(error, Transient):
            if error.overload:
                self._limiter.strained()
            if error.retry_after:
                self._limiter.hold(min(error.retry_after, self._options.max_retry_after))

    async def _converse(self, course: _Course, body: bytes, token: Secret) -> None:
        endpoint = self._options.endpoint
        async with self._transport.post(endpoint, body, self._headers) as reply:
            verdict = check_reply(reply.status, reply.headers, endpoint=endpoint, now=time.time())
            if verdict is not None and not may_hold_fault(reply.status, reply.headers):
                raise verdict
            parser = self._parser(course.course_id, failed=verdict is not None)
            try:
                await self._read(reply, parser, course.rows)
            except SoapFault as fault:
                raise judge_fault(fault, self._options, token) from None
            except CourseError:
                if verdict is not None:  # no fault in it after all: the status counts
                    raise verdict from None
                raise
            if verdict is not None:
                raise verdict

    def _parser(self, course_id: str, *, failed: bool) -> ResponseParser:
        limits = Limits(_FAULT_BYTES, 1, _FAULT_BYTES) if failed else self._limits
        stamp = ""
        if self._options.stamp:
            stamp = f'"_fetched_at":"{_utc_now()}","_run_id":"{self._run_id}"'
        return ResponseParser(self._method, self._format.encoder(course_id, stamp), limits)

    async def _read(self, reply: Reply, parser: ResponseParser, rows: Spool) -> None:
        began = None
        counted = 0
        while data := await reply.read():
            if parser.put(data):  # reading alone would not yield while data is there
                await self._breathe_halfway()
                if done := parser.take():
                    rows.append(done, parser.rows - counted)
                    counted = parser.rows
                await asyncio.sleep(0)
            if began is None:
                began = time.monotonic()
            else:
                self._check_speed(parser.nbytes, time.monotonic() - began)
        if done := parser.close():
            rows.append(done, parser.rows - counted)

    async def _breathe_halfway(self) -> None:
        """Let others have a turn between a piece's two steps of half a millisecond.

        One course at a time: until its rows are taken, a piece is a tree of ten times its size.
        """
        if not self._halfway:
            self._halfway = True
            try:
                await asyncio.sleep(0)
            finally:
                self._halfway = False

    def _check_speed(self, nbytes: int, seconds: float) -> None:
        least = self._options.min_throughput
        if seconds > _SLOW_AFTER and nbytes < least * seconds:
            raise Transient(
                "timeout", f"the response trickles at less than {least} bytes/s", overload=True
            )


class _Spellings:
    """The spelling of the namespaces: each part turned at most once, until one works."""

    def __init__(self, options: Options) -> None:
        fixed = options.namespaces
        self.current = Spelling() if fixed == "auto" else Spelling(fixed, fixed)
        self._open = fixed == "auto"
        self._turned: set[str] = set()

    def worked(self) -> None:
        self._open = False

    def turn(self, error: NamespaceRefused, used: Spelling) -> bool:
        """Return whether another spelling than `used` is there to be tried."""
        if used != self.current:
            return True  # another course has turned it meanwhile
        if not self._open or error.part in self._turned:
            return False
        self._turned.add(error.part)
        self.current = used.other(error.part)
        _log.warning(
            "%s; from now on the %s namespace is written with %s://",
            error.message,
            error.part,
            getattr(self.current, error.part),
        )
        return True


def _without_frames(error: CourseError) -> CourseError:
    """Let go of the frames, which hold the response: as a value, an error may live long."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _failure(state: RetryCallState) -> Transient:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Transient)
    return error


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
