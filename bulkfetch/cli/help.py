"""How a command helps: `--help` shows what is used daily, with examples and exit codes.

`--help-all` shows every flag, each under its heading.
"""

from __future__ import annotations

from typing import Any

import click

from bulkfetch.cli.examples import CODES, EXAMPLES, SHARED_CODES

LAST = "Messages"
"""The heading that comes last, since every command has it."""
_ALL = "bulkfetch.cli.all"
_OWN = "Options"
_ONCE = {
    "input_": "put the lists together in one file",
    "output": "name one, and run the command again for another",
}
"""Options of which a second would lose data, and what to do instead."""


class Flag(click.Option):
    """An option that stands under a heading of its own in `--help-all`."""

    def __init__(self, *args: Any, heading: str = _OWN, daily: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading
        self.daily = daily


class Command(click.Command):
    """A command that shows its daily flags, and all of them by heading when asked."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            self._refuse_repeated(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_repeated(self, ctx: click.Context, args: list[str]) -> None:
        """Refuse a second list or output: the first would be left out without a word."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for flag in given:
            once = isinstance(flag, click.Option) and flag.name in _ONCE
            if once and given.count(flag) > 1:
                raise click.UsageError(
                    f"{flag.opts[0]} is given {given.count(flag)} times, but only one can be used: "
                    f"{_ONCE[str(flag.name)]}",
                    ctx,
                )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything = ctx.meta.get(_ALL, False)
        headings: dict[str, list[tuple[str, str]]] = {}
        rare = 0
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and (everything or getattr(parameter, "daily", True)):
                heading = getattr(parameter, "heading", _OWN) if everything else _OWN
                headings.setdefault(heading, []).append(record)
            else:
                rare += record is not None
        for heading in sorted(headings, key=lambda name: name == LAST):
            with formatter.section(heading):
                formatter.write_dl(headings[heading])
        if rare:
            formatter.write_paragraph()
            asks = any(parameter.name == "token_file" for parameter in self.params)
            token = " A token goes into BULKFETCH_TOKEN." if asks else ""
            formatter.write_text(f"{ctx.command_path} --help-all shows {rare} more.{token}")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        name = self.name or ""
        if examples := EXAMPLES.get(name):
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in examples))
        with formatter.section("Exit codes"):
            codes = {**CODES.get(name, {"0": "done"}), **SHARED_CODES}
            formatter.write_dl(sorted(codes.items(), key=lambda code: int(code[0].split(",")[0])))


def show_all(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the help with every flag, as the callback of `--help-all`."""
    if wanted:
        context.meta[_ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()
