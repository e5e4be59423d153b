"""From argv to an exit code: which command runs, and what its end means.

Commands are looked up by name and imported when they run. Errors of the user, the server and the
disk come out as a sentence and a code; anything else is a defect of this program, code 70.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from bulkfetch._domain.errors import OutputClosed
from bulkfetch.cli.ends import UNEXPECTED, end_of
from bulkfetch.cli.signals import Signalled
from bulkfetch.cli.streams import as_long_as_read, forget_stdout, unblocked
from bulkfetch.cli.voice import Voice

if TYPE_CHECKING:
    from collections.abc import Sequence


_COMMANDS: Final = {
    "demo": "Export from a simulated LMS: no account, no configuration.",
    "fetch": "Fetch the final statuses of many courses into OUT.",
    "discover": "List the account's courses, as NDJSON on stdout.",
    "check": "Say whether endpoint, namespaces and token work.",
    "status": "Say how far a run is, or how the last one ended.",
    "verify": "Check every byte of OUT against its journal.",
    "retry-failed": "Fetch again the courses of OUT that failed or were refused.",
    "merge": "Join the parts of a run in shards to one output.",
    "report": "Tell a run of OUT as one page that needs no network, or as JSON.",
    "load": "Put a finished OUT into DuckDB, Parquet or PostgreSQL, course by course.",
    "diff": "Say which rows of NEW were added, changed or removed since OLD.",
    "parse": "Turn saved responses into rows, one FILE a course.",
    "simulate": "Run a simulated LMS until Ctrl-C.",
    "bench": "Measure how fast this machine exports, or how fast an endpoint answers (with -i).",
    "config": "Show the settings in effect, or begin a file of them: config init.",
    "completion": "Print the completion script of SHELL.",
    "help": "Show the help of COMMAND.",
}
"""The commands in the order of `--help`, and what each does; each has a module of its name."""


class LazyGroup(click.Group):
    """Finds commands by name in modules that are imported for them."""

    def make_context(self, *args: Any, **given: Any) -> click.Context:
        with as_long_as_read():  # --version and --help are done here
            return super().make_context(*args, **given)

    def invoke(self, ctx: click.Context) -> Any:
        with as_long_as_read():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"bulkfetch.cli.commands.{name}")
        found: click.Command = getattr(module, name if hasattr(module, name) else f"{name}_")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, _COMMANDS, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See what it does, without an account: bulkfetch demo. What a command does: "
    "bulkfetch help COMMAND.",
)
@click.version_option(package_name="bulkfetch")
def group() -> None:
    """Export every learner's final status of thousands of courses, each row exactly once."""


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names; returns the exit code, after saying what it stands for."""
    voice = Voice()
    voice.json = _asks_for_json(sys.argv[1:] if argv is None else argv)
    with unblocked(voice.dropped):
        try:
            code: int | None = group.main(
                argv, prog_name="bulkfetch", standalone_mode=False, obj=voice
            )
        except Signalled as signalled:
            forget_stdout()
            return _explain(signalled.error, voice)
        except BaseException as error:  # noqa: BLE001 - the last line of all
            return _explain(error, voice)
    return code or 0


def _asks_for_json(argv: Sequence[str]) -> bool:
    """Look for the format of stderr before the flags are read: a usage error wants to know it."""
    found = os.environ.get("BULKFETCH_LOG_FORMAT")
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag == "--log-format":
            found = value if equals else following
    return found == "json"


def _explain(error: BaseException, voice: Voice) -> int:
    """Say what ended the command and return its exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case OutputClosed():
            forget_stdout()
            return OutputClosed.exit_code
        case click.exceptions.NoArgsIsHelpError() if not voice.json:
            error.show()
            return 2
    code, kind, message = end_of(error)
    if code == UNEXPECTED and not voice.verbose:
        message += ", run again with -v to see where"
    voice.fail(message, exit_code=code, kind=kind)
    if code == UNEXPECTED:
        voice.traceback(error)
    return code
