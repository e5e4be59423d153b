"""The flags that commands share: one for every setting, and how a command speaks.

All are made from `settings()`, so that a setting is described once.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkfetch._config.options import settings
from bulkfetch._config.sources import choose, default_text, strangers
from bulkfetch.cli.help import LAST, Command, Flag, show_all
from bulkfetch.cli.streams import as_long_as_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkfetch._config.setting import Setting
    from bulkfetch.cli.voice import Voice

_F = TypeVar("_F", bound="Callable[..., Any]")

ASKING = ("Connection", "Tries and timeouts", "What the server may send")
"""The groups of settings that matter to a command which makes a single call."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
RUNNING = ("Connection", "Pace", *ASKING[1:2], "When to stop", "Output", *ASKING[2:])
_FILES = ("FILE", "OUT", "IDS")
"""Placeholders that stand for files, which a shell can complete."""


class Number(click.FloatRange):
    """A number within bounds, which nan is not."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - which only nan is
            self.fail(f"{value!r} is no number", param, ctx)
        return number


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
            with as_long_as_read():
                result: int | None = function(voice, **given)
                sys.stdout.flush()
            return result

        made = click.command(name, cls=Command, context_settings=CONTEXT)(call)
        made.params += [*_setting_flags(groups), *_message_flags()]
        for parameter in made.params:
            if any(word in str(parameter.metavar) for word in _FILES) and not parameter.nargs > 1:
                parameter.type = click.Path(readable=False)  # which a shell completes
        return made

    return decorate


def _setting_flags(groups: tuple[str, ...]) -> list[click.Option]:
    if not groups:
        return []
    config = Flag(
        ["--config"],
        metavar="FILE",
        help="TOML file with settings by name (see bulkfetch config init).",
        heading="Connection",
    )
    flags = [
        _flag(name, item) for name, item in settings().items() if item.flag and item.group in groups
    ]
    return [config, *flags]


def _flag(name: str, item: Setting) -> click.Option:
    long = "--" + name.replace("_", "-")
    default = default_text(name)
    text = f"{item.help} [default: {default}]" if default else item.help
    if item.is_switch:
        names = [name, f"{long}/--no-{long.removeprefix('--')}"]
        return Flag(names, default=None, help=text, heading=item.group, daily=item.daily)
    return Flag(
        [name, *([item.short] if item.short else []), long],
        metavar=item.metavar,
        multiple=item.many,
        help=text,
        heading=item.group,
        daily=item.daily,
    )


def _message_flags() -> list[click.Option]:
    return [
        Flag(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            envvar="BULKFETCH_LOG_FORMAT",
            help="How stderr is written: for a person, or one JSON object per line.",
            heading=LAST,
        ),
        Flag(["-q", "--quiet"], is_flag=True, help="Say nothing but errors.", heading=LAST),
        Flag(
            ["-v", "--verbose"],
            count=True,
            help="Say more: each retry, tracebacks; twice: still more.",
            heading=LAST,
        ),
        Flag(
            ["--no-color"],
            is_flag=True,
            help="No colors; NO_COLOR does the same.",
            heading=LAST,
            daily=False,
        ),
        Flag(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=show_all,
            help="Show every flag, by what it is about.",
            heading=LAST,
        ),
    ]
