"""A small server for what nginx-light cannot do (waiting) and for where nginx is not installed.

`python -m benchmarks.server FOLDER LATENCY` prints its port and serves the files of the folder,
read into memory, to POSTs of their path; a name ending in .gz is sent as gzip.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from pathlib import Path


class Answering(asyncio.Protocol):
    """One keep-alive connection; requests must have a Content-Length, as ours do."""

    def __init__(self, answers: Answers, latency: float) -> None:
        self._answers, self._latency = answers, latency
        self._received = b""

    def connection_made(self, transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            whole = end + 4 + int(length or 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            answer = self._answers[head.split(b" ", 2)[1]]
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


class Answers(dict[bytes, bytes]):
    """Whole answers by path, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = {f"/{file.name}".encode(): file for file in folder.iterdir()}

    def __missing__(self, path: bytes) -> bytes:
        file = self._files.get(path)
        status = b"200 OK" if file else b"404 Not Found"
        data = file.read_bytes() if file else b""
        encoding = b"Content-Encoding: gzip\r\n" if path.endswith(b".gz") else b""
        answer = self[path] = (
            b"HTTP/1.1 %b\r\nContent-Type: text/xml; charset=utf-8\r\n%bContent-Length: %d\r\n\r\n"
            % (status, encoding, len(data))
        ) + data
        return answer


class Punctual(selectors.DefaultSelector):
    """Wakes a little early and spins: epoll waits whole milliseconds, so 50 would become 51."""

    def select(self, timeout=None):
        return super().select(timeout and max(0.0, timeout - 0.002))


async def _serve(folder: Path, latency: float) -> None:
    answers = Answers(folder)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(answers, latency), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    loop = asyncio.SelectorEventLoop(Punctual())
    loop.run_until_complete(_serve(Path(sys.argv[1]), float(sys.argv[2])))
