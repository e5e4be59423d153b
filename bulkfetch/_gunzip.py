"""Compressed bodies undone piece by piece: a small one cannot become a large one unseen."""

from __future__ import annotations

import zlib
from typing import Final

from bulkfetch._errors import Transient, Unreadable

PIECE: Final = 64 << 10
"""Most bytes of a body that are handed on at once."""
_FREE_RATIO_BYTES: Final = 16 << 20


class Gunzip:
    """Decompresses gzip members in pieces of at most 64 KiB, within a ratio past 16 MiB."""

    def __init__(self, max_ratio: int) -> None:
        self._max_ratio = max_ratio
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self._taken = 0
        self._given = 0

    def put(self, data: bytes) -> None:
        self._input += data
        self._taken += len(data)

    def take(self) -> bytes:
        """Return the next piece, b"" when more input is needed. Raises CourseError."""
        while self._input or self._inflater.unconsumed_tail:
            data = self._inflater.unconsumed_tail + self._input
            self._input = b""
            try:
                piece = self._inflater.decompress(data, PIECE)
            except zlib.error as error:
                raise Transient("bad-gzip", f"the response is not valid gzip: {error}") from None
            if self._inflater.eof and self._inflater.unused_data:
                self._input = self._inflater.unused_data
                self._inflater = zlib.decompressobj(wbits=31)
            if piece:
                self._given += len(piece)
                self._check_ratio()
                return piece
        return b""

    def _check_ratio(self) -> None:
        if self._given > max(_FREE_RATIO_BYTES, self._taken * self._max_ratio):
            raise Unreadable(
                "too-large",
                f"the response grows more than {self._max_ratio} times when decompressed: "
                "raise max_ratio if that is expected",
            )
