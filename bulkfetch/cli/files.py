"""What commands write and look at besides a run's own files: private files, finished outputs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch._config.checks import check_text
from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import harmless_rows
from bulkfetch._output.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bulkfetch._config.options import Options
    from bulkfetch._output.ledger import Ledger


@contextmanager
def writing(
    path: str,
    *,
    overwrite: bool,
    used: Mapping[str, str] | None = None,
    mine: Callable[[bytes], bool] = lambda _head: True,
) -> Iterator[Callable[[Iterable[bytes]], object]]:
    """Open a private file, or stdout for "-"; gives the function that writes blocks to it.

    The file gets its name when it is complete, and is gone when it never will be. Raises
    ConfigurationError when it may not be written there (`guard`), or exists already and may not be
    replaced; OutputError when it cannot be written.
    """
    if path == "-":
        shown = harmless_rows() if sys.stdout.isatty() else bytes
        yield lambda blocks: sys.stdout.buffer.writelines(map(shown, blocks))
        return
    from bulkfetch._output.guard import guard, new_file

    guard(path, used=used or {}, mine=mine)
    if Path(path).exists() and not overwrite:
        raise ConfigurationError(f"{path} exists: name another file, or replace it: --overwrite")
    with new_file(path) as write:
        yield write


def check_files(
    output: str, options: Options, *, ids: str | None = None, metrics: str | None = None
) -> None:
    """Refuse a run whose output or metrics would replace what it reads, or each other.

    Raises ConfigurationError.
    """
    from bulkfetch._output.guard import are_one, guard

    read = {
        str(path): f"the file of the setting {name}"
        for name in ("token_file", "cacert", "cert", "key")
        if (path := getattr(options, name))
    }
    if ids and ids != "-":
        read[ids] = "the list of ids"
    own: dict[str, str] = {}
    if output != "-":
        layout = Layout.of(output)
        own = dict.fromkeys(layout.own, f"a file of the output {output}")
        # What failed may be asked again: its list is replaced when the run ends, and read by then.
        names = [name for name in layout.own if name != layout.failed]
        for path, what in read.items():
            if any(are_one(name, path) for name in names):
                raise ConfigurationError(f"the output {output} would replace {path}, {what}")
    if metrics:
        guard(metrics, used=own | read, mine=lambda head: head.startswith(b"# HELP "))


def read_output(output: str, *, idle: bool = False) -> Ledger:
    """Return the ledger of an output, with what the parts of a run in shards hold so far.

    Raises ConfigurationError when there is no such output; OutputLocked when it must be `idle` and
    a run is at work on it, whatever else may be said of it.
    """
    from bulkfetch._output.inspect import require_idle
    from bulkfetch._output.parts import read_whole

    check_text("the output's name", output)  # no run makes one that is no text
    journal = Layout.of(output).journal
    if not Path(journal).exists():
        raise ConfigurationError(
            f"{output} is no output of bulkfetch: there is no {journal}; "
            "name the file that was given to fetch -o"
        )
    if idle:
        require_idle(output)
    return read_whole(output)
