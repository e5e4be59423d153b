"""`help`: what `COMMAND --help` says, for who asks in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice


@command("help")
@click.argument("name", metavar="[COMMAND]", required=False)
@click.pass_context
def help_(context: click.Context, voice: Voice, *, name: str | None) -> int:  # noqa: ARG001
    """Show the help of COMMAND."""
    root = context.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    if name is None:
        click.echo(root.get_help())
        return 0
    _, found, _ = group.resolve_command(root, [name])
    assert found is not None
    click.echo(found.get_help(click.Context(found, root, name, **found.context_settings)))
    return 0
