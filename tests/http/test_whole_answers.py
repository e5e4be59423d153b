"""An answer that is whole counts, whatever surrounds it: as PHP, curl and requests take it too.

Each case runs both ways to the server, with a small body and with one that takes many packets, and
a second course follows on what is left of the connection. tests/http/test_both_parsers.py runs all
of it over aiohttp's parser in pure Python as well.
"""

import asyncio
import gzip

import aiohttp
import pytest
from answers import GOOD, LARGE, options, run, statuses, users

from bulkfetch import Transient, Unreadable
from bulkfetch._http.direct import open_transport
from bulkfetch.testing import RawServer, http_answer

BODIES = {"small": (GOOD, statuses(GOOD)), "large": (users("much", LARGE),) * 2}
BODIES["large"] = (BODIES["large"][0], statuses(BODIES["large"][0]))
OK = http_answer(statuses(GOOD))
SURPLUS = {
    "line end": b"\r\n",
    "bare line end": b"\n",
    "zeros": b"\0\0\0",
    "comment": b"\n<!-- 0.012 s -->",
    "warning": b"<br />\n<b>Warning</b>: session_write_close()",
    "torn head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "another answer": OK,
    "torn answer": OK[:-5],
    "megabyte": b"x" * 1_000_000,
}


sizes = pytest.mark.parametrize("size", BODIES)
surplus = pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)


def chunked(body):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


def closing(body):
    return http_answer(body, headers=["Connection: close"])


async def both_fetched(answer, expected, *, most_requests=3):
    """The odd answer, then a plain one: both courses have their rows at the first try."""
    async with RawServer([answer, OK]) as server:
        result = await run(["c1", "c2"], server.url, concurrency=1, retries=0)
    assert result.error is None
    assert result.rows == {"c1": expected, "c2": GOOD}
    assert [outcome.attempts for outcome in result.outcomes] == [1, 1]
    assert len(server.requests) <= most_requests


@sizes
@surplus
@pytest.mark.parametrize("made", [http_answer, chunked, closing])
async def test_f103_bytes_behind_the_body(made, surplus, size, way):
    """They are nobody's: the answer counts, the connection does not serve again."""
    rows, body = BODIES[size]
    await both_fetched(made(body) + surplus, rows)


@sizes
@pytest.mark.parametrize("surplus", [one for one in SURPLUS.values() if one != OK[:-5]])
async def test_f103_bytes_that_come_later(surplus, size, way):
    """Whether the next course was asked for on this connection meanwhile or not, it is unharmed."""
    rows, body = BODIES[size]

    async def late(exchange):
        await exchange.send(http_answer(body))
        await asyncio.sleep(0.02)
        await exchange.send(surplus)

    await both_fetched(late, rows)


async def test_f103_bytes_that_come_to_a_connection_at_rest(way):
    """It is closed as they come, not when it is used again."""
    go_on, gone = asyncio.Event(), asyncio.Event()

    async def late(exchange):
        await exchange.send(OK)
        await go_on.wait()
        await exchange.send(b"x")
        assert await exchange._reader.read() == b""
        gone.set()

    async with (
        RawServer([late, OK]) as server,
        open_transport(options(server.url)) as transport,
    ):
        for number in (1, 2):
            async with transport.post(server.url, b"", {}) as reply:
                assert await reply.read() == statuses(GOOD)
            assert server.connections == number
            go_on.set()
            await gone.wait()


@sizes
@pytest.mark.parametrize("packet", [1, 7, 100])
async def test_f103_a_head_in_many_packets(packet, size, way):
    """Wherever it is cut, the blank line at its end is found."""
    rows, body = BODIES[size]
    answer = http_answer(body)
    end = len(answer) - len(body) + 2

    async def piecemeal(exchange):
        for at in range(0, end, packet):
            await exchange.send(answer[at : min(at + packet, end)])
            await asyncio.sleep(0)
        await exchange.send(answer[end:] + b"surplus")

    await both_fetched(piecemeal, rows)


LINES = {
    "a field of 9,000 bytes": [f"X: {'a' * 9_000}"],
    "a field of 60,000 bytes": [f"X: {'a' * 60_000}"],
    "a name of 9,000 bytes": [f"{'X' * 9_000}: a"],
    "twenty fields of 9,000 bytes": [f"X: {'a' * 9_000}"] * 20,
    "a hundred fields": ["X: a"] * 100,
    "an encoding that is none": ["Content-Encoding: none"],
    "a charset as encoding": ["Content-Encoding: utf-8"],
    "an 8-bit charset as encoding": ["Content-Encoding: windows-1251"],
    "a charset with a weight": ["Content-Encoding: UTF-8; q=1"],
    "a media type as encoding": ["Content-Encoding: text/xml"],
    "identity": ["Content-Encoding: Identity"],
    "two encodings that are none": ["Content-Encoding: identity", "Content-Encoding: UTF-8"],
    "two types": ["Content-Type: text/xml"],
    "bytes that are no ASCII": ["X: \xe9\xff"],
}


@sizes
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
async def test_f103_f104_odd_headers(lines, size, way):
    """Long ones, many, and such as say nothing: the body counts, however large it is."""
    rows, body = BODIES[size]
    await both_fetched(http_answer(body, headers=lines), rows, most_requests=2)


@sizes
async def test_f103_a_long_reason(size, way):
    """The status line may be long too."""
    rows, body = BODIES[size]
    await both_fetched(http_answer(body, status=f"200 {'O' * 9_000}"), rows, most_requests=2)


@sizes
@pytest.mark.parametrize("length", [66_000, 1_000_000])
async def test_f103_a_header_that_is_too_long(length, size, way):
    """Beyond 64 KiB it is refused, with small and large bodies alike."""
    _, body = BODIES[size]
    async with RawServer(http_answer(body, headers=[f"X: {'a' * length}"])) as server:
        result = await run(endpoint=server.url)
    assert result.kinds == ["bad-http", "bad-http"]
    assert len(server.requests) == 2


@sizes
@pytest.mark.parametrize("behind", [b"\n", b"\0" * 512, b"\x1f", b"<!-- x -->" * 9_000])
async def test_f104_bytes_behind_the_gzip_trailer(behind, size, way):
    """As gzip itself does, what follows a whole member and is no other is left alone."""
    rows, body = BODIES[size]
    packed = gzip.compress(body) + behind
    answer = http_answer(packed, headers=["Content-Encoding: gzip"])
    await both_fetched(answer, rows)


@sizes
async def test_f104_two_members_and_an_encoding_that_is_none(size, way):
    """Members in a row are one body; a charset beside gzip changes nothing."""
    rows, body = BODIES[size]
    packed = gzip.compress(body[:70]) + gzip.compress(body[70:])
    answer = http_answer(packed, headers=["Content-Encoding: utf-8, gzip"])
    await both_fetched(answer, rows, most_requests=2)


@sizes
@pytest.mark.parametrize("encoding", ["br", "gzip, br", "gzip, gzip", "something"])
async def test_f104_an_encoding_that_was_not_asked_for(encoding, size, way):
    """It is refused unread, whichever way and however large."""
    _, body = BODIES[size]
    answer = http_answer(body, headers=[f"Content-Encoding: {encoding}"])
    async with RawServer(answer) as server:
        result = await run(endpoint=server.url, retries=0)
    assert [type(error) for error in result.failed.values()] == [Unreadable]
    assert set(result.kinds) == {"content-encoding"}


@sizes
@pytest.mark.parametrize("status", [201, 202, 203, 205, 206])
async def test_f102_a_body_under_another_2xx(status, size, way):
    """Status and body are handed over; what they mean is judged elsewhere."""
    _, body = BODIES[size]
    async with (
        RawServer(http_answer(body, status=f"{status} Odd") + b"\r\n") as server,
        open_transport(options(server.url)) as transport,
        transport.post(server.url, b"", {}) as reply,
    ):
        got = b""
        while piece := await reply.read():
            got += piece
    assert (reply.status, got) == (status, body)


# What aiohttp's own parser refuses, on connections that are not ours

REFUSED_BY_AIOHTTP = {
    "zeros": b"\0\0\0",
    "comment": b"<!-- 0.012 s -->",
}


@pytest.mark.parametrize("surplus", REFUSED_BY_AIOHTTP.values(), ids=REFUSED_BY_AIOHTTP)
async def test_f103_a_callers_session_refuses_what_aiohttp_refuses(surplus):
    """Bytes in the packet that ends the head: one retry on a connection of its own, then bad-http.

    This is the whole list of what differs through a caller's session, besides that it cannot tell
    a new connection from a kept one.
    """
    if aiohttp.http.HttpResponseParser.__module__ != "aiohttp._http_parser":
        pytest.skip("the parser in pure Python takes these")
    async with aiohttp.ClientSession() as session, RawServer([OK + surplus] * 2 + [OK]) as server:
        first = await run(["c1"], server.url, setup={"session": session})
        after = await run(["c2"], server.url, setup={"session": session})
    assert (first.rows, after.rows) == ({}, {"c2": GOOD})
    assert (first.kinds, after.kinds) == (["bad-http", "bad-http"], [None])
    assert [one.header("Connection") for one in server.requests] == [None, "close", None]


async def test_f22_bad_http_is_asked_for_again_on_a_connection_of_its_own(way):
    """A server told that it is the last request ends its answer by closing: some need that."""

    def answer(exchange):
        alone = exchange.request.header("Connection") == "close"
        return OK if alone else b"no HTTP at all\r\n\r\n"

    async with RawServer(answer) as server:
        result = await run(endpoint=server.url)
    assert result.rows == {"c1": GOOD}
    assert result.kinds == ["bad-http", None]
    seen = [(one.connection, one.header("Connection")) for one in server.requests]
    assert seen == [(1, None), (2, "close")]


async def test_f22_garbage_on_a_kept_connection_is_no_fault_of_the_next_course(way):
    """It may be left over from the answer before: the course is asked for again, at no cost."""
    async with RawServer([OK, b"rubbish\r\n\r\n", OK]) as server:
        result = await run(["c1", "c2"], server.url, concurrency=1, retries=0)
    assert result.rows == {"c1": GOOD, "c2": GOOD}
    assert [outcome.attempts for outcome in result.outcomes] == [1, 1]


async def test_f22_garbage_on_new_connections_fails_the_course(way):
    """After one more try, with its kind."""
    async with RawServer(b"rubbish\r\n\r\n") as server:
        result = await run(endpoint=server.url)
    assert [(type(error), error.kind) for error in result.failed.values()] == [
        (Transient, "bad-http")
    ]
    assert len(server.requests) == 2
