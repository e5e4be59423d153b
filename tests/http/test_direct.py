"""The quick way to the server: what is sent, which connections serve again, when it gives up.

All of it against raw servers, since nothing of it is aiohttp's session. The tests of the faults of
HTTP run over this transport and over the session's.
"""

import asyncio
import gc
import warnings

import aiohttp
import pytest
from answers import options

from bulkfetch import ConfigurationError, Transient
from bulkfetch._domain.errors import StaleConnection
from bulkfetch._http import direct
from bulkfetch._http.direct import DirectTransport, open_transport
from bulkfetch._http.session import SEEN, HttpTransport
from bulkfetch.testing import RawServer, http_answer

OK = http_answer(b"<x/>")
HEADERS = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '"X"', "Accept": "text/xml"}


async def post(transport, server, body=b"<y/>", headers=HEADERS):
    async with transport.post(server.url, body, headers) as reply:
        pieces = []
        while piece := await reply.read():
            pieces.append(piece)
        return reply.status, b"".join(pieces)


# Which way


async def test_it_is_used_where_it_serves():
    """Without a session of the caller's, a proxy or an aiohttp that nobody has seen."""
    async with open_transport(options()) as transport:
        assert isinstance(transport, DirectTransport)
        assert transport.way == "direct"


async def test_a_callers_session_is_used_as_it_is():
    """It may hold headers, tracing, mocks; and it stays open."""
    async with aiohttp.ClientSession() as session:
        async with open_transport(options(), session) as transport:
            assert transport.way == "session (it was handed over)"
        assert not session.closed


@pytest.mark.parametrize("version", ["3.14.4", "3.14.50", "3.14.6", "3.15.0", "4.0.0a1"])
async def test_a_proxy_and_an_unknown_aiohttp_go_through_a_session(version, monkeypatch, caplog):
    """Which way it is and why is told once, in the log and by the transport itself."""
    caplog.set_level("INFO", "bulkfetch")
    async with open_transport(options(proxy="http://proxy.example:3128")) as transport:
        assert transport.way == "session (there is a proxy)"
    monkeypatch.setattr(aiohttp, "__version__", version)
    async with open_transport(options()) as transport:
        assert isinstance(transport, HttpTransport)
        assert transport.way == (
            f"session (aiohttp {version} is none of the versions that the tests have seen)"
        )
    assert caplog.messages == [
        "requests go this way: session (there is a proxy)",
        f"requests go this way: {transport.way}",
    ]


def test_the_aiohttp_of_these_tests_is_one_that_they_have_seen():
    """Else most of them would test the session twice."""
    assert aiohttp.__version__ in SEEN


async def test_bad_certificates_are_told_before_any_request(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot use the certificates"):
        async with open_transport(options(cacert=tmp_path / "none.pem")):
            pass


# What is sent


async def test_the_bytes_of_a_request():
    """HTTP/1.1 with a host, a length and our headers, in one piece, and no header twice."""
    async with RawServer(OK) as server, open_transport(options(server.url)) as transport:
        url = server.url + "go?a=b%20c"
        async with transport.post(url, b"<y/>", HEADERS) as reply:
            assert await reply.read() == b"<x/>"
        [request] = server.requests
    first, *lines = request.head.decode().split("\r\n")
    assert first == "POST /go?a=b%20c HTTP/1.1"
    assert request.body == b"<y/>"
    sent = dict(line.split(": ", 1) for line in lines)
    assert len(sent) == len(lines)
    assert sent["Host"] == f"127.0.0.1:{server.port}"
    assert sent["Content-Length"] == "4"
    assert sent.items() >= HEADERS.items()


async def test_calls_do_not_mix():
    """Another address or another header makes another head; the lengths are each body's own."""
    async with RawServer(OK) as server, open_transport(options(server.url)) as transport:
        await post(transport, server, b"1")
        await post(transport, server, b"22", HEADERS | {"SOAPAction": '"Z"'})
        await post(transport, server, b"333")
        got = [(one.header("SOAPAction"), one.body) for one in server.requests]
    assert got == [('"X"', b"1"), ('"Z"', b"22"), ('"X"', b"333")]


# Connections


async def test_a_connection_serves_again():
    async with RawServer(OK) as server, open_transport(options(server.url)) as transport:
        for _ in range(5):
            assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 1


async def test_as_many_connections_as_requests_at_once():
    async with RawServer(OK) as server, open_transport(options(server.url)) as transport:
        for _ in range(3):
            await asyncio.gather(*(post(transport, server) for _ in range(4)))
        assert server.connections == 4


async def test_a_connection_that_waited_long_is_not_used(monkeypatch):
    """The server may be about to close it."""
    monkeypatch.setattr(direct, "_IDLE_SECONDS", -1)
    async with RawServer(OK) as server, open_transport(options(server.url)) as transport:
        await post(transport, server)
        await post(transport, server)
        assert server.connections == 2


@pytest.mark.parametrize("busy", [False, True])
async def test_connections_that_nobody_needs_any_more_are_closed(busy, monkeypatch):
    """With fewer requests than before, or none at all, the server need not hold the others."""
    monkeypatch.setattr(direct, "_IDLE_SECONDS", 0.2)

    async def stall(exchange):
        await exchange.stall()

    async with RawServer([OK, OK, OK, stall]) as server:
        patience = options(server.url, read_timeout=0.5)
        async with open_transport(patience) as transport:
            await asyncio.gather(*(post(transport, server) for _ in range(3)))
            [call] = transport._calls.values()
            closed = [line.handler.closed for line in call.idle]
            waiting = asyncio.create_task(post(transport, server)) if busy else None
            async with asyncio.timeout(300):
                await asyncio.gather(*closed[: 2 if busy else 3])
            assert not call.idle
            assert (transport._watch is None) is not busy
            if waiting:
                with pytest.raises(Transient, match="read timeout"):
                    await waiting


async def test_a_connection_that_the_server_closed_is_not_used():
    async def once(exchange):
        await exchange.cut(OK)

    async with RawServer(once) as server, open_transport(options(server.url)) as transport:
        for number in (1, 2, 3):
            await post(transport, server)
            await asyncio.sleep(0.02)
            assert server.connections == number


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"<x/>", headers=["Connection: close"]),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_a_connection_that_cannot_serve_again(answer):
    """Closed by word or by version: the next request gets a new one."""
    async with RawServer(answer) as server, open_transport(options(server.url)) as transport:
        for number in (1, 2):
            assert await post(transport, server) == (200, b"<x/>")
            assert server.connections == number


async def test_a_body_left_early_drops_its_connection():
    """What is left of it must not be taken for the next answer."""
    large = http_answer(b"x" * 1_000_000)
    async with RawServer([large, OK]) as server, open_transport(options(server.url)) as transport:
        async with transport.post(server.url, b"", HEADERS) as reply:
            await reply.read()
        assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 2


async def test_a_body_that_is_wholly_there_keeps_its_connection():
    """A body that nobody reads is no reason for another connection, whichever way it came."""
    refusals = [
        http_answer(b"<html/>", content_type="text/html"),
        http_answer(b"<html/>", status="503 Busy", content_type="text/html"),
        b"HTTP/1.1 429 Slow\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n<html/>\r\n0\r\n\r\n",
    ]
    async with (
        RawServer([*refusals, OK]) as server,
        open_transport(options(server.url)) as transport,
    ):
        for _ in refusals:
            async with transport.post(server.url, b"", HEADERS):
                pass
        assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 1


async def test_a_body_with_more_behind_it_drops_its_connection():
    """What came unasked behind a body must not be taken for the next answer."""
    two = http_answer(b"<html/>", status="503 Busy") + OK
    async with RawServer([two, OK]) as server, open_transport(options(server.url)) as transport:
        async with transport.post(server.url, b"", HEADERS):
            pass
        assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 2


async def test_a_body_without_a_length_ends_with_its_connection():
    async def unbounded(exchange):
        await exchange.cut(b"HTTP/1.1 200 OK\r\n\r\n<x>" + b"y" * 200_000)

    async with RawServer(unbounded) as server, open_transport(options(server.url)) as transport:
        status, body = await post(transport, server)
        assert (status, len(body)) == (200, 200_003)


@pytest.mark.parametrize("early", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\n\r\n"])
async def test_an_interim_answer_is_passed_over(early):
    async with (
        RawServer(early * 2 + OK) as server,
        open_transport(options(server.url)) as transport,
    ):
        assert await post(transport, server) == (200, b"<x/>")
        assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 1


async def test_switched_protocols_are_handed_on():
    """An answer like any other, whose connection is not used again."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with RawServer([switch, OK]) as server, open_transport(options(server.url)) as transport:
        async with transport.post(server.url, b"", HEADERS) as reply:
            assert reply.status == 101
        assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 2


async def test_nothing_is_left_open():
    """Leaving closes what waits; a request that was cancelled has dropped its connection."""

    async def silent(exchange):
        await exchange.stall()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with RawServer([OK, silent]) as server:
            async with open_transport(options(server.url)) as transport:
                await post(transport, server)
                waiting = asyncio.create_task(post(transport, server))
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.wait([waiting])
                assert waiting.cancelled()
            gc.collect()


# Giving up


@pytest.mark.parametrize(
    ("said", "changes", "words"),
    [
        (b"", {"read_timeout": 0.1}, "silent for longer than the read timeout"),
        (b"HTTP/1.1 20", {"read_timeout": 0.1}, "silent for longer than the read timeout"),
        (OK[:-2], {"read_timeout": 0.1}, "silent for longer than the read timeout"),
        (b"", {"timeout": 0.1}, "longer than the timeout"),
        (OK[:-2], {"timeout": 0.1}, "longer than the timeout"),
    ],
)
async def test_a_server_that_falls_silent(said, changes, words):
    """Before the head, inside it, inside the body: which timeout it was is said."""

    async def stall(exchange):
        await exchange.stall(said)

    async with RawServer([stall, OK]) as server:
        async with open_transport(options(server.url, **changes)) as transport:
            with pytest.raises(Transient, match=words) as caught:
                await post(transport, server)
            assert (caught.value.kind, caught.value.overload) == ("timeout", True)
            assert caught.value.__suppress_context__
            assert await post(transport, server) == (200, b"<x/>")
        assert server.connections == 2


async def test_the_timeout_counts_while_bytes_keep_coming():
    async def dribble(exchange):
        await exchange.dribble(http_answer(b"x" * 1000), seconds=0.01)

    async with RawServer(dribble) as server:
        patience = options(server.url, timeout=0.3)
        async with open_transport(patience) as transport:
            with pytest.raises(Transient, match="longer than the timeout"):
                await post(transport, server)


async def test_the_timeout_counts_while_connecting(monkeypatch):
    """What has gone into connecting is not there for the answer; only silence counts anew."""

    async def slowly(call):
        nonlocal ahead
        ahead = 30.0
        return await connect(call)

    async def stall(exchange):
        await exchange.stall()

    ahead, clock = 0.0, asyncio.get_running_loop().time
    async with RawServer(stall) as server:
        patience = options(server.url, timeout=20.0, read_timeout=0.5)
        async with open_transport(patience) as transport:
            connect = transport.connect
            monkeypatch.setattr(transport, "connect", slowly)
            monkeypatch.setattr(transport, "now", lambda: clock() + ahead)
            with pytest.raises(Transient, match="longer than the timeout"):
                await post(transport, server)


async def test_interim_answers_are_no_silence():
    """A server that says that it is at work is waited for, longer than for a silent one."""

    async def at_work(exchange):
        for _ in range(12):
            await exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.1)
        await exchange.send(OK)

    async with RawServer(at_work) as server:
        patience = options(server.url, read_timeout=0.8)
        async with open_transport(patience) as transport:
            assert await post(transport, server) == (200, b"<x/>")


async def test_only_a_connection_that_waited_is_stale():
    """One that the server closes though it is new is a failure of the server."""

    async def close(exchange):
        await exchange.cut(b"")

    async with (
        RawServer([OK, close, close]) as server,
        open_transport(options(server.url)) as transport,
    ):
        await post(transport, server)
        for verdict in (StaleConnection, Transient):
            with pytest.raises(Transient) as caught:
                await post(transport, server)
            assert (type(caught.value), caught.value.kind) == (verdict, "disconnected")


async def test_what_is_no_http():
    said = b"220 smtp.example ready\r\n\r\n"
    async with RawServer(said) as server, open_transport(options(server.url)) as transport:
        with pytest.raises(Transient, match="not valid HTTP") as caught:
            await post(transport, server)
    assert caught.value.most_retries == 1
