"""What happens on a Dask worker: the looks before the run, and a shard within the run.

A shard talks with the plugin on the scheduler through the worker's own connection. It ends when the
run is stopped, when its client is gone, and when the scheduler is: the start times that it has are
all that it uses then.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from distributed import get_worker

from bulkfetch._domain.errors import (
    BulkfetchError,
    Interrupted,
    OutputLocked,
    RunError,
    TemporarilyUnavailable,
)
from bulkfetch._engine.export import Monitor
from bulkfetch._http.direct import open_transport
from bulkfetch._http.token import make_provider
from bulkfetch._scale.leased import LeasedLimiter, Leases
from bulkfetch._scale.shards import export_shard, options_of, with_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed.worker import Worker

    from bulkfetch._scale.shards import Shard

_PULSE: Final = 0.25
_ANSWER_SECONDS: Final = 30.0
_LOCKED_PAUSE: Final = 0.5


async def look_at_worker(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Say which version is here, and what a run would lack; no request is made."""
    wrong: str | None = None
    try:
        await _find_token(settings)
    except BulkfetchError as error:
        wrong = str(error)
    return {"version": version("bulkfetch"), "wrong": wrong}


async def _find_token(settings: Mapping[str, Any]) -> None:
    options = with_secrets(settings)
    async with open_transport(options) as transport:
        provider = make_provider(options, transport)
        if options.token_url is None:  # else asking for it is a request
            await provider.get()


def look_at_folder(sharing: str, nonce: str) -> str | None:
    """Say what is wrong with the shared folder, in which the client holds the lock of a file."""
    path = Path(sharing)
    try:
        if path.read_text() != nonce:
            return f"{sharing} is not the file that the client wrote: share one folder"
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None if os.access(path.parent, os.W_OK) else f"{path.parent} cannot be written to"
    except OSError as error:
        return f"{sharing} cannot be opened ({error.strerror}): share the output's folder"
    return f"the lock of {sharing} does not reach here: use a file system with working locks"


def work(shard: Shard, run: str) -> dict[str, Any] | None:
    """Run a shard as a task; returns how it ended early, None when it did not."""
    try:
        asyncio.run(_work(shard, run))
    except RunError as error:
        return {"code": error.exit_code, "error": error, "worker": get_worker().address}
    return None


async def _work(shard: Shard, run: str) -> None:
    link = _Link(get_worker(), run, f"{shard.number}/{shard.of}")
    while True:
        options = options_of(shard)
        limiter = LeasedLimiter(options, Leases(link.lease, options.rate), link.hold)
        monitor = Monitor()
        async with asyncio.TaskGroup() as group:
            pulse = group.create_task(link.keep_up(limiter, monitor))
            try:
                await export_shard(shard, limiter=limiter, monitor=monitor)
                await link.pulse(limiter, monitor)
            except OutputLocked:
                locked = True
            except RunError as error:
                link.ended = error
                locked = False
            else:
                locked = False
            finally:
                pulse.cancel()
        if link.ended:
            raise link.ended
        if not locked:
            return
        # The same shard is at work elsewhere: it ends there, or its lock is free when it dies.
        await asyncio.sleep(_LOCKED_PAUSE)
        if stop := (await link.ask("pulse", shard=link.shard, state=None, shut=None))["stop"]:
            raise Interrupted(stop)


class _Link:
    """A shard's line to the plugin; this event loop is not the worker's."""

    def __init__(self, worker: Worker, run: str, shard: str) -> None:
        self._worker = worker
        self._name = f"bulkfetch_{run}"
        self.shard = shard
        self.ended: RunError | None = None
        self._telling: set[asyncio.Task[Any]] = set()

    async def ask(self, what: str, **given: object) -> Any:
        """Ask the plugin; raises TemporarilyUnavailable when it cannot be reached."""
        call = getattr(self._worker.scheduler, self._name)
        loop: asyncio.AbstractEventLoop = self._worker.loop.asyncio_loop  # type: ignore[attr-defined]
        try:
            answer = asyncio.run_coroutine_threadsafe(call(what=what, given=given), loop)
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await asyncio.wrap_future(answer)
        except (OSError, RuntimeError, AttributeError, TypeError) as error:
            raise TemporarilyUnavailable(
                f"the scheduler cannot be reached any more ({type(error).__name__}): "
                "run the same command again to go on"
            ) from error

    async def lease(self, count: int) -> list[float]:
        found: list[float] = await self.ask("lease", count=count)
        return found

    def hold(self, seconds: float, cause: str) -> None:
        task = asyncio.get_running_loop().create_task(
            self.ask("hold", seconds=seconds, cause=cause)
        )
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[Any]) -> None:
        self._telling.discard(task)
        if not task.cancelled():
            task.exception()  # who leases next finds out, too

    async def pulse(self, limiter: LeasedLimiter, monitor: Monitor) -> None:
        """Say how the shard is, and do as the others do."""
        state = asdict(monitor.state) if monitor.state else None
        news = await self.ask("pulse", shard=self.shard, state=state, shut=limiter.own_shut)
        limiter.hear(news)
        if news["stop"]:
            monitor.stop(Interrupted(news["stop"]))

    async def keep_up(self, limiter: LeasedLimiter, monitor: Monitor) -> None:
        """Pulse until cancelled; ends the shard when nobody answers."""
        try:
            while True:
                await self.pulse(limiter, monitor)
                await asyncio.sleep(_PULSE)
        except TemporarilyUnavailable as error:
            monitor.stop(error)
