"""`check`: one cheap call that says in words what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch._config.sources import make_options
from bulkfetch.cli.flags import ASKING, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.sources import Chosen
    from bulkfetch.cli.voice import Voice


@command("check", groups=ASKING)
@click.argument("course_id", required=False)
def check(voice: Voice, *, course_id: str | None, chosen: Mapping[str, Chosen]) -> int:
    """Say whether endpoint, namespaces and token work.

    It makes one cheap call. With COURSE_ID, the id of a real course, it shows the permission, too.
    """
    from bulkfetch._engine import discover as _discover
    from bulkfetch.cli.loop import run

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
