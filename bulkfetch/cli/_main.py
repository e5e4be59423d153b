"""From argv to an exit code: which command runs, and what its end means.

Commands are looked up by name and imported when they run. Errors of the user, the server and the
disk come out as a sentence and a code; anything else is a defect of this program, code 70.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import click

from bulkfetch._errors import BulkfetchError, OutputClosed, RunError
from bulkfetch.cli._voice import Voice

if TYPE_CHECKING:
    from collections.abc import Sequence

UNEXPECTED: Final = 70
"""EX_SOFTWARE of sysexits.h."""

_COMMANDS: Final = {
    "demo": ("_demo", "Export from a simulated LMS: no account, no configuration."),
    "fetch": ("_fetch", "Fetch the final statuses of many courses into OUT."),
    "discover": ("_ask", "List the account's courses, as NDJSON on stdout."),
    "check": ("_ask", "Say whether endpoint, namespaces and token work."),
    "status": ("_look", "Say how far a run is, or how the last one ended."),
    "verify": ("_look", "Check every byte of OUT against its journal."),
    "retry-failed": ("_fetch", "Fetch again the courses of OUT that failed or were refused."),
    "report": ("_report", "Tell a run of OUT as one page that needs no network, or as JSON."),
    "parse": ("_parse", "Turn saved responses into rows, one FILE a course."),
    "simulate": ("_simulate", "Run a simulated LMS until Ctrl-C."),
    "bench": (
        "_bench",
        "Measure how fast this machine exports, or how fast an endpoint answers (with -i).",
    ),
    "config": ("_shell", "Show the settings in effect and where each came from."),
    "completion": ("_shell", "Print the completion script of SHELL."),
}
"""The commands in the order of `--help`: the module that defines each, and what it does."""


class LazyGroup(click.Group):
    """Finds commands by name in modules that are imported for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"bulkfetch.cli.{_COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, _COMMANDS, 1)
            hint = f": did you mean {near[0]}?" if near else "; see bulkfetch --help"
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See what it does, without an account: bulkfetch demo",
)
@click.version_option(package_name="bulkfetch")
def group() -> None:
    """Export every learner's final status of thousands of courses, each row exactly once."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `argv` names and exit the process with its code."""
    voice = Voice()
    try:
        code = _run(argv, voice)
    except BaseException as error:  # noqa: BLE001 - the last line of all
        code = _explain(error, voice)
    sys.exit(code)


def _run(argv: Sequence[str] | None, voice: Voice) -> int:
    code: int | None = group.main(argv, prog_name="bulkfetch", standalone_mode=False, obj=voice)
    return code or 0


def _explain(error: BaseException, voice: Voice) -> int:
    """Say what ended the command and return its exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case OutputClosed():
            # Python flushes stdout once more at its end: let it go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OutputClosed.exit_code
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return 2
        case click.ClickException():
            return _explain_usage(error, voice)
        case KeyboardInterrupt() | click.Abort():
            voice.fail("stopped by Ctrl-C", exit_code=130, kind="Interrupted")
            return 130
        case BulkfetchError():
            code = error.exit_code if isinstance(error, RunError) else 1
            message = str(error)
        case OSError():
            code = 6
            message = f"{error.filename or 'writing'}: {error.strerror or error}"
        case _:
            code = UNEXPECTED
            message = f"unexpected {type(error).__name__}: {error}; this is a defect"
            if not voice.verbose:
                message += ", run again with -v to see where"
    voice.fail(message, exit_code=code, kind=type(error).__name__)
    if code == UNEXPECTED:
        voice.traceback(error)
    return code


def _explain_usage(error: click.ClickException, voice: Voice) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"; see {context.command_path} --help" if context else ""
    message = error.format_message().rstrip(".")
    voice.fail(f"{message}{hint}", exit_code=2, kind="Usage")
    return 2
