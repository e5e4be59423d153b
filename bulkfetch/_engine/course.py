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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bulkfetch._domain.errors import (
    CourseError,
    LocalFault,
    NamespaceRefused,
    RunRefused,
    StaleConnection,
    Transient,
    Unauthorized,
    Unreadable,
)
from bulkfetch._domain.hooks import Wait
from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._engine.spelling import Spellings
from bulkfetch._engine.ways import most_retries
from bulkfetch._http.transport import Sealed
from bulkfetch._output.spool import Spool
from bulkfetch._pace.rules import retry_pause
from bulkfetch._soap.parser import Limits, ResponseParser
from bulkfetch._soap.protocol import Spelling, encode_request, request_headers
from bulkfetch._soap.records import RowFormat
from bulkfetch._soap.verdicts import Answer, judge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bulkfetch._config.options import Options
    from bulkfetch._config.setting import Secret
    from bulkfetch._domain.model import Method, Outcome
    from bulkfetch._http.token import TokenProvider
    from bulkfetch._http.transport import Reply, Transport
    from bulkfetch._pace.limiter import Limiter
    from bulkfetch._soap.records import Encoder

_log = logging.getLogger("bulkfetch")

_ERROR_LIMITS: Final = Limits(max_bytes=2 << 20, max_row_bytes=2 << 20)
"""Bounds on an answer without rows: a status page, or a fault."""
_SLOW_AFTER: Final = 30.0
_LOCAL_PAUSE: Final = 1.0
_ROUNDS: Final = 3
"""How often the tries of a course may begin anew."""
_ASKED: Final = "Retry-After"
_TRIED_AGAIN: Final = (Transient, Unreadable, Unauthorized, RunRefused)
"""What `most_retries` may give more tries."""


@dataclass(slots=True)
class _Course:
    """What one course gathers on its way to an outcome."""

    course_id: str
    rows: Spool
    attempts: int = 0
    renewed: bool = False
    stale: bool = False
    probe: bool = False
    first: CourseError | None = None
    tried: tuple[float, float] = (0.0, 0.0)
    """When the last two tries were made."""


async def _never(*_: object) -> bool:
    return False


class Fetcher:
    """Fetches courses with one method; as many at a time as there are callers.

    `in_flight` holds the ids whose request is under way, in the order in which they were sent, and
    when, by time.monotonic; `strayed` counts answers with rows
    that name another course than the one asked for. `sleep` is how retries wait; `proven` tells
    whether this account has fetched anything, without which some retries make no sense; `suspect`
    whether the service may be failing, which makes more of them sensible; `excuses` tells of a
    course that used up its tries, how many controls had failed before them, and when the last but
    one was made, whether the server was to blame; then they begin anew; `paused` is
    told for how many seconds nothing starts, and why.
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
        waits: Callable[[Wait, CourseError | None], None],
        proven: Callable[[], bool] = lambda: False,
        suspect: Callable[[], bool] = lambda: False,
        excuses: Callable[[str, CourseError, int, float], Awaitable[bool]] = _never,
        failed_controls: Callable[[], int] = lambda: 0,
        paused: Callable[[float, str], object] = lambda *_: None,
        spool_directory: str | None = None,
        run_id: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.in_flight: dict[str, float] = {}
        self.spelling = Spellings(options)
        self.strayed = 0
        self._method = method
        self._options = options
        self._transport = transport
        self._tokens = tokens
        self._limiter = limiter
        self._attempted = attempted
        self._waits = waits
        self._proven, self._suspect = proven, suspect
        self._excuses, self._failed_controls = excuses, failed_controls
        self._paused = paused
        self._directory = spool_directory
        self._run_id = run_id
        self._sleep = sleep
        self._halfway = False
        self._format = RowFormat(method)
        self._headers = request_headers(method, options.soap_action)
        self._limits = Limits(options.max_bytes, options.max_rows, options.max_row_bytes)

    async def fetch(self, course_id: str) -> Outcome:
        """Return the outcome; only cancellation and RunError come out as exceptions."""
        began = time.monotonic()
        course = _Course(course_id, Spool(self._directory))
        try:
            error = await self._all_rounds(course)
        except BaseException:
            course.rows.close()
            raise
        seconds = time.monotonic() - began
        if error is not None:
            course.rows.close()
            return Failed(course_id, error, course.attempts, seconds)
        return Fetched(course_id, course.rows, course.attempts, seconds)

    async def _all_rounds(self, course: _Course) -> CourseError | None:
        """Use up all tries, anew when the server was to blame for it; return how the last failed.

        Not more often than `_ROUNDS`: one is as long as an outage, and a server whose controls
        fail now and then would be asked for ever.
        """
        bare: CourseError | None = None
        for _ in range(1 + _ROUNDS):
            before = self._failed_controls()
            try:
                if bare is not None:
                    self._waits(Wait(course.course_id, 0.0, bare.kind), None)
                    await self._limiter.allow_retry()
                await self._all_attempts(course)
            except CourseError as error:
                bare = _without_frames(error)
            else:
                return None
            course.rows.clear()
            if not await self._excuses(course.course_id, bare, before, course.tried[0]):
                break
            course.renewed, course.first = False, None
        return bare

    async def _all_attempts(self, course: _Course) -> None:
        try:  # directly: tenacity costs 19 us a call, a sixth of a small request
            await self._attempt(course)
        except _TRIED_AGAIN as error:
            course.first = error
            await AsyncRetrying(
                retry=retry_if_exception_type(_TRIED_AGAIN),
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
        most = most_retries(
            _failure(state),
            self._options.retries,
            proven=self._proven(),
            suspect=self._suspect(),
        )
        return state.attempt_number > most

    def _pause_after(self, state: RetryCallState) -> float:
        error = _failure(state)
        return retry_pause(
            state.attempt_number,
            backoff=self._options.backoff,
            max_backoff=self._options.max_backoff,
            random=random.random,
            retry_after=error.retry_after if isinstance(error, Transient) else None,
            max_retry_after=self._options.max_retry_after,
            overload=isinstance(error, Transient) and error.overload,
        )

    def _tell_wait(self, state: RetryCallState) -> None:
        course: _Course = state.args[0]
        error = _failure(state)
        seconds = state.next_action.sleep if state.next_action else 0.0
        _log.info("course %s: %s; again in %.1f s", course.course_id, error.message, seconds)
        self._waits(Wait(course.course_id, seconds, error.kind), error)

    async def _attempt(self, course: _Course) -> None:
        """Try once; what is not the course's fault is mended and tried again at once."""
        course.attempts += 1
        course.tried = course.tried[1], time.monotonic()
        course.stale = False
        while True:
            course.rows.clear()
            if self._limiter.is_shut and not course.probe:
                await self._limiter.wait_until_reopened()  # a token is not asked for either
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
        while True:
            began = time.monotonic()
            try:
                return await self._tokens.get()
            except LocalFault:  # no try of the course, however long it lasts
                await self._wait_for_this_machine()
                await asyncio.sleep(self._limiter.held)
            except Transient as error:  # counts as a request, so that the stop rules see it
                if not course.probe:
                    seconds = time.monotonic() - began
                    self._attempted(course.course_id, course.attempts, seconds, error)
                raise

    async def renew_token(self) -> None:
        """Let go of a token that may be dead, though no answer said so in known words."""
        if token := self._tokens.at_hand():
            await self._tokens.renew(token)

    async def probe(self, course_id: str) -> CourseError | None:
        """Ask for a course past the limiter and throw the answer away; None: its rows came.

        It is no try of the course. A stale connection is replaced and a token renewed, once each.
        """
        course = _Course(course_id, Spool(self._directory), probe=True)
        try:
            await self._attempt(course)
        except CourseError as error:
            return _without_frames(error)
        finally:
            course.rows.close()
        return None

    async def _mend(
        self, error: CourseError, course: _Course, token: Secret, spelling: Spelling
    ) -> None:
        """Remove the cause of an error that is not the course's; raise it if that is no use."""
        match error:
            case StaleConnection() if not course.stale:
                course.stale = True
            case LocalFault():
                await self._wait_for_this_machine()
            case Unauthorized() if not course.renewed:
                course.renewed = True
                await self._tokens.renew(token)
            case NamespaceRefused() if self.spelling.turn(error, spelling):
                pass
            case _:
                raise error

    async def _wait_for_this_machine(self) -> None:
        self._limiter.strained()
        self._pause(_LOCAL_PAUSE, "this machine is short of sockets or files")
        if self._options.max_retry_after < _LOCAL_PAUSE:  # a hold may be none, and the loop stand
            await asyncio.sleep(_LOCAL_PAUSE)

    def _pause(self, seconds: float, *cause: str) -> None:
        """Have nothing start for some seconds; without a cause, since the server asked for it."""
        self._limiter.hold(seconds, *cause)
        if held := self._limiter.held:
            self._paused(held, *cause or (_ASKED,))

    async def _request(self, course: _Course, token: Secret, spelling: Spelling) -> None:
        """Send one request within the limiter, and tell limiter, tally and hooks how it went."""
        body = Sealed(encode_request(self._method, token, course.course_id, spelling=spelling))
        if course.probe:
            await asyncio.sleep(self._limiter.held)
            await self._converse(course, body, token)
            return
        error: CourseError | None = None
        await self._limiter.enter()
        try:
            self.in_flight[course.course_id] = began = time.monotonic()
            try:
                await self._converse(course, body, token)
            except CourseError as caught:
                error = caught
            finally:
                self.in_flight.pop(course.course_id, None)
            seconds = time.monotonic() - began
            if error is None:
                self._limiter.succeeded(seconds)
            else:
                self._lean_less(error, seconds)
        finally:
            self._limiter.leave()
        self._attempted(course.course_id, course.attempts, seconds, error)
        if error is not None:
            raise error

    def _lean_less(self, error: CourseError, seconds: float) -> None:
        if isinstance(error, Transient):
            if error.overload:
                self._limiter.strained(seconds)
            if error.retry_after:
                self._pause(min(error.retry_after, self._options.max_retry_after))

    async def _converse(self, course: _Course, body: bytes, token: Secret) -> None:
        encode = self._encoder(course.course_id)
        try:
            async with self._transport.post(self._options.endpoint, body, self._headers) as reply:
                good = 200 <= reply.status < 300
                limits = self._limits if good else _ERROR_LIMITS
                parser = ResponseParser(self._method, encode, limits)
                found = await self._read(reply, parser, course.rows)
                if found is not None or not good:
                    answer = Answer(reply.status, reply.headers, parser.beginning, time.time())
                    if error := judge(answer, found, self._options, token):
                        raise error
        except CourseError as error:
            error.args = (token.hidden_in(error.message),)
            raise
        if encode.strays:
            self._warn_of_strays(course, encode.strays)

    def _encoder(self, course_id: str) -> Encoder:
        stamp = ""
        if self._options.stamp:
            stamp = f'"_fetched_at":"{_utc_now()}","_run_id":"{self._run_id}"'
        return self._format.encoder(course_id, stamp)

    def _warn_of_strays(self, course: _Course, count: int) -> None:
        self.strayed += 1
        _log.warning(
            "course %s: %s of its rows name another course, kept as _%s: %s",
            course.course_id,
            count,
            self._method.parameter,
            "the server may have mixed up its answers",
        )

    async def _read(self, reply: Reply, parser: ResponseParser, rows: Spool) -> CourseError | None:
        """Read the body to its end; return what is wrong with it."""
        began = None
        counted = 0
        try:
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
        except CourseError as error:
            return error
        return None

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


def _without_frames(error: CourseError) -> CourseError:
    """Let go of the frames, which hold the response: as a value, an error may live long."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _failure(state: RetryCallState) -> CourseError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, CourseError)
    return error


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
