"""`retry-failed`: the courses of an output that have no rows, once more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bulkfetch._config.checks import check_text
from bulkfetch._config.setting import parse_shard
from bulkfetch._config.sources import make_options
from bulkfetch._domain.errors import ConfigurationError
from bulkfetch.cli.closing import summary_flag
from bulkfetch.cli.files import check_files, read_output
from bulkfetch.cli.flags import RUNNING, command
from bulkfetch.cli.observe import Target, metrics_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.sources import Chosen
    from bulkfetch.cli.voice import Voice


def _renamed(context: click.Context, _: click.Parameter, given: str | None) -> None:
    if given is not None:
        raise click.UsageError(f"--class is called --kind: say --kind {given}", context)


@command("retry-failed", groups=RUNNING)
@click.argument("output", metavar="OUT")
@click.option(
    "--kind", "kinds", metavar="KIND", multiple=True, help="Only courses that failed like this."
)
@click.option("--class", expose_value=False, hidden=True, callback=_renamed)
@metrics_flags
@summary_flag
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
    from bulkfetch._output.parts import find_parts

    check_text("the output's name", output)
    ledger = read_output(output, idle=True)
    if not ledger.last_done or find_parts(output):
        raise ConfigurationError(
            f"{output} is not finished: run the fetch command again, which retries what failed"
        )
    if ledger.done is None:
        voice.warn(f"the last run of {output} was cut short; if it was a fetch, run it again, too")
    present = ledger.failures()
    if unknown := [kind for kind in kinds if kind not in present]:
        raise ConfigurationError(
            f"no course failed with kind {unknown[0]!r}; kinds here: "
            f"{', '.join(sorted(present)) or 'none'}"
        )
    if not present and ledger.done:
        voice.say(f"{output}: no course failed or was refused, there is nothing to retry")
        return 0
    options = make_options(chosen)
    check_files(output, options, metrics=metrics.file)
    if ledger.header:  # the rows must look like those that are there
        begun = ledger.header.fingerprint
        shard = parse_shard(begun["shard"]) if "shard" in begun else None
        options = replace(options, stamp=begun.get("stamp") == "true", shard=shard)
    from bulkfetch._output.inspect import read_failed
    from bulkfetch.cli.export import run_export
    from bulkfetch.cli.loop import run

    failed = read_failed(output, ledger)
    ids = (course.course_id for course in failed if not kinds or course.kind in kinds)
    export = run_export(voice, ids, output, options, again=_Every(), metrics=metrics)
    return 1 if run(export).failed else 0


class _Every:
    """Holds every id: which courses are asked again, the list of ids says."""

    def __contains__(self, course_id: object) -> bool:
        return True
