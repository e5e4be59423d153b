"""`discover`: what the account lists."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bulkfetch._config.sources import make_options
from bulkfetch._domain.text import harmless
from bulkfetch.cli.flags import ASKING, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.sources import Chosen
    from bulkfetch._domain.model import ContentItem
    from bulkfetch.cli.voice import Voice


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
    from bulkfetch._domain.wording import counted
    from bulkfetch._engine import discover as _discover
    from bulkfetch.cli.loop import run
    from bulkfetch.cli.streams import need

    need(1)
    items = run(_discover.discover(make_options(chosen)))
    found = [item for item in items if not types or item.type in types]
    for item in found:
        text = item.content_item_id if ids else _line(item)
        sys.stdout.write(f"{harmless(text) if sys.stdout.isatty() else text}\n")
    voice.say(counted(len(found), "content item"))
    return 0


def _line(item: ContentItem) -> str:
    import orjson

    row = {"contentItemId": item.content_item_id, "title": item.title, "type": item.type}
    return orjson.dumps({**row, **(item.extra or {})}).decode()
