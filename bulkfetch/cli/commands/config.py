"""`config`: the settings in effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulkfetch._config.sources import make_options, shown, template
from bulkfetch.cli.flags import RUNNING, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.sources import Chosen
    from bulkfetch.cli.voice import Voice


@command("config", groups=RUNNING)
@click.argument("what", metavar="[init]", type=click.Choice(["show", "init"]), default="show")
def config(voice: Voice, *, what: str, chosen: Mapping[str, Chosen]) -> int:  # noqa: ARG001 - all get it
    """Show the settings in effect, or begin a file of them: config init.

    A flag comes before a variable, a variable before the file, the file before the default.
    Secrets are masked. `init` prints a TOML file with every setting, its default and its bounds.
    """
    if what == "init":
        click.echo(template(), nl=False)
        return 0
    rows = list(shown(chosen))
    name_width = max(len(name) for name, _, _ in rows)
    text_width = min(44, max(len(text) for _, text, _ in rows))
    for name, text, source in rows:
        click.echo(f"{name:<{name_width}}  {text:<{text_width}}  {source}")
    make_options(chosen)  # what is missing or contradicts is said after the list
    return 0
