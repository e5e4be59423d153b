"""`demo`: the whole way, from a simulated LMS to a finished file, on this machine alone."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bulkfetch._domain.text import harmless
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch._engine.tally import Summary
    from bulkfetch.cli.voice import Voice

FOLDER: Final = "bulkfetch-demo"


@command("demo")
@click.option(
    "--courses",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="How many courses the simulated LMS has.",
)
def demo(voice: Voice, *, courses: int) -> int:
    """Export from a simulated LMS: no account, no configuration.

    The LMS runs inside this command, on loopback; now and then it answers 503 or cuts a response,
    so that retries can be seen. The rows are left in ./bulkfetch-demo.
    """
    from bulkfetch._output.layout import failures
    from bulkfetch.cli.loop import run

    with failures(f"make the folder {FOLDER}"):
        Path(FOLDER).mkdir(mode=0o700, exist_ok=True)
    output = str(Path(FOLDER) / "statuses.ndjson")
    summary = run(_export(voice, courses, output))
    voice.say("", f"Three of the {summary.rows:,} rows:")
    with Path(output).open() as file:
        for line in islice(file, 3):
            sys.stdout.write(harmless(line.rstrip("\n")) + "\n")
    sys.stdout.flush()
    voice.say(
        "",
        "Try next:",
        f"  bulkfetch verify {output}   every byte against its checksum",
        f"  bulkfetch report {output}   the run as a page for the browser",
        "  bulkfetch simulate          the simulated LMS as a server of its own",
        "  bulkfetch fetch --help      your own account: an endpoint, a token, a list of ids",
    )
    return 1 if summary.failed else 0


async def _export(voice: Voice, courses: int, output: str) -> Summary:
    from bulkfetch._config.options import Options
    from bulkfetch._engine.discover import discover
    from bulkfetch.cli.export import run_export
    from bulkfetch.testing import SimulatedServer, Simulation

    simulation = Simulation(
        courses=courses,
        zero_share=0.03,
        latency=0.02,
        latency_shape="exponential",
        share_503=0.01,
        share_cut=0.01,
    )
    async with SimulatedServer(simulation) as server:
        options = Options(
            endpoint=server.endpoint,
            token_url=server.token_url,
            client_id=simulation.client_id,
            client_secret=simulation.client_secret,
            concurrency=16,
            backoff=0.1,
        )
        voice.say(f"a simulated LMS answers at {server.endpoint}")
        items = await discover(options)
        voice.say(f"discover: the account lists {len(items):,} courses; fetching them")
        ids = [item.content_item_id for item in items]
        return await run_export(voice, ids, output, options, overwrite=True)
