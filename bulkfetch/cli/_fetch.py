"""`fetch` and `retry-failed`: the two commands that write an output."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import click

from bulkfetch._errors import ConfigurationError
from bulkfetch._settings import make_options
from bulkfetch.cli._files import read_output
from bulkfetch.cli._flags import RUNNING, command
from bulkfetch.cli._observe import Target, metrics_flags

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from bulkfetch._options import Options
    from bulkfetch._settings import Chosen
    from bulkfetch.cli._voice import Voice

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
@click.option("--overwrite", is_flag=True, help="Start anew instead of going on.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@metrics_flags
def fetch(  # noqa: PLR0913 - click hands each flag over
    voice: Voice,
    *,
    input_: str | None,
    output: str | None,
    id_column: str | None,
    all_courses: bool,
    types: tuple[str, ...],
    overwrite: bool,
    dry_run: bool,
    metrics: Target,
    chosen: Mapping[str, Chosen],
) -> int:
    """Fetch the final statuses of many courses into OUT.

    Every row is written exactly once. The same command goes on where an earlier one ended,
    whatever ended it; courses that failed are listed in OUT.failed.ndjson.
    """
    from bulkfetch.cli._loop import run

    if not output:
        raise click.UsageError("no output: say -o OUT.ndjson, or -o - for stdout")
    if bool(input_) is all_courses:
        wrong = "both -i and --all-courses" if input_ else "no course ids"
        raise click.UsageError(f"{wrong}: say -i IDS, -i - for stdin, or --all-courses")
    if types and not all_courses:
        raise click.UsageError("--type goes with --all-courses")
    options = make_options(chosen)
    ids = _listed(input_, id_column) if input_ else run(_all_courses(voice, options, types))
    if dry_run:
        from bulkfetch.cli._plan import plan

        source = input_ or "the account's list"
        click.echo("\n".join(run(plan(ids, source, output, options, overwrite=overwrite))))
        return 0
    return _export(voice, ids, output, options, overwrite=overwrite, metrics=metrics)


@command("retry-failed", groups=RUNNING)
@click.argument("output", metavar="OUT")
@click.option(
    "--class", "kinds", metavar="CLASS", multiple=True, help="Only courses that failed like this."
)
@metrics_flags
def retry_failed(
    voice: Voice,
    *,
    output: str,
    kinds: tuple[str, ...],
    metrics: Target,
    chosen: Mapping[str, Chosen],
) -> int:
    """Fetch again the courses of OUT that failed or were refused.

    What is fetched now joins the same output, each row once.
    """
    ledger = read_output(output)
    if ledger.done is None and not ledger.reopened:
        raise ConfigurationError(
            f"{output} is not finished: run the fetch command again, which retries what failed"
        )
    if ledger.done is None:
        voice.warn(f"the last run of {output} was cut short; if it was a fetch, run it again, too")
    present = sorted({course.kind for course in ledger.failed.values()})
    if unknown := [kind for kind in kinds if kind not in present]:
        raise ConfigurationError(
            f"no course failed with class {unknown[0]!r}; classes here: "
            f"{', '.join(present) or 'none'}"
        )
    ids = [
        course.course_id for course in ledger.failed.values() if not kinds or course.kind in kinds
    ]
    if not ids and ledger.done:
        voice.say(f"{output}: no course failed or was refused, there is nothing to retry")
        return 0
    options = make_options(chosen)
    if ledger.header:  # the rows must look like those that are there
        options = replace(options, stamp=ledger.header.fingerprint.get("stamp") == "true")
    return _export(voice, ids, output, options, again=frozenset(ids), metrics=metrics)


def _listed(path: str, column: str | None) -> Ids:
    from bulkfetch._ids import open_ids

    return open_ids(path, column)


async def _all_courses(voice: Voice, options: Options, types: tuple[str, ...]) -> list[str]:
    from bulkfetch._discover import discover
    from bulkfetch._progress import counted

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


def _export(
    voice: Voice,
    ids: Ids,
    output: str,
    options: Options,
    *,
    overwrite: bool = False,
    again: frozenset[str] = frozenset(),
    metrics: Target,
) -> int:
    from bulkfetch.cli._loop import run
    from bulkfetch.cli._run import run_export

    summary = run(
        run_export(voice, ids, output, options, overwrite=overwrite, again=again, metrics=metrics)
    )
    return 1 if summary.failed else 0
