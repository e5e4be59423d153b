"""The flags that commands share: one for every setting, and how a command speaks.

All are made from `_options.settings()`, so that a setting is described once. In `--help` they
stand under the group that they belong to.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkfetch._errors import OutputClosed
from bulkfetch._options import settings
from bulkfetch._settings import choose, default_text, strangers

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkfetch._setting import Setting
    from bulkfetch.cli._voice import Voice

_F = TypeVar("_F", bound="Callable[..., Any]")

ASKING = ("Connection", "Pace", "What the server may send")
"""The groups of settings that matter to a command which makes a single call."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
RUNNING = ("Connection", "Pace", "When to stop", "Output", "What the server may send")


class Flag(click.Option):
    """An option that stands under a heading of its own in `--help`."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class Command(click.Command):
    """A command whose options are listed by heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                heading = getattr(parameter, "heading", "Options")
                headings.setdefault(heading, []).append(record)
        # What every command has comes last.
        for heading in sorted(headings, key=lambda name: name == "Messages"):
            with formatter.section(heading):
                formatter.write_dl(headings[heading])


def command(name: str, *, groups: tuple[str, ...] = ()) -> Callable[[_F], click.Command]:
    """Make a function a command: it is given the voice and, with `groups`, the chosen settings.

    Of the settings only those of `groups` have flags; all can be set by environment and file.
    """

    def decorate(function: _F) -> click.Command:
        @wraps(function)
        @click.pass_obj
        def call(voice: Voice, /, **given: Any) -> int | None:
            names = ("log_format", "quiet", "verbose", "no_color")
            voice.set(**{name: given.pop(name) for name in names})
            if groups:
                flags = {name: given.pop(name) for name in settings() if name in given}
                for complaint in strangers(os.environ):
                    voice.warn(complaint)
                config = given.pop("config")
                given["chosen"] = choose(flags, environment=os.environ, config=config)
            try:
                result: int | None = function(voice, **given)
                sys.stdout.flush()
            except BrokenPipeError:  # click would make it code 1
                raise OutputClosed("the reader of stdout went away") from None
            return result

        made = click.command(name, cls=Command, context_settings=CONTEXT)(call)
        made.params += [*_setting_flags(groups), *_message_flags()]
        return made

    return decorate


def _setting_flags(groups: tuple[str, ...]) -> list[click.Option]:
    if not groups:
        return []
    config = Flag(
        ["--config"],
        metavar="FILE",
        help="TOML file with settings by name; also BULKFETCH_CONFIG.",
        heading="Connection",
    )
    flags = [
        _flag(name, item) for name, item in settings().items() if item.flag and item.group in groups
    ]
    return [config, *flags]


def _flag(name: str, item: Setting) -> click.Option:
    long = "--" + name.replace("_", "-")
    default = default_text(name)
    text = f"{item.help} [{default}]" if default and not item.is_switch else item.help
    if item.is_switch:
        names = [name, f"{long}/--no-{long.removeprefix('--')}"]
        return Flag(names, default=None, help=text, heading=item.group)
    names = [name, *([item.short] if item.short else []), long]
    return Flag(names, metavar=item.metavar, multiple=item.many, help=text, heading=item.group)


def _message_flags() -> list[click.Option]:
    heading = "Messages"
    return [
        Flag(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            default="text",
            envvar="BULKFETCH_LOG_FORMAT",
            help="How stderr is written: for a person, or one JSON object per line.",
            heading=heading,
        ),
        Flag(["-q", "--quiet"], is_flag=True, help="Say nothing but errors.", heading=heading),
        Flag(
            ["-v", "--verbose"],
            count=True,
            help="Say more: each retry, tracebacks; twice: still more.",
            heading=heading,
        ),
        Flag(
            ["--no-color"], is_flag=True, help="No colors; NO_COLOR does the same.", heading=heading
        ),
    ]
