"""stderr: what a command says, to a person or, as JSON lines, to a program.

In JSON every line is an object with `time` and `event`; in text only what a person needs is said.
Once stderr cannot be written to, the command goes on in silence.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkfetch.cli.closing import Closing

_LONGEST: Final = 4000
"""Characters of a line that are shown."""
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)


class Voice:
    """How a command speaks; made before its flags are read, and set by them."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = 0
        self.color = False
        self.closing: Closing | None = None

    def set(self, *, log_format: str, quiet: bool, verbose: int, no_color: bool) -> None:
        """Take over the flags, and listen to what the engine logs."""
        self.json = log_format == "json"
        self.quiet = quiet
        self.verbose = verbose
        plain = no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.color = self.on_terminal and not plain
        logger = logging.getLogger("bulkfetch")
        logger.handlers[:] = [_Handler(self)]
        logger.setLevel(logging.ERROR if quiet else _LEVELS[min(verbose, 2)])

    @property
    def on_terminal(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def say(self, *lines: str, always: bool = False, label: str = "", color: str = "0") -> None:
        """Say something to a person, unless told to be quiet; no stranger's text can do harm."""
        if not self.json and (always or not self.quiet):
            if label:
                label = f"\x1b[{color}m{label}\x1b[0m " if self.color else f"{label} "
            _write(label + "".join(f"{printable(line, _LONGEST)}\n" for line in lines))

    def say_table(self, rows: Iterable[tuple[str, str]], colors: Mapping[str, str]) -> None:
        """Say names and words in two columns, a name in its color; rows without words are left out.

        The same as a `table`, but for the colors.
        """
        said = [(name, words) for name, words in rows if words]
        width = max((len(name) for name, _ in said), default=0)
        for name, words in said:
            self.say(f" {words}", label=f"  {name:<{width}}", color=colors.get(name, "0"))

    def event(self, name: str, fields: Mapping[str, object], *, always: bool = False) -> None:
        """Write one JSON line, if that is the format."""
        if self.json and (always or not self.quiet):
            _write(_as_json(name, fields), flush=False)

    def dropped(self, number: int) -> str:
        """Return the line that says that so many were lost, since nobody read stderr."""
        if self.json:
            return _as_json("dropped", {"lines": number})
        return f"({number:,} lines were dropped here: nobody read them in time)\n"

    def warn(self, message: str) -> None:
        self.say(message, label="warning:", color="33")
        self.event("log", {"level": "warning", "message": message})

    def fail(self, message: str, *, exit_code: int, kind: str) -> None:
        """Say why the command ends early."""
        self.say(message, always=True, label="bulkfetch:", color="31")
        self.event("error", {"kind": kind, "message": message, "exit_code": exit_code}, always=True)

    def traceback(self, error: BaseException) -> None:
        """Show where an error came from, when that much was asked for."""
        if self.verbose:
            lines = "".join(traceback.format_exception(error))
            self.say(*lines.splitlines(), always=True)
            self.event("traceback", {"text": lines}, always=True)


class _Handler(logging.Handler):
    """Hands the engine's log records to the voice."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        level, message = record.levelname.lower(), record.getMessage()
        if record.levelno >= logging.WARNING:
            self._voice.warn(message)
        else:
            self._voice.say(message)
            self._voice.event("log", {"level": level, "message": message})


def _as_json(name: str, fields: Mapping[str, object]) -> str:
    import json  # not orjson: what came as broken Unicode must not end a run

    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": name, **fields}, default=str) + "\n"


def _write(text: str, *, flush: bool = True) -> None:
    try:
        sys.stderr.write(text)
        if flush:  # events are many, and nobody reads them beside the data
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # nobody listens: the work goes on
