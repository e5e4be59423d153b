"""A raw loopback server for the faults that no HTTP library can be talked into.

It reads one request at a time and answers with exactly the bytes it is told, torn wherever a test
wants: reset, cut, stalled, dribbled. What a script raises comes out where the server is left, so
an assertion inside it counts.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One request as it came: `head` without the blank line, `body` by its Content-Length."""

    head: bytes
    body: bytes
    connection: int
    """Which connection of the server it came on, counted from 1."""

    def header(self, name: str) -> str | None:
        """Return a header's value; names are compared without case."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _colon, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return None


class Exchange:
    """One request and the means to answer it badly."""

    def __init__(
        self, request: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send these bytes and nothing else; the connection stays open."""
        self._writer.write(data)
        await self._writer.drain()

    async def cut(self, data: bytes) -> None:
        """Send these bytes, then close the connection in good order."""
        await self.send(data)
        self._writer.close()

    async def reset(self, data: bytes = b"") -> None:
        """Send these bytes, then reset the connection (RST)."""
        if data:
            await self.send(data)
            await asyncio.sleep(ARRIVAL)
        reset_connection(self._writer.transport)

    async def stall(self, data: bytes = b"") -> None:
        """Send these bytes, then nothing until the client gives up."""
        await self.send(data)
        await self._reader.read()

    async def dribble(self, data: bytes, *, seconds: float = 1.0) -> None:
        """Send one byte each so many seconds."""
        for position in range(len(data)):
            await self.send(data[position : position + 1])
            await asyncio.sleep(seconds)


Answer: TypeAlias = bytes | Callable[[Exchange], bytes | Awaitable[bytes | None] | None]
"""Bytes to send, or a function of the exchange: what it returns is sent."""

_LARGEST_HEAD = 1 << 20
ARRIVAL = 0.01  # seconds for bytes to reach the client before a reset overtakes them


def reset_connection(transport: asyncio.WriteTransport) -> None:
    """Drop the connection at once, with RST instead of FIN."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def http_answer(
    body: bytes,
    *,
    status: str = "200 OK",
    content_type: str = "text/xml; charset=utf-8",
    headers: Sequence[str] = (),
) -> bytes:
    """Return a whole, correct answer with a Content-Length."""
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class RawServer:
    """A server on loopback that follows a script: `async with RawServer([...]) as server`.

    The n-th request gets the n-th answer of a sequence, later ones the last again; a single
    function answers all of them. A connection stays open for the next request unless an answer
    ends it. Leaving closes every connection and raises what an answer raised.
    """

    def __init__(self, script: Answer | Sequence[Answer], *, host: str = "127.0.0.1") -> None:
        self._script: Sequence[Answer] = (
            (script,) if isinstance(script, bytes) or callable(script) else script
        )
        self._host = host
        self._conversations: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._errors: list[BaseException] = []
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}/"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._converse, self._host, 0, limit=_LARGEST_HEAD
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for transport in self._transports:
            transport.abort()
        for conversation in self._conversations:
            conversation.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations, timeout=5)
        await self._server.wait_closed()
        if self._errors and (error is None or isinstance(error, Exception)):
            raise self._errors[0]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.current_task()
        assert conversation is not None
        self._conversations.add(conversation)
        self._transports.add(writer.transport)
        self.connections += 1
        try:
            await self._answer_all(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, or sent no HTTP
        except Exception as error:  # noqa: BLE001 - raised again where the server is left
            self._errors.append(error)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._transports.discard(writer.transport)
            self._conversations.discard(conversation)

    async def _answer_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        while not writer.is_closing():
            request = await _read_request(reader, connection)
            answer = self._script[min(len(self.requests), len(self._script) - 1)]
            self.requests.append(request)
            exchange = Exchange(request, reader, writer)
            said = answer if isinstance(answer, bytes) else answer(exchange)
            if isinstance(said, Awaitable):
                said = await said
            if said is not None:
                await exchange.send(said)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> RawRequest:
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    length = RawRequest(head, b"", connection).header("Content-Length")
    return RawRequest(head, await reader.readexactly(int(length or 0)), connection)
