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
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import (
    CourseError,
    Refused,
    RunError,
    RunRefused,
    TemporarilyUnavailable,
    Unauthorized,
)
from bulkfetch._domain.hooks import Attempt, Hooks, Wait
from bulkfetch._domain.model import GET_FINAL_STATUSES, Failed
from bulkfetch._domain.text import printable
from bulkfetch._domain.wording import counted
from bulkfetch._engine.brakes import braked
from bulkfetch._engine.course import Fetcher
from bulkfetch._engine.holding import Holding
from bulkfetch._engine.outbox import Outbox
from bulkfetch._engine.setup import Setup, equipped
from bulkfetch._engine.stopping import Stopping
from bulkfetch._engine.tally import Pauses, State, Summary, Tally
from bulkfetch._ids.source import Source
from bulkfetch._pace.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable

    from aiohttp import ClientSession

    from bulkfetch._config.options import Options
    from bulkfetch._domain.model import Outcome
    from bulkfetch._http.token import TokenProvider
    from bulkfetch._http.transport import Transport

_RESTING_PER_WORKER: Final = 4
_RESTING_ABSOLVED: Final = 256
"""Courses that may rest at least, once it is shown that the server is not to blame."""
_SHOWN_IN_FLIGHT: Final = 32
_SILENT: Final = 10.0
"""Seconds for which nothing is answered before that is shown."""


@asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Run]:
    """Run the workers while the context is entered; leaving it ends them all."""
    async with equipped(setup) as (transport, tokens), AsyncExitStack() as stack:
        run = Run(setup, transport, tokens)
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

    def __init__(self, setup: Setup, transport: Transport, tokens: TokenProvider) -> None:
        options = setup.options
        self._options = options
        self._hooks = setup.hooks
        self._source = Source(
            setup.ids,
            setup.settled,
            options.limit,
            last=frozenset() if options.ordered else setup.last,
            spill=setup.spool_directory,
            shard=options.shard,
        )
        self._limiter = setup.limiter or Limiter.of(options)
        known = isinstance(setup.ids, Sized) and not options.shard
        self._total = len(setup.ids) if known else None  # type: ignore[arg-type]
        self._rules = Stopping(
            options,
            proven=setup.proven,
            controls=setup.controls,
            total=_least(self._total, options.limit),
            renewable=options.token is None,
        )
        self._fetcher = Fetcher(
            GET_FINAL_STATUSES,
            options,
            transport=transport,
            tokens=tokens,
            limiter=self._limiter,
            attempted=self._attempted,
            waits=self._waits,
            proven=lambda: self._rules.proven,
            suspect=lambda: self._rules.suspect,
            excuses=self._excuses,
            failed_controls=lambda: self._rules.failed_controls,
            paused=lambda seconds, cause: self._pauses.add(time.time(), seconds, cause),
            spool_directory=setup.spool_directory,
            run_id=setup.run_id,
            sleep=self._rest,
        )
        self._tally = Tally()
        self._pauses = Pauses()
        self.way: str | None = getattr(transport, "way", None)
        """How requests go, where the transport says it."""
        self._holding = Holding(
            self._rules,
            self._fetcher,
            self._limiter,
            probe=self._probe,
            stop=self._give_up,
            spawn=self._spawn,
            held=self._pauses.add,
        )
        self._outbox = Outbox(ordered=options.ordered)
        self._began = time.monotonic()
        self._workers: dict[asyncio.Task[None], str | None] = {}
        """The id each fetches; None while it hands over an outcome, which no stop may lose."""
        self._resting = 0
        self._stopping = False
        self._timers: list[asyncio.TimerHandle] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_failure: str | None = None

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
        self._end_tasks()
        if not self._workers:  # who would have said so was ended before it began
            self._outbox.end()
        self._later(self._options.grace, self.cancel)

    def _give_up(self, error: BaseException) -> None:
        """Stop without the grace time: older requests were waited for already."""
        self.stop(error)
        for worker, course_id in self._workers.items():
            if course_id is not None:
                worker.cancel()

    @property
    def state(self) -> State:
        tally = self._tally
        refused = max(0, tally.refused - self._rules.doubted)
        now = time.monotonic()
        return State(
            at=time.time(),
            seconds=now - self._began,
            total=self._total,
            settled=self._source.skipped,
            courses=tally.courses,
            fetched=tally.fetched,
            failed=tally.courses - tally.fetched - refused,
            refused=refused,
            rows=tally.rows,
            requests=tally.requests,
            retries=tally.retries.total(),
            retries_by_kind=dict(tally.retries),
            failed_requests=tally.failed_requests,
            throttled=tally.throttled,
            in_flight=tuple(self._fetcher.in_flight)[:_SHOWN_IN_FLIGHT],
            under_way=len(self._fetcher.in_flight),
            limit=self._limiter.limit,
            waiting=self._silence(now) or self._limiter.waiting,
            waited=dict(self._limiter.waited),
            latency_p50=tally.quantile(50),
            latency_p90=tally.quantile(90),
            latency_p99=tally.quantile(99),
        )

    def _silence(self, now: float) -> str | None:
        """Say that all requests are under way for long; a network may swallow their packets."""
        sent = list(self._fetcher.in_flight.values())
        if not sent or now - sent[-1] < _SILENT or self._limiter.is_shut or self._limiter.held:
            return None
        return f"for answers to {counted(len(sent), 'request')}, {now - sent[-1]:.0f} s so far"

    @property
    def summary(self) -> Summary:
        source = self._source
        asked = {"asked": source.skipped + source.given, "of": self._total or 0}
        return self._tally.summary(
            seconds=time.monotonic() - self._began,
            waited=self._limiter.waited,
            settled=source.skipped,
            duplicates=source.duplicates,
            strayed=self._fetcher.strayed,
            limited=asked if source.limited and self._total else None,
        )

    def pauses(self, *, last: bool = False) -> list[tuple[float, float, str]]:
        """Return the pauses that are over since the last call; `last`: none will be added."""
        return self._pauses.take(time.time(), last=last)

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
        self._end_tasks()
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
        if worker not in self._workers:
            return  # it has said so itself
        del self._workers[worker]
        if self._workers:
            return
        if self._stopping:
            self._outbox.end()
        else:
            # A stop may cancel it before it begins, and the end must be told all the same.
            self._spawn(self._finish()).add_done_callback(lambda _: self._outbox.end())

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _end_tasks(self) -> None:
        self._holding.close()
        for task in self._tasks:
            task.cancel()

    async def _finish(self) -> None:
        """After the last outcome, tell a good end from one that only looks like it."""
        try:
            await self._holding.at_rest()
            if error := await self._wrong_end():
                self._outbox.stop(error)
            elif not self._stopping:
                self._rules.confirm()
        except Exception as error:  # noqa: BLE001 - of the token's source: the consumer's
            self._outbox.stop(error)

    async def _wrong_end(self) -> RunError | None:
        if self._stopping:
            return None
        if self._rules.may_end_without_control:
            return self._rules.end_unproven()
        error = await self._holding.last_control()
        return self._rules.end_unanswered(error) if error else self._rules.end_unproven()

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
        if self._rules.absolved:
            most = max(most, _RESTING_ABSOLVED)
        substitute = self._rules.may_substitute(time.monotonic())
        if substitute and not self._stopping and self._resting <= most:
            self._hire()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._resting -= 1

    # Judgement

    def _attempted(
        self, course_id: str, number: int, seconds: float, error: CourseError | None
    ) -> None:
        self._tally.attempted(seconds, error)
        if error is not None and not isinstance(error, Unauthorized | RunRefused):
            self._rules.failed(time.monotonic(), course_id, error)
            self._holding.look()
        if self._hooks.attempt:
            self._hooks.attempt(Attempt(course_id, number, seconds, error))

    async def _excuses(self, course_id: str, error: CourseError, before: int, tried: float) -> bool:
        """Whether the server is to blame that a course used up its tries: no control is answered.

        `before`: how many controls had failed when its tries began; `tried`: when the last but one
        was made.
        """
        able = self._options.retries and not self._stopping
        if isinstance(error, Refused) or not able:
            return False
        if self._rules.proven:
            self._count_refusal(course_id, error)
        if self._rules.doubt(time.monotonic(), tried):
            self._holding.look()
        await self._holding.at_rest()
        return self._rules.proven and self._rules.failed_controls > before

    async def _probe(self, course_id: str) -> CourseError | None:
        began = time.monotonic()
        error = await self._fetcher.probe(course_id)
        self._tally.attempted(time.monotonic() - began, error)
        return error

    def _waits(self, wait: Wait, error: CourseError | None) -> None:
        """Tell of a retry; None for the error of one that was counted before a hold ended well."""
        self._tally.retried(wait.cause)
        if error is not None:
            self._count_refusal(wait.course_id, error)
        if self._hooks.wait:
            self._hooks.wait(wait)

    def _judge(self, outcome: Outcome) -> Outcome:
        """Count the outcome, and stop the run where going on makes no sense."""
        if isinstance(outcome, Failed):
            self._judge_failure(outcome.course_id, outcome.error)
        elif self._rules.fetched(outcome.course_id, len(outcome.rows)):
            self._holding.look()
        self._tally.add(outcome)
        if self._tally.courses > self._tally.fetched:
            self._brake(outcome.course_id)
        if self._hooks.outcome:
            self._hooks.outcome(outcome)
        return outcome

    def claim_only(self, fetched: int, rows: int) -> None:
        """Count no more courses and rows than reached the disk; the next run fetches the others."""
        self._tally.claim_only(fetched, rows)

    @property
    def refused(self) -> int:
        """Courses with a final fault so far."""
        return self._tally.refused

    @property
    def last_failure(self) -> str | None:
        """What was said of the course that failed last."""
        return self._last_failure

    def doubts(self, course_id: str) -> bool:
        """Whether a final fault of this course may turn out to be the account's."""
        return self._rules.doubts(course_id)

    def _brake(self, course_id: str) -> None:
        courses, last = self._tally.courses, f"{printable(course_id, 80)}: {self._last_failure}"
        failed = courses - self._tally.fetched
        if error := braked(self._options, courses=courses, failed=failed, last=last):
            self.stop(error)

    def _judge_failure(self, course_id: str, error: CourseError) -> None:
        self._last_failure = error.message
        if isinstance(error, Refused):
            return
        self._rules.lost(error)
        self._count_refusal(course_id, error)

    def _count_refusal(self, course_id: str, error: CourseError) -> None:
        """Count what no renewal and no other spelling mended; others count as they come."""
        if isinstance(error, Unauthorized | RunRefused):
            self._rules.failed(time.monotonic(), course_id, error)
            self._holding.look()


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


@asynccontextmanager
async def stream(
    ids: Iterable[str] | AsyncIterable[str],
    options: Options,
    *,
    session: ClientSession | None = None,
    transport: Transport | None = None,
    limiter: Limiter | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
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
