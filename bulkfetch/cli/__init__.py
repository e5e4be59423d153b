"""The `bulkfetch` command.

Signals and the standard streams are seen to first of all. Commands, and the heavy modules that each
of them needs, are imported when they run, so that `bulkfetch --help` answers at once. stdout is
data only; everything said to a person or to a log goes to stderr.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from bulkfetch.cli.signals import Signalled, die_of_ctrl_c, raised
from bulkfetch.cli.streams import open_missing, speak_utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `argv`, else the process's own arguments, names, and exit."""
    with raised():
        open_missing()
        speak_utf8()
        try:
            from bulkfetch.cli.program import run_command

            code = run_command(argv)
        except Signalled as early:  # there was nothing yet that could say so
            code = early.error.exit_code
        if code == 130 and argv is None:
            die_of_ctrl_c()
        sys.exit(code)
