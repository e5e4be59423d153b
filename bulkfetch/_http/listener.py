"""Who listens on a connection: aiohttp's handler, made to let a whole answer stand, and one buffer.

aiohttp forgets an answer when bytes that are no HTTP follow it in the same packet, and mixes those
that come later into the next one. PHP scripts send such bytes (a line end behind `?>`, a warning),
and PHP, curl and requests all read the answer. So the parser is given a head by itself, then the
body and not a byte more; whatever follows closes the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp.client_exceptions import ClientOSError, ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from bulkfetch._http.gunzip import PIECE
from bulkfetch._http.trouble import ServedBefore

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

LONGEST_LINE: Final = 64 << 10
"""Bytes of a header, and of the status line; aiohttp's own default is 8,190."""
_TORN: Final = 3
"""How much of a blank line may have come with the packet before."""


class Whole:
    """A body that is all there, to be read like aiohttp's stream."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
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


class Handler(ResponseHandler):
    """aiohttp's handler of one connection; bytes that follow an answer cannot harm it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._asked = 0
        self._head_awaited = False
        self._left: int | None = 0
        """Bytes of the body that are to come; None where only the parser can tell."""
        self._before = b""
        self._at_once = False
        self.whole: Whole | None = None
        """The body, if all of it came with the head: that spares the parser and a stream."""

    def set_response_params(self, **params: Any) -> None:
        """Begin with the next answer, as the session does."""
        super().set_response_params(**params)
        self._begin(at_once=False)

    def ask(self) -> None:
        """Begin with the next answer; its body may come at once, as `whole`."""
        super().set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=PIECE,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )
        self._begin(at_once=True)

    def _begin(self, *, at_once: bool) -> None:
        self._asked += 1
        self._head_awaited, self._left, self._before = True, None, b""
        self._at_once, self.whole = at_once, None

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Go on if it was paused: aiohttp asks at each piece that is read, and feeds its parser."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take a head from the parser."""
        message, body = data
        if len(message.headers.getall("Content-Length", ())) > 1:  # only one parser refuses that
            self.set_exception(HttpProcessingError(message="more than one length"))
            self._end()
            return
        if message.code >= 200 or message.code == 101:
            self._head_awaited = False
            length = None if message.chunked else message.headers.get("Content-Length")
            self._left = 0 if body.is_eof() else int(length) if length else None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if not data:  # the parser shall go on with what it holds
            super().data_received(data)
            return
        while self._head_awaited and (end := self._end_of_head(data)):
            super().data_received(data[:end])
            data = data[end:]
        if data and self._head_awaited:
            self._before = (self._before + data)[-_TORN:]
            super().data_received(data)
        elif data:
            self._receive_body(data)
        if not self._head_awaited:
            self._at_once = False  # whoever took the head reads the stream from now on

    def _end_of_head(self, data: bytes) -> int:
        """Return where the next blank line ends, 0 if there is none; bare line feeds count too."""
        before = len(self._before)
        if before:
            data = self._before + data
        crlf = data.find(b"\n\r\n")
        bare = data.find(b"\n\n", 0, crlf if crlf >= 0 else len(data))
        if crlf < 0 and bare < 0:
            return 0
        self._before = b""
        return (bare + 2 if bare >= 0 else crlf + 3) - before

    def _receive_body(self, data: bytes) -> None:
        left, payload = self._left, self._payload
        if self._at_once and left is not None and 0 < left <= len(data):
            self._at_once, self._left, self._payload = False, 0, None
            self.whole = Whole(data[:left])
            wanted, surplus = b"", len(data) > left
        elif left is not None:
            wanted = data[:left]
            self._left = left - len(wanted)
            surplus = len(data) > len(wanted)
        else:
            wanted = b"" if payload is None or payload.is_eof() else data
            surplus = not wanted
        if wanted:
            super().data_received(wanted)
        # A chunked body ends with a line end: what follows it without one is a head torn in two.
        torn = left is None and payload is not None and payload.is_eof() and data[-1:] != b"\n"
        if surplus or torn:
            self._end()

    def _end(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tell also whether the connection had served before, which its user cannot see.

        And tell a body's reader what is wrong with it, before the end of the connection hides that.
        """
        ended = isinstance(exc, ServerDisconnectedError | ClientOSError | HttpProcessingError)
        if ended and self._head_awaited and self._asked > 1:
            exc = ServedBefore()
        elif isinstance(exc, HttpProcessingError) and self._payload and not self._payload.is_eof():
            self._payload.set_exception(exc)
            self._payload = None
        super().set_exception(exc, *cause)


class Listener(asyncio.BufferedProtocol):
    """Receives for a handler into `room`, which all connections of a transport share.

    An event loop fills it and hands it over in one step. Else asyncio would allot 256 KiB for each
    receipt.
    """

    def __init__(self, handler: ResponseHandler, room: memoryview) -> None:
        self._handler = handler
        self._room = room

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._handler.data_received(bytes(self._room[:nbytes]))

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._handler.connection_lost(error)
