"""What became of each course, in memory that does not grow with the courses.

A course is known by 80 bits of its id's hash, so that among ten million two meet in one of ten
billion runs. The hash and the word on the course are one record of 16 bytes, made so that of all
records on a course the greatest is the last word: nothing need be looked up to add one. The newest
lie in a dictionary; 8,192 of them go sorted into a file without a name, and sorted files are
merged when somebody asks: those of like size, so that n courses cost n log n however often. Where
no file can be written they stay in memory.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from contextlib import suppress
from hashlib import blake2b
from itertools import chain, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import finalize

from bulkfetch._output.layout import failure

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

FAILED: Final = 1
REFUSED: Final = 2
FETCHED: Final = 3
MOST_KINDS: Final = 1 << 14
_FEW: Final = 1 << 13
"""Courses whose records are kept in memory: some 1 MiB."""
_KEY: Final = 10
_RECORD: Final = 16
_SLICES: Final = 256
"""Parts by the key's first byte in which files are merged, one in memory at a time."""
_BUCKET: Final = 128
"""Records that are read to find one: 2 KiB."""
_ROWS: Final = b"\xc0"
"""Where the words on fetched courses begin."""
_FAR_ONES: Final = 256
_NEAR_PAYS: Final = 64
"""So many of the last courses looked up one by one out of one file, and all of it is read: some
100 cost as much."""
_MOST_NEAR: Final = 4
_MOST_STALE: Final = 1 << 14
_MOST_RUNS: Final = 4
"""Sorted files that are looked into one by one before those of like size are merged."""


class Entry(NamedTuple):
    """The last word on a course: its outcome, a kind of failure, the commit that said so."""

    outcome: int
    kind: int
    commit: int

    def word(self) -> bytes:
        """Return it in six bytes: rows outlast refusals, these failures, else the later counts."""
        return (self.outcome << 46 | self.commit << 14 | self.kind).to_bytes(6, "big")

    @classmethod
    def of(cls, word: bytes) -> Entry:
        value = int.from_bytes(word, "big")
        return cls(value >> 46, value & MOST_KINDS - 1, value >> 14 & 0xFFFF_FFFF)


class Index:
    """The last word on each course; `directory` is where much of it lies, without a name."""

    __slots__ = (
        *("_arrived", "_counts", "_directory", "_few", "_merges", "_recent", "_room", "_runs"),
        *("_since", "_stale", "_twice"),
    )

    def __init__(self, directory: str | None = None, *, few: int = _FEW) -> None:
        self._directory = directory
        self._few = few
        self._recent: dict[bytes, bytes] = {}
        self._runs: list[_Run] = []
        self._room: _Room | None = None
        self._merges: list[_Run] = []
        """Sorted files that were made of others, the oldest and largest first."""
        self._counts: Counter[tuple[int, int]] | None = None
        self._twice: set[bytes] = set()
        self._since = 0
        """The commit that the newest records begin with."""
        self._arrived: list[tuple[int, _Run]] | None = []
        """The sorted files with the commits that they begin with, until all is frozen."""
        self._stale: set[bytes] | None = set()
        """Keys of records in more than one of them, if those are few."""

    def __bool__(self) -> bool:
        return bool(self._recent or self._runs or self._merges)

    def put(self, course_ids: Iterable[str], entry: Entry) -> None:
        """Say a word on some courses: where a greater one was said, that stays."""
        # Not a call more than needed: a million of them is a second of every resumption.
        recent, word, twice = self._recent, entry.word(), entry.outcome == FETCHED
        known = recent.get
        self._counts = None
        if not recent:
            self._since = entry.commit
        for course_id in course_ids:
            key = blake2b(course_id.encode(), digest_size=_KEY).digest()
            if (old := known(key)) is None:
                recent[key] = word
                continue
            if twice and old >= _ROWS:
                self._twice.add(key)
            if old < word:
                recent[key] = word
        if len(recent) >= self._few:
            self._set_down()

    def get(self, course_id: str) -> Entry | None:
        """Return what is known of a course."""
        if len(self._runs) > _MOST_RUNS:
            self._merge_alike()
        key = key_of(course_id)
        runs = (*self._runs, *self._merges)
        words = [self._recent.get(key), *(run.find(key) for run in runs)]
        word = max(filter(None, words), default=None)
        return Entry.of(word) if word else None

    def outcome(self, course_id: str) -> int:
        """Return what became of a course, 0 if nothing is known of it."""
        entry = self.get(course_id)
        return entry.outcome if entry else 0

    def frozen(self) -> Frozen:
        """Return what is known now, for one thread to look into while another adds more."""
        if self._runs or len(self._merges) > 1 or (self._merges and self._recent):
            self._merge()  # so that no course is in two places, of which one had to be the newer
        arrived, self._arrived = self._arrived or [], None
        stale, self._stale = self._stale, None
        whole = self._merges[0] if self._merges else None
        return Frozen(whole, dict(self._recent), arrived, stale)

    def counts(self) -> Mapping[tuple[int, int], int]:
        """Count the courses without rows by outcome and kind."""
        if self._counts is None:
            if self._runs or self._merges:
                self._merge()
            else:
                self._counts = _counted(self._recent.values())
        return self._counts or {}

    def commits(self) -> Iterator[int]:
        """Yield the commits with a last word on a course without rows, some more than once."""
        if self.counts():
            merged = (words for run in self._merges for words in run.parts())
            for words in chain([self._recent.values()], merged):
                yield from {Entry.of(word).commit for word in words if word < _ROWS}

    def twice(self) -> set[bytes]:
        """Return the keys of courses that were said to be fetched more than once."""
        self.counts()
        return self._twice

    def _set_down(self) -> None:
        """Put the newest records, sorted, into the file."""
        if self._room is None:
            self._room = _Room(self._directory)
        records = sorted([key + word for key, word in self._recent.items()])
        self._runs.append(_Run(self._room, _sliced(records)))
        if self._arrived is not None:
            self._arrived.append((self._since, self._runs[-1]))
        self._recent.clear()

    def _merge(self) -> None:
        """Make one of all sorted files, with one record for each course, and count."""
        if self._recent:
            self._set_down()
        counts: Counter[tuple[int, int]] = Counter()
        whole = _Run(_Room(self._directory), self._merged([*self._merges, *self._runs], counts))
        self._merges, self._runs, self._room, self._counts = [whole], [], None, counts

    def _merge_alike(self) -> None:
        """Merge the newest sorted files, and larger ones while they are at most twice as large."""
        merges, size = self._merges, sum(run.size for run in self._runs)
        first = len(merges)
        while first and merges[first - 1].size <= 2 * size:
            first -= 1
            size += merges[first].size
        runs = self._merged([*merges[first:], *self._runs], Counter())
        merges[first:] = [_Run(_Room(self._directory), runs)]
        self._runs, self._room = [], None

    def _merged(
        self, runs: Iterable[_Run], counts: Counter[tuple[int, int]]
    ) -> Iterator[list[bytes]]:
        for number in range(_SLICES):
            records = sorted(_split(b"".join([run.slice(number) for run in runs])))
            last = {record[:_KEY]: record for record in records}
            if len(last) < len(records):
                self._note_repeated(records)
            counts.update(_counted([r[_KEY:] for r in last.values() if r[_KEY] < _ROWS[0]]))
            yield list(last.values())

    def _note_repeated(self, records: list[bytes]) -> None:
        fetched = Counter(r[:_KEY] for r in records if r[_KEY:] >= _ROWS)
        self._twice.update(key for key, number in fetched.items() if number > 1)
        if self._stale is not None:
            repeated = [
                one[:_KEY] for one, other in pairwise(records) if one[:_KEY] == other[:_KEY]
            ]
            self._stale.update(repeated)
            if len(self._stale) > _MOST_STALE:
                self._stale = None


class Frozen:
    """What was known of each course at one moment; for one thread.

    Ids are mostly asked for in the order in which they came: sorted files out of which many of
    the last ones came are kept in memory, a few at a time, which is five times faster.
    """

    __slots__ = (
        *("_answer", "_arrived", "_asked", "_far_ones", "_near", "_recent", "_stale", "_whole"),
    )

    def __init__(
        self,
        whole: _Run | None,
        recent: Mapping[bytes, bytes],
        arrived: Sequence[tuple[int, _Run]] = (),
        stale: Container[bytes] | None = None,
    ) -> None:
        self._whole = whole
        self._recent = recent
        self._arrived = arrived
        self._stale = stale
        self._near: deque[Mapping[bytes, bytes]] = deque(maxlen=_MOST_NEAR)
        self._far_ones: deque[int] = deque(maxlen=_FAR_ONES)
        self._asked: str | None = None
        self._answer = 0

    def __bool__(self) -> bool:
        return bool(self._recent or self._whole)

    def outcome(self, course_id: str) -> int:
        """Return what had become of a course, 0 if nothing was known of it."""
        # Not a call more than needed: a million of them is a second of every resumption.
        if course_id == self._asked:  # each is asked for twice: is it settled, has it failed
            return self._answer
        key = blake2b(course_id.encode(), digest_size=_KEY).digest()
        for words in self._near:
            word = words.get(key)
            if word is not None and (word >= _ROWS or self._is_last(key, word)):
                break
        else:
            word = self._recent.get(key) or self._far(key)
        self._asked, self._answer = course_id, word[0] >> 6 if word else 0
        return self._answer

    def _is_last(self, key: bytes, word: bytes) -> bool:
        """Whether a word out of a file of some commits is known to be the last one."""
        return word >= _ROWS or (self._stale is not None and key not in self._stale)

    def _far(self, key: bytes) -> bytes | None:
        word = self._whole.find(key) if self._whole else None
        if word is None or not self._is_last(key, word):
            return word
        run = bisect_right(self._arrived, Entry.of(word).commit, key=itemgetter(0)) - 1
        self._far_ones.append(run)
        if run >= 0 and self._far_ones.count(run) == _NEAR_PAYS:
            self._near.appendleft(self._arrived[run][1].words())
            self._far_ones.clear()
        return word


class _Run:
    """Records in the order of their keys, in a room from a place on."""

    __slots__ = ("_at", "_firsts", "_room", "_starts")

    def __init__(self, room: _Room, slices: Iterable[list[bytes]]) -> None:
        """Write records: lists of those whose keys begin with the byte 0, with 1, and so on."""
        self._room = room
        self._at = room.size
        self._starts = array("I", [0])
        self._firsts: list[bytes] = []
        """The key of each 128th record."""
        for records in slices:
            start = self._starts[-1]
            self._firsts += [record[:_KEY] for record in records[-start % _BUCKET :: _BUCKET]]
            self._starts.append(start + len(records))
            room.append(b"".join(records))

    @property
    def size(self) -> int:
        """How many records it has."""
        return self._starts[-1]

    def slice(self, number: int) -> bytes:
        """Return the records whose keys begin with this byte."""
        return self._read(self._starts[number], self._starts[number + 1])

    def parts(self) -> Iterator[list[bytes]]:
        """Yield all words, a part at a time."""
        for number in range(_SLICES):
            yield [record[_KEY:] for record in _split(self.slice(number))]

    def find(self, key: bytes) -> bytes | None:
        """Return the word of the record with this key."""
        first = (bisect_right(self._firsts, key) - 1) * _BUCKET
        if first < 0:
            return None
        block = self._read(first, min(first + _BUCKET, self._starts[-1]))
        at = block.find(key)
        while at % _RECORD and at > 0:  # by chance across two records
            at = block.find(key, at + 1)
        return block[at + _KEY : at + _RECORD] if at >= 0 else None

    def words(self) -> dict[bytes, bytes]:
        """Return all words by their keys."""
        records = _split(self._read(0, self._starts[-1]))
        return {record[:_KEY]: record[_KEY:] for record in records}

    def _read(self, first: int, end: int) -> bytes:
        return self._room.read((end - first) * _RECORD, self._at + first * _RECORD)


class _Room:
    """A file without a name; memory, where there can be none or it can not grow."""

    __slots__ = ("__weakref__", "_file", "_memory", "size")

    def __init__(self, directory: str | None) -> None:
        self._memory = bytearray()
        self._file = _nameless(directory)
        self.size = 0
        if self._file:
            finalize(self, self._file.close)

    def append(self, data: bytes) -> None:
        if self._file:
            try:
                self._write(self._file, data)
            except OSError:  # full: what is lost to the disk's free space is lost to nobody else
                self._memory += self.read(self.size, 0)
                self._file = None
        if not self._file:
            self._memory += data
        self.size += len(data)

    def read(self, size: int, at: int) -> bytes:
        if self._file is None:
            return bytes(self._memory[at : at + size])
        try:
            return os.pread(self._file.fileno(), size, at)
        except OSError as error:
            raise failure(error, "read what is known of the courses") from error

    def _write(self, file: BinaryIO, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(file.fileno(), data[done:], self.size + done)


def key_of(course_id: str) -> bytes:
    """Return what an index knows a course by."""
    return blake2b(course_id.encode(), digest_size=_KEY).digest()


def _counted(words: Iterable[bytes]) -> Counter[tuple[int, int]]:
    """Count words on courses without rows by outcome and kind: not by commit, which may be many."""
    counts: Counter[tuple[int, int]] = Counter()
    for word, number in Counter(word for word in words if word < _ROWS).items():
        entry = Entry.of(word)
        counts[entry.outcome, entry.kind] += number
    return counts


def _nameless(directory: str | None) -> BinaryIO | None:
    with suppress(OSError):  # read-only, full, or gone: then in memory
        return tempfile.TemporaryFile(dir=directory, buffering=0)
    return None


def _split(block: bytes) -> list[bytes]:
    return [block[at : at + _RECORD] for at in range(0, len(block), _RECORD)]


def _sliced(records: list[bytes]) -> Iterator[list[bytes]]:
    ends = [bisect_left(records, bytes([number])) for number in range(1, _SLICES)]
    for start, end in pairwise([0, *ends, len(records)]):
        yield records[start:end]
