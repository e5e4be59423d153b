"""From course ids to a finished file: the engine's outcomes, committed batch by batch.

The sink is opened before the first request, so that a locked, full or foreign output costs the
server nothing, and is closed whatever happens; what was committed is safe, and the next run goes on
there.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from bulkfetch._config.checks import check_text
from bulkfetch._domain.errors import Interrupted, RunError
from bulkfetch._domain.hooks import Hooks
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._engine.desk import Desk
from bulkfetch._engine.run import running
from bulkfetch._engine.setup import Setup, equipped
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.layout import Layout
from bulkfetch._output.manifest import lacking_of
from bulkfetch._output.pipe import PipeOutput

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Container, Iterable
    from os import PathLike

    from aiohttp import ClientSession

    from bulkfetch._config.options import Options
    from bulkfetch._engine.desk import Sink
    from bulkfetch._engine.run import Run
    from bulkfetch._engine.tally import State, Summary
    from bulkfetch._http.transport import Transport
    from bulkfetch._output.ledger import Ledger
    from bulkfetch._pace.limiter import Limiter


class Monitor:
    """A window on a running export: `state` at any time, `stop` to end it in good order."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Exception | None = None
        self._lock = threading.RLock()  # a signal may come between two steps of `stop` itself

    @property
    def state(self) -> State | None:
        """The run at this moment; None before it began."""
        return self._run.state if self._run else None

    def stop(self, error: BaseException | None = None) -> None:
        """Begin no course any more; what is in flight has the grace time and is committed.

        export then raises `error`, of whatever type, Interrupted by default; the first call counts.
        It may be called from any thread and from a signal handler, and takes effect at the next
        turn of the export's event loop; before the export began, as it begins; after it, never.
        """
        with self._lock:
            if self._stop:
                return
            error = error or Interrupted("stopped; the same command goes on from here")
            self._stop = error if isinstance(error, RunError) else _Stopped(error)
            if self._run and self._loop:
                with suppress(RuntimeError):  # the loop is closed: there is nothing to stop
                    self._loop.call_soon_threadsafe(self._run.stop, self._stop)

    def watch(self, run: Run) -> None:
        """Look at this run from here on; called within its event loop."""
        with self._lock:
            self._run, self._loop = run, asyncio.get_running_loop()
            if self._stop:
                run.stop(self._stop)


class _Stopped(Exception):
    """Brings any exception through the run as one that ends it in good order."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def export(  # noqa: PLR0913 - what an embedding program may bring
    ids: Iterable[str] | AsyncIterable[str],
    output: str | PathLike[str],
    options: Options,
    *,
    overwrite: bool = False,
    again: Container[str] = frozenset(),
    settled: Container[str] = frozenset(),
    controls: tuple[str, ...] = (),
    session: ClientSession | None = None,
    transport: Transport | None = None,
    limiter: Limiter | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    monitor: Monitor | None = None,
) -> Summary:
    """Write the final statuses of many courses to `output`, every row exactly once.

    `output` is a path (`.gz` and `.zst` are compressed) or "-" for stdout. An unfinished or partly
    failed output is continued: only what is missing is fetched, and of the courses that the server
    refused those in `again`. `overwrite` starts anew. `settled` are courses that other outputs of
    the same job hold, which are not asked for; `controls` are some of them that were fetched: they
    show that the service works.

    Raises RunError when the run ends early (OutputError and OutputLocked for the disk's part);
    what was committed stays, and the same call resumes. Failed courses are in the summary and in
    `OUTPUT.failed.ndjson`.
    """
    check_text("output", os.fspath(output))  # its name goes into the manifest, at the very end
    setup = Setup(
        ids=ids,
        options=options,
        session=session,
        transport=transport,
        limiter=limiter,
        hooks=hooks,
        spool_directory=None if output == "-" else Layout.of(output).directory,
        run_id=uuid.uuid4().hex,
        settled=settled,
        controls=controls,
    )
    sink = _make_sink(output, options, setup.run_id, overwrite=overwrite)
    try:
        return await _fill(sink, setup, again, monitor or Monitor())
    except _Stopped as stopped:
        raise stopped.error from None


async def _fill(sink: Sink, setup: Setup, again: Container[str], monitor: Monitor) -> Summary:
    """Open the sink, run until every outcome is committed, publish; close it whatever happens.

    Settings that cannot serve are told before that: opening may replace what was there.
    """
    async with AsyncExitStack() as stack:
        transport, tokens = await stack.enter_async_context(equipped(setup))
        thread = stack.enter_context(ThreadPoolExecutor(1, "bulkfetch-commit"))
        desk = Desk(sink, thread, setup)
        stack.push_async_callback(desk.call, sink.close)
        ledger = await desk.call(sink.open)
        before, asked = lacking_of(ledger.last_done), ledger.asked if again else 0
        setup = replace(
            setup,
            transport=transport,
            tokens=tokens,
            settled=_Either.of(ledger.settled_except(again), setup.settled),
            last=ledger.unsettled,
            proven=ledger.fetched > 0 or bool(setup.controls),
            controls=ledger.controls or setup.controls,
        )
        async with running(setup) as run:
            monitor.watch(run)
            try:
                await desk.write_all(run)
            except RunError as error:
                await desk.call(desk.tell_stop, run, error)
                raise
        summary = _final(run.summary, ledger)
        # A retry that brought no course which is new here: what lacked of the list lacks still.
        retried = again and ledger.asked == asked and summary.limited is None
        lacking = before if retried else {}
        await desk.call(desk.finish, run, summary, setup.options, lacking)
        return summary


@dataclass(frozen=True, slots=True)
class _Either:
    """What is in one of two containers."""

    first: Container[str]
    second: Container[str]

    @classmethod
    def of(cls, first: Container[str], second: Container[str]) -> Container[str]:
        """Return one alone where the other is empty: each id is looked up in what comes out."""
        if second == frozenset():
            return first
        return second if first == frozenset() else cls(first, second)

    def __contains__(self, course_id: object) -> bool:
        return course_id in self.first or course_id in self.second


def _make_sink(
    output: str | PathLike[str], options: Options, run_id: str, *, overwrite: bool
) -> Sink:
    marks = fingerprint(options)
    if output == "-":
        return PipeOutput(1, fingerprint=marks, run_id=run_id, version=version("bulkfetch"))
    return JournaledFile(
        output,
        fingerprint=marks,
        run_id=run_id,
        durability=options.durability,
        overwrite=overwrite,
        version=version("bulkfetch"),
    )


def fingerprint(options: Options) -> dict[str, str]:
    """Return what the bytes of an output depend on: no run goes on with one of another."""
    return {
        "endpoint": options.host,
        "method": GET_FINAL_STATUSES.name,
        "stamp": str(options.stamp).lower(),
        **({"shard": "{}/{}".format(*options.shard)} if options.shard else {}),
    }


def _final(summary: Summary, ledger: Ledger) -> Summary:
    """Let the summary speak of the whole output, earlier runs included."""
    return replace(
        summary,
        failures=ledger.failures(),
        refused=ledger.outcomes()["refused"],
        output_courses=ledger.fetched,
        output_rows=ledger.rows,
    )
