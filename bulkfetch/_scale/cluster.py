"""One run as shards on a Dask cluster, seen from the command that began it.

Everything that can be wrong is looked at before the first request: the scheduler, its version, its
workers, what they lack. Then one task a shard is submitted, no more at once than share out the
concurrency; what ends one of them with an error ends all, in good order. At the end the parts are
joined. Dask runs a task again when its worker dies; the part goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import deque
from contextlib import AsyncExitStack, closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from distributed import KilledWorker

from bulkfetch._domain.errors import (
    ConfigurationError,
    RunError,
    TemporarilyUnavailable,
)
from bulkfetch._domain.wording import counted
from bulkfetch._engine.brakes import braked
from bulkfetch._engine.export import fingerprint
from bulkfetch._engine.tally import State, Summary
from bulkfetch._output.inspect import is_running, read_ledger
from bulkfetch._output.layout import Layout
from bulkfetch._output.parts import Seen, find_parts, joined, read_whole, remove_parts
from bulkfetch._scale.looks import check_folder, check_workers, connected, lacking, remedy
from bulkfetch._scale.merge import finish, open_whole, read_piece, take_over
from bulkfetch._scale.plugin import RunPlugin
from bulkfetch._scale.shards import absorb, check_cut, cut, with_ids
from bulkfetch._scale.worker import work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bulkfetch._config.options import Options
    from bulkfetch._output.journaled import JournaledFile
    from bulkfetch._scale.shards import Shard

_LOOK_SECONDS: Final = 0.25
_ENDING_SECONDS: Final = 5.0
"""Beyond the grace period, until shards whose client is gone have heard of it."""
_MOST_DEATHS: Final = 5
"""How often Dask may give a shard up, each time after four workers died, before we do."""


class Crew:
    """A run on a cluster: `state` at any time, `stop` to end it, as of a Monitor."""

    def __init__(self, options: Options, total: int | None) -> None:
        self._options = options
        self._total = total
        self._state: State | None = None
        self.stopped: BaseException | None = None
        self.news = asyncio.Event()

    @property
    def state(self) -> State | None:
        """All shards added up; None before the first one told anything."""
        return self._state

    def stop(self, error: BaseException) -> None:
        """Let every shard end in good order; `error` comes out in the end. The first counts."""
        self.stopped = self.stopped or error
        self.news.set()

    def saw(self, states: Sequence[dict[str, Any]], seconds: float) -> None:
        """Take the shards' last states."""
        if not states:
            return
        whole = joined(states) | {"seconds": seconds, "total": self._total}
        names = {item.name for item in fields(State)}
        self._state = State(**{name: value for name, value in whole.items() if name in names})
        self._judge(self._state)

    def _judge(self, state: State) -> None:
        """Apply the stop rules that count courses or time: they are for the whole run."""
        options, without = self._options, state.failed + state.refused
        if options.max_duration is not None and state.seconds >= options.max_duration:
            self.stop(
                TemporarilyUnavailable(
                    f"stopped after {options.max_duration:g} s, as max_duration says: "
                    "run the same command again to go on"
                )
            )
        whole = replace(options, fail_fast=False)  # the shard itself tells which course it was
        if error := braked(whole, courses=state.courses, failed=without, last=""):
            self.stop(error)


async def run_on_cluster(
    crew: Crew,
    ids: Callable[[Layout], Awaitable[tuple[str, str | None]]],
    output: str,
    options: Options,
    *,
    shards: int | None,
    scheduler: str,
    overwrite: bool = False,
) -> Summary:
    """Fetch into `output` as shards on the cluster `scheduler`, "tcp://HOST:PORT" or "local".

    `ids` is called once the output is held and gives the list's file and its id column. Raises
    RunError as `export` does; parts stay then, and the same call goes on, also with other shards.
    """
    check_cut(output, options, 1 if shards is None else shards)
    layout = Layout.of(os.path.abspath(output))  # noqa: ASYNC240, PTH100 - no disk
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(scheduler, shards, options))
        slots = await check_workers(client, options)
        count = shards or max(1, min(slots, options.concurrency))
        marks = fingerprint(options)
        if overwrite and not _is_held(layout):  # what is at work is not replaced
            await _let_end(layout, options.grace)
        whole = open_whole(layout.output, marks, durability=options.durability, overwrite=overwrite)
        sink = stack.enter_context(closing(whole))
        ledger = sink.open()
        Path(layout.parts).mkdir(mode=0o700, exist_ok=True)  # noqa: ASYNC240 - a moment
        await check_folder(client, layout)
        await _let_end(layout, options.grace)
        absorb(sink, layout, count, marks)
        path, column = await ids(layout)
        each, window = _shared_out(options, slots, count)
        jobs = await asyncio.to_thread(with_ids, cut(path, layout, each, count, id_column=column))
        error = await _work_off(client, crew, jobs, options, window)
        if error is not None:
            raise error
        summary = _join(sink, layout, count)
        remove_parts(layout)
        return replace(
            summary,
            failures=ledger.failures(),
            refused=ledger.outcomes()["refused"],
            output_courses=ledger.fetched,
            output_rows=ledger.rows,
        )


def _join(sink: JournaledFile, layout: Layout, count: int) -> Summary:
    pieces = [read_piece(part.output) for part in find_parts(layout.output) if part.of == count]
    take_over(sink, pieces, Seen.of(layout.output))
    totals = finish(sink, pieces, {"shards": count}).totals
    names = {item.name for item in fields(Summary)}
    known: dict[str, Any] = {name: value for name, value in totals.items() if name in names}
    return Summary(**known)


def _is_held(layout: Layout) -> bool:
    return Path(layout.journal).exists() and is_running(layout.output)


async def _let_end(layout: Layout, grace: float) -> None:
    """Wait for shards of a client that was killed a moment ago: they are about to end."""
    for _ in range(round((grace + _ENDING_SECONDS) / _LOOK_SECONDS)):
        if not any(is_running(part.output) for part in find_parts(layout.output)):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _shared_out(options: Options, slots: int, count: int) -> tuple[Options, int]:
    """Return a shard's options, and how many shards may run at once.

    What counts over the whole run is left to the crew.
    """
    window = max(1, min(slots, count, options.concurrency))
    each = options.concurrency // window
    return replace(options, concurrency=each, max_errors=None, max_duration=None), window


# The run


async def _work_off(
    client: Any, crew: Crew, jobs: Sequence[Shard], options: Options, window: int
) -> BaseException | None:
    """Run all shards; returns what stopped the run, None when nothing did."""
    run = uuid.uuid4().hex[:12]
    plugin = RunPlugin(run, client.id, options.rate, options.max_retry_after)
    try:
        await client.register_plugin(plugin)
    except Exception as error:
        if package := lacking(error):
            raise ConfigurationError(f"the scheduler {remedy(package)}") from error
        raise
    foreman = _Foreman(client, crew, run, jobs)
    looking = asyncio.get_running_loop().create_task(foreman.look())
    try:
        await foreman.run(window)
    finally:
        looking.cancel()
    return crew.stopped


class _Foreman:
    """Submits shards, hears how they end, and keeps an eye on all."""

    def __init__(self, client: Any, crew: Crew, run: str, jobs: Sequence[Shard]) -> None:
        self._client = client
        self._crew = crew
        self._run = run
        self._waiting = deque(jobs)
        self._deaths: dict[int, int] = {}
        self._running: dict[asyncio.Task[Any], Shard] = {}
        self._told = False

    async def run(self, window: int) -> None:
        """Keep `window` shards at work until all are done or the run is stopped."""
        while self._running or (self._waiting and not self._crew.stopped):
            while self._waiting and len(self._running) < window and not self._crew.stopped:
                self._submit(self._waiting.popleft())
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._ended(self._running.pop(task), task)

    async def look(self) -> None:
        """See how far the shards are; pass on that the run is to stop."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                states = await self._ask("look")
                self._crew.saw(states, loop.time() - began)
                if self._crew.stopped and not self._told:
                    self._told = True
                    await self._ask("stop", why=str(self._crew.stopped))
                await self._pause()
        except (OSError, RuntimeError, AttributeError, TypeError):
            self._crew.stop(_gone())
            for task in self._running:
                task.cancel()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._crew.news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_LOOK_SECONDS if self._told else 0)

    async def _ask(self, what: str, **given: object) -> Any:
        call = getattr(self._client.scheduler, f"bulkfetch_{self._run}")
        return await call(what=what, given=given)

    def _submit(self, shard: Shard) -> None:
        future: Any = self._client.submit(work, shard, self._run, pure=False)
        self._running[asyncio.ensure_future(_outcome(future))] = shard

    def _ended(self, shard: Shard, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._crew.stop(_gone())
            return
        error = task.exception()
        name = f"shard {shard.number}/{shard.of}"
        if isinstance(error, KilledWorker):
            deaths = self._deaths[shard.number] = self._deaths.get(shard.number, 0) + 1
            if deaths < _MOST_DEATHS:
                self._waiting.append(shard)
                return
            error = TemporarilyUnavailable(
                f"{counted(deaths * 4, 'worker')} died of {name}: look at their logs and memory, "
                "then run the same command again to go on"
            )
        elif error is not None:
            error = TemporarilyUnavailable(
                f"{name} was lost ({type(error).__name__}: {error}): "
                "run the same command again to go on"
            )
        elif (said := task.result()) is not None:
            if said["code"] in {4, 5} and not shard.controls and (again := _with_controls(shard)):
                self._waiting.append(again)
                return
            error = said["error"]
            error.args = (f"{error} ({name}, worker {said['worker']})",)
        if error is not None:
            self._crew.stop(error)


def _with_controls(shard: Shard) -> Shard | None:
    """Return a shard that got nothing, to be tried once more with what others fetched as proof.

    A shard may hold bad courses alone; that is not the service's fault.
    """
    part = Path(Layout.of(shard.output).journal)
    if part.exists() and part.stat().st_size and read_ledger(shard.output).fetched:
        return None
    controls = read_whole(shard.whole).controls
    return replace(shard, controls=controls) if controls else None


async def _outcome(future: Any) -> Any:
    return await future


def _gone() -> RunError:
    return TemporarilyUnavailable(
        "the scheduler cannot be reached any more: run the same command again to go on"
    )
