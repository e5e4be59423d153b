"""A response's body, whichever way it came: unpacked, in pieces, with our errors.

Both ways to the server end here, so that whether an answer is accepted depends on neither. An
encoding that is none (PHP scripts send `none`, or a charset) is none; one that was not asked for is
refused unread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from bulkfetch._domain.errors import Unreadable
from bulkfetch._domain.text import printable
from bulkfetch._http.gunzip import PIECE, Gunzip
from bulkfetch._http.trouble import INSIDE_THE_BODY, inside_the_body

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_ENCODINGS: Final = {"", "identity", "none", "binary", "7bit", "8bit"}


class Body(Protocol):
    """A response's body: aiohttp's stream, or what reads like it."""

    def read_nowait(self, most: int, /) -> bytes: ...
    async def read(self, most: int, /) -> bytes: ...
    def at_eof(self) -> bool: ...


class HttpReply:
    """A Reply over the stream of a body."""

    __slots__ = ("_content", "_gunzip", "_unasked", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], content: Body, max_ratio: int
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        encoding = _encoding(headers)
        self._gunzip = Gunzip(max_ratio) if encoding in {"gzip", "x-gzip"} else None
        self._unasked = "" if self._gunzip else encoding

    async def read(self) -> bytes:
        if self._unasked:
            raise Unreadable(
                "content-encoding",
                f"the response is encoded as '{printable(self._unasked, 40)}', not asked for",
            )
        gunzip = self._gunzip
        while not gunzip or not gunzip.done:
            if gunzip and (piece := gunzip.take()):
                return piece
            data = await self._receive()
            if not (gunzip and data):
                return data
            gunzip.put(data)
        return b""

    async def _receive(self) -> bytes:
        try:
            data = self._content.read_nowait(PIECE)  # all that is there could be 768 KiB
            if not data and not self._content.at_eof():
                data = await self._content.read(PIECE)
        except INSIDE_THE_BODY as error:
            raise inside_the_body(error) from None
        return data


def _encoding(headers: Mapping[str, str]) -> str:
    """Return what the body is encoded with, in lower case; nothing if with nothing."""
    if "Content-Encoding" not in headers:
        return ""
    every = getattr(headers, "getall", None)  # the header may come twice
    values = every("Content-Encoding") if every else [headers["Content-Encoding"]]
    names = [name.strip().lower() for name in ",".join(values).split(",")]
    return ", ".join(name for name in names if not (name in _NO_ENCODINGS or _is_charset(name)))


def _is_charset(name: str) -> bool:
    """Whether this is a charset or a media type, in the wrong header."""
    charset, _, _ = name.partition(";")
    try:
        "".encode(charset.strip())
    except (LookupError, ValueError):  # the latter: a NUL in it
        return "/" in charset
    return True
