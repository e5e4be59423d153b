"""`bulkfetch bench`: how fast this machine is, and how fast an endpoint.

The figures go to stdout. An endpoint is asked only when ids are given, with the usual pacing and
for a bounded number of courses, since it may be somebody's production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch.cli.flags import ASKING, Number, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.sources import Chosen
    from bulkfetch.cli.measure import Measurement
    from bulkfetch.cli.voice import Voice

_CONCURRENCY = 32
"""Requests at once where nobody is asked: the simulated LMS minds no load."""
_HEAD = (
    f"{'':<22}{'requests/s':>12}{'rows/s':>12}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}"
    f"{'CPU':>7}{'us/request':>12}"
)


@command("bench", groups=ASKING)
@click.option(
    "-i",
    "--input",
    "path",
    metavar="FILE|-",
    help="Course ids for measuring --endpoint; without it the simulated LMS is measured.",
)
@click.option("--id-column", metavar="NAME", help="CSV column or NDJSON field with the ids.")
@click.option(
    "-n",
    "--requests",
    default=200,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Most courses to ask the endpoint for.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=Number(0.1, 3600),
    help="How long to measure each size of course; an endpoint gets ten times as long.",
)
def bench(
    voice: Voice,
    *,
    chosen: Mapping[str, Chosen],
    path: str | None,
    id_column: str | None,
    requests: int,
    seconds: float,
) -> None:
    """Measure how fast this machine exports, or how fast an endpoint answers (with -i)."""
    from bulkfetch.cli.loop import run
    from bulkfetch.cli.measure import SIZES, measure_endpoint, measure_machine

    if path is None:
        if chosen.get("endpoint"):
            voice.say("measuring this machine; to measure the endpoint, give course ids with -i")
        click.echo(_HEAD)
        for rows in SIZES:
            _show(run(measure_machine(rows, concurrency=_CONCURRENCY, seconds=seconds)))
        return
    from bulkfetch._config.sources import make_options
    from bulkfetch.cli.commands.fetch import list_of

    options = make_options(chosen)
    work = measure_endpoint(
        list_of(path, id_column), options, requests=requests, seconds=10 * seconds
    )
    measured = run(work)
    click.echo(_HEAD)
    _show(measured)


def _show(measured: Measurement) -> None:
    latencies = (measured.latency_p50, measured.latency_p90, measured.latency_p99)
    click.echo(
        f"{measured.label:<22}{measured.requests_per_second:>12,.1f}"
        f"{measured.rows_per_second:>12,.0f}"
        + "".join(f"{seconds * 1000:>9,.1f}" for seconds in latencies)
        + f"{measured.cpu_share:>7.0%}{measured.cpu_per_request * 1e6:>12,.0f}"
    )
    click.echo(f"  {measured.verdict}; requests go this way: {measured.way}")
