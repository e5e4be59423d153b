"""How a command ended: exit code, kind and words, the same on the screen and in `--summary`."""

from __future__ import annotations

from typing import Final

import click

from bulkfetch._domain.errors import BulkfetchError, RunError

UNEXPECTED: Final = 70
"""EX_SOFTWARE of sysexits.h."""


def end_of(error: BaseException) -> tuple[int, str, str]:
    """Return exit code, kind and a sentence for what ended a command."""
    kind = type(error).__name__
    match error:
        case click.ClickException():
            return 2, "Usage", _usage(error)
        case KeyboardInterrupt() | click.Abort():
            return 130, "Interrupted", "stopped by Ctrl-C"
        case BulkfetchError():
            return error.exit_code if isinstance(error, RunError) else 1, kind, str(error)
        case OSError():
            return 6, kind, f"{error.filename or 'writing'}: {error.strerror or error}"
        case _:
            return UNEXPECTED, kind, f"unexpected {kind}: {error}; this is a defect"


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"; see {context.command_path} --help" if context else ""
    return error.format_message().rstrip(".") + hint
