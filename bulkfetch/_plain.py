"""The plainest of all HTTP responses, read without a stream: a 200 that arrives in one piece.

A listener stands between a connection and aiohttp's own protocol on it. A response whose head is
beyond doubt and whose body is wholly there is handed over as it is, which halves its price; any
other goes to aiohttp from its first byte on, as does all that happens to the connection.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict

from bulkfetch._gunzip import PIECE

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

# RFC 9112, sections 4 and 5: no folded lines, no space before a colon, no other version.
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 200 [\t\x20-\x7e]*\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\r\n)+)\r\n"
)
_FIELD: Final = re.compile(r"([^:]+): ?(.*)\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_STAYS: Final = ["keep-alive"]
_MOST_HEADERS: Final = 128  # aiohttp's own bound


class Whole:
    """A body that is all there, to be read like aiohttp's stream."""

    __slots__ = ("_body", "headers")

    def __init__(self, headers: CIMultiDict[str], body: bytes) -> None:
        self.headers = headers
        self._body = body

    def read_nowait(self, _most: int) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read(self, most: int) -> bytes:
        return self.read_nowait(most)

    def at_eof(self) -> bool:
        return not self._body

    def is_eof(self) -> bool:
        return True

    def set_exception(self, error: BaseException) -> None:
        """Nothing is waited for any more."""


def read_plain(data: bytes) -> Whole | None:
    """Return the response if it is a plain one and `data` is all of it, no less and no more."""
    if not (head := _HEAD.match(data)):
        return None
    headers = CIMultiDict(_FIELD.findall(head[1].decode("ascii")))
    if len(headers) > _MOST_HEADERS or "Transfer-Encoding" in headers or "Upgrade" in headers:
        return None
    if [value.lower() for value in headers.getall("Connection", _STAYS)] != _STAYS:
        return None
    body = data[head.end() :]
    lengths = headers.getall("Content-Length", [])
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) != len(body):
        return None
    return Whole(headers, body)


class Listener(asyncio.BufferedProtocol):
    """Listens on a connection for the next response, or lets aiohttp's handler do so.

    `room` is where bytes are received, the same for all connections of a transport: an event loop
    fills it and hands it over in one step. Else asyncio would allot 256 KiB for each receipt.
    """

    def __init__(self, handler: ResponseHandler, room: memoryview) -> None:
        self._handler = handler
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Whole | None] | None = None

    def ask(self) -> asyncio.Future[Whole | None]:
        """Await the response; None: the handler has it, or knows why there is none."""
        self._answer = self._loop.create_future()
        return self._answer

    def give_up(self, error: BaseException) -> None:
        """Let the wait for the response's head end with an error."""
        self._handler.set_exception(error)
        self._leave(None)

    @property
    def should_close(self) -> bool:
        """Whether the connection is not good for another request."""
        return self._handler.should_close

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._room[:nbytes])
        if self._answer is None:
            self._handler.data_received(data)
        elif plain := read_plain(data):
            self._leave(plain)
        else:
            self._handler.set_response_params(
                read_until_eof=True, auto_decompress=False, read_bufsize=PIECE
            )
            self._handler.data_received(data)
            self._leave(None)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._handler.connection_lost(error)
        self._leave(None)

    def _leave(self, answer: Whole | None) -> None:
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
