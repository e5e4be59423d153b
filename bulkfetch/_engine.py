"""The machine: many workers, one bounded outbox of outcomes, and whoever consumes them.

`stream` gives the outcomes to an embedding program, `export` writes them to a journaled file. A
worker pulls an id, fetches it to its outcome and puts that into the outbox, which is bounded in
number and bytes: a slow consumer slows the workers, and so the server is asked less. Errors of a
course are values; the run's own come out of the iteration as themselves, after the last outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sized
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bulkfetch._direct import open_transport
from bulkfetch._errors import (
    CourseError,
    Refused,
    RunRefused,
    ServerRefuses,
    StoppedEarly,
    TemporarilyUnavailable,
    Transient,
    Unauthorized,
)
from bulkfetch._fetch import Fetcher
from bulkfetch._hooks import Attempt, Hooks, Wait
from bulkfetch._limiter import Limiter
from bulkfetch._model import GET_FINAL_STATUSES, Failed
from bulkfetch._outbox import Outbox
from bulkfetch._pacing import Breaker
from bulkfetch._source import Source
from bulkfetch._tally import State, Summary, Tally
from bulkfetch._token import make_provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Container, Iterable

    from aiohttp import ClientSession

    from bulkfetch._model import Outcome
    from bulkfetch._options import Options
    from bulkfetch._transport import Transport

_RESTING_PER_WORKER: Final = 4
_SHOWN_IN_FLIGHT: Final = 32
_DENIED_FROM_THE_START: Final = 4
"""Times `refusals`: so many denied courses and none fetched mean that it is the account."""
_LEAST_FOR_A_SHARE: Final = 20
"""Courses done before `max_errors` in percent is judged."""


_NO_HOOKS: Final = Hooks()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one run works on; all but ids and options have defaults that do."""

    ids: Iterable[str] | AsyncIterable[str]
    options: Options
    session: ClientSession | None = None
    transport: Transport | None = None
    limiter: Limiter | None = None
    hooks: Hooks = _NO_HOOKS
    settled: Container[str] = frozenset()
    proven: bool = False
    """Whether this account has fetched courses into the same output before."""
    spool_directory: str | None = None
    run_id: str = ""


@asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Run]:
    """Run the workers while the context is entered; leaving it ends them all."""
    async with AsyncExitStack() as stack:
        transport = setup.transport
        if transport is None:
            transport = await stack.enter_async_context(
                open_transport(setup.options, setup.session)
            )
        run = Run(setup, transport)
        stack.callback(run.close)
        failure: BaseException | None = None
        async with asyncio.TaskGroup() as group:
            run.start(group)
            try:
                yield run
            except BaseException as error:  # noqa: BLE001 - raised below, outside the group
                failure = error
            finally:
                run.cancel()
        if failure is not None:
            raise failure


class Run:
    """One run in progress: an async iterator over its outcomes."""

    def __init__(self, setup: Setup, transport: Transport) -> None:
        options = setup.options
        self._options = options
        self._hooks = setup.hooks
        self._source = Source(setup.ids, setup.settled, options.limit)
        self._limiter = setup.limiter or Limiter.of(options)
        self._fetcher = Fetcher(
            GET_FINAL_STATUSES,
            options,
            transport=transport,
            tokens=make_provider(options, transport),
            limiter=self._limiter,
            attempted=self._attempted,
            waits=self._waits,
            spool_directory=setup.spool_directory,
            run_id=setup.run_id,
            sleep=self._rest,
        )
        self._tally = Tally()
        self._breaker = Breaker(options.breaker, options.patience)
        self._outbox = Outbox(ordered=options.ordered)
        self._began = time.monotonic()
        self._total = len(setup.ids) if isinstance(setup.ids, Sized) else None
        self._workers: dict[asyncio.Task[None], str | None] = {}
        """The id each fetches; None while it hands over an outcome, which no stop may lose."""
        self._resting = 0
        self._stopping = False
        self._timers: list[asyncio.TimerHandle] = []
        self._refused_in_a_row = self._denied = 0
        self._proven = setup.proven

    # For the consumer

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> Outcome:
        return await self._outbox.get()

    async def take(self, deadline: float, nbytes: int) -> tuple[list[Outcome], int]:
        """Return the outcomes there are at the deadline (loop time), or many before it.

        Also returns how many bytes their rows have; stops with the outcome that reaches `nbytes`.
        Raises StopAsyncIteration at the end, or what stopped the run.
        """
        return await self._outbox.take(deadline, nbytes)

    def stop(self, error: BaseException) -> None:
        """Begin no course any more; those in flight have the grace time, then `error` comes out."""
        if self._stopping:
            return
        self._stopping = True
        self._outbox.stop(error)
        for worker, course_id in self._workers.items():
            if course_id is not None and course_id not in self._fetcher.in_flight:
                worker.cancel()
        self._later(self._options.grace, self.cancel)

    @property
    def state(self) -> State:
        tally = self._tally
        return State(
            at=time.time(),
            seconds=time.monotonic() - self._began,
            total=self._total,
            settled=self._source.skipped,
            courses=tally.courses,
            fetched=tally.fetched,
            failed=tally.courses - tally.fetched,
            rows=tally.rows,
            requests=tally.requests,
            retries=tally.retries.total(),
            in_flight=tuple(self._fetcher.in_flight)[:_SHOWN_IN_FLIGHT],
            limit=self._limiter.limit,
            waiting=self._limiter.waiting,
            waited=dict(self._limiter.waited),
            latency_p50=tally.quantile(50),
            latency_p90=tally.quantile(90),
            latency_p99=tally.quantile(99),
        )

    @property
    def summary(self) -> Summary:
        return self._tally.summary(
            seconds=time.monotonic() - self._began,
            waited=self._limiter.waited,
            settled=self._source.skipped,
            duplicates=self._source.duplicates,
        )

    @property
    def latencies(self) -> str:
        """The histogram of latencies in microseconds, in HdrHistogram's compressed text form."""
        return self._tally.latencies()

    # For the context that runs it

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        for _ in range(self._options.concurrency):
            self._hire()
        if self._options.max_duration is not None:
            reason = TemporarilyUnavailable(
                f"stopped after {self._options.max_duration:g} s, as max_duration says: "
                "run the same command again to go on"
            )
            self._later(self._options.max_duration, self.stop, reason)

    def cancel(self) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.cancel()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._source.close()
        self._outbox.close()

    def _later(self, seconds: float, function: object, *args: object) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(seconds, function, *args))  # type: ignore[arg-type]

    # The workers

    def _hire(self) -> None:
        worker = self._group.create_task(self._work())
        self._workers[worker] = ""
        worker.add_done_callback(self._leave)

    def _leave(self, worker: asyncio.Task[None]) -> None:
        self._workers.pop(worker, None)
        if not self._workers:
            self._outbox.end()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            while not self._stopping and self._needed():
                if (pulled := await self._source.next()) is None:
                    return
                number, self._workers[me] = pulled
                outcome = await self._fetcher.fetch(pulled[1])
                self._workers[me] = None
                await self._outbox.put(number, self._judge(outcome))
                self._workers[me] = ""
        except asyncio.CancelledError:
            # Not from here unless the run is stopping: without a word it would lack a course.
            self.stop(TemporarilyUnavailable("a request was cancelled from outside: run again"))
            raise
        except Exception as error:  # noqa: BLE001 - the consumer's: from ids, hooks, token or disk
            self.stop(error)
        finally:
            self._leave(me)  # at once: the next that asks whether it is needed must not count it

    def _needed(self) -> bool:
        return len(self._workers) - self._resting <= self._options.concurrency

    async def _rest(self, seconds: float) -> None:
        """Wait before a retry, while somebody else makes use of the place."""
        me = asyncio.current_task()
        if self._stopping and me is not None:
            me.cancel()  # a retry is not "in flight": the next run makes it
        self._resting += 1
        most = self._options.concurrency * _RESTING_PER_WORKER
        if not self._stopping and self._resting <= most:
            self._hire()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._resting -= 1

    # Judgement

    def _attempted(
        self, course_id: str, number: int, seconds: float, error: CourseError | None
    ) -> None:
        self._tally.attempted(seconds)
        if error is None or isinstance(error, Refused):
            self._breaker.answered()
        elif isinstance(error, Transient):
            self._troubled(error)
        if self._hooks.attempt:
            self._hooks.attempt(Attempt(course_id, number, seconds, error))

    def _troubled(self, error: Transient) -> None:
        pause = self._breaker.failed(time.monotonic())
        if self._breaker.open:
            self.stop(_unavailable(error, self._breaker))
        elif pause:
            self._limiter.strained()
            self._limiter.hold(pause, "the server fails, probing again in")

    def _waits(self, wait: Wait) -> None:
        self._tally.retried(wait.cause)
        if self._hooks.wait:
            self._hooks.wait(wait)

    def _judge(self, outcome: Outcome) -> Outcome:
        """Count the outcome, and stop the run where going on makes no sense."""
        if isinstance(outcome, Failed):
            outcome = self._judge_failure(outcome)
        else:
            self._refused_in_a_row = 0
        self._tally.add(outcome)
        if self._tally.courses > self._tally.fetched:
            self._check_errors()
        if self._hooks.outcome:
            self._hooks.outcome(outcome)
        return outcome

    def _judge_failure(self, outcome: Failed) -> Failed:
        error = outcome.error
        if isinstance(error, Refused):
            self._refused_in_a_row = 0
            if error.kind != "permission-denied" or self._proven or self._tally.fetched:
                return outcome
            # All denied from the start: it may be the account, so no course is settled by it.
            self._denied += 1
            if self._denied >= self._options.refusals * _DENIED_FROM_THE_START:
                self.stop(_refuses(error, "every course so far is denied"))
            error = RunRefused(error.kind, error.message)
            return Failed(outcome.course_id, error, outcome.attempts, outcome.seconds)
        if isinstance(error, RunRefused | Unauthorized):
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= self._options.refusals:
                self.stop(_refuses(error, f"{self._refused_in_a_row} courses in a row"))
        return outcome

    def _check_errors(self) -> None:
        failed = self._tally.courses - self._tally.fetched
        if self._options.fail_fast:
            self.stop(StoppedEarly("stopped at the first course that failed, as fail_fast says"))
        if (text := self._options.max_errors) is None:
            return
        number = float(text.rstrip("%"))
        share = text.endswith("%")
        if share and self._tally.courses < _LEAST_FOR_A_SHARE:
            return
        if failed > (number * self._tally.courses / 100 if share else number):
            self.stop(
                StoppedEarly(
                    f"{failed} of {self._tally.courses} courses failed, more than max_errors "
                    f"{text} allows: see the failed courses, then run again"
                )
            )


def _refuses(error: CourseError, extent: str) -> ServerRefuses:
    return ServerRefuses(f"the server refuses the run ({extent}): {error.message}")


def _unavailable(error: CourseError, breaker: Breaker) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        f"{breaker.in_a_row} requests in a row failed, the last with: {error.message}; "
        "run the same command again later to go on"
    )


@asynccontextmanager
async def stream(
    ids: Iterable[str] | AsyncIterable[str],
    options: Options,
    *,
    session: ClientSession | None = None,
    transport: Transport | None = None,
    limiter: Limiter | None = None,
    hooks: Hooks = _NO_HOOKS,
) -> AsyncIterator[Run]:
    """Fetch the final statuses of many courses, each outcome as soon as it is there.

    `ids` may be any iterable or async iterable of course ids, read as needed; repeated ones are
    dropped. A `session` is used and not closed; a `limiter` may be shared between streams of one
    event loop. Outcomes come in any order unless `options.ordered`.

    Iterating raises RunError (ConfigurationError, ServerRefuses, TemporarilyUnavailable,
    StoppedEarly) when the run cannot go on, and whatever `ids` or a hook raises. The failure of a
    course is a value, `Failed`. Leaving the context ends every task, whatever the reason.
    """
    setup = Setup(
        ids=ids,
        options=options,
        session=session,
        transport=transport,
        limiter=limiter,
        hooks=hooks,
    )
    async with running(setup) as run:
        yield run
