"""`report`: a run as a page to read, or as JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from bulkfetch._output.layout import Layout
from bulkfetch.cli.files import read_output, writing
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice


def _print_schema(context: click.Context, flag: click.Parameter, wanted: bool) -> None:
    if wanted:
        from bulkfetch._report.story import SCHEMA, SUMMARY_SCHEMA

        schema = SCHEMA if flag.name == "schema" else SUMMARY_SCHEMA
        click.echo(schema.read_text(encoding="utf-8"), nl=False)  # which tells of a closed pipe
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
@click.option(
    "--summary-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of fetch --summary and exit.",
)
def report(voice: Voice, *, output: str, html: str | None, json_: str | None) -> int:
    """Tell a run of OUT as one page that needs no network, or as JSON.

    Prints the page's name. An unfinished output is told as far as it goes.
    """
    from bulkfetch._output.guard import are_one

    if html and json_ and are_one(html, json_):
        raise click.UsageError(f"--html and --json both write to {html}: name two files")
    read_output(output)  # says in words when there is none
    if html is None and json_ is None:
        html = f"{output}.report.html"
    from bulkfetch._report.page import page
    from bulkfetch._report.story import as_json, read_report

    found = read_report(output, now=time.time())
    if json_:
        _write(json_, as_json(found), output)
    if html:
        _write(html, page(found).encode(), output)
        if html != "-":
            click.echo(html)
    voice.event("report", {"output": output, "outcome": found.outcome, "html": html, "json": json_})
    return 0


def _write(path: str, data: bytes, output: str) -> None:
    own = dict.fromkeys(Layout.of(output).own, "a file of the output itself")
    with writing(path, overwrite=True, used=own, mine=_is_report) as write:
        write([data])


def _is_report(head: bytes) -> bool:
    """Whether a file begins like an earlier report."""
    if head.startswith(b"{"):
        return b'"made"' in head
    return head[:15].lower() == b"<!doctype html>" and b"Content-Security-Policy" in head
