"""`discover` and `check`: one call each."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bulkfetch._settings import make_options
from bulkfetch._text import harmless
from bulkfetch.cli._flags import ASKING, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._model import ContentItem
    from bulkfetch._settings import Chosen
    from bulkfetch.cli._voice import Voice


@command("discover", groups=ASKING)
@click.option("--ids", is_flag=True, help="Only the ids, one a line.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only items of this type.")
def discover(
    voice: Voice, *, ids: bool, types: tuple[str, ...], chosen: Mapping[str, Chosen]
) -> int:
    """List the account's courses, as NDJSON on stdout.

    The service leaves out linked copies, so the list may be incomplete.
    `bulkfetch discover | grep ... | bulkfetch fetch -i - -o OUT.ndjson` composes.
    """
    from bulkfetch import _discover
    from bulkfetch._progress import counted
    from bulkfetch.cli._loop import run

    items = run(_discover.discover(make_options(chosen)))
    found = [item for item in items if not types or item.type in types]
    for item in found:
        text = item.content_item_id if ids else _line(item)
        sys.stdout.write(f"{harmless(text) if sys.stdout.isatty() else text}\n")
    voice.say(counted(len(found), "content item"))
    return 0


@command("check", groups=ASKING)
@click.argument("course_id", required=False)
def check(voice: Voice, *, course_id: str | None, chosen: Mapping[str, Chosen]) -> int:
    """Say whether endpoint, namespaces and token work.

    It makes one cheap call. With COURSE_ID, the id of a real course, it shows the permission, too.
    """
    from bulkfetch import _discover
    from bulkfetch.cli._loop import run

    options = make_options(chosen)
    voice.say(f"asking {options.endpoint} ...")
    ask = _discover.check
    found = run(ask(options, course_id=course_id) if course_id else ask(options))
    spelling = found.spelling
    click.echo(
        f"good: {found.message} ({found.seconds * 1000:.0f} ms; namespaces: "
        f"{spelling.envelope} envelope, {spelling.application} application)"
    )
    return 0


def _line(item: ContentItem) -> str:
    import orjson

    row = {"contentItemId": item.content_item_id, "title": item.title, "type": item.type}
    return orjson.dumps({**row, **(item.extra or {})}).decode()
