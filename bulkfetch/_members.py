"""The rows of whole courses on their way to a file: joined, compressed, written in full.

A compressed file gets one gzip member or zstd frame per commit, so that a cut between two commits
is a cut between two members. Memory stays at a few blocks, whatever the size of a course.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkfetch._model import Fetched

Block: TypeAlias = bytes | memoryview
Codec: TypeAlias = "Callable[[Iterable[Block]], Iterable[Block]]"

_BLOCK = 1 << 20


class Joiner:
    """Joins the rows of small courses, so that few large writes are made.

    Its blocks of at most 1 MiB all lie in the same memory, which is cheaper than fresh pages for
    each: a block is good until the next one is asked for.
    """

    def __init__(self) -> None:
        self._room = memoryview(bytearray(_BLOCK))

    def blocks(self, courses: Iterable[Fetched]) -> Iterator[memoryview]:
        room, at = self._room, 0
        for course in courses:
            for piece in course.rows.ndjson():
                for part in _parts(piece):
                    if at + len(part) > _BLOCK:
                        yield room[:at]
                        at = 0
                    room[at : at + len(part)] = part
                    at += len(part)
        if at:
            yield room[:at]


def _parts(piece: bytes) -> Iterable[bytes]:
    if len(piece) <= _BLOCK:
        return (piece,)
    return [piece[start : start + _BLOCK] for start in range(0, len(piece), _BLOCK)]


def codec(path: str) -> Codec:
    """Return what turns the rows of one commit into the file's bytes, by the name's suffix.

    The same rows give the same bytes. A commit without rows gives none.
    """
    if path.endswith(".gz"):
        # 31 asks for a gzip member; zlib leaves its time stamp at zero.
        return lambda rows: _compressed(zlib.compressobj(6, zlib.DEFLATED, 31), rows)
    if path.endswith(".zst"):
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        return lambda rows: _compressed(compressor.compressobj(), rows)
    return lambda rows: filter(None, rows)


def write_all(write: Callable[[int, memoryview], int], fd: int, data: Block) -> None:
    """Write all of the data, however little each call takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[write(fd, rest) :]


def _compressed(compressor: Any, rows: Iterable[Block]) -> Iterator[bytes]:
    begun = False
    for block in rows:
        begun = True
        if data := compressor.compress(block):
            yield data
    if begun:
        yield compressor.flush()
