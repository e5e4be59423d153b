"""The place on a Dask scheduler that knows what the shards of one run share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from bulkfetch._scale.shared import SharedRun

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


class RunPlugin(SchedulerPlugin):
    """Answers the shards and the client of the run `run`, and ends it when that client is gone."""

    def __init__(self, run: str, client: str, rate: float | None, longest_hold: float) -> None:
        self.name = f"bulkfetch_{run}"
        self._client = client
        self._given = (rate, longest_hold)

    async def start(self, scheduler: Scheduler) -> None:
        """Begin to answer."""
        self._shared = SharedRun(*self._given, now=time.monotonic())
        scheduler.handlers[self.name] = self.answer

    async def answer(self, what: str, given: dict[str, Any]) -> Any:
        """Answer a call by its name and arguments."""
        now = time.monotonic()
        match what:
            case "lease":
                return self._shared.lease(now, **given)
            case "pulse":
                return self._shared.pulse(now, **given)
            case "hold":
                return self._shared.hold(now, **given)
            case "look":
                return self._shared.look(now)
            case "stop":
                return self._shared.stop(**given)
        raise ValueError(what)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:  # noqa: ARG002 - Dask's
        """End the run when the client that began it goes."""
        if client == self._client:
            self._shared.stop("the client that began the run is gone: run its command again")
