"""What commands write and look at besides a run's own files: private files, rows for a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch._errors import ConfigurationError
from bulkfetch._layout import Layout, failures
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkfetch._journal import Ledger


@contextmanager
def writing(path: str, *, overwrite: bool) -> Iterator[Callable[[Iterable[bytes]], object]]:
    """Open a private file, or stdout for "-"; gives the function that writes blocks to it.

    The file gets its name when it is complete. Raises ConfigurationError when it exists already
    and may not be replaced, OutputError when it cannot be written.
    """
    if path == "-":
        yield sys.stdout.buffer.writelines
        return
    from bulkfetch._members import codec

    if Path(path).exists() and not overwrite:
        raise ConfigurationError(f"{path} exists: name another file, or replace it: --overwrite")
    compressed = codec(path)
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with failures(f"write {path}"):
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            yield lambda blocks: file.writelines(compressed(blocks))
        Path(temporary).replace(path)


def read_output(output: str) -> Ledger:
    """Return the ledger of an output; raises ConfigurationError when there is no such output."""
    from bulkfetch._inspect import read_ledger

    journal = Layout.of(output).journal
    if not Path(journal).exists():
        raise ConfigurationError(
            f"{output} is no output of bulkfetch: there is no {journal}; "
            "name the file that was given to fetch -o"
        )
    return read_ledger(output)


def harmless(text: str) -> str:
    """Spell out what a terminal might obey, as JSON escapes: the value of the JSON is the same."""
    return "".join(
        character if printable(character) == character else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
