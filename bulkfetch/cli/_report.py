"""`report`: a run as a page to read, or as JSON."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from bulkfetch._errors import ConfigurationError
from bulkfetch._layout import Layout
from bulkfetch.cli._files import read_output, writing
from bulkfetch.cli._flags import command

if TYPE_CHECKING:
    from bulkfetch.cli._voice import Voice


def _print_schema(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from bulkfetch._report import SCHEMA

        sys.stdout.write(SCHEMA.read_text(encoding="utf-8"))
        context.exit()


@command("report")
@click.argument("output", metavar="OUT")
@click.option(
    "--html", metavar="FILE|-", help="Where the page goes; - writes to stdout. [OUT.report.html]"
)
@click.option(
    "--json",
    "json_",
    metavar="[FILE|-]",
    is_flag=False,
    flag_value="-",
    help="As JSON, to stdout or FILE; without --html there is no page then.",
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of --json and exit.",
)
def report(voice: Voice, *, output: str, html: str | None, json_: str | None) -> int:
    """Tell a run of OUT as one page that needs no network, or as JSON.

    Prints the page's name. An unfinished output is told as far as it goes.
    """
    read_output(output)  # says in words when there is none
    if html is None and json_ is None:
        html = f"{output}.report.html"
    for path in filter(None, (html, json_)):
        _check_target(path, output)

    from bulkfetch._report import as_json, read_report
    from bulkfetch._report_page import page

    found = read_report(output, now=time.time())
    if json_:
        _write(json_, as_json(found))
    if html:
        _write(html, page(found).encode())
        if html != "-":
            click.echo(html)
    voice.event("report", {"output": output, "outcome": found.outcome, "html": html, "json": json_})
    return 0


def _check_target(path: str, output: str) -> None:
    """Refuse to replace what the report is about."""
    layout = Layout.of(output)
    names = [layout.output, layout.part, layout.journal, layout.failed, layout.manifest]
    if os.path.realpath(path) in map(os.path.realpath, names):
        raise ConfigurationError(f"{path} belongs to the output itself: name another file")


def _write(path: str, data: bytes) -> None:
    with writing(path, overwrite=True) as write:
        write([data])
