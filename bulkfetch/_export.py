"""From course ids to a finished file: the engine's outcomes, committed in batches.

Outcomes are gathered up to 1 MiB or 200 ms and committed in a thread, while the workers go on. The
sink is opened before the first request, so that a locked, full or foreign output costs the server
nothing, and is closed whatever happens; what was committed is safe, and the next run goes on there.
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

_BATCH_BYTES: Final = 1 << 20
_BATCH_SECONDS: Final = 0.2
_NOTE_SECONDS: Final = 1.0

_T = TypeVar("_T")


class Sink(Protocol):
    """Where committed courses go; one call at a time, and all but `prepare` block."""

    def open(self) -> Ledger: ...
    def prepare(self, outcomes: Sequence[Outcome]) -> list[Batch]: ...
    def commit(self, batches: Sequence[Batch]) -> None: ...
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
        desk = _Desk(sink, thread, setup.hooks)
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


@dataclass(slots=True)
class _Desk:
    """Gathers outcomes and has them committed, one batch at a time, in its own thread."""

    sink: Sink
    thread: ThreadPoolExecutor
    hooks: Hooks
    noted: float = 0.0

    async def write_all(self, run: Run) -> None:
        """Commit every outcome of the run; those before the run's own error too."""
        end: BaseException | None = None
        while end is None:
            outcomes, end = await self._gather(run)
            await self._commit(outcomes, run)
        if not isinstance(end, StopAsyncIteration):
            raise end

    async def _gather(self, run: Run) -> tuple[list[Outcome], BaseException | None]:
        """Collect outcomes until there is 1 MiB, for 200 ms, or to the end, which comes along."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _BATCH_SECONDS
        gathered: list[Outcome] = []
        room = _BATCH_BYTES
        while room > 0 and loop.time() < deadline:
            try:
                outcomes, nbytes = await run.take(deadline, room)
            except Exception as end:  # noqa: BLE001 - raised by write_all
                return gathered, end
            gathered += outcomes
            room -= nbytes
        return gathered, None

    async def _commit(self, outcomes: list[Outcome], run: Run) -> None:
        now = time.monotonic()
        state = None
        if now - self.noted >= _NOTE_SECONDS:
            self.noted, state = now, asdict(run.state)
        elif not outcomes:
            return
        batches = self.sink.prepare(outcomes)
        await self.call(self._write, batches, state)
        fetched = [course for batch in batches for course in batch.fetched]
        if self.hooks.commit and outcomes:
            rows = sum([len(course.rows) for course in fetched])
            self.hooks.commit(Commit(len(fetched), rows, time.monotonic() - now))
        for course in fetched:
            course.rows.close()

    def _write(self, batches: list[Batch], state: Mapping[str, object] | None) -> None:
        self.sink.commit(batches)
        if state is not None:
            self.sink.note(state)

    def finish(self, run: Run, summary: Summary, options: Options) -> None:
        if summary.courses:
            self.sink.note({**asdict(run.state), "latencies": run.latencies})
        self.sink.finish(asdict(summary), public_options(options))

    async def call(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a blocking call in the thread; it is waited for even when this task is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self.thread, function, *args)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


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
