"""The `bulkfetch` command.

Commands, and the heavy modules that each of them needs, are imported when they run, so that
`bulkfetch --help` answers at once. stdout is data only; everything said to a person or to a log
goes to stderr.
"""

from __future__ import annotations

from bulkfetch.cli._main import main

__all__ = ["main"]
