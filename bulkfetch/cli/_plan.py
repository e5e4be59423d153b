"""What a fetch would do: `--dry-run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch._inspect import read_ledger
from bulkfetch._layout import Layout
from bulkfetch._progress import counted, duration, table
from bulkfetch._source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from bulkfetch._journal import Ledger
    from bulkfetch._options import Options


async def plan(
    ids: Iterable[str] | AsyncIterable[str],
    source: str,
    output: str,
    options: Options,
    *,
    overwrite: bool,
) -> list[str]:
    """Read all ids and say what would be fetched, and how long that would take at least."""
    ledger = None if overwrite else _begun(output)
    counter = Source(ids, ledger.settled if ledger else frozenset(), options.limit)
    while await counter.next():
        pass
    counter.close()
    wanted = counter.given
    limit = f", as --limit {options.limit} says" if options.limit == wanted else ""
    settled = f"{counter.skipped:,} are done already" if counter.skipped else ""
    repeated = f"{counter.duplicates:,} are repeated and fetched once" if counter.duplicates else ""
    read = wanted + counter.skipped + counter.duplicates
    return table(
        [
            ("ids", f"{read:,} from {source}"),
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


def _begun(output: str) -> Ledger | None:
    begun = output != "-" and Path(Layout.of(output).journal).exists()
    return read_ledger(output) if begun else None


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
    """Estimate from the rate and, where earlier runs measured one, the latency."""
    latency = ledger.states[-1].get("latency_p50") if ledger and ledger.states else None
    by_rate = wanted / options.rate if options.rate else 0.0
    if isinstance(latency, float) and latency > 0:
        seconds = max(by_rate, wanted * latency / options.concurrency)
        return f"about {duration(seconds)}, with {latency * 1000:.0f} ms a request as before"
    at_one = duration(max(by_rate, wanted / options.concurrency))
    if by_rate:
        return f"at least {duration(by_rate)}; {at_one} if a request takes 1 s"
    return f"{at_one} if a request takes 1 s"
