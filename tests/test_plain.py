"""Which responses are read without aiohttp's parser, and that it would read them the same way."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpResponseParser

from bulkfetch._plain import read_plain

BODY = b"<x/>"
LENGTH = b"Content-Length: 4\r\n"


def response(fields: bytes = LENGTH, body: bytes = BODY, status: bytes = b"HTTP/1.1 200 OK"):
    return status + b"\r\n" + fields + b"\r\n" + body


@pytest.mark.parametrize(
    "data",
    [
        response(),
        response(b"content-length:4\r\n"),
        response(b"Content-Length: 4\r\nConnection: Keep-Alive\r\n"),
        response(b"Server: a  b:c\r\n" + LENGTH + b"X: 1\r\nX: 2\r\n"),
        response(b"Content-Length: 0\r\n", b""),
        response(status=b"HTTP/1.1 200 "),
        response(LENGTH + b"Content-Encoding: gzip\r\n"),
        response(LENGTH + b"X: y\r\n" * 127),
    ],
)
async def test_plain_responses_are_read_as_aiohttp_reads_them(data):
    plain = read_plain(data)
    assert plain is not None
    loop = asyncio.get_running_loop()
    parser = HttpResponseParser(
        ResponseHandler(loop), loop, 1 << 16, read_until_eof=True, auto_decompress=False
    )
    ((message, content),), _, _ = parser.feed_data(data)
    assert message.code == 200
    assert message.headers == plain.headers
    assert not message.should_close
    expected = content.read_nowait(1 << 16)
    assert content.at_eof()
    assert plain.at_eof() is not bool(expected)
    assert plain.read_nowait(1 << 16) == expected
    assert plain.at_eof()


@pytest.mark.parametrize(
    "data",
    [
        response(status=b"HTTP/1.0 200 OK"),
        response(status=b"HTTP/1.1 500 Oops"),
        response(status=b"HTTP/1.1 2000 OK"),
        response(status=b"HTTP/1.1 100 Continue"),
        response(status=b"HTTP/1.1  200 OK"),
        response(b""),
        response(b"X: y\r\n"),
        response(b"Content-Length: 4\r\nContent-Length: 4\r\n"),
        response(b"Content-Length: 4, 4\r\n"),
        response(b"Content-Length: +4\r\n"),
        response(b"Content-Length: 4x\r\n"),
        response(b"Content-Length : 4\r\n"),
        response(b" Content-Length: 4\r\n"),
        response(LENGTH + b" folded\r\n"),
        response(LENGTH + b"Transfer-Encoding: chunked\r\n"),
        response(LENGTH + b"transfer-encoding: identity\r\n"),
        response(LENGTH + b"Connection: close\r\n"),
        response(LENGTH + b"Connection: keep-alive\r\nConnection: close\r\n"),
        response(LENGTH + b"Connection: keep-alive, close\r\n"),
        response(LENGTH + b"Upgrade: h2c\r\n"),
        response(LENGTH + b"X: \xe9\r\n"),
        response(LENGTH + b"X: a\0b\r\n"),
        response(LENGTH + b"X:\r\n"),
        response(LENGTH + b"X: y \r\n"),
        response(LENGTH + b"no colon\r\n"),
        response(LENGTH.replace(b"\r\n", b"\n")),
        response(LENGTH + b"X: a\rb\r\n"),
        response(LENGTH + b"X: y\r\n" * 128),
        response(body=BODY[:-1]),
        response(body=BODY + b"H"),
        response()[:20],
        b"",
        b"\r\n" + response(),
    ],
)
def test_anything_else_is_aiohttps(data):
    assert read_plain(data) is None
