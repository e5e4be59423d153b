"""How a run finds its output: locked, looked at, and recovered to the last commit that is whole.

Nothing that cannot be explained is touched: not data without a journal, not another program's file
at one of the output's names. What is explained keeps its longest prefix whose every CRC fits.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from bulkfetch._domain.errors import ConfigurationError, OutputError
from bulkfetch._output.frames import FORMAT, READABLE, Header, encode
from bulkfetch._output.layout import Layout, locate, temporary
from bulkfetch._output.ledger import Ledger, replay, verified
from bulkfetch._output.parts import replace_parts

if TYPE_CHECKING:
    from hashlib import _Hash

    from bulkfetch._output.file import File
    from bulkfetch._output.folder import Folder

_LONGEST_HEADER = 16 << 10
_JOURNAL = re.compile(
    rb'[0-9a-f]{0,8}|[0-9a-f]{8} (\{("(h(e(a(d(e(r(".*)?)?)?)?)?)?)?)?)?', re.DOTALL
)
"""What a journal begins with, be it cut off anywhere."""
_REMEDY = "bring it back, or replace everything with fetch --overwrite"


@dataclass(slots=True)
class Opened:
    """An output at a run's beginning; `digest` is of the data committed so far."""

    journal: File
    data: File
    ledger: Ledger
    digest: _Hash
    published: bool
    """Whether the data stand under the output's own name, where nothing is appended to them."""
    begun: bool
    """Whether this run began it, so that the journal ends in its frames."""


def open_output(
    folder: Folder, layout: Layout, run: Header, *, overwrite: bool, now: float
) -> Opened:
    """Lock an output and begin or recover it; `run` is the header that a new one gets.

    Raises OutputLocked, ConfigurationError for an output of other settings, OutputError.
    """
    _check_target(folder, layout, overwrite=overwrite)
    journal = folder.journal()
    if overwrite:
        replace_parts(layout)  # before anything is begun: a kill leaves no old part beside it
    spill = layout.directory
    found = Ledger() if overwrite else replay(journal.blocks(), spill=spill)
    opening = _Opening(folder, layout, run, journal, found)
    if found.header is None or opening.is_another_that_got_nothing(found.header):
        return opening.begin(now, overwrite=overwrite)
    opening.check_header(found.header)
    return opening.recover(found.header)


def _check_target(folder: Folder, layout: Layout, *, overwrite: bool) -> None:
    if what := _no_file(folder, layout.output):
        # A rename would replace the link and leave what it points to behind.
        remedy = "name the file that it points to" if "link" in what else "name a file"
        raise OutputError(f"{layout.output} is {what}: {remedy}")
    # All are looked at, also those that are written last: better now than at the end of the run.
    for path in layout.own:
        if what := _no_file(folder, path):
            raise OutputError(f"{path} is {what}: move it away")
    _refuse_foreign(folder, layout)
    if folder.lstat(layout.journal) is None and not overwrite:
        _refuse_unexplained(folder, layout)


def _no_file(folder: Folder, path: str) -> str | None:
    """Say what stands at a name if it is no regular file: opening a FIFO would wait for ever."""
    info = folder.lstat(path)
    if info is None or stat.S_ISREG(info.st_mode):
        return None
    if stat.S_ISDIR(info.st_mode):
        return "a folder"
    return "a symbolic link" if stat.S_ISLNK(info.st_mode) else "no regular file"


def _refuse_foreign(folder: Folder, layout: Layout) -> None:
    """Refuse another program's files at the companions' names, even when told to overwrite."""
    for path, known in (
        (layout.journal, _may_be_journal),
        (layout.manifest, _may_be_manifest),
        (layout.failed, _may_be_failed),
    ):
        if not known(folder.head(path, _LONGEST_HEADER)):
            raise OutputError(
                f"{path} was not made by bulkfetch: move it away, or choose another output"
            )


def _refuse_unexplained(folder: Folder, layout: Layout) -> None:
    for path in (layout.output, layout.part):
        info = folder.lstat(path)
        if info and info.st_size:
            raise OutputError(
                f"{path} exists ({info.st_size} bytes) without a journal that explains it "
                f"({layout.journal}): move it away, or replace it with fetch --overwrite"
            )


@dataclass(slots=True)
class _Opening:
    folder: Folder
    layout: Layout
    run: Header
    journal: File
    ledger: Ledger

    def is_another_that_got_nothing(self, header: Header) -> bool:
        """Whether all there is comes from a run with other settings that settled nothing."""
        ledger, counts = self.ledger, self.ledger.outcomes()
        kept = counts["fetched"] or counts["refused"] or ledger.last_done
        other = header.fingerprint != self.run.fingerprint
        return not kept and header.format in READABLE and other

    def begin(self, now: float, *, overwrite: bool) -> Opened:
        """Begin an output anew."""
        if not overwrite:
            _refuse_unexplained(self.folder, self.layout)
            size = self.journal.size()
            if self.ledger.header is None and size > _LONGEST_HEADER:
                raise OutputError(
                    f"{self.layout.journal} ({size} bytes) is a journal that cannot be read: "
                    "move it away, or replace everything with fetch --overwrite"
                )
        # Emptied for good before the data: old frames never meet new data.
        self.journal.cut(0)
        self.journal.sync()
        data = self._new_data()
        replaces = self.folder.lstat(self.layout.output) is not None
        header = replace(self.run, started=now, replaces=replaces)
        line = encode(header)
        self.journal.append(line)
        self.journal.sync()
        self.folder.sync()
        ledger = replay([line], spill=self.layout.directory)
        return Opened(self.journal, data, ledger, sha256(), published=False, begun=True)

    def check_header(self, header: Header) -> None:
        """Refuse an output of another format, or of other settings."""
        remedy = "choose another output, or replace this one with fetch --overwrite"
        if header.format not in READABLE:
            raise ConfigurationError(
                f"{self.layout.journal} has format {header.format} (bulkfetch {header.version}), "
                f"this version writes format {FORMAT}: finish it with the other, {remedy}"
            )
        old, new = header.fingerprint, self.run.fingerprint
        changed = [
            f"{name} {old.get(name)!r}, this run has {new.get(name)!r}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise ConfigurationError(
                f"{self.layout.output} was begun with {'; '.join(changed)}: {remedy}"
            )

    def recover(self, header: Header) -> Opened:
        """Keep the longest good prefix of journal and data."""
        ledger, layout = self.ledger, self.layout
        place = locate(
            layout,
            part=self.folder.lstat(layout.part) is not None,
            output=self.folder.lstat(layout.output) is not None,
            started=ledger.end > 0,
            complete=ledger.last_done is not None,
            replaces=header.replaces,
        )
        published = place == "output"
        if place == "new":
            data = self._new_data()
        else:
            path = layout.output if published else layout.part
            # A published file keeps the mode that its owner gave it until it is written again.
            data = self.folder.file(path, os.O_RDWR, private=not published)
        digest = self._keep_good_prefix(data, published=published)
        self.journal.cut(self.ledger.size)
        if not published:
            data.cut(self.ledger.end)
            data.sync()
        self.journal.sync()
        if header.format != FORMAT:
            self._take_over(header)
        self.folder.sync()
        return Opened(self.journal, data, self.ledger, digest, published, begun=False)

    def _new_data(self) -> File:
        data = self.folder.file(self.layout.part, os.O_RDWR | os.O_CREAT)
        data.cut(0)
        return data

    def _keep_good_prefix(self, data: File, *, published: bool) -> _Hash:
        while True:
            digest = sha256()
            answers = verified(self.ledger, data.read, digest.update)
            bad = next((index for index, good in enumerate(answers) if not good), None)
            if bad is None and published and data.size() != self.ledger.end:
                bad = len(self.ledger.ends)
            if bad is None:
                return digest
            if published:
                start = self.ledger.ends[bad - 1] if bad else 0
                raise OutputError(
                    f"{data.path} is not what its journal says, from byte {start} on: "
                    f"look with `bulkfetch verify`; {_REMEDY}"
                )
            self.journal.cut(self.ledger.places[bad])
            self.ledger = replay(self.journal.blocks(), spill=self.layout.directory)

    def _take_over(self, header: Header) -> None:
        """Give a journal of format 1 a header of this one, so that 0.1.0 refuses it in words.

        The new file has the lock before it has the name; the old one stays locked until the end,
        for whoever has it open.
        """
        blocks = self.journal.blocks()
        line, _, rest = next(blocks).partition(b"\n")
        older = self.ledger.size - len(line) - 1
        file = self.folder.file(temporary(self.layout.journal), os.O_RDWR | os.O_CREAT)
        file.cut(0)
        self.folder.lock(file)
        file.append(encode(replace(header, format=FORMAT, older=older)), rest)
        for block in blocks:
            file.append(block)
        file.sync()
        self.folder.rename(file.path, self.layout.journal)
        file.path = self.layout.journal
        self.journal = file
        self.ledger = replay(file.blocks(), spill=self.layout.directory)


def _may_be_journal(head: bytes) -> bool:
    # A power cut may leave pages of zeros in a header.
    return b"\0" in head or _JOURNAL.fullmatch(head) is not None


def _may_be_manifest(head: bytes) -> bool:
    return not head or head.startswith(b'{\n  "output"')


def _may_be_failed(head: bytes) -> bool:
    return not head or head.startswith(b'{"contentItemId":')
