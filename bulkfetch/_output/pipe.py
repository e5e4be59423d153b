"""Rows into a pipe: each course whole and at least once, since a pipe cannot be taken back.

The same interface as the journaled file, without what a pipe does not have: no journal, so nothing
is resumed; courses that failed are only counted.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from bulkfetch._domain.errors import OutputClosed
from bulkfetch._domain.text import harmless_rows
from bulkfetch._output.batch import Batch, Joiner
from bulkfetch._output.frames import Done, Header
from bulkfetch._output.layout import failure
from bulkfetch._output.ledger import Ledger, add
from bulkfetch._output.manifest import make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bulkfetch._domain.model import Outcome
    from bulkfetch._output.compress import Block
    from bulkfetch._output.frames import Pause, Stop
    from bulkfetch._output.manifest import Manifest


class PipeOutput:
    """The rows on a file descriptor, which stays the caller's and stays open.

    Raises OutputClosed when its reader is gone, OutputError for anything else.
    """

    def __init__(
        self,
        fd: int,
        *,
        fingerprint: Mapping[str, str],
        run_id: str,
        version: str = "",
        write: Callable[[int, memoryview], int] = os.write,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fd = fd
        self._write = write
        self._clock = clock
        self._digest = sha256()
        self._joiner = Joiner()
        self._shown = harmless_rows() if os.isatty(fd) else None
        header = Header(run_id, fingerprint, clock(), version)
        self._ledger = Ledger(header=header, runs=[run_id])
        self._ledger.go_live()

    def open(self) -> Ledger:
        """Return a ledger in which nothing is settled; the sink counts in it."""
        return self._ledger

    def prepare(self, outcomes: Sequence[Outcome]) -> Batch:
        """Make whole courses ready for `write`."""
        return Batch.of(outcomes)

    def write(self, batch: Batch) -> None:
        """Write whole courses."""
        for block in self._joiner.blocks(batch.fetched):
            self._write_block(self._shown(bytes(block)) if self._shown else block)
        self._ledger.count(batch.courses, batch.failed)

    def commit(self) -> None:
        """Do nothing: what a pipe has taken is gone."""

    def note(self, state: Mapping[str, object]) -> None:
        """Forget it: there is no journal."""

    def paused(self, pause: Pause) -> None:
        """Forget it likewise."""

    def stopped(self, stop: Stop) -> None:
        """Forget it likewise."""

    def finish(
        self, totals: Mapping[str, object], options: Mapping[str, object] | None = None
    ) -> Manifest:
        """Return what was written, for the summary."""
        add(self._ledger, Done(self._clock(), totals, options or {}), 0)
        return make_manifest(self._ledger, "-", self._digest.hexdigest())

    def close(self) -> None:
        """Leave the descriptor to its owner."""

    def _write_block(self, block: Block) -> None:
        rest = memoryview(block)
        try:
            while rest:  # a pipe takes what it has room for
                rest = rest[self._write(self._fd, rest) :]
        except BrokenPipeError:
            raise OutputClosed("the reader of the output went away") from None
        except OSError as error:
            raise failure(error, "write to the output pipe") from error
        self._digest.update(block)
        self._ledger.end += len(block)
