"""`fetch`: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import click

from bulkfetch._config.checks import check_text
from bulkfetch._config.sources import make_options
from bulkfetch._domain.errors import ConfigurationError
from bulkfetch.cli.closing import summary_flag
from bulkfetch.cli.files import check_files
from bulkfetch.cli.flags import RUNNING, command
from bulkfetch.cli.help import Flag
from bulkfetch.cli.observe import Target, metrics_flags

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from bulkfetch._config.options import Options
    from bulkfetch._config.sources import Chosen
    from bulkfetch.cli.voice import Voice

    Ids: TypeAlias = "Iterable[str] | AsyncIterable[str]"


@command("fetch", groups=RUNNING)
@click.option(
    "-i",
    "--input",
    "input_",
    metavar="IDS|-",
    envvar="BULKFETCH_INPUT",
    help="List of course ids: text, CSV or NDJSON, also .gz and .zst; - reads stdin.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT|-",
    envvar="BULKFETCH_OUTPUT",
    help="Where the rows go, NDJSON; .gz and .zst compress; - writes to stdout.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    envvar="BULKFETCH_ID_COLUMN",
    help="CSV column or NDJSON field that holds the ids.",
)
@click.option("--all-courses", is_flag=True, help="Fetch what the account lists (see discover).")
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Of all courses only this type."
)
@click.option(
    "--shards",
    cls=Flag,
    type=int,
    metavar="N",
    envvar="BULKFETCH_SHARDS",
    help="Cut the ids into N shards for a cluster's workers; by default one for each.",
    heading="Cluster",
    daily=False,
)
@click.option(
    "--scheduler",
    cls=Flag,
    metavar="tcp://HOST:PORT|local",
    envvar="BULKFETCH_SCHEDULER",
    help="Run on this Dask cluster, or on processes of this machine; rate and concurrency are "
    "for all of them together.",
    heading="Cluster",
    daily=False,
)
@click.option("--overwrite", is_flag=True, help="Start anew instead of going on.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@metrics_flags
@summary_flag
def fetch(  # noqa: PLR0913 - click hands each flag over
    voice: Voice,
    *,
    input_: str | None,
    output: str | None,
    id_column: str | None,
    all_courses: bool,
    types: tuple[str, ...],
    shards: int | None,
    scheduler: str | None,
    overwrite: bool,
    dry_run: bool,
    metrics: Target,
    chosen: Mapping[str, Chosen],
) -> int:
    """Fetch the final statuses of many courses into OUT.

    Every row is written exactly once. The same command goes on where an earlier one ended,
    whatever ended it; courses that failed are listed in OUT.failed.ndjson.
    """
    from bulkfetch.cli.loop import run
    from bulkfetch.cli.streams import need

    if not output:
        raise click.UsageError("no output: say -o OUT.ndjson, or -o - for stdout")
    if bool(input_) is all_courses:
        wrong = "both -i and --all-courses" if input_ else "no course ids"
        raise click.UsageError(f"{wrong}: say -i IDS, -i - for stdin, or --all-courses")
    if types and not all_courses:
        raise click.UsageError("--type goes with --all-courses")
    check_text("the output's name", output)
    options = make_options(chosen)
    if shards is not None and not scheduler:
        raise click.UsageError("--shards goes with --scheduler: say --scheduler local, or tcp://…")
    check_files(output, options, ids=input_, metrics=metrics.file)
    if voice.closing:
        voice.closing.check(options)
    if output == "-" and not dry_run:
        need(1)
    ids = list_of(input_, id_column) if input_ else run(_all_courses(voice, options, types))
    if dry_run:
        from bulkfetch.cli.plan import check_token, plan

        source = input_ or "the account's list"
        click.echo("\n".join(run(plan(ids, source, output, options, overwrite=overwrite))))
        run(check_token(options))
        return 0
    if scheduler:
        from bulkfetch._ids.reader import IdFile
        from bulkfetch.cli.cluster import run_shards

        listed = (input_, id_column) if isinstance(ids, IdFile) else (None, None)
        job = run_shards(
            voice,
            ids,
            output,
            options,
            shards=shards,
            scheduler=scheduler,
            source=listed,
            overwrite=overwrite,
            metrics=metrics,
        )
        return 1 if run(job).failed else 0
    from bulkfetch.cli.export import run_export
    from bulkfetch.cli.parts import join_parts

    if output != "-" and not overwrite:
        join_parts(output, options)
    export = run_export(voice, ids, output, options, overwrite=overwrite, metrics=metrics)
    return 1 if run(export).failed else 0


def list_of(path: str, column: str | None) -> Ids:
    """Return the ids in the file `path`, or on stdin for "-"."""
    from bulkfetch._ids.reader import open_ids
    from bulkfetch.cli.streams import need

    if path == "-":
        need(0)
    return open_ids(path, column)


async def _all_courses(voice: Voice, options: Options, types: tuple[str, ...]) -> list[str]:
    from bulkfetch._domain.wording import counted
    from bulkfetch._engine.discover import discover

    items = await discover(options)
    found = [item.content_item_id for item in items if not types or item.type in types]
    if not found:
        there = ", ".join(sorted({item.type or "none" for item in items}))
        what = f"; its types are {there}" if items else ": has the token's owner any courses?"
        wanted = f" of type {' or '.join(types)}" if types else ""
        raise ConfigurationError(f"the account lists no content item{wanted}{what}")
    voice.say(f"the account lists {counted(len(found), 'course')}")
    voice.event("discovered", {"courses": len(found)})
    return found
