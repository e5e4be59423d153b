"""A run on a cluster as a person or a log sees it: one progress, one summary."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING

from bulkfetch._domain.errors import ConfigurationError, RunError
from bulkfetch._domain.hooks import Hooks
from bulkfetch.cli.export import Watcher, remedy, tell_summary
from bulkfetch.cli.loop import stoppable, told
from bulkfetch.cli.observe import Target, observing

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from bulkfetch._config.options import Options
    from bulkfetch._engine.tally import Summary
    from bulkfetch._output.layout import Layout
    from bulkfetch.cli.voice import Voice


async def run_shards(
    voice: Voice,
    ids: Iterable[str] | AsyncIterable[str],
    output: str,
    options: Options,
    *,
    shards: int | None,
    scheduler: str,
    source: tuple[str | None, str | None],
    overwrite: bool,
    metrics: Target,
) -> Summary:
    """Fetch on a cluster, and tell of it; returns the summary after it was told.

    `source` is the list's file and its id column, where there is a file. Raises RunError.
    """
    try:
        from bulkfetch._scale.cluster import Crew, run_on_cluster
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--scheduler needs Dask ({error.name} is missing): pip install 'bulkfetch[dask]'"
        ) from None
    from bulkfetch._scale.shards import COLUMN, spool, spool_piped

    if metrics.address or metrics.file:
        raise ConfigurationError("metrics are of one process: leave --metrics-… or --scheduler out")

    async def listed(layout: Layout) -> tuple[str, str | None]:
        path, column = source
        if path is not None:
            return path, column
        if isinstance(ids, Iterable):
            return spool(ids, layout), COLUMN
        return await spool_piped(ids, layout), COLUMN

    crew = Crew(options, len(ids) if isinstance(ids, Sized) else None)
    if voice.closing:
        voice.closing.begin(options, lambda: crew.state)
    watcher = Watcher(voice, crew, options)
    voice.event("run_started", {"output": output, "host": options.host, "scheduler": scheduler})
    try:
        with (
            observing(options, metrics, Hooks()),
            stoppable(watcher.stop, remedy(output)),
            told(signal.SIGUSR1, watcher.tell),
            watcher,
        ):
            summary = await run_on_cluster(
                crew,
                listed,
                output,
                options,
                shards=shards,
                scheduler=scheduler,
                overwrite=overwrite,
            )
    except RunError:
        watcher.tell_last()
        raise
    if voice.closing:
        voice.closing.finish(summary)
    tell_summary(voice, output, summary, [])
    return summary
