"""Where the rows go: a journaled file that holds each of them exactly once.

Data are written and synced before the journal's line that speaks of them, and that line is synced
before anything is called done; so whatever is cut off, the journal never promises what the disk
does not hold, and the next run keeps the longest prefix whose every CRC fits. After any error the
sink is dead: it writes nothing more, for a failed fsync cannot be repeated. One call at a time,
each `prepare` followed by its `write`; all but `prepare` block.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch._batch import Batch, Joiner
from bulkfetch._errors import ConfigurationError, OutputError, OutputLocked
from bulkfetch._journal import (
    FORMAT,
    Commit,
    Done,
    Header,
    Ledger,
    Resume,
    State,
    encode,
    encode_manifest,
    replay,
    verified,
)
from bulkfetch._layout import Layout, failures, locate
from bulkfetch._members import codec
from bulkfetch._model import IN_MEMORY
from bulkfetch._system import POSIX, File, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bulkfetch._journal import Course, FailedCourse, Manifest
    from bulkfetch._members import Block
    from bulkfetch._model import Outcome
    from bulkfetch._options import Durability

_LONGEST_HEADER = 16 << 10


@dataclass(slots=True)
class _Written:
    """What was written since the last commit: as a frame of the journal it counts."""

    nbytes: int = 0
    crc: int = 0
    courses: list[Course] = field(default_factory=list)
    failed: list[FailedCourse] = field(default_factory=list)

    def frame(self, start: int, now: float) -> Commit:
        return Commit(start, start + self.nbytes, self.crc, self.courses, self.failed, now)


class JournaledFile:
    """The output `path` with its journal: resumes by itself, appears only when complete.

    A published output stays published until a later run brings a course: failures alone are
    journaled beside it. Whatever is written is of mode 0600, also where a file was before; a file
    of another user is refused.

    `fingerprint` names what the bytes depend on (endpoint host, method, options), never the token;
    an output begun with another one is refused. A name ending in .gz or .zst is compressed, one
    member per write. Raises OutputError, OutputLocked, ConfigurationError.
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
        system: System = POSIX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = Layout.of(path)
        self._run = Header(run_id, fingerprint, 0.0, version)
        self._durability = durability
        self._overwrite = overwrite
        self._system = system
        self._clock = clock
        self._codec = codec(self._layout.output)
        self._joiner = Joiner()
        self._digest = sha256()
        self._written = _Written()
        self._ledger = Ledger()
        self._files: list[File] = []
        self._live = False
        self._writing = False
        """Whether the journal ends in frames of this run, so that commits may follow."""
        self._published = False
        """Whether the data stand under the output's own name, where nothing is appended to them."""
        self._journal: File
        self._data: File
        self._directory: File

    def open(self) -> Ledger:
        """Lock the output, recover what is there and return what is settled.

        The sink goes on counting in this ledger, but leaves its `settled` and commits alone.
        """
        try:
            self._open()
        except BaseException:
            self.close()
            raise
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

    def commit(self) -> None:
        """Journal what was written; on return it is as safe as the durability says."""
        with self._alive():
            self._commit()

    def note(self, state: Mapping[str, object]) -> None:
        """Journal a snapshot of progress, unless the output is finished."""
        with self._alive():
            if not self._ledger.done:
                self._journal.append(encode(State(state)))

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
            manifest = self._ledger.manifest(name, self._digest.hexdigest())
            text = encode_manifest(manifest)
            if not self._holds(self._layout.manifest, text):
                self._require_same(self._data, self._layout.output)
                # Synced first: a manifest is never newer than the list of what failed.
                self._write_failed()
                self._sync_names()
                self._write_whole(self._layout.manifest, text)
                self._sync_names()
            return manifest

    def close(self) -> None:
        """Release the output; of one not finished again list the courses that failed so far."""
        live, self._live = self._live, False
        try:
            if live and self._ledger.done is None:
                self._write_failed()
        finally:
            while self._files:  # the journal, which holds the lock, goes last
                self._files.pop().close()

    # Opening

    def _open(self) -> None:
        self._check_target()
        self._take_lock()
        self._directory = self._open_file(self._layout.directory, os.O_RDONLY | os.O_DIRECTORY)
        self._ledger = Ledger() if self._overwrite else replay(self._journal.blocks())
        if self._ledger.header is None or self._is_another_that_got_nothing(self._ledger.header):
            self._begin()
        else:
            self._check_header(self._ledger.header)
            self._recover(self._ledger.header)

    def _check_target(self) -> None:
        info = self._lstat(self._layout.output)
        if info and not stat.S_ISREG(info.st_mode):
            is_folder, is_link = stat.S_ISDIR(info.st_mode), stat.S_ISLNK(info.st_mode)
            what = "a folder" if is_folder else "a symbolic link" if is_link else "no regular file"
            # A rename would replace the link and leave what it points to behind.
            remedy = "name the file that it points to" if is_link else "name a file"
            raise OutputError(f"{self._layout.output} is {what}: {remedy}")
        # The longest of all names: better too long now than at the end of the run.
        self._lstat(_temporary(self._layout.manifest))
        if self._lstat(self._layout.journal) is None:
            self._refuse_unexplained()

    def _take_lock(self) -> None:
        self._journal = self._file(self._layout.journal, os.O_RDWR | os.O_CREAT)
        try:
            with failures(f"lock {self._layout.journal}"):
                self._system.flock(self._journal.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OutputError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise OutputLocked(
                    f"another run holds {self._layout.output}: "
                    "let it end, or stop it, then run again"
                ) from None
            raise

    def _is_another_that_got_nothing(self, header: Header) -> bool:
        """Whether all there is comes from a run with other settings that settled nothing."""
        ledger = self._ledger
        kept = ledger.settled or ledger.done or ledger.reopened
        return not kept and header.format == FORMAT and header.fingerprint != self._run.fingerprint

    def _begin(self) -> None:
        size = self._journal.size()
        if not self._overwrite:
            self._refuse_unexplained()
            if self._ledger.header is None and size > _LONGEST_HEADER:
                raise OutputError(
                    f"{self._layout.journal} ({size} bytes) is no journal that can be read: "
                    "move it away, or replace everything with --overwrite"
                )
        # Emptied for good before the data: old frames never meet new data.
        self._journal.cut(0)
        self._journal.sync()
        self._create_data()
        replaces = self._lstat(self._layout.output) is not None
        run = self._run
        header = Header(run.run, run.fingerprint, self._clock(), run.version, replaces)
        self._journal.append(encode(header))
        self._journal.sync()
        self._sync_names()
        self._ledger = Ledger(header=header, runs=[run.run])
        self._writing = True

    def _refuse_unexplained(self) -> None:
        for path in () if self._overwrite else (self._layout.output, self._layout.part):
            info = self._lstat(path)
            if info and info.st_size:
                raise OutputError(
                    f"{path} exists ({info.st_size} bytes) without a journal that explains it "
                    f"({self._layout.journal}): move it away, or replace it with --overwrite"
                )

    def _create_data(self) -> None:
        self._data = self._file(self._layout.part, os.O_RDWR | os.O_CREAT)
        self._data.cut(0)

    def _check_header(self, header: Header) -> None:
        remedy = "choose another output, or replace this one with --overwrite"
        if header.format != FORMAT:
            raise ConfigurationError(
                f"{self._layout.journal} has format {header.format} (bulkfetch {header.version}), "
                f"this version writes format {FORMAT}: finish it with the other, {remedy}"
            )
        old, new = header.fingerprint, self._run.fingerprint
        changed = [
            f"{name} {old.get(name)!r}, this run has {new.get(name)!r}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise ConfigurationError(
                f"{self._layout.output} was begun with {'; '.join(changed)}: {remedy}"
            )

    def _recover(self, header: Header) -> None:
        ledger = self._ledger
        place = locate(
            self._layout,
            part=self._lstat(self._layout.part) is not None,
            output=self._lstat(self._layout.output) is not None,
            started=ledger.end > 0,
            complete=ledger.reopened or ledger.done is not None,
            replaces=header.replaces,
        )
        self._published = place == "output"
        if place == "new":
            self._create_data()
        else:
            path = self._layout.output if self._published else self._layout.part
            # A published file keeps the mode that its owner gave it until it is written again.
            self._data = self._file(path, os.O_RDWR, private=not self._published)
        self._keep_good_prefix()
        self._journal.cut(self._ledger.size)
        if not self._published:
            self._data.cut(self._ledger.end)
            self._data.sync()
        self._journal.sync()
        self._sync_names()

    def _keep_good_prefix(self) -> None:
        while (bad := self._first_bad()) is not None:
            if self._published:
                raise OutputError(
                    f"{self._layout.output} is not what its journal says, from byte "
                    f"{self._start_of(bad)} on: look with `bulkfetch verify`; bring the file back, "
                    "or fetch all again with --overwrite"
                )
            self._journal.cut(self._ledger.places[bad])
            self._ledger = replay(self._journal.blocks())

    def _first_bad(self) -> int | None:
        self._digest = sha256()
        answers = verified(self._ledger, self._data.read, self._digest.update)
        bad = next((index for index, good in enumerate(answers) if not good), None)
        if bad is None and self._published and self._data.size() != self._ledger.end:
            return len(self._ledger.ends)
        return bad

    def _start_of(self, commit: int) -> int:
        return self._ledger.ends[commit - 1] if commit else 0

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

    def _go_on(self) -> None:
        """Take an output of an earlier run, or a finished one, up again."""
        if self._writing:
            return
        run_id, now = self._run.run, self._clock()
        self._journal.append(encode(Resume(run_id, now)))
        self._ledger.done = None
        self._ledger.runs.append(run_id)
        self._writing = True

    def _reopen(self) -> None:
        """Bring a published output back to its first name, since it is going to change."""
        if not self._published:
            return
        self._require_same(self._data, self._layout.output)
        self._data.make_private()
        # Synced first: a manifest is never there without the output that it describes.
        self._remove(self._layout.manifest)
        self._sync_names()
        self._rename(self._layout.output, self._layout.part)
        self._sync_names()
        self._published = False

    def _append(self, blocks: Iterable[Block]) -> None:
        """Write a member of these rows."""
        written = self._written
        for data in self._codec(blocks) if self._codec else blocks:
            self._data.append(data)
            written.crc = zlib.crc32(data, written.crc)
            self._digest.update(data)
            written.nbytes += len(data)

    def _commit(self) -> None:
        written, durable = self._written, self._durability != "none"
        if not (written.nbytes or written.courses or written.failed):
            return
        if durable and written.nbytes:
            self._data.sync_data()
        self._journal.append(encode(written.frame(self._ledger.end, self._clock())))
        if durable:
            self._journal.sync_data()
        self._ledger.end += written.nbytes
        self._ledger.count(written.courses, written.failed)
        self._written = _Written()

    # Finishing

    def _complete(self, done: Done) -> None:
        self._go_on()
        if self._codec and not (self._ledger.end or self._written.nbytes):
            # A compressed file without any member is no such file to the standard tools.
            self._append([b""])
        self._commit()
        line = encode(done)
        self._data.sync()
        self._journal.append(line)
        self._journal.sync()
        self._ledger.done = done
        self._writing = False

    def _publish(self) -> None:
        """Give the data their final name, with nothing of an older output left beside it."""
        header = self._ledger.header
        assert header
        self._require_same(self._journal, self._layout.journal)
        self._require_same(self._data, self._layout.part)
        if not header.replaces and self._lstat(self._layout.output) is not None:
            raise OutputError(
                f"{self._layout.output} was made by another program during the run: move it away, "
                "then run the same command again to publish this one"
            )
        # Synced before the rename: who finds the output finds nothing older beside it.
        self._remove(self._layout.manifest)
        self._write_failed()
        self._sync_names()
        self._rename(self._layout.part, self._layout.output)
        self._sync_names()
        self._published = True

    def _require_same(self, file: File, path: str) -> None:
        there = self._lstat(path)
        if there is None or not os.path.samestat(there, file.stat()):
            raise OutputError(
                f"{path} was removed or replaced by another program during the run: "
                "nothing was published; run the same command again"
            )

    def _write_failed(self) -> None:
        path, failed = self._layout.failed, self._ledger.failed.values()
        if failed:
            self._write_whole(path, b"".join([course.line() for course in failed]))
        else:
            self._remove(path)
            self._remove(_temporary(path))

    # System calls on names

    def _file(self, path: str, flags: int, *, private: bool = True) -> File:
        file = self._open_file(path, flags | os.O_APPEND | os.O_NOFOLLOW)
        if private:
            file.make_private()
        return file

    def _open_file(self, path: str, flags: int) -> File:
        with failures(f"open {path}"):
            file = File(self._system, path, flags)
        self._files.append(file)
        return file

    def _lstat(self, path: str) -> os.stat_result | None:
        with failures(f"look at {path}"), suppress(FileNotFoundError):
            return self._system.lstat(path)
        return None

    def _remove(self, path: str) -> None:
        with failures(f"remove {path}"), suppress(FileNotFoundError):
            self._system.unlink(path)

    def _sync_names(self) -> None:
        try:
            self._directory.sync()
        except OutputError as error:
            # Some network file systems have no such thing, and nothing better.
            if getattr(error.__cause__, "errno", None) not in {errno.EINVAL, errno.ENOTSUP}:
                raise

    def _rename(self, source: str, target: str) -> None:
        with failures(f"rename {source} to {target}"):
            self._system.replace(source, target)

    def _write_whole(self, path: str, data: bytes) -> None:
        file = self._file(_temporary(path), os.O_WRONLY | os.O_CREAT)
        file.cut(0)
        file.append(data)
        file.sync()
        self._rename(file.path, path)
        self._release(file)

    def _holds(self, path: str, data: bytes) -> bool:
        info = self._lstat(path)
        if info is None or not stat.S_ISREG(info.st_mode) or info.st_size != len(data):
            return False
        file = self._file(path, os.O_RDONLY, private=False)
        same = b"".join(file.blocks()) == data
        self._release(file)
        return same

    def _release(self, file: File) -> None:
        self._files.remove(file)
        file.close()


def _temporary(path: str) -> str:
    return f"{path}.tmp"
