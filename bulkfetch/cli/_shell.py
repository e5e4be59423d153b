"""`config` and `completion`: what the shell around the program needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch._settings import make_options, shown
from bulkfetch.cli._flags import RUNNING, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._settings import Chosen
    from bulkfetch.cli._voice import Voice


@command("config", groups=RUNNING)
def config(voice: Voice, *, chosen: Mapping[str, Chosen]) -> int:  # noqa: ARG001 - all get it
    """Show the settings in effect and where each came from.

    A flag comes before a variable, a variable before the file, the file before the default.
    Secrets are masked.
    """
    rows = list(shown(chosen))
    name_width = max(len(name) for name, _, _ in rows)
    text_width = min(44, max(len(text) for _, text, _ in rows))
    for name, text, source in rows:
        click.echo(f"{name:<{name_width}}  {text:<{text_width}}  {source}")
    make_options(chosen)  # what is missing or contradicts is said after the list
    return 0


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
