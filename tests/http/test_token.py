"""Tokens: fetched once however many ask, renewed in time, and never shown.

The rules are tested on a scripted fetch and a clock of the test's own; files, commands and the
token endpoint as they are.
"""

import asyncio
import errno
import os
import shlex
import socket
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from answers import GOOD, fault, options, run, scripted, statuses
from hypothesis import given
from hypothesis import strategies as st
from mock_http import mocked

from bulkfetch import (
    ConfigurationError,
    CourseError,
    Options,
    RunRefused,
    Secret,
    ServerRefuses,
    TemporarilyUnavailable,
    Transient,
    Unauthorized,
)
from bulkfetch._domain.errors import LocalFault
from bulkfetch._http.direct import open_transport
from bulkfetch._http.oauth import ask_endpoint
from bulkfetch._http.session import HttpTransport, open_session
from bulkfetch._http.token import FixedToken, RenewedToken, make_provider, renewal_margin
from bulkfetch.testing import (
    RawServer,
    ScriptedReply,
    ScriptedTransport,
    SimulatedServer,
    Simulation,
    http_answer,
)

URL = "https://lms.example/api/v3/token"
CLIENT = {"token": None, "token_url": URL, "client_id": "me", "client_secret": "s & p"}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Fetch:
    """Hands out token-1, token-2, ... with a lifetime, when it is let."""

    def __init__(self, lifetime=1800.0, *, errors=()):
        self.count = 0
        self.lifetime = lifetime
        self.errors = list(errors)
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.count += 1
        number = self.count
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return Secret(f"token-{number}"), self.lifetime


def renewed(**changes):
    fetch, clock = Fetch(**changes), Clock()
    return RenewedToken(fetch, clock), fetch, clock


# Single flight


async def test_a_hundred_who_ask_share_one_fetch():
    """However many ask at once, one fetch is made and all get its token."""
    provider, fetch, _ = renewed()
    fetch.gate.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(provider.get()) for _ in range(100)]
        await asyncio.sleep(0)
        fetch.gate.set()
    assert {task.result().reveal() for task in tasks} == {"token-1"}
    assert fetch.count == 1


async def test_a_token_is_kept_while_it_is_valid():
    """Later requests do not fetch again."""
    provider, fetch, clock = renewed()
    for _ in range(10):
        clock.now += 100
        assert (await provider.get()).reveal() == "token-1"
    assert fetch.count == 1


@pytest.mark.parametrize(
    ("lifetime", "kept", "renewed_at"),
    [(1800, 1619, 1620), (36_000, 35_699, 35_700), (300, 239, 240), (10, 7.9, 8.1)],
)
async def test_a_token_is_renewed_before_it_expires(lifetime, kept, renewed_at):
    """60 to 300 s before its end; a fifth of its life when that is short."""
    provider, fetch, clock = renewed(lifetime=lifetime)
    await provider.get()
    clock.now = 1000 + kept
    assert (await provider.get()).reveal() == "token-1"
    clock.now = 1000 + renewed_at
    assert (await provider.get()).reveal() == "token-2"
    assert fetch.count == 2


@given(st.floats(0.001, 1e9))
def test_the_margin_leaves_most_of_the_life(lifetime):
    """Never more than 300 s, never more than a fifth of the life, always some."""
    assert 0 < renewal_margin(lifetime) <= min(300, lifetime / 5 + 1e-9)


async def test_the_life_counts_from_the_question():
    """An answer that took long has used up its own time."""
    provider, fetch, clock = renewed(lifetime=300)
    fetch.gate.clear()
    first = asyncio.create_task(provider.get())
    await asyncio.sleep(0)
    clock.now += 250
    fetch.gate.set()
    await first
    assert (await provider.get()).reveal() == "token-2"


async def test_a_refused_token_is_replaced_once_for_all():
    """A hundred requests refused with the same token bring one new one."""
    provider, fetch, _ = renewed()
    refused = await provider.get()

    async def renew():
        await provider.renew(refused)
        return await provider.get()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(renew()) for _ in range(100)]
    assert {task.result().reveal() for task in tasks} == {"token-2"}
    assert fetch.count == 2


async def test_a_late_refusal_of_an_old_token_changes_nothing():
    """Who was refused with a token that is gone already takes the new one."""
    provider, fetch, _ = renewed()
    old = await provider.get()
    await provider.renew(old)
    await provider.get()
    await provider.renew(old)
    assert (await provider.get()).reveal() == "token-2"
    assert fetch.count == 2


async def test_a_fetch_that_fails_is_made_again_by_the_next():
    """An error reaches the one who asked; the next who waits tries anew."""
    provider, fetch, _ = renewed(errors=[Transient("token", "busy")])
    results = await asyncio.gather(*(provider.get() for _ in range(3)), return_exceptions=True)
    assert Counter(type(result) for result in results) == {Transient: 1, Secret: 2}
    assert fetch.count == 2


async def test_a_cancelled_fetch_blocks_nobody():
    """When the task that fetches is cancelled another one takes over."""
    provider, fetch, _ = renewed()
    fetch.gate.clear()
    first = asyncio.create_task(provider.get())
    second = asyncio.create_task(provider.get())
    await asyncio.sleep(0)
    first.cancel()
    fetch.gate.set()
    assert (await second).reveal() == "token-2"
    assert first.cancelled()


async def test_a_fixed_token_is_what_it_is():
    """It cannot be renewed, and the message says what to do."""
    provider = FixedToken(Secret("t"))
    token = await provider.get()
    assert token.reveal() == "t"
    with pytest.raises(Unauthorized, match="get a new one"):
        await provider.renew(token)


async def test_no_token_at_all():
    """The message lists every way to give one."""
    settings = Options(endpoint=URL)
    with pytest.raises(ConfigurationError, match=r"BULKFETCH_TOKEN.*--token-file.*--token-command"):
        make_provider(settings, ScriptedTransport([]))


# Files


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("abc-1\n")
    path.chmod(0o600)
    return path


def from_file(path):
    return make_provider(options(token=None, token_file=path), ScriptedTransport([]))


async def test_a_token_file(token_file):
    """It is read without its line end, and again when the server refuses what it held."""
    provider = from_file(token_file)
    first = await provider.get()
    assert first.reveal() == "abc-1"
    token_file.write_text("abc-2")
    assert (await provider.get()).reveal() == "abc-1"
    await provider.renew(first)
    assert (await provider.get()).reveal() == "abc-2"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610, 0o601])
async def test_a_token_file_that_others_can_use_is_refused(mode, token_file):
    """The message says its mode and the command that mends it."""
    token_file.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"mode {mode:04o}.*chmod 600 .*token"):
        await from_file(token_file).get()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
async def test_a_private_token_file_is_taken(mode, token_file):
    """Any mode that keeps others out does."""
    token_file.chmod(mode)
    assert await from_file(token_file).get() == Secret("abc-1")


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"a\x1bb", b"a\tb", b"\xff\xfe"])
async def test_a_file_without_a_token(content, token_file):
    """Nothing, several lines, control characters, no text: the message shows none of it."""
    token_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="token file") as caught:
        await from_file(token_file).get()
    assert "lines" not in str(caught.value)


@pytest.mark.parametrize("folder", [True, False])
async def test_a_token_file_that_cannot_be_read(folder, tmp_path):
    """The message names the path and the reason."""
    path = tmp_path / "nowhere"
    if folder:
        path.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=r"nowhere cannot be read: .*(directory|file)"):
        await from_file(path).get()


async def test_a_byte_order_mark_is_no_part_of_a_token(token_file):
    """An editor puts it before the text, and no server knows a token that begins with it."""
    token_file.write_bytes(b"\xef\xbb\xbfabc-1\r\n")
    assert await from_file(token_file).get() == Secret("abc-1")


async def test_a_token_file_may_be_a_pipe():
    """As the shell's <(command), whose words come late and in pieces."""
    reading, writing = os.pipe()
    asking = asyncio.create_task(from_file(Path(f"/dev/fd/{reading}")).get())
    for piece in (b"ab", b"c-1\n"):
        await asyncio.sleep(0.05)
        os.write(writing, piece)
    os.close(writing)
    assert await asking == Secret("abc-1")
    os.close(reading)


async def test_a_pipe_without_a_writer_is_given_up(monkeypatch, tmp_path):
    """A FIFO that nobody writes into is told of, with what to do."""
    monkeypatch.setattr("bulkfetch._http.local_token._SECONDS", 0.2)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(
        ConfigurationError, match=r"fifo is a pipe that nobody wrote .* name a file"
    ):
        await from_file(tmp_path / "fifo").get()


# Commands


def from_command(script):
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    return make_provider(options(token=None, token_command=command), ScriptedTransport([]))


async def test_a_token_command(tmp_path):
    """What it prints is the token; it runs again when that is refused, with no stdin."""
    count = tmp_path / "count"
    count.write_text("")
    provider = from_command(
        f"import sys; file = open({str(count)!r}, 'a+'); file.write('x'); file.seek(0);"
        "print('token', len(file.read()), repr(sys.stdin.read()), sep='-')"
    )
    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(provider.get()), group.create_task(provider.get())
    assert first.result().reveal() == second.result().reveal() == "token-1-''"
    await provider.renew(first.result())
    assert (await provider.get()).reveal() == "token-2-''"


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("raise SystemExit(3)", RunRefused, "exit code 3"),
        ("pass", ConfigurationError, "gave no token"),
        ("print('secret-a\\nsecret-b')", ConfigurationError, "gave no token"),
    ],
)
async def test_f131_a_token_command_that_gives_none(script, error, words):
    """The message says so and shows nothing of what it printed."""
    with pytest.raises(error, match=words) as caught:
        await from_command(script).get()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("command", ["/nowhere/at-all", "'unbalanced"])
async def test_a_token_command_that_cannot_run(command):
    """A mistake in the setting is a mistake in the setting, told before anything is begun."""
    with pytest.raises(ConfigurationError, match="token command"):
        make_provider(options(token=None, token_command=command), ScriptedTransport([]))


async def test_f131_a_token_command_that_hangs(monkeypatch, tmp_path):
    """It is killed after its time, which is a passing failure."""
    monkeypatch.setattr("bulkfetch._http.local_token._SECONDS", 0.5)
    pid = tmp_path / "pid"
    provider = from_command(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    with pytest.raises(Transient, match=r"did not end within 0\.5 s"):
        await provider.get()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_token_command_is_killed_when_the_run_is_cancelled(tmp_path):
    """No process is left behind."""
    pid = tmp_path / "pid"
    provider = from_command(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    task = asyncio.create_task(provider.get())
    while not (pid.exists() and pid.read_text()):  # noqa: ASYNC110 - another process makes it true
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# The token endpoint


async def ask(**answer):
    """Ask a mocked endpoint once; return the token and the request."""
    with mocked(URL) as endpoint:
        endpoint.answer(**answer)
        async with open_session() as session:
            provider = make_provider(options(**CLIENT), HttpTransport(options(**CLIENT), session))
            token = await provider.get()
        return token.reveal(), endpoint.calls[0]


async def test_the_token_endpoint():
    """Client credentials as a form, JSON back (RFC 6749, 4.4)."""
    body = b'{"access_token": "T1", "expires_in": 1800, "token_type": "bearer"}'
    token, request = await ask(body=body, content_type="application/json")
    assert token == "T1"
    assert parse_qs(request["data"].decode()) == {
        "client_id": ["me"],
        "client_secret": ["s & p"],
        "grant_type": ["client_credentials"],
    }
    assert request["headers"]["Content-Type"] == "application/x-www-form-urlencoded"
    assert request["headers"]["Accept"] == "application/json"


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, b'{"code": 1, "message": "bad grant"}', RunRefused, r"HTTP 400 \(bad grant\)"),
        (401, b'{"code": 2, "message": "who?"}', RunRefused, r"HTTP 401 \(who\?\).*client secret"),
        (403, b'{"code": 3, "message": "no API"}', RunRefused, r"HTTP 403 \(no API\)"),
        (404, b"<html>not here</html>", RunRefused, "HTTP 404: check --token-url; .* HTML page"),
        (302, b"", RunRefused, "HTTP 302"),
        (401, b'{"message": 7}', RunRefused, "HTTP 401: check"),
        (401, b"[1]", RunRefused, "HTTP 401: check"),
        (200, b"<html>log in</html>", RunRefused, "without an access_token"),
        (200, b"", RunRefused, "without an access_token"),
        (200, b'{"access_token": ""}', RunRefused, "without an access_token"),
        (200, b'{"access_token": 7}', RunRefused, "without an access_token"),
        (200, b'{"expires_in": 7}', RunRefused, "without an access_token"),
        (408, b"", Transient, "HTTP 408"),
        (429, b"", Transient, "HTTP 429"),
        (500, b'{"message": "oops"}', Transient, "HTTP 500"),
        (503, b"<html>", Transient, "HTTP 503"),
    ],
)
async def test_an_endpoint_that_gives_no_token(status, body, error, words):
    """Refusals end the run with the endpoint's own words; the rest passes; the host is named."""
    with pytest.raises(error, match=words) as caught:
        await ask(status=status, body=body)
    assert type(caught.value) is error
    assert "lms.example" in caught.value.message


async def test_an_endpoints_words_are_cleaned():
    """What it says is shown short and without control characters."""
    body = b'{"message": "\\u001b[31m%b"}' % (b"x" * 1000)
    with pytest.raises(RunRefused) as caught:
        await ask(status=401, body=body)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("lifetime", ["true", "-5", "0", '"1800"', "null", "[]"])
async def test_a_lifetime_that_is_none(lifetime):
    """A token is a token; without a sensible lifetime it is taken for half an hour."""
    body = b'{"access_token": "T1", "expires_in": %b}' % lifetime.encode()
    with mocked(URL) as endpoint:
        endpoint.answer(body, repeat=True)
        async with open_session() as session:
            provider = make_provider(options(**CLIENT), HttpTransport(options(**CLIENT), session))
            assert (await provider.get()).reveal() == "T1"
            assert (await provider.get()).reveal() == "T1"
        assert len(endpoint.calls) == 1


async def test_an_endless_answer_is_not_read_to_its_end():
    """64 KiB are enough for a token."""
    pieces = (b"x" * 1000 for _ in iter(int, 1))
    transport = ScriptedTransport([ScriptedReply(pieces=pieces)])
    with pytest.raises(RunRefused, match="without an access_token"):
        await make_provider(options(**CLIENT), transport).get()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": "invalid_client"}', "(invalid_client)"),
        (
            401,
            b'{"error": "invalid_grant", "error_description": "The client is locked"}',
            "(invalid_grant: The client is locked)",
        ),
        (401, b'{"error_description": "no secret s & p here"}', "(no secret *** here)"),
        (400, b'{"error": {"code": 7}, "error_description": ["x"]}', "HTTP 400: check"),
        (503, b'{"error": "temporarily_unavailable"}', "HTTP 503 (temporarily_unavailable)"),
        (200, b"<!DOCTYPE html><html>Log in</html>", "answers with an HTML page"),
        (200, b'{"access_token": "a\\nb"}', "without an access_token"),
        (302, b"", "redirects are not followed"),
    ],
)
async def test_an_endpoints_reasons_are_shown(status, body, words):
    """OAuth's error and its description (RFC 6749, 5.2), the secret never."""
    with pytest.raises(CourseError) as caught:
        await ask(status=status, body=body)
    assert words in caught.value.message
    assert caught.value.message.startswith("the token endpoint lms.example")


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("http://127.0.0.1:{closed}/", "connect", "no connection to 127.0.0.1:{closed}"),
        ("https://127.0.0.1:{open}/", "no-tls", "does not speak TLS"),
    ],
)
async def test_trouble_with_the_endpoint_is_not_taken_for_the_apis(url, kind, words):
    """Whatever fails on the way there, the message begins with whom it is about."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    async with RawServer(b"") as server:

        async def plain(reader, writer):
            await reader.read(9)
            writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as other:
            ports = {"closed": closed, "open": other.sockets[0].getsockname()[1]}
            changes = CLIENT | {"token_url": url.format(**ports)}
            result = await run(endpoint=server.url, retries=0, **changes)
        assert server.requests == []
    error = result.failed["c1"]
    assert error.kind == kind
    assert error.message.startswith("the token endpoint 127.0.0.1:")
    assert words.format(**ports) in error.message


@pytest.mark.parametrize(
    ("value", "pause"), [("2.5", 2.5), ("7", 7.0), ("1000000000", 30.0), ("soon", 0.0)]
)
async def test_an_endpoint_that_asks_to_be_left_alone(value, pause):
    """Nobody asks it before its Retry-After is over, or the longest pause that is allowed."""
    clock, slept = Clock(), []

    async def sleep(seconds):
        slept.append(seconds)
        clock.now += seconds

    busy = ScriptedReply(status=503, headers={"Retry-After": value})
    transport = ScriptedTransport([busy, scripted(b'{"access_token": "T"}')])
    fetch = partial(ask_endpoint, options(**CLIENT), transport)
    provider = RenewedToken(fetch, clock, longest=30.0, sleep=sleep)
    results = await asyncio.gather(*(provider.get() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Transient, Secret, Secret]
    assert results[0].retry_after == (float(value) if pause else None)
    assert slept == ([pause] if pause else [])
    assert len(transport.requests) == 2


async def test_a_kept_connection_that_the_endpoint_closed():
    """It is asked again at once: nobody is to blame."""
    good = http_answer(b'{"access_token": "T", "expires_in": 1}', content_type="application/json")
    async with RawServer([good, lambda exchange: exchange.cut(b""), good]) as server:
        changes = options(**CLIENT | {"token_url": server.url})
        async with open_transport(changes) as transport:
            first, _ = await ask_endpoint(changes, transport)
            second, _ = await ask_endpoint(changes, transport)
    assert (first, second) == (Secret("T"), Secret("T"))
    assert [request.connection for request in server.requests] == [1, 1, 2]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo $TOKEN", "no shell runs it"),
        ("echo abc | cat", "no shell runs it"),
        ("false && true", "no shell runs it"),
        ("nowhere-at-all | head -1", "no shell runs it"),
        ("echo error: not logged in", "gave no token"),
        ("false", "failed with exit code 1"),
    ],
)
async def test_f131_a_token_command_that_needs_a_shell_or_fails(command, words):
    """What is missing is said; what it printed is not."""
    with pytest.raises((ConfigurationError, RunRefused), match=words) as caught:
        await make_provider(options(token=None, token_command=command), ScriptedTransport([])).get()
    assert "not logged in" not in str(caught.value)


async def test_a_token_command_in_a_shell():
    """As the advice has it."""
    command = "sh -c 'printf abc | tr a-c x-z'"
    provider = make_provider(options(token=None, token_command=command), ScriptedTransport([]))
    assert (await provider.get()).reveal() == "xyz"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
    ],
)
async def test_a_machine_too_short_for_a_token_command(error, monkeypatch):
    """It is no mistake in the setting, and passes."""

    async def short(*args, **kwargs):
        raise error

    monkeypatch.setattr(asyncio, "create_subprocess_exec", short)
    with pytest.raises(LocalFault, match="this machine is short of"):
        await from_command("pass").get()


async def test_a_machine_too_short_for_a_token_file(token_file, monkeypatch):
    """Likewise."""

    def short(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", short)
    with pytest.raises(LocalFault, match="EMFILE"):
        await from_file(token_file).get()


# In a run


async def test_a_run_fetches_one_token():
    """All workers begin with the same one."""
    simulation = Simulation(courses=30, token=None, client_id="me", client_secret="s & p")
    async with SimulatedServer(simulation) as server:
        changes = CLIENT | {"token_url": server.token_url}
        result = await run(server.course_ids, server.endpoint, **changes)
        assert server.counters.tokens_issued == 1
        assert server.counters.requests == 30
    assert len(result.rows) == 30


async def test_tokens_that_expire_all_the_time():
    """A run much longer than a token's life never notices."""
    simulation = Simulation(
        courses=150,
        token=None,
        client_id="me",
        client_secret="s & p",
        token_lifetime=1.0,
        latency=0.05,
    )
    async with SimulatedServer(simulation) as server:
        changes = CLIENT | {"token_url": server.token_url}
        result = await run(server.course_ids, server.endpoint, **changes)
        assert 2 <= server.counters.tokens_issued <= 20
    assert len(result.rows) == 150


async def test_a_token_refused_again_and_again_stops_the_run():
    """Each course renews once; courses in a row that are refused all the same end the run."""
    transport = ScriptedTransport(
        lambda request: (
            scripted(b'{"access_token": "T"}')
            if request.url == URL
            else scripted(fault("Authorization failed"), status=500)
        )
    )
    ids = [f"c{number}" for number in range(100)]
    result = await run(
        ids, setup={"transport": transport}, refusals=3, concurrency=2, patience=0, **CLIENT
    )
    assert type(result.error) is ServerRefuses
    asked = Counter(request.url for request in transport.requests)
    assert asked.total() - asked[URL] <= 2 * (3 + 2)
    assert asked[URL] <= 1 + 3 + 2


async def test_a_busy_token_endpoint_opens_the_breaker():
    """Its failures count like any: exit 5 after about the breaker's number, not a storm."""
    transport = ScriptedTransport([ScriptedReply(status=503)])
    ids = [f"c{number}" for number in range(1000)]
    result = await run(
        ids, setup={"transport": transport}, breaker=10, retries=0, patience=1, **CLIENT
    )
    assert type(result.error) is TemporarilyUnavailable
    assert "token endpoint lms.example answers HTTP 503" in str(result.error)
    assert len(transport.requests) <= 10 + 8 + 7


async def test_a_token_endpoint_that_was_busy_for_a_moment():
    """Its failure is retried like that of any request."""
    replies = iter([ScriptedReply(status=503), scripted(b'{"access_token": "T"}')])
    transport = ScriptedTransport(
        lambda request: next(replies) if request.url == URL else scripted(statuses(GOOD))
    )
    result = await run(["c1"], setup={"transport": transport}, **CLIENT)
    assert result.rows == {"c1": GOOD}
    assert result.kinds == ["token", None]


async def test_a_wrong_client_secret_stops_the_run():
    """Exit 4, with the endpoint's words, after a handful of requests."""
    async with SimulatedServer(Simulation(courses=50)) as server:
        changes = CLIENT | {"token_url": server.token_url}
        result = await run(server.course_ids, server.endpoint, **changes)
        assert server.counters.requests == 0
    assert type(result.error) is ServerRefuses
    assert "Unknown client or wrong secret" in str(result.error)


async def test_a_mistake_in_the_token_file_stops_the_run_as_itself(token_file):
    """It is a ConfigurationError, exit 2, before any request."""
    token_file.chmod(0o644)
    transport = ScriptedTransport([])
    with pytest.raises(ConfigurationError, match="can be read by others"):
        await run(["c1"], setup={"transport": transport}, token=None, token_file=token_file)
    assert transport.requests == []
