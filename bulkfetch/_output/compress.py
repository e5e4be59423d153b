"""The rows of whole courses compressed on their way to a file.

A compressed file gets one gzip member or zstd frame per write, so that a cut between two commits is
a cut between two members. Memory stays at a few blocks, whatever the size of a course.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import zstandard

from bulkfetch._domain.compression import compression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Block: TypeAlias = bytes | memoryview
Codec: TypeAlias = "Callable[[Iterable[Block]], Iterable[Block]]"


def codec(path: str) -> Codec | None:
    """Return what compresses the rows of one write, by the name's suffix; None if nothing does.

    The same rows give the same bytes. No rows give none.
    """
    kind = compression(path)
    if kind == "gzip":
        # 31 asks for a gzip member; zlib leaves its time stamp at zero.
        return lambda rows: _compressed(zlib.compressobj(6, zlib.DEFLATED, 31), rows)
    if kind == "zstd":
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        return lambda rows: _compressed(compressor.compressobj(), rows)
    return None


def _compressed(compressor: Any, rows: Iterable[Block]) -> Iterator[bytes]:
    begun = False
    for block in rows:
        begun = True
        if data := compressor.compress(block):
            yield data
    if begun:
        yield compressor.flush()
