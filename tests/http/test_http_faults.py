"""Every fault of network, HTTP and SOAP, injected for real, byte by byte where it matters.

Each test says how many requests the server saw, what came of the course, and that no row of a
failed try appears. Torn answers come in two sizes: below and above what the parser takes in one
go, since of the larger ones rows have been encoded by the time they break.
"""

import asyncio
import contextlib
import gzip
import json
import os
import resource
import socket
import ssl
import sys
import zlib
from email.utils import formatdate
from pathlib import Path

import aiohttp
import pytest
from answers import (
    GOOD,
    GZIPPED,
    HEAD,
    LARGE,
    LIST_HEAD,
    LIST_TAIL,
    SMALL,
    TAIL,
    TOKEN,
    TORN,
    fault,
    options,
    record,
    run,
    statuses,
    users,
)
from bombs import MEBIBYTE, bomb, endless_header, endless_headers

from bulkfetch import (
    Hooks,
    RunRefused,
    ServerRefuses,
    TemporarilyUnavailable,
    Transient,
    Unreadable,
    export,
    stream,
)
from bulkfetch._domain.errors import StaleConnection
from bulkfetch._http import direct
from bulkfetch._http.direct import open_transport
from bulkfetch.testing import RawServer, SimulatedServer, Simulation, http_answer

CERTIFICATE = Path(__file__).parent.parent / "data" / "self_signed.pem"
HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body><form/></body></html>"
OK = http_answer(statuses(GOOD))
HEAD_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml; charset=utf-8\r\n"
CUT = "truncated|malformed"  # the latter when the cut is inside a tag
MANY = [f"c{number}" for number in range(100)]


@pytest.fixture(autouse=True)
def transport(way):
    """The quick way, and the one through aiohttp's session."""
    return way


@pytest.fixture
def looks_often(monkeypatch):
    """Look after what is under way all the time, not once a second."""
    monkeypatch.setattr(direct, "LOOK_EVERY", 0.01)
    monkeypatch.setattr("bulkfetch._http.session.LOOK_EVERY", 0.01)


either_size = pytest.mark.parametrize("size", [SMALL, LARGE])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def halved(data):
    return data[: len(data) // 2]


def cut(data):
    return lambda exchange: exchange.cut(data)


def reset(data=b""):
    return lambda exchange: exchange.reset(data)


def stall(data=b""):
    return lambda exchange: exchange.stall(data)


def dribble(data):
    return lambda exchange: exchange.dribble(data, seconds=0.02)


def chunked(*chunks):
    return (
        HEAD_OK
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    )


async def passes(bad, kind, **changes):
    """The bad answer once, then a whole one: all rows of that one, none of the first.

    Where it depends on the moment which of several kinds is seen, `kind` names them all.
    """
    async with RawServer([bad, OK]) as server:
        result = await run(endpoint=server.url, **changes)
    assert result.error is None
    assert result.rows == {"c1": GOOD}
    assert len(server.requests) == 2
    first, last = result.kinds
    assert first in kind.split("|")
    assert last is None
    return result


async def lasts(bad, kind, *, requests, verdict=Transient, **changes):
    """The bad answer again and again: the course fails with this kind after so many requests.

    It is all there was, so the run ends with 5 for a passing failure, else with 4.
    """
    async with RawServer(bad) as server:
        result = await run(endpoint=server.url, **changes)
    assert type(result.error) is (
        TemporarilyUnavailable if issubclass(verdict, Transient) else ServerRefuses
    )
    assert result.rows == {}
    assert [(type(error), error.kind) for error in result.failed.values()] == [(verdict, kind)]
    assert result.kinds == [kind] * requests
    assert len(server.requests) == requests
    return result


async def stops(bad, words, *, courses=100, verdict=ServerRefuses, most=5, **changes):
    """The bad answer to everybody: the run stops after a handful of requests, in words."""
    changes = {"retries": 0, "patience": 0} | changes
    async with RawServer(bad) as server:
        result = await run(MANY[:courses], server.url, refusals=5, concurrency=4, **changes)
    assert type(result.error) is verdict
    assert words in str(result.error)
    assert result.rows == {}
    assert most <= len(server.requests) <= most + 4
    return result


# Transport


async def test_f01_refused_connections_open_the_breaker_and_the_next_run_mends_all(tmp_path):
    """Nobody listening: exit 5 within the bound on requests; later everything is there once."""
    port, out = free_port(), tmp_path / "out.ndjson"
    simulation = Simulation(courses=30)
    attempts = []
    async with SimulatedServer(simulation) as there:
        ids, expected = there.course_ids, there.expected()
    settings = options(f"http://127.0.0.1:{port}/api/v2/soap/2.0", token=simulation.token)
    with pytest.raises(TemporarilyUnavailable, match=rf"no connection to 127.0.0.1:{port}") as end:
        await export(ids, out, settings, hooks=Hooks(attempt=attempts.append))
    assert end.value.exit_code == 5
    most = settings.breaker * (1 + settings.retries) + settings.concurrency + 7
    assert settings.concurrency <= len(attempts) <= most
    assert {attempt.error.kind for attempt in attempts} == {"connect"}
    assert not out.exists()
    async with SimulatedServer(simulation, port=port) as server:
        summary = await export(ids, out, settings)
        assert server.counters.requests == 30
    assert summary.output_courses == 30
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    key = lambda row: (row["contentItemId"], row["userId"])  # noqa: E731 - used twice, here
    assert sorted(lines, key=key) == sorted(
        (row for rows in expected.values() for row in rows), key=key
    )


async def test_f02_an_unknown_host_is_named(monkeypatch):
    """DNS knows no such host: a passing failure that names it."""

    async def nowhere(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", nowhere)
    result = await run(endpoint="https://lms.invalid/soap", retries=1)
    assert result.kinds == ["dns", "dns"]
    assert "lms.invalid" in result.failed["c1"].message
    assert result.rows == {}


async def test_f03_a_connection_that_is_never_accepted_ends_in_time():
    """SYNs into the void: the connect timeout ends them, as a sign of overload."""
    with socket.socket() as deaf, contextlib.ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # the queue of a listener that accepts nobody fills up
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        result = await run(endpoint=url, retries=1, connect_timeout=0.2)
    assert result.kinds == ["connect-timeout", "connect-timeout"]
    assert result.failed["c1"].overload
    assert "connect timeout" in result.failed["c1"].message
    assert result.rows == {}


@pytest.mark.parametrize("host", ["lms\u200b.example", "\u00fc..example"])
async def test_f02_a_host_that_is_none(host):
    """A name that no address can hold is refused in words, like a certificate, not as a defect."""
    result = await run(endpoint=f"https://{host}/soap")
    assert type(result.error) is ServerRefuses
    assert result.kinds == ["bad-request"]
    assert type(result.failed["c1"]) is RunRefused


async def close(*writers):
    for writer in writers:
        writer.close()
    for writer in writers:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


class TlsServer:
    """Answers over TLS with the self-signed certificate; counts connections and requests.

    The n-th request gets the n-th answer, later ones the last; connections stay open. A server does
    not tell of TLS handshakes that failed, so a plain one in front hands bytes on.
    """

    def __init__(self, *answers):
        self._answers = answers or (OK,)
        self.connections = self.requests = 0
        self._open = 0
        self._quiet = asyncio.Event()

    async def __aenter__(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        self._front = await asyncio.start_server(self._hand_on, "127.0.0.1", 0)
        self._back = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context)
        self.url = f"https://127.0.0.1:{self._front.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *error):
        if self._open:
            await self._quiet.wait()
        for server in (self._front, self._back):
            server.close()
            await server.wait_closed()

    async def _hand_on(self, reader, writer):
        self.connections += 1
        self._open += 1
        there, back = await asyncio.open_connection(*self._back.sockets[0].getsockname())

        async def pump(source, target):
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, back))
            group.create_task(pump(there, writer))
        await close(back, writer)
        self._open -= 1
        if not self._open:
            self._quiet.set()

    async def _answer(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"</SOAP-ENV:Envelope>")
                writer.write(self._answers[min(self.requests, len(self._answers) - 1)])
                self.requests += 1
        await close(writer)


async def test_f04_an_untrusted_certificate_is_never_tried_again():
    """One connection, no request, no retry: the course fails, and the message says what to do."""
    async with TlsServer() as server:
        result = await run(endpoint=server.url)
    assert (server.connections, server.requests) == (1, 0)
    assert result.kinds == ["certificate"]
    assert type(result.failed["c1"]) is RunRefused
    assert "--cacert" in result.failed["c1"].message


async def test_f04_untrusted_certificates_stop_the_run():
    """When all courses would meet the same certificate the run stops early, with exit 4."""
    async with TlsServer() as server:
        result = await run(MANY, server.url, concurrency=1)
    assert type(result.error) is ServerRefuses
    assert server.connections == 5


async def test_f04_a_named_authority_is_trusted():
    """With --cacert the same certificate does."""
    async with TlsServer() as server:
        result = await run(endpoint=server.url, cacert=CERTIFICATE)
    assert result.rows == {"c1": GOOD}
    assert server.requests == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_f04_a_kept_tls_connection(loop):
    """Small answers and one that takes many receipts over one connection, on either event loop."""
    large = users("large", LARGE)

    async def conversation():
        async with TlsServer(OK, http_answer(statuses(large)), OK) as server:
            ids = ["c1", "c2", "c3"]
            result = await run(ids, server.url, concurrency=1, cacert=CERTIFICATE)
        assert result.rows == {"c1": GOOD, "c2": large, "c3": GOOD}
        assert (server.connections, server.requests) == (1, 3)

    with asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner:
        runner.run(conversation())


@pytest.mark.parametrize("way", ["direct"], indirect=True)
async def test_f04_leaving_waits_until_tls_is_closed(way):
    """The session closes what waits for a request, and has done so when it is left."""
    envelope = statuses([])
    async with TlsServer() as server:
        async with open_transport(options(server.url, cacert=CERTIFICATE)) as direct_way:
            async with direct_way.post(server.url, envelope, {}) as reply:
                assert await reply.read() == statuses(GOOD)
            [call] = direct_way._calls.values()
            [line] = call.idle
        assert line.handler.closed.done()


@pytest.mark.parametrize("answer", [http_answer(b"", status="400 Bad Request"), b""])
async def test_f05_tls_to_a_plain_port_ends_in_time(answer):
    """A plain port answers a TLS greeting with nonsense or with nothing: it ends in time."""
    left = asyncio.Event()

    async def plain(reader, writer):
        await reader.read(100)
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await close(writer)
        left.set()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await run(endpoint=url, retries=0, connect_timeout=0.3)
        await left.wait()
    assert result.kinds == (["no-tls"] if answer else ["connect-timeout"])
    assert result.rows == {}


@pytest.mark.parametrize("end", [cut(b""), reset()], ids=["closed", "reset"])
async def test_f06_a_new_connection_ended_before_the_headers(end):
    """It costs a try, since it is not one that the server had long given up."""
    result = await passes(end, "disconnected")
    assert result.outcomes[0].attempts == 2
    result = await lasts(end, "disconnected", requests=3, retries=2)
    assert result.outcomes[0].attempts == 3


@pytest.mark.parametrize("end", [cut(b""), reset()], ids=["closed", "reset"])
async def test_f06_through_a_callers_session(end):
    """That does not tell new connections from kept ones: each is asked for again at once, once."""
    async with aiohttp.ClientSession() as session:
        handed = {"setup": {"session": session}}
        result = await passes(end, "disconnected", **handed)
        assert result.outcomes[0].attempts == 1
        verdict = {"requests": 6, "retries": 2, "verdict": StaleConnection}
        await lasts(end, "disconnected", **verdict, **handed)


@either_size
async def test_f07_reset_inside_the_body(size):
    """Rows that came before a reset are forgotten, encoded or not."""
    await passes(reset(halved(http_answer(TORN[size]))), "disconnected|truncated")


@pytest.mark.parametrize("end", [cut(b""), reset()], ids=["f08-closed", "f09-reset"])
async def test_f08_f09_keep_alive_ended_at_its_reuse(end):
    """A kept connection that dies as it is used again costs no try and no pause."""
    async with RawServer([OK, end, OK]) as server:
        result = await run(["c1", "c2"], server.url, concurrency=1, retries=0)
    assert result.rows == {"c1": GOOD, "c2": GOOD}
    assert [outcome.attempts for outcome in result.outcomes] == [1, 1]
    assert [request.connection for request in server.requests] == [1, 1, 2]
    assert result.kinds == [None, "disconnected", None]


@either_size
async def test_f10_cut_content_length(size):
    """Fewer bytes than announced are no answer."""
    await passes(cut(halved(http_answer(TORN[size]))), "truncated")


@either_size
async def test_f11_cut_between_chunks(size):
    """A chunked body without its last chunk is no answer."""
    await passes(cut(chunked(halved(TORN[size]))), "truncated")


@either_size
async def test_f12_cut_inside_a_chunk(size):
    """Half a chunk is no answer."""
    await passes(cut(chunked(TORN[size])[:-100]), "truncated")


@either_size
async def test_f13_cut_body_delimited_by_closing(size):
    """Closing ends such a body in good order: only the missing end of the envelope tells."""
    await passes(cut(HEAD_OK + b"Connection: close\r\n\r\n" + halved(TORN[size])), CUT)


@either_size
@pytest.mark.parametrize("missing", [1, 20, 300])
async def test_f13_an_envelope_that_lacks_only_its_end(size, missing):
    """All rows but not the closing tag, even by one byte, are no answer."""
    await passes(http_answer(TORN[size][:-missing]), CUT)


@either_size
async def test_f14_gzip_cut_in_half(size):
    """Half a gzip body within correct HTTP is no answer."""
    body = halved(GZIPPED[size])
    await passes(http_answer(body, headers=["Content-Encoding: gzip"]), CUT)


@pytest.mark.parametrize("rows", [5, LARGE])
async def test_f15_gzip_without_its_trailer(rows):
    """The envelope is whole, so the rows count, though the gzip trailer is missing."""
    expected = users("whole", rows)
    body = gzip.compress(statuses(expected))[:-8]
    async with RawServer(http_answer(body, headers=["Content-Encoding: gzip"])) as server:
        result = await run(endpoint=server.url)
    assert result.rows == {"c1": expected}
    assert len(server.requests) == 1


@either_size
async def test_f16_gzip_with_a_wrong_checksum(size):
    """What does not match its checksum is no answer, however well-formed."""
    body = GZIPPED[size][:-8] + b"\0\0\0\0" + GZIPPED[size][-4:]
    await passes(http_answer(body, headers=["Content-Encoding: gzip"]), "bad-gzip")


@either_size
async def test_f17_gzip_declared_but_not_there(size):
    """Plain XML under Content-Encoding: gzip is no answer."""
    await passes(http_answer(TORN[size], headers=["Content-Encoding: gzip"]), "bad-gzip")


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
async def test_f18_an_encoding_that_was_not_asked_for(encoding):
    """It is refused unread: one request, no retry, no decompression."""
    answer = http_answer(zlib.compress(TORN[LARGE]), headers=[f"Content-Encoding: {encoding}"])
    result = await lasts(answer, "content-encoding", requests=1, verdict=Unreadable)
    assert encoding.split(",")[0] in result.failed["c1"].message


@either_size
async def test_f19_a_stalled_body(size):
    """A body that falls silent is given up after the read timeout."""
    bad = stall(halved(http_answer(TORN[size])))
    await passes(bad, "timeout", read_timeout=0.15)


async def test_f20_one_byte_at_a_time(monkeypatch):
    """A body that trickles never falls silent, and is given up for its speed."""
    monkeypatch.setattr("bulkfetch._engine.course._SLOW_AFTER", 0.1)
    head, blank, body = OK.partition(b"\r\n\r\n")

    async def trickle(exchange):
        await exchange.send(head + blank)
        await exchange.dribble(body, seconds=0.02)

    result = await passes(trickle, "timeout", min_throughput=10_000)
    assert "trickles at less than 10000 bytes/s" in result.attempts[0].error.message


async def test_f20_slow_but_within_bounds(monkeypatch):
    """A slow body above the minimum is waited for."""
    monkeypatch.setattr("bulkfetch._engine.course._SLOW_AFTER", 0.1)
    body = statuses(GOOD)
    head = http_answer(body)[: -len(body)]

    async def slow(exchange):
        await exchange.send(head + body[:-8])
        await exchange.dribble(body[-8:], seconds=0.03)

    async with RawServer(slow) as server:
        result = await run(endpoint=server.url, min_throughput=100)
    assert result.rows == {"c1": GOOD}
    assert len(server.requests) == 1


async def test_f21_slow_headers():
    """A head that trickles in is given up after the timeout of the whole request."""
    await passes(dribble(OK), "timeout", timeout=0.3)


@pytest.mark.parametrize(
    "bad",
    [
        endless_headers,
        endless_header,
        OK.replace(b"\r\n\r\n", b"\r\n" + b"X: 1\r\n" * 100_000 + b"\r\n", 1),
        b"\x00\xffwhat is this\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n", 1),
        OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", 1),
    ],
    ids=[
        "endless headers",
        "endless header",
        "100,000 headers",
        "garbage",
        "no status",
        "two lengths",
        "length and chunks",
    ],
)
async def test_f22_what_is_not_http(bad):
    """One retry, then the course has failed as "bad-http"."""
    await lasts(bad, "bad-http", requests=2)
    await passes(bad, "bad-http")


async def test_f22_a_broken_chunk():
    """A chunk whose size is no number breaks the body, not the run."""
    bad = HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + TORN[SMALL]
    async with RawServer([bad, OK]) as server:
        result = await run(endpoint=server.url)
    assert result.rows == {"c1": GOOD}
    assert result.kinds[0] in {"bad-http", "truncated"}
    assert len(server.requests) == 2


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_f22_a_broken_chunk_after_good_ones(pause, looks_often):
    """It breaks one try, whether it is there at once or while more of the body is waited for."""

    async def bad(exchange):
        await exchange.send(chunked(TORN[LARGE]))
        await asyncio.sleep(pause)
        await exchange.send(b"xyz\r\n")

    await passes(bad, "bad-http")
    await lasts(bad, "bad-http", requests=2)


@pytest.mark.parametrize("late", [False, True])
async def test_f22_a_broken_chunk_seen_by_a_reader(late, looks_often):
    """Whether it comes back after the connection has ended or waits for more, it is told."""
    go_on = asyncio.Event()

    async def bad(exchange):
        await exchange.send(chunked(b"x" * 70_000))
        await go_on.wait()
        await exchange.send(b"xyz\r\n")
        await exchange.stall()

    async with (
        RawServer(bad) as server,
        open_transport(options(server.url)) as way,
        way.post(server.url, b"", {}) as reply,
    ):
        read = 0
        while read < 70_000:
            read += len(await reply.read())
        if late:
            go_on.set()
            await asyncio.sleep(0.1)
        else:
            asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(Transient, match="not valid HTTP") as caught:
            await reply.read()
    assert (caught.value.kind, caught.value.most_retries) == ("bad-http", 1)


async def test_f23_extra_bytes_after_an_answer():
    """What follows an answer uninvited harms neither it nor the next course."""
    async with RawServer([OK + b"HTTP/1.1 200 OK\r\nContent-Le", OK]) as server:
        result = await run(["c1", "c2"], server.url, concurrency=1)
    assert result.rows == {"c1": GOOD, "c2": GOOD}
    assert [outcome.attempts for outcome in result.outcomes] == [1, 1]
    assert len(server.requests) <= 3


async def test_f24_no_file_descriptors_left(monkeypatch):
    """A shortage on this machine is waited out and spends no try."""
    monkeypatch.setattr("bulkfetch._engine.course._LOCAL_PAUSE", 0.01)
    taken, attempts = [], []

    def release(attempt):
        attempts.append(attempt)
        while taken and len(attempts) == 3:
            os.close(taken.pop())

    async with RawServer(OK) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            settings = options(server.url, retries=0)
            async with stream(["c1"], settings, hooks=Hooks(attempt=release)) as outcomes:
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                [outcome] = [outcome async for outcome in outcomes]
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [attempt.error and attempt.error.kind for attempt in attempts] == [*["local"] * 3, None]
    assert (outcome.attempts, len(outcome.rows), len(server.requests)) == (1, 5, 1)


# HTTP and SOAP


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_f25_no_redirect_is_followed(status):
    """The other server sees no connection, let alone the token; the run stops, naming the host."""
    async with RawServer(OK) as other:
        location = f"Location: {other.url}steal?{TOKEN}"
        result = await stops(
            http_answer(b"", status=status, headers=[location]), "redirects to http://127.0.0.1"
        )
        assert other.connections == 0
    assert TOKEN not in str(result.error)


async def test_f26_a_redirect_to_https_hints_at_the_endpoint():
    """http:// redirected to https:// of the same path is not followed; the message says why."""
    answer = http_answer(
        b"", status="301 Moved Permanently", headers=["Location: https://127.0.0.1/"]
    )
    await stops(answer, "use https in the endpoint")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", "does not accept the token"),
        ("403 Forbidden", "answers HTTP 403"),
        ("404 Not Found", "answers HTTP 404"),
    ],
)
async def test_f27_refusals_by_status_stop_the_run(status, words):
    """401, 403, 404 to everybody: no storm of requests, exit 4."""
    result = await stops(http_answer(HTML, status=status, content_type="text/html"), words)
    assert result.error.exit_code == 4


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("0.01", 0.01),
        ("1", 0.05),
        ("1000000000", 0.05),
        (formatdate(4e9, usegmt=True), 0.05),
        (formatdate(0, usegmt=True), 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
async def test_f28_retry_after(value, pause, status):
    """The pause is the server's, up to max_retry_after (0.05 s here); nonsense is none."""
    waits = []
    busy = http_answer(b"busy", status=status, headers=[f"Retry-After: {value}"])
    async with (
        RawServer([busy, OK]) as server,
        stream(["c1"], options(server.url), hooks=Hooks(wait=waits.append)) as outcomes,
    ):
        [outcome] = [outcome async for outcome in outcomes]
    assert [(wait.seconds, wait.cause) for wait in waits] == [(pause, f"http-{status[:3]}")]
    assert (outcome.attempts, len(outcome.rows), len(server.requests)) == (2, 5, 2)


async def test_f28_the_pause_is_the_whole_hosts():
    """While one course's Retry-After runs, no other course is asked for."""
    busy = http_answer(b"", status="503 Busy", headers=["Retry-After: 1"])
    starts = []

    def noted(answer):
        def answer_it(exchange):
            starts.append(asyncio.get_running_loop().time())
            return answer

        return answer_it

    script = [noted(busy), noted(OK)]
    async with RawServer(script) as server:
        result = await run(MANY[:3], server.url, concurrency=1, max_retry_after=0.3, retries=1)
    assert len(result.rows) == 3
    assert starts[1] - starts[0] >= 0.29


async def test_f29_a_storm_of_503_opens_the_breaker():
    """All requests refused: exit 5 within the bound that the stop rules state."""
    async with SimulatedServer(Simulation(courses=300, share_503=1.0)) as server:
        result = await run(
            server.course_ids,
            server.endpoint,
            token=server.token,
            backoff=0.01,
            max_backoff=0.05,
            patience=1,
        )
        requests = server.counters.requests
    assert type(result.error) is TemporarilyUnavailable
    assert result.error.exit_code == 5
    assert "the server is busy (HTTP 503)" in str(result.error)
    assert requests <= 20 * (1 + 5) + 8 + 7
    assert result.rows == {}


async def test_f29_a_partial_storm_loses_no_course():
    """Of 30 % refusals every course comes through, at 1.6 requests a course or fewer."""
    simulation = Simulation(courses=250, rows=(1, 5), share_503=0.3, seed=3)
    async with SimulatedServer(simulation) as server:
        result = await run(
            server.course_ids,
            server.endpoint,
            token=server.token,
            backoff=0.01,
            max_backoff=0.05,
            retries=20,
        )
        requests, expected = server.counters.requests, server.expected()
    assert result.error is None
    assert result.failed == {}
    assert result.rows == {
        course: [(row["userId"], row["status"], row["progress"]) for row in rows]
        for course, rows in expected.items()
    }
    assert requests <= 1.6 * 250


async def test_f29_a_refusal_keeps_its_connection():
    """A busy server need not greet anew whom it has refused, though its page was not read."""
    busy = http_answer(HTML, status="503 Busy", content_type="text/html")
    async with RawServer([busy, busy, OK]) as server:
        result = await run(endpoint=server.url)
    assert result.rows == {"c1": GOOD}
    assert [request.connection for request in server.requests] == [1, 1, 1]


@pytest.mark.parametrize("status", ["500 Internal Server Error", "200 OK"], ids=["f30", "f31"])
@pytest.mark.parametrize("text", ["Unknown content item", "Wrong parameters"])
async def test_f30_f31_a_fault_is_final_whatever_the_status(status, text):
    """A stack answers 500 for permanent refusals too: one request, settled, in its words."""
    async with RawServer(http_answer(fault(text), status=status)) as server:
        result = await run(endpoint=server.url)
    assert len(server.requests) == 1
    assert result.failed["c1"].settled
    assert result.failed["c1"].message == text
    assert result.rows == {}


@pytest.mark.parametrize("status", ["500 Internal Server Error", "200 OK"], ids=["f30", "f31"])
async def test_f95_an_unknown_fault_is_tried_again_and_settles_nothing(status):
    """A Server fault may succeed later, says SOAP 1.1: two retries, then failed, in its words."""
    async with RawServer(http_answer(fault("Something never heard of"), status=status)) as server:
        result = await run(endpoint=server.url)
    assert len(server.requests) == 3
    assert not result.failed["c1"].settled
    assert "Something never heard of" in result.failed["c1"].message
    assert result.rows == {}


async def test_f30_a_500_without_a_fault_passes():
    """A crash of the server, empty or with broken XML, is tried again."""
    await passes(http_answer(b"", status="500 Oops", content_type="text/html"), "http-500")
    await passes(http_answer(b"<Envelope><Bo", status="500 Oops"), "http-500")
    await passes(http_answer(TORN[SMALL], status="500 Oops"), "http-500")
    await passes(http_answer(TORN[LARGE], status="502 Bad Gateway"), "http-502")


async def test_f32_permission_denied_for_one_course():
    """One course is refused and settled; the run goes on."""
    denied = http_answer(fault("Permission denied"), status="500 Internal Server Error")
    async with RawServer([OK, denied, OK]) as server:
        result = await run(MANY[:30], server.url, concurrency=1)
    assert result.error is None
    assert len(result.rows) == 29
    assert [(error.kind, error.settled) for error in result.failed.values()] == [
        ("permission-denied", True)
    ]
    assert len(server.requests) == 30


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "text/xml", "text/plain"])
async def test_f33_a_login_page_is_never_zero_rows(content_type):
    """HTTP 200 with a page for people, whatever it calls itself, stops the run."""
    await stops(http_answer(HTML, content_type=content_type), "HTML page")


@pytest.mark.parametrize("content_type", ["text/html", "text/xml"])
@pytest.mark.parametrize(
    "page", [b"<html><body><p>Sorry<br></body>", b"\n  <!DOCTYPE HTML><p>&nbsp;" + b"x" * 100_000]
)
async def test_f34_broken_html(content_type, page):
    """A page that is not even well-formed is a page still."""
    await stops(http_answer(page, content_type=content_type), "HTML page")


@pytest.mark.parametrize("body", [b"", b"\r\n\r\n"])
async def test_f35_an_empty_200(body):
    """An answer without anything in it is not a course without rows."""
    await passes(http_answer(body), "empty-response")
    await lasts(http_answer(body), "empty-response", requests=3, retries=2)


async def test_f36_no_content():
    """HTTP 204 is not a course without rows either."""
    bad = b"HTTP/1.1 204 No Content\r\n\r\n"
    await passes(bad, "empty-response")
    await lasts(bad, "empty-response", requests=3, retries=2)


async def test_f37_a_token_that_expires_in_mid_run_is_renewed_once_for_all():
    """However many courses meet the old token, one new one is fetched and no row is lost."""
    simulation = Simulation(courses=60, rows=(1, 5), token=None, latency=0.002)
    async with SimulatedServer(simulation) as server:
        settings = options(
            server.endpoint,
            token=None,
            token_url=server.token_url,
            client_id=simulation.client_id,
            client_secret=simulation.client_secret,
        )
        rows = {}
        async with stream(server.course_ids, settings) as outcomes:
            async for outcome in outcomes:
                rows[outcome.course_id] = [row.user_id for row in outcome.rows]
                if len(rows) == 20:
                    server.revoke_tokens()
        assert server.counters.tokens_issued == 2
        assert 60 < server.counters.requests <= 60 + 8
        assert rows == {
            course: [row["userId"] for row in expected]
            for course, expected in server.expected().items()
        }


async def test_f38_the_envelope_of_another_method():
    """Another method's answer is no list of rows: the run stops, naming what came."""
    body = f"{HEAD}<GetContentResult><contentItem/></GetContentResult>{TAIL}".encode()
    result = await stops(http_answer(body), "GetContentResult", most=20)
    assert {attempt.error.kind for attempt in result.attempts} == {"foreign"}


async def test_f39_a_course_without_rows_is_done(tmp_path):
    """Zero rows are a success: in the summary, in the journal, not asked for again."""
    out = tmp_path / "out.ndjson"
    empty = http_answer(statuses([]).replace(b"<ns1:statuses></ns1:statuses>", b"<ns1:statuses/>"))
    async with RawServer(empty) as server:
        summary = await export(["c1", "c2"], out, options(server.url))
        again = await export(["c1", "c2"], out, options(server.url))
        assert len(server.requests) == 2
    assert (summary.fetched, summary.empty, summary.rows, summary.failed) == (2, 2, 0, 0)
    assert (again.courses, again.settled, again.output_courses) == (0, 2, 2)
    assert out.read_bytes() == b""


async def test_f40_a_user_listed_twice_is_kept_twice(tmp_path):
    """The engine repeats what the server says: equal rows of one answer are both written."""
    out = tmp_path / "out.ndjson"
    twice = [("u1", "Passed", 100), ("u1", "Passed", 100), ("u2", "Failed", 5)]
    async with RawServer(http_answer(statuses(twice))) as server:
        summary = await export(["c1"], out, options(server.url))
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [(row["userId"], row["status"], row["progress"]) for row in rows] == twice
    assert summary.rows == 3


# Content, as far as HTTP has a part in it


@pytest.mark.parametrize(
    ("declared", "header"),
    [("utf-8", "iso-8859-1"), ("windows-1251", "utf-8"), ("utf-16", "us-ascii")],
)
async def test_f53_a_wrong_charset_in_the_header(declared, header):
    """The document's own declaration counts, whatever the header says."""
    rows = [("u1", "Пройден", 100), ("u2", "Не начат", 0)]  # noqa: RUF001 - Russian
    text = statuses(rows).decode().replace("UTF-8", declared)
    answer = http_answer(text.encode(declared), content_type=f"text/xml; charset={header}")
    async with RawServer(answer) as server:
        result = await run(endpoint=server.url)
    assert result.rows == {"c1": rows}


# Too much: what a server can send without end must cost a bounded amount of memory

MEASURED = """
import asyncio, json, re, sys
from pathlib import Path

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

async def main(output, changes):
    from answers import GOOD, options, run, scripted, statuses
    from bulkfetch import export
    from bulkfetch.testing import ScriptedTransport
    await run(setup={"transport": ScriptedTransport([scripted(statuses(GOOD))])})
    before = peak()
    if output:
        summary = await export(changes.pop("ids"), output, options(**changes))
        print(json.dumps({"rows": summary.rows, "grown": peak() - before}))
        return
    result = await run(**changes)
    print(json.dumps({
        "kinds": result.kinds,
        "messages": [error.message for error in result.failed.values()],
        "rows": result.rows,
        "grown": peak() - before,
    }))

asyncio.run(main(*json.loads(sys.argv[1])))
"""


async def measured(output=None, **changes):
    """Run the engine in a process of its own; also say by how much its memory peak grew.

    The server is here, so its memory does not count. With `output` it exports.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MEASURED,
        json.dumps([output and str(output), changes]),
        cwd=Path(__file__).parent.parent,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return json.loads(output)


START, END = (part.encode() for part in (LIST_HEAD, LIST_TAIL))
RECORDS = "".join(record(*row) for row in users("bomb", 4)).encode() * 2_000


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("200 OK", bomb(START, b" " * MEBIBYTE, 1024, END), "too-large"),
        ("200 OK", bomb(START + END, b" " * MEBIBYTE, 1024, b""), "too-large"),
        ("200 OK", bomb(START + b"<x>", b"a" * MEBIBYTE, 1024, b"</x>" + END), "foreign"),
        ("200 OK", bomb(START, b"<x>%b</x>" % (b"a" * 121) * 8192, 1024, END), "too-large"),
        ("200 OK", bomb(b"", b"<a>" * 1024, 1024, b""), "too-large"),
        ("500 Oops", bomb(START, b" " * MEBIBYTE, 1024, END), "http-500"),
        ("200 OK", bomb(START, RECORDS, (1 << 30) // len(RECORDS), END), "too-large"),
    ],
    ids=[
        "f46 spaces",
        "f46 spaces after the end",
        "f46 one text",
        "f46 strange elements",
        "f46 depth",
        "f46 spaces around a fault",
        "f47 records",
    ],
)
async def test_f46_f47_gzip_bombs(status, body, kind):
    """About a megabyte that would become a gigabyte is refused, at the cost of a few megabytes."""
    answer = http_answer(body, status=status, headers=["Content-Encoding: gzip"])
    async with RawServer(answer) as server:
        seen = await measured(endpoint=server.url, retries=1)
    assert len(body) < 8 * MEBIBYTE
    assert set(seen["kinds"]) == {kind}
    assert len(server.requests) == len(seen["kinds"]) == (2 if kind == "http-500" else 1)
    assert seen["rows"] == {}
    assert seen["grown"] < 8 * MEBIBYTE


@pytest.mark.parametrize(
    ("bound", "words"), [({"max_bytes": 12 << 20}, "max_bytes"), ({"max_rows": 49_999}, "max_rows")]
)
async def test_f48_endless_records(bound, words):
    """Records without end are cut off at either bound, which the message names."""

    async def endless(exchange):
        await exchange.send(chunked(START))
        while True:
            await exchange.send(b"%x\r\n%b\r\n" % (len(RECORDS), RECORDS))

    async with RawServer(endless) as server:
        seen = await measured(endpoint=server.url, **bound)
    assert seen["kinds"] == ["too-large"]
    assert words in seen["messages"][0]
    assert (len(server.requests), seen["rows"]) == (1, {})
    assert seen["grown"] < 8 * MEBIBYTE


async def test_f48_endless_records_around_a_fault():
    """The body of a failure is read for a fault, a megabyte of it and no more."""
    sent = 0

    async def endless(exchange):
        nonlocal sent
        await exchange.send(chunked(START).replace(b"200 OK", b"500 Oops"))
        while sent < 1 << 30:
            await exchange.send(b"%x\r\n%b\r\n" % (len(RECORDS), RECORDS))
            sent += len(RECORDS)

    async with RawServer(endless) as server:
        result = await run(endpoint=server.url, retries=0)
    assert result.kinds == ["http-500"]
    assert sent < 64 * MEBIBYTE  # what fits into the sockets between


async def test_f49_a_user_id_of_ten_megabytes():
    """One endless field is refused, at the cost of little more than its bound."""
    body = statuses([("u" * 10_000_000, "Passed", 100)])
    async with RawServer(http_answer(body)) as server:
        seen = await measured(endpoint=server.url)
    assert seen["kinds"] == ["too-large"]
    assert "max_row_bytes" in seen["messages"][0]
    assert (len(server.requests), seen["rows"]) == (1, {})
    assert seen["grown"] < 8 * MEBIBYTE


@pytest.mark.parametrize(
    ("courses", "rows"), [(100, 60_000), pytest.param(3_000, 1_000_000, marks=pytest.mark.slow)]
)
async def test_f85_one_large_course_among_many(courses, rows, tmp_path):
    """A large course among small ones waits on disk: memory stays flat, no row is missing."""
    out = tmp_path / "out.ndjson"
    simulation = Simulation(
        courses=courses, rows=(1, 9), huge_share=1 / courses, huge_rows=rows, seed=3
    )
    async with SimulatedServer(simulation) as server:
        ids, expected = list(server.course_ids), server.expected()
        assert max(map(len, expected.values())) == rows
        seen = await measured(out, ids=ids, endpoint=server.endpoint, token=simulation.token)
    found = {}
    with out.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            found.setdefault(row["contentItemId"], []).append(row)
    assert found == expected
    assert seen["rows"] == sum(map(len, expected.values()))
    assert out.stat().st_size > 7_000_000
    # What the engine allows itself: 2 MiB in the outbox, a batch, a spool and two blocks of 1 MiB,
    # half a MiB for each of 8 connections. The course alone is up to 140 MB.
    assert seen["grown"] < 12 * MEBIBYTE
