"""From course ids to a finished file: the engine's outcomes, written in batches and committed.

Outcomes are gathered up to 1 MiB and written in a thread, while the workers go on. After 200 ms or
8 MiB what was written is committed, which syncs two files. The sink is opened before the first
request, so that a locked, full or foreign output costs the server nothing, and is closed whatever
happens; what was committed is safe, and the next run goes on there.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from bulkfetch._engine import Run, Setup, running
from bulkfetch._errors import Interrupted
from bulkfetch._hooks import Commit, Hooks
from bulkfetch._layout import Layout
from bulkfetch._model import GET_FINAL_STATUSES
from bulkfetch._options import Options
from bulkfetch._pipe import PipeOutput
from bulkfetch._setting import Secret
from bulkfetch._sink import JournaledFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Container, Iterable, Mapping, Sequence
    from os import PathLike

    from aiohttp import ClientSession

    from bulkfetch._batch import Batch
    from bulkfetch._journal import Ledger
    from bulkfetch._limiter import Limiter
    from bulkfetch._model import Outcome
    from bulkfetch._tally import State, Summary
    from bulkfetch._transport import Transport

_WRITE_BYTES: Final = 1 << 20
_COMMIT_BYTES: Final = 8 << 20
_COMMIT_SECONDS: Final = 0.2
_NOTE_SECONDS: Final = 1.0

_T = TypeVar("_T")


class Sink(Protocol):
    """Where committed courses go; one call at a time, and all but `prepare` block."""

    def open(self) -> Ledger: ...
    def prepare(self, outcomes: Sequence[Outcome]) -> Batch: ...
    def write(self, batch: Batch) -> None: ...
    def commit(self) -> None: ...
    def note(self, state: Mapping[str, object]) -> None: ...
    def finish(
        self, totals: Mapping[str, object], options: Mapping[str, object] | None = None
    ) -> object: ...
    def close(self) -> None: ...


class Monitor:
    """A window on a running export: `state` at any time, `stop` to end it in good order."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._stop: BaseException | None = None

    @property
    def state(self) -> State | None:
        """The run at this moment; None before it began."""
        return self._run.state if self._run else None

    def stop(self, error: BaseException | None = None) -> None:
        """Begin no course any more; export then raises `error` (Interrupted by default)."""
        self._stop = error or Interrupted("stopped; the same command goes on from here")
        if self._run:
            self._run.stop(self._stop)

    def watch(self, run: Run) -> None:
        self._run = run
        if self._stop:
            run.stop(self._stop)


async def export(  # noqa: PLR0913 - what an embedding program may bring
    ids: Iterable[str] | AsyncIterable[str],
    output: str | PathLike[str],
    options: Options,
    *,
    overwrite: bool = False,
    again: Container[str] = frozenset(),
    session: ClientSession | None = None,
    transport: Transport | None = None,
    limiter: Limiter | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    monitor: Monitor | None = None,
) -> Summary:
    """Write the final statuses of many courses to `output`, every row exactly once.

    `output` is a path (`.gz` and `.zst` are compressed) or "-" for stdout. An unfinished or partly
    failed output is continued: only what is missing is fetched, and of the courses that the server
    refused those in `again`. `overwrite` starts anew.

    Raises RunError when the run ends early (OutputError and OutputLocked for the disk's part);
    what was committed stays, and the same call resumes. Failed courses are in the summary and in
    `OUTPUT.failed.ndjson`.
    """
    setup = Setup(
        ids=ids,
        options=options,
        session=session,
        transport=transport,
        limiter=limiter,
        hooks=hooks,
        spool_directory=None if output == "-" else Layout.of(output).directory,
        run_id=uuid.uuid4().hex,
    )
    sink = _make_sink(output, options, setup.run_id, overwrite=overwrite)
    return await _fill(sink, setup, again, monitor or Monitor())


async def _fill(sink: Sink, setup: Setup, again: Container[str], monitor: Monitor) -> Summary:
    """Open the sink, run until every outcome is committed, publish; close it whatever happens."""
    async with AsyncExitStack() as stack:
        thread = stack.enter_context(ThreadPoolExecutor(1, "bulkfetch-commit"))
        desk = _Desk(sink, thread, setup)
        stack.push_async_callback(desk.call, sink.close)
        ledger = await desk.call(sink.open)
        setup = replace(setup, settled=_settled(ledger, again), proven=ledger.fetched > 0)
        async with running(setup) as run:
            monitor.watch(run)
            await desk.write_all(run)
        summary = _final(run.summary, ledger)
        await desk.call(desk.finish, run, summary, setup.options)
        return summary


def _settled(ledger: Ledger, again: Container[str]) -> Container[str]:
    # Only from the courses without rows: one that has its rows must never come again.
    asked = {course_id for course_id in ledger.failed if course_id in again}
    return ledger.settled - asked if asked else ledger.settled


def _make_sink(
    output: str | PathLike[str], options: Options, run_id: str, *, overwrite: bool
) -> Sink:
    fingerprint = {
        "endpoint": options.host,
        "method": GET_FINAL_STATUSES.name,
        "stamp": str(options.stamp).lower(),
    }
    if output == "-":
        return PipeOutput(1, fingerprint=fingerprint, run_id=run_id, version=version("bulkfetch"))
    return JournaledFile(
        output,
        fingerprint=fingerprint,
        run_id=run_id,
        durability=options.durability,
        overwrite=overwrite,
        version=version("bulkfetch"),
    )


class _Desk:
    """Gathers outcomes and has them written and committed, call by call, in its own thread."""

    def __init__(self, sink: Sink, thread: ThreadPoolExecutor, setup: Setup) -> None:
        self._sink = sink
        self._thread = thread
        self._hooks = setup.hooks
        self._each = setup.options.durability == "course"
        self._noted = self._due = 0.0
        self._pending = _Pending()

    async def write_all(self, run: Run) -> None:
        """Commit every outcome of the run; those before the run's own error too."""
        end: BaseException | None = None
        while end is None:
            end = await self._write_until_due(run)
            await self._commit(run)
        if not isinstance(end, StopAsyncIteration):
            raise end

    async def _write_until_due(self, run: Run) -> BaseException | None:
        """Write outcomes until a commit is due, or to the run's end, which is returned."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _COMMIT_SECONDS
        while loop.time() < self._due and self._pending.nbytes < _COMMIT_BYTES:
            outcomes, end = await self._gather(run)
            await self._write(outcomes, run)
            if end is not None:
                return end
        return None

    async def _gather(self, run: Run) -> tuple[list[Outcome], BaseException | None]:
        """Collect outcomes until there is 1 MiB or a commit is due; the run's end comes along."""
        loop = asyncio.get_running_loop()
        gathered: list[Outcome] = []
        room = _WRITE_BYTES
        while room > 0 and loop.time() < self._due:
            try:
                outcomes, nbytes = await run.take(self._due, room)
            except Exception as end:  # noqa: BLE001 - raised by write_all
                return gathered, end
            gathered += outcomes
            room -= nbytes
            self._pending.nbytes += nbytes
        return gathered, None

    async def _write(self, outcomes: list[Outcome], run: Run) -> None:
        if self._each:
            for outcome in outcomes:
                await self._write_together([outcome])
                await self._commit(run)
        elif outcomes:
            await self._write_together(outcomes)

    async def _write_together(self, outcomes: list[Outcome]) -> None:
        began = time.monotonic()
        batch = self._sink.prepare(outcomes)
        await self.call(self._sink.write, batch)
        self._pending.add(batch, time.monotonic() - began)

    async def _commit(self, run: Run) -> None:
        now = time.monotonic()
        state = None
        if now - self._noted >= _NOTE_SECONDS:
            self._noted, state = now, asdict(run.state)
        elif not self._pending.outcomes:
            return
        await self.call(self._commit_and_note, state)
        pending, self._pending = self._pending, _Pending()
        if self._hooks.commit and pending.outcomes:
            seconds = pending.seconds + time.monotonic() - now
            self._hooks.commit(Commit(pending.courses, pending.rows, seconds))

    def _commit_and_note(self, state: Mapping[str, object] | None) -> None:
        self._sink.commit()
        if state is not None:
            self._sink.note(state)

    def finish(self, run: Run, summary: Summary, options: Options) -> None:
        if summary.courses:
            self._sink.note({**asdict(run.state), "latencies": run.latencies})
        self._sink.finish(asdict(summary), public_options(options))

    async def call(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a blocking call in the thread; it is waited for even when this task is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


@dataclass(slots=True)
class _Pending:
    """What was written, or is about to be, since the last commit."""

    nbytes: int = 0
    outcomes: int = 0
    courses: int = 0
    rows: int = 0
    seconds: float = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count what has been written, and let go of it."""
        self.outcomes += len(batch.courses) + len(batch.failed)
        self.courses += len(batch.courses)
        self.rows += sum([course[1] for course in batch.courses])
        self.seconds += seconds
        for course in batch.fetched:
            course.rows.close()


def _final(summary: Summary, ledger: Ledger) -> Summary:
    """Let the summary speak of the whole output, earlier runs included."""
    failures = Counter(course.kind for course in ledger.failed.values())
    return replace(
        summary,
        failures=dict(failures.most_common()),
        refused=ledger.outcomes()["refused"],
        output_courses=ledger.fetched,
        output_rows=ledger.rows,
    )


def public_options(options: Options) -> dict[str, object]:
    """Return the settings as JSON values, without secrets."""
    values = {field.name: getattr(options, field.name) for field in fields(Options)}
    return {
        name: value if isinstance(value, str | int | float | tuple | None) else str(value)
        for name, value in values.items()
        if not isinstance(value, Secret) and name != "token_command"
    }
