"""What commands write and look at besides a run's own files: private files, finished outputs."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch._errors import ConfigurationError
from bulkfetch._layout import Layout, failures
from bulkfetch._text import harmless_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkfetch._journal import Ledger


@contextmanager
def writing(path: str, *, overwrite: bool) -> Iterator[Callable[[Iterable[bytes]], object]]:
    """Open a private file, or stdout for "-"; gives the function that writes blocks to it.

    The file gets its name when it is complete, and is gone when it never will be. Raises
    ConfigurationError when it exists already and may not be replaced, OutputError when it cannot
    be written.
    """
    if path == "-":
        shown = harmless_rows() if sys.stdout.isatty() else bytes
        yield lambda blocks: sys.stdout.buffer.writelines(map(shown, blocks))
        return
    from bulkfetch._members import codec

    if Path(path).exists() and not overwrite:
        raise ConfigurationError(f"{path} exists: name another file, or replace it: --overwrite")
    compressed = codec(path)
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with failures(f"write {path}"):
        fd = os.open(temporary, flags, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                yield lambda blocks: file.writelines(compressed(blocks) if compressed else blocks)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


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
