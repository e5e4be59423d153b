"""What a fetch would do: `--dry-run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.wording import counted, duration, table
from bulkfetch._ids.source import Source
from bulkfetch._output.layout import Layout
from bulkfetch._output.parts import read_whole

_FEW: Final = 20
"""Courses of an earlier run from which its pace is judged."""

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from bulkfetch._config.options import Options
    from bulkfetch._output.ledger import Ledger


async def plan(
    ids: Iterable[str] | AsyncIterable[str],
    source: str,
    output: str,
    options: Options,
    *,
    overwrite: bool,
) -> list[str]:
    """Read all ids and say what would be fetched, and how long that would take about."""
    ledger = None if overwrite else _begun(output)
    settled_ids = ledger.settled if ledger else frozenset()
    counter = Source(ids, settled_ids, spill=_folder(output), shard=options.shard)
    while await counter.next():
        pass
    counter.close()
    wanted, limit = counter.given, ""
    if options.limit is not None and options.limit < wanted:
        limit = f" of {wanted:,}, as --limit {options.limit} says"
        wanted = options.limit
    settled = f"{counter.skipped:,} are done already" if counter.skipped else ""
    repeated = f"{counter.duplicates:,} are repeated and fetched once" if counter.duplicates else ""
    read = counter.given + counter.skipped + counter.duplicates + counter.elsewhere
    shard = "{}/{}".format(*options.shard) if options.shard else ""
    return table(
        [
            ("ids", f"{read:,} from {source}"),
            ("shard", shard and f"{shard}, {counter.elsewhere:,} are of others"),
            ("settled", settled),
            ("repeated", repeated),
            ("to fetch", f"{counted(wanted, 'course')}{limit}"),
            ("endpoint", options.endpoint),
            ("output", f"{output}, {_how(output, ledger, overwrite=overwrite)}"),
            ("pace", _pace(options)),
            ("time", _time(wanted, options, ledger)),
        ],
        indent="",
    )


def _folder(output: str) -> str | None:
    """Return where many ids are kept; a folder that is not there yet is not made for a plan."""
    folder = Path(Layout.of(output).directory)
    return str(folder) if output != "-" and os.access(folder, os.W_OK) else None


def _begun(output: str) -> Ledger | None:
    if output == "-" or not Path(Layout.of(output).journal).exists():
        return None
    ledger = read_whole(output)
    ledger.go_live()  # so that each id is looked up fast
    return ledger


def _how(output: str, ledger: Ledger | None, *, overwrite: bool) -> str:
    if output == "-":
        return "which cannot be resumed"
    if overwrite:
        return "begun anew"
    return "goes on" if ledger else "new"


def _pace(options: Options) -> str:
    rate = f", at most {options.rate:g}/s" if options.rate else ""
    return f"{options.concurrency} at once{rate}"


def _time(wanted: int, options: Options, ledger: Ledger | None) -> str:
    """Estimate from the rate, the concurrency and, where earlier runs left one, the pace seen."""
    by_rate = wanted / options.rate if options.rate else 0.0
    pace, latency = _pace_seen(ledger)
    by_latency = wanted * latency / options.concurrency
    if pace:
        seconds = max(by_rate, by_latency, wanted / pace)
        return f"about {duration(seconds)}, at up to {pace:,.1f} courses/s as before"
    if latency:
        seconds = max(by_rate, by_latency)
        return f"about {duration(seconds)}, with {latency * 1000:.0f} ms a request as before"
    at_one = duration(max(by_rate, wanted / options.concurrency))
    if by_rate:
        return f"at least {duration(by_rate)}; {at_one} if a request takes 1 s"
    return f"{at_one} if a request takes 1 s"


def _pace_seen(ledger: Ledger | None) -> tuple[float, float]:
    """Return courses per second of the last run, if it was one to judge by, and its latency."""
    state = ledger.state if ledger and ledger.state else {}
    courses, seconds, latency = (
        value if isinstance(value := state.get(name), int | float) else 0.0
        for name in ("courses", "seconds", "latency_p50")
    )
    judged = courses >= _FEW and seconds > 0
    return (courses / seconds if judged else 0.0), float(latency)


async def check_token(options: Options) -> None:
    """Say what a real run would miss; raises ConfigurationError.

    The token endpoint is not asked, and no command is run: a dry run does nothing.
    """
    from bulkfetch._engine.setup import Setup, equipped

    async with equipped(Setup(ids=(), options=options)):
        pass
