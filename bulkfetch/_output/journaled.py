"""Where the rows go: a journaled file that holds each of them exactly once.

Data are written and synced before the journal's line that speaks of them, and that line is synced
before anything is called done; so whatever is cut off, the journal never promises what the disk
does not hold, and the next run keeps the longest prefix whose every CRC fits. After any error the
sink is dead: it writes nothing more, for a failed fsync cannot be repeated. One call at a time,
each `prepare` followed by its `write`; all but `prepare` block. What is taken over from another
output is summed up and synced by a thread, while the caller writes the next.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.model import IN_MEMORY
from bulkfetch._output.batch import Batch, Joiner
from bulkfetch._output.compress import codec
from bulkfetch._output.file import POSIX, File, System
from bulkfetch._output.folder import Folder
from bulkfetch._output.frames import (
    Adopted,
    Committed,
    Done,
    Frame,
    Header,
    Pause,
    Resume,
    Snapshot,
    Stop,
    encode,
)
from bulkfetch._output.layout import Layout, temporary
from bulkfetch._output.ledger import Ledger, add
from bulkfetch._output.manifest import encode_manifest, make_manifest
from bulkfetch._output.opening import open_output
from bulkfetch._output.thread import OrderedThread

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bulkfetch._config.options import Durability
    from bulkfetch._domain.model import Outcome
    from bulkfetch._output.compress import Block
    from bulkfetch._output.frames import Course, FailedCourse
    from bulkfetch._output.manifest import Manifest


_GONE = (
    "bring it back and run the same command again; if it is lost, move what stands there away and "
    "fetch all again with --overwrite"
)
_CHANGED = (
    "run the same command again, which keeps what is whole; if it refuses, fetch all again with "
    "--overwrite"
)
_SEALED: Final = 8 << 20
_MANY: Final = 64
"""Bytes and number of the adopted commits that become safe together."""
_SMALL: Final = 1 << 16


@dataclass(slots=True)
class _Written:
    """What was written since the last commit: as a frame of the journal it counts."""

    nbytes: int = 0
    crc: int = 0
    courses: list[Course] = field(default_factory=list)
    failed: list[FailedCourse] = field(default_factory=list)

    def frame(self, start: int, now: float) -> Committed:
        return Committed(start, start + self.nbytes, self.crc, self.courses, self.failed, now)


class JournaledFile:
    """The output `path` with its journal: resumes by itself, appears only when complete.

    A published output stays published until a later run brings a course: failures alone are
    journaled beside it. Whatever is written is of mode 0600, also where a file was before; a file
    of another user is refused.

    `fingerprint` names what the bytes depend on (endpoint host, method, options), never the token;
    an output begun with another one is refused. Its `shard`, as "0/4", is the part of the ids that
    the output is for. `started` is when what it will hold was begun, if that was not now. A name
    ending in .gz or .zst is compressed, one member per write. Raises OutputError, OutputLocked,
    ConfigurationError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fingerprint: Mapping[str, str],
        run_id: str,
        durability: Durability = "batch",
        overwrite: bool = False,
        version: str = "",
        started: float | None = None,
        system: System = POSIX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = Layout.of(path)
        self._run = Header(run_id, fingerprint, 0.0, version, shard=fingerprint.get("shard"))
        self._durability = durability
        self._overwrite = overwrite
        self._folder = Folder(system, self._layout)
        self._clock = clock
        self._started = started
        self._codec = codec(self._layout.output)
        self._joiner = Joiner()
        self._digest = sha256()
        self._written = _Written()
        self._sealed: list[Committed] = []
        self._thread = OrderedThread()
        self._small = bytearray()
        """Adopted bytes that the sha256 lacks and that the thread was not given either."""
        self._syncing: list[Committed] = []
        """Adopted commits of which the journal may speak when all is done that was put aside."""
        self._ledger = Ledger()
        self._live = False
        self._writing = False
        """Whether the journal ends in frames of this run, so that commits may follow."""
        self._published = False
        """Whether the data stand under the output's own name, where nothing is appended to them."""
        self._joins = False
        self._journal: File
        self._data: File

    def open(self) -> Ledger:
        """Lock the output, recover what is there and return what is settled.

        The sink goes on counting in this ledger; what it settles now is not `settled` in it.
        """
        try:
            found = open_output(
                self._folder,
                self._layout,
                self._run,
                overwrite=self._overwrite,
                now=self._clock() if self._started is None else self._started,
            )
        except BaseException:
            self.close()
            raise
        self._journal, self._data, self._ledger = found.journal, found.data, found.ledger
        self._digest, self._published, self._writing = found.digest, found.published, found.begun
        self._ledger.go_live()
        self._live = True
        return self._ledger

    def prepare(self, outcomes: Sequence[Outcome]) -> Batch:
        """Make whole courses, a few MiB at most, ready for the `write` that follows.

        Nothing here waits for the disk. Adds up checksums while the rows are still in the
        processor's cache: a thread that contends for the interpreter with whoever makes the next
        ones pays twice as much. A batch with a large course, and any of a compressed file, is left
        to `write`.
        """
        with self._alive():
            self._finish_aside()  # nothing, unless commits were adopted without a commit here
            batch = Batch.of(outcomes)
            if self._codec is None and all(c.rows.nbytes <= IN_MEMORY for c in batch.fetched):
                for piece in batch.gather():
                    self._digest.update(piece)
                    self._written.crc = zlib.crc32(piece, self._written.crc)
            return batch

    def write(self, batch: Batch) -> None:
        """Write the courses prepared last; nothing is promised before `commit`."""
        with self._alive():
            self._go_on()
            if batch.fetched:
                self._reopen()
            if batch.pieces is None:
                self._append(self._joiner.blocks(batch.fetched))
            elif batch.pieces:
                self._data.append(*batch.pieces)
                self._written.nbytes += sum(map(len, batch.pieces))
            self._written.courses += batch.courses
            self._written.failed += batch.failed

    def adopt(
        self,
        frame: Committed,
        blocks: Iterable[bytes],
        runs: Iterable[str],
        *,
        apart: bool = False,
    ) -> None:
        """Take over a commit of another output with its bytes as they are, and commit it here.

        `blocks` are the bytes of its data, compressed as this output is; it keeps its time. `runs`
        worked at the other output, and will be named among this one's. Raises OutputError when the
        bytes are not what the frame says, or when a course in it has its rows here already; then
        nothing of it is kept. `apart` says that none can have: no course is looked up then, and
        several commits become safe together, at the latest with `commit` or `finish`.
        """
        with self._alive():
            if self._written.courses or self._written.failed or not apart:
                self._commit()
            self._ledger.live = False  # it must remember what is fetched now, too
            if not apart:
                self._refuse_held(frame)
            self._go_on()
            if frame.courses:
                self._reopen()
            for block in blocks:
                self._data.append(block)
                self._written.crc = zlib.crc32(block, self._written.crc)
                self._written.nbytes += len(block)
                self._sum_up(block)
            if (self._written.nbytes, self._written.crc) != (frame.end - frame.start, frame.crc):
                raise OutputError(
                    f"{self._written.nbytes} bytes that {self._layout.output} was to take over are "
                    f"not what their journal says: look at the parts with `bulkfetch verify`"
                )
            self._written.courses += frame.courses
            self._written.failed += frame.failed
            self._name_adopted(runs)
            self._seal(frame.at)
            if not apart:
                self._commit()
            elif len(self._sealed) >= _MANY or self._end() - self._sealed[0].start >= _SEALED:
                self._sync_aside()

    @property
    def new(self) -> bool:
        """Whether nothing is known of any course."""
        written = self._written.courses or self._written.failed
        return not (self._ledger.asked or self._sealed or self._syncing or written)

    def commit(self) -> None:
        """Journal what was written; on return it is as safe as the durability says."""
        with self._alive():
            self._commit()

    def note(self, state: Mapping[str, object]) -> None:
        """Journal a snapshot of progress, unless the output is finished."""
        with self._alive():
            if not self._ledger.done:
                self._tell(Snapshot(state))

    def paused(self, pause: Pause) -> None:
        """Journal that the run waited, unless the output is finished."""
        with self._alive():
            if not self._ledger.done:
                self._tell(pause)

    def stopped(self, stop: Stop) -> None:
        """Journal why the run ends before its list does; what was written is committed first.

        An output that was finished, and to which this run brought nothing, stays so.
        """
        with self._alive():
            self._commit()
            self._tell(stop)
            self._journal.sync()

    def take_up(self) -> None:
        """Take an output that was joined up again though nothing comes to it: it is told anew."""
        with self._alive():
            self._go_on()
            self._name_adopted(())

    def finish(
        self, totals: Mapping[str, object], options: Mapping[str, object] | None = None
    ) -> Manifest:
        """Publish the output, or do what is left of it; both mappings go into the manifest.

        The manifest tells of the last finish. While a later run brings no course it stays beside
        the rows, which are still those, and is replaced only here; the failed file may be newer.
        """
        with self._alive():
            if self._ledger.done is None:
                self._complete(Done(self._clock(), totals, options or {}))
            if not self._published:
                self._publish()
            name = Path(self._layout.output).name
            manifest = make_manifest(self._ledger, name, self._digest.hexdigest())
            text = encode_manifest(manifest)
            if not self._folder.holds(self._layout.manifest, text):
                self._check_unharmed()
                # Synced first: a manifest is never newer than the list of what failed.
                self._write_failed()
                self._folder.sync()
                self._folder.write_whole(self._layout.manifest, (text,))
                self._folder.sync()
            return manifest

    def close(self) -> None:
        """Release the output; of one not finished again list the courses that failed so far."""
        live, self._live = self._live, False
        try:
            if live and self._ledger.done is None:
                self._write_failed()
        finally:
            try:
                self._thread.close()
            finally:
                self._folder.close()

    # Writing

    @contextmanager
    def _alive(self) -> Iterator[None]:
        if not self._live:
            raise OutputError(
                f"{self._layout.output} is closed, or was given up after an error: "
                "run the same command again to go on"
            )
        try:
            yield
        except BaseException:
            self._live = False
            raise

    def _tell(self, frame: Frame) -> None:
        """Append a frame to the journal and count it, as whoever reads it will."""
        line = encode(frame)
        self._journal.append(line)
        add(self._ledger, frame, len(line))

    def _go_on(self) -> None:
        """Take an output of an earlier run, or a finished one, up again."""
        if not self._writing:
            self._tell(Resume(self._run.run, self._clock()))
            self._writing = True

    def _name_adopted(self, runs: Iterable[str]) -> None:
        """Say once that this run takes others over, and the name of each of them."""
        new = [run for run in runs if run not in self._ledger.runs]
        if new or not self._joins:
            self._tell(Adopted(new))
            self._joins = True

    def _reopen(self) -> None:
        """Bring a published output back to its first name, since it is going to change."""
        if not self._published:
            return
        self._check_unharmed()
        self._data.make_private()
        # Synced first: a manifest is never there without the output that it describes.
        self._folder.remove(self._layout.manifest)
        self._folder.sync()
        self._folder.rename(self._layout.output, self._layout.part)
        self._folder.sync()
        self._published = False

    def _append(self, blocks: Iterable[Block]) -> None:
        """Write a member of these rows."""
        for data in self._codec(blocks) if self._codec else blocks:
            self._add(data)

    def _add(self, data: Block) -> None:
        self._data.append(data)
        self._written.crc = zlib.crc32(data, self._written.crc)
        self._digest.update(data)
        self._written.nbytes += len(data)

    def _refuse_held(self, frame: Committed) -> None:
        ids = Counter(course[0] for course in frame.courses)
        held = (one for one, times in ids.items() if times > 1 or self._ledger.holds(one))
        if (twice := next(held, None)) is not None:
            raise OutputError(
                f"course {twice!r} has its rows in {self._layout.output} already: "
                "no course may be in two parts; leave one of them out"
            )

    def _commit(self) -> None:
        durable = self._durability != "none"
        self._check_unharmed()
        if self._written.nbytes or self._written.courses or self._written.failed:
            self._seal(self._clock())
        self._finish_aside()
        if not self._sealed:
            return
        if durable and self._end() > self._ledger.end:
            self._data.sync_data()
        sealed, self._sealed = self._sealed, []
        self._tell_safe(sealed)

    def _tell_safe(self, frames: Sequence[Committed]) -> None:
        """Journal commits whose data are as safe as they are to be."""
        for frame in frames:
            self._tell(frame)
        if self._durability != "none":
            self._journal.sync_data()

    def _sum_up(self, block: bytes) -> None:
        """Add it to the sha256, in the thread; small ones together, which cost less."""
        if self._small or len(block) < _SMALL:
            self._small += block
            if len(self._small) < _SMALL:
                return
            block, self._small = bytes(self._small), bytearray()
        self._thread.do(self._digest.update, block)

    def _sync_aside(self) -> None:
        """Let the thread sync the sealed commits; those that it synced before are journaled."""
        self._check_unharmed()
        self._finish_aside()
        self._syncing, self._sealed = self._sealed, []
        if self._durability != "none":
            self._thread.do(self._data.sync_data)

    def _finish_aside(self) -> None:
        """Wait for the thread, and journal what it made safe."""
        self._thread.finish()
        self._digest.update(self._small)
        self._small.clear()
        if self._syncing:
            frames, self._syncing = self._syncing, []
            self._tell_safe(frames)

    def _seal(self, at: float) -> None:
        """Let what was written be a commit of its own, of which the journal is not told yet."""
        self._sealed.append(self._written.frame(self._end(), at))
        self._written = _Written()

    def _end(self) -> int:
        """Return where the data of the last commit end, whether the journal was told of it."""
        told_later = self._sealed or self._syncing
        return told_later[-1].end if told_later else self._ledger.end

    def _check_unharmed(self) -> None:
        """Raise OutputError when another program touched the data or the journal.

        Two looks at two names, with each commit and before anything gets or loses its name.
        """
        data = self._layout.output if self._published else self._layout.part
        size = self._end() + self._written.nbytes
        for file, path, expected in (
            (self._journal, self._layout.journal, self._ledger.size),
            (self._data, data, size),
        ):
            there = self._folder.lstat(path)
            if not file.is_at(there):
                what = "replaced" if there else "removed"
                raise OutputError(f"{path} was {what} by another program during the run: {_GONE}")
            if there and there.st_size != expected:
                raise OutputError(
                    f"{path} has {there.st_size} bytes, but this run wrote {expected}: another "
                    f"program changed it; {_CHANGED}"
                )

    # Finishing

    def _complete(self, done: Done) -> None:
        self._go_on()
        if self._codec and not (self._end() or self._written.nbytes):
            # A compressed file without any member is no such file to the standard tools.
            self._append([b""])
        self._commit()
        self._data.sync()
        self._tell(done)
        self._journal.sync()
        self._writing = False

    def _publish(self) -> None:
        """Give the data their final name, with nothing of an older output left beside it."""
        header = self._ledger.header
        assert header
        self._check_unharmed()
        if not header.replaces and self._folder.lstat(self._layout.output) is not None:
            raise OutputError(
                f"{self._layout.output} was made by another program during the run: move it away, "
                "then run the same command again to publish this one"
            )
        # Synced before the rename: who finds the output finds nothing older beside it.
        self._folder.remove(self._layout.manifest)
        self._write_failed()
        self._folder.sync()
        self._folder.rename(self._layout.part, self._layout.output)
        self._folder.sync()
        self._published = True

    def _write_failed(self) -> None:
        path, counts = self._layout.failed, self._ledger.outcomes()
        if counts["failed"] or counts["refused"]:
            lines = (course.line() for course in self._ledger.failed(self._journal.blocks()))
            self._folder.write_whole(path, lines)
        else:
            self._folder.remove(path)
            self._folder.remove(temporary(path))
