"""`merge`: the parts of a run in shards as one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch._config.checks import check_text
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice


@command("merge")
@click.argument("parts", metavar="OUT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT", required=True, help="The one output they make.")
@click.option(
    "--partial", is_flag=True, help="Join what there is: parts unfinished, or some of them."
)
def merge(voice: Voice, *, parts: tuple[str, ...], output: str, partial: bool) -> int:
    """Join the parts of a run, outputs of `fetch --shard i/n`, to one.

    No server is asked. The parts stay as they are, but those in OUT.parts/ are removed once they
    are joined. OUT is an ordinary output: it can be verified, reported, retried, and fetched on.
    The same command goes on after a kill, and done again it changes nothing.
    What a pattern finds beside a part, its failed file or journal, is left out.
    """
    from bulkfetch._domain.wording import counted
    from bulkfetch._output.layout import Layout
    from bulkfetch._scale.merge import merge as join

    for path in (*parts, output):
        check_text("the output's name", path)
    layouts = [Layout.of(path) for path in parts]
    beside = {name for layout in layouts for name in layout.own if name != layout.output}
    parts = tuple(layout.output for layout in layouts if layout.output not in beside)
    manifest = join(parts, output, partial=partial)
    courses = manifest.courses
    without = courses["failed"] + courses["refused"]
    words = f", {counted(without, 'course')} without rows" if without else ""
    held = f"{counted(courses['fetched'], 'course')}, {counted(manifest.rows, 'row')}{words}"
    voice.say(f"{output}: {held}, from {counted(len(parts), 'part')}")
    voice.event("merged", {"output": output, "parts": len(parts), "rows": manifest.rows})
    return 1 if without else 0
