"""`completion`: what the shell needs to complete commands and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, voice: Voice, *, shell: str) -> int:  # noqa: ARG001
    r"""Print the completion script of SHELL.

    \b
    bash:  eval "$(bulkfetch completion bash)"    in ~/.bashrc
    zsh:   eval "$(bulkfetch completion zsh)"     in ~/.zshrc
    fish:  bulkfetch completion fish > ~/.config/fish/completions/bulkfetch.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    group = context.find_root().command
    click.echo(found(group, {}, "bulkfetch", "_BULKFETCH_COMPLETE").source())
    return 0
