"""The engine as a guest in another program: it leaves nothing behind and hides nothing.

No task, session, socket or file stays whichever way the caller leaves; what the caller's own code
raises comes out as itself; the token shows up nowhere; the environment is not asked.
"""

import asyncio
import contextlib
import gc
import logging
import traceback
from pathlib import Path

import aiohttp
import pytest
from answers import GOOD, TOKEN, fault, options, run, scripted, statuses, users

import bulkfetch
from bulkfetch import (
    Hooks,
    Limiter,
    check,
    export,
    stream,
)
from bulkfetch.testing import (
    RawServer,
    ScriptedReply,
    ScriptedTransport,
    SimulatedServer,
    Simulation,
    http_answer,
)

OK = http_answer(statuses(GOOD))
MANY = [f"c{number}" for number in range(200)]


SERVERS = ("RawServer.", "RequestHandler.", "Server.")


def tasks():
    """The tasks there are, but for those of the servers, which go when their clients are gone."""
    return {
        task for task in asyncio.all_tasks() if not task.get_coro().__qualname__.startswith(SERVERS)
    }


def open_files():
    """What this process has open, as the kernel tells it."""
    gc.collect()
    found = []
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the folder's own descriptor
            found.append(str(link.readlink()))
    return sorted(found)


@contextlib.asynccontextmanager
async def nothing_left():
    """Check that no task, file or connection is left of what happens inside."""
    before, files = tasks(), open_files()
    yield
    assert tasks() == before
    for _ in range(200):  # sockets, the servers' ends too, close in the loop's next turns
        if open_files() == files:
            break
        await asyncio.sleep(0.01)
    assert open_files() == files


class CallersError(Exception):
    pass


# F83: leaving early


async def leave_by_break(outcomes):
    async for _ in outcomes:
        break


async def leave_by_error(outcomes):
    async for _ in outcomes:
        raise CallersError


async def leave_at_once(outcomes):
    pass


async def leave_after_all(outcomes):
    async for _ in outcomes:
        pass


@pytest.fixture
async def large_server():
    """Every course is large enough to wait in a temporary file, some never end."""
    large = http_answer(statuses(users("large", 14_000)))

    async def stalled(exchange):
        await exchange.stall(large[:-100])

    async with RawServer([large, large, large, stalled, stalled, large]) as server:
        yield server


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_at_once])
async def test_f83_whoever_leaves_leaves_nothing_behind(leave, tmp_path, monkeypatch, large_server):
    """Break, raise or leave at once: no task, no connection, no file, though some are stuck."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with nothing_left():
        with contextlib.suppress(CallersError):
            async with stream(MANY, options(large_server.url)) as outcomes:
                await leave(outcomes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_f83_cancelled_at_any_moment(turns, large_server):
    """Cancelled after any number of the loop's turns: the caller's task ends, and so does all."""

    async def consume():
        async with stream(MANY, options(large_server.url)) as outcomes:
            async for _ in outcomes:
                await asyncio.sleep(0)

    async with nothing_left():
        task = asyncio.create_task(consume())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def test_f83_cancelled_by_a_timeout():
    """asyncio.timeout around the loop works as around any other."""
    async with RawServer(lambda exchange: exchange.stall()) as server, nothing_left():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), stream(MANY, options(server.url)) as outcomes:
                await leave_after_all(outcomes)


async def test_f83_cancelled_in_a_task_group():
    """In a TaskGroup the error of a sibling ends the stream and comes out as the group's."""

    async def fails():
        await asyncio.sleep(0.02)
        raise CallersError

    async def consume(server):
        async with stream(MANY, options(server.url)) as outcomes:
            await leave_after_all(outcomes)

    async def both(server):
        async with asyncio.TaskGroup() as group:
            group.create_task(consume(server))
            group.create_task(fails())

    async with RawServer(lambda exchange: exchange.stall()) as server, nothing_left():
        with pytest.raises(ExceptionGroup) as caught:
            await both(server)
    assert [type(error) for error in caught.value.exceptions] == [CallersError]


async def test_f83_export_is_cancelled_and_goes_on_later(tmp_path):
    """A cancelled export leaves its lock, thread and server alone; the next one resumes."""
    out = tmp_path / "out.ndjson"
    simulation = Simulation(courses=60, rows=(1, 5), latency=0.01)
    async with SimulatedServer(simulation) as server:
        settings = options(server.endpoint, token=server.token, concurrency=2, durability="course")
        committed = asyncio.Event()
        hooks = Hooks(commit=lambda _: committed.set())
        async with nothing_left():
            task = asyncio.create_task(export(server.course_ids, out, settings, hooks=hooks))
            await committed.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not out.exists()
        summary = await export(server.course_ids, out, settings)
        assert 0 < summary.settled < 60
        assert summary.courses == 60 - summary.settled
        assert summary.output_courses == 60
        assert summary.output_rows == sum(map(len, server.expected().values()))
        assert max(server.counters.by_course.values()) <= 2
    assert len(out.read_bytes().splitlines()) == summary.output_rows


# F84: the caller's own errors


@pytest.mark.parametrize("hook", ["outcome", "attempt", "wait"])
async def test_f84_a_hook_that_raises(hook):
    """What a hook raises comes out as itself, once, and ends the run."""

    def broken(event):
        raise CallersError(hook)

    replies = [ScriptedReply(status=503), scripted(statuses(GOOD))]
    hooks = Hooks(**{hook: broken})
    transport = ScriptedTransport(replies)
    async with nothing_left():
        with pytest.raises(CallersError, match=hook):
            async with stream(MANY, options(), transport=transport, hooks=hooks) as outcomes:
                await leave_after_all(outcomes)
    assert len(transport.requests) < 2 * 8


async def test_f84_a_commit_hook_that_raises(tmp_path):
    """What it was told of is on disk all the same."""

    def broken(commit):
        raise CallersError

    transport = ScriptedTransport([scripted(statuses(GOOD))])
    out = tmp_path / "out.ndjson"
    async with nothing_left():
        with pytest.raises(CallersError):
            await export(["c1"], out, options(), transport=transport, hooks=Hooks(commit=broken))
    assert (await export(["c1"], out, options(), transport=transport)).settled == 1


def broken_ids():
    yield from ("c1", "c2")
    raise CallersError


async def broken_async_ids():
    for course_id in broken_ids():
        yield course_id


@pytest.mark.parametrize("ids", [broken_ids, broken_async_ids])
async def test_f84_ids_that_raise(ids):
    """The error of the ids comes out as itself, after the outcomes of those that were read."""
    transport = ScriptedTransport([scripted(statuses(GOOD), delay=0.01)])
    seen = []

    async def consume():
        async with stream(ids(), options(), transport=transport) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome.course_id)  # noqa: PERF401 - some come before the error

    async with nothing_left():
        with pytest.raises(CallersError):
            await consume()
    assert sorted(seen) == ["c1", "c2"]


@pytest.mark.parametrize(
    "error", [CallersError(), ExceptionGroup("mine", [CallersError()]), KeyboardInterrupt()]
)
async def test_f84_the_callers_error_is_the_very_object(error):
    """Neither wrapped nor replaced, whatever it is."""
    transport = ScriptedTransport([scripted(statuses(GOOD))])

    async def consume():
        async with stream(MANY, options(), transport=transport) as outcomes:
            async for _ in outcomes:
                raise error

    with pytest.raises(type(error)) as caught:
        await consume()
    assert caught.value is error


# The caller's session, several runs at once


async def test_the_callers_session_is_used_and_not_closed():
    """Its headers are sent, its connections are used, and it works on afterwards."""
    async with (
        RawServer(OK) as server,
        aiohttp.ClientSession(headers={"X-Caller": "yes"}) as session,
    ):
        result = await run(["c1", "c2"], server.url, setup={"session": session}, concurrency=1)
        assert not session.closed
        async with session.post(server.url, data=b"") as response:
            assert response.status == 200
        assert [request.header("X-Caller") for request in server.requests] == ["yes"] * 3
        assert server.connections == 1
    assert result.rows == {"c1": GOOD, "c2": GOOD}


async def test_one_connection_serves_one_worker():
    """Connections are kept alive: no more of them than workers."""
    async with RawServer(OK) as server:
        result = await run(MANY, server.url, concurrency=3)
        assert server.connections == 3
    assert len(result.rows) == 200


async def test_a_limiter_shared_by_two_streams():
    """Together they never exceed it, and both come to their end."""
    transport = ScriptedTransport([scripted(statuses(GOOD), delay=0.001)])
    limiter = Limiter(3, adaptive=False)
    setup = {"transport": transport, "limiter": limiter}
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(run(MANY[:50], setup=setup)) for _ in range(2)]
    assert transport.max_in_flight == 3
    assert [len(one.result().rows) for one in runs] == [50, 50]


async def test_two_exports_at_once_in_one_loop(tmp_path):
    """There is no global state: two exports side by side do not know of each other."""
    async with SimulatedServer(Simulation(courses=20, unknown=3)) as server:
        settings = options(server.endpoint, token=server.token)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(export(server.course_ids, tmp_path / f"{number}", settings))
                for number in range(2)
            ]
    assert [task.result().output_courses for task in tasks] == [20, 20]


# F86: the token


SECRET = "Zt4-client-secret-9a8b7c6d"


def shown(error):
    """All that a log, a crash reporter or a person may get to see of an error."""
    yield str(error)
    yield repr(error)
    for compact in (True, False):
        pending = [
            traceback.TracebackException.from_exception(error, capture_locals=True, compact=compact)
        ]
        while pending:
            one = pending.pop()
            yield "".join(one.format(chain=False))
            pending += [other for other in (one.__cause__, one.__context__) if other]
            pending += one.exceptions or []


ANSWERS = {
    "reset": lambda exchange: exchange.reset(),
    "reset inside": lambda exchange: exchange.reset(OK[:-50]),
    "not http": b"what\r\n\r\n",
    "cut": lambda exchange: exchange.cut(OK[:-50]),
    "not xml": http_answer(b"<a><b"),
    "busy": http_answer(b"", status="503 Busy"),
    "login page": http_answer(b"<html/>", content_type="text/html"),
    "redirect": http_answer(b"", status="302 Found", headers=[f"Location: http://x/{TOKEN}"]),
    "unauthorized": http_answer(b"", status="401 No"),
    "authorization fault": http_answer(fault("Authorization failed")),
    "expired": http_answer(fault("Account subscription expired")),
    "unknown": http_answer(fault("Unknown content item")),
    "version": http_answer(fault("Wrong Version", "SOAP-ENV:VersionMismatch")),
    "silence": lambda exchange: exchange.stall(),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_f86_no_error_shows_the_token(answer, caplog):
    """Not in str, repr, tracebacks with locals or DEBUG logs of any failure."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(answer) as server:
        result = await run(MANY[:10], server.url, retries=1, read_timeout=0.1)
    errors = [*result.failed.values(), *(attempt.error for attempt in result.attempts)]
    errors += [result.error] if result.error else []
    assert errors
    for error in filter(None, errors):
        for text in shown(error):
            assert TOKEN not in text
    assert TOKEN not in caplog.text
    for name in ("outcomes", "attempts", "summary", "state"):
        assert TOKEN not in repr(getattr(result, name))


@pytest.mark.parametrize("hook", ["attempt", "outcome", "wait"])
async def test_f86_the_error_of_a_hook_shows_no_token(hook):
    """A traceback through the engine's frames, locals and all, does not hold it."""

    def broken(event):
        raise CallersError

    async with RawServer(http_answer(b"", status="503 Busy")) as server:
        settings = options(server.url, retries=1)
        with pytest.raises(CallersError) as caught:
            async with stream(["c1"], settings, hooks=Hooks(**{hook: broken})) as outcomes:
                await leave_after_all(outcomes)
    assert all(TOKEN not in text for text in shown(caught.value))


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"", status="503 Busy"),
        http_answer(b'{"message": "no"}', status="401 Unauthorized"),
        http_answer(b"<html>"),
        b"what\r\n\r\n",
        lambda exchange: exchange.reset(),
    ],
)
async def test_f86_the_client_secret_shows_nowhere_either(answer, caplog):
    """The errors of the token endpoint hold neither secret nor token."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(answer) as server:
        changes = {"token": None, "token_url": server.url, "client_id": "me"}
        result = await run(["c1"], retries=1, client_secret=SECRET, **changes)
    assert SECRET.encode() in server.requests[0].body
    for text in shown(result.failed["c1"]):
        assert SECRET not in text
    assert SECRET not in caplog.text


async def test_f86_an_interrupt_shows_no_token():
    """Nor does the traceback of a cancellation that cuts through a request."""
    caught = []
    asked = asyncio.Event()

    async def stall(exchange):
        asked.set()
        await exchange.stall()

    async with RawServer(stall) as server:

        async def consume():
            try:
                await check(options(server.url))
            except asyncio.CancelledError as error:
                caught.append(error)
                raise

        task = asyncio.create_task(consume())
        await asked.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    [error] = caught
    own = [
        "".join(traceback.StackSummary.extract([pair], capture_locals=True).format())
        for pair in traceback.walk_tb(error.__traceback__)
        if Path(pair[0].f_code.co_filename).is_relative_to(Path(bulkfetch.__file__).parent)
    ]
    assert len(own) > 3
    assert all(TOKEN not in text for text in own)


# F91: the environment


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"])
async def test_f91_proxies_of_the_environment_are_ignored(name, monkeypatch):
    """Requests go straight to the endpoint, whatever proxy the environment names."""
    async with RawServer(OK) as server, RawServer(OK) as proxy:
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        result = await run(endpoint=server.url)
        assert (len(server.requests), proxy.connections) == (1, 0)
    assert result.rows == {"c1": GOOD}


async def test_f91_a_proxy_that_is_asked_for_is_used():
    """`proxy` is a setting, and then all goes through it."""
    async with RawServer(OK) as proxy:
        result = await run(endpoint="http://127.0.0.1:1/soap", proxy=proxy.url)
        assert proxy.requests[0].head.startswith(b"POST http://127.0.0.1:1/soap HTTP/1.1")
    assert result.rows == {"c1": GOOD}


async def test_f91_netrc_is_ignored(tmp_path, monkeypatch):
    """No password of the user's netrc is sent along."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with RawServer(OK) as server:
        await run(endpoint=server.url)
        assert server.requests[0].header("Authorization") is None


async def test_no_cookie_is_kept():
    """A cookie that the server sets is not sent back."""
    answer = http_answer(statuses(GOOD), headers=["Set-Cookie: session=1; Path=/"])
    async with RawServer(answer) as server:
        await run(["c1", "c2"], server.url, concurrency=1)
        assert [request.header("Cookie") for request in server.requests] == [None, None]


async def test_logging_is_left_alone(monkeypatch):
    """The package adds no handler and no level."""
    monkeypatch.setattr(logging.getLogger("bulkfetch"), "handlers", [])  # a command's, run here
    await run(setup={"transport": ScriptedTransport([scripted(statuses(GOOD))])})
    for name in ("bulkfetch", "aiohttp", "asyncio"):
        assert logging.getLogger(name).handlers == []
        assert logging.getLogger(name).level == logging.NOTSET


async def test_every_public_name_is_there():
    """What `__all__` lists can be imported, and nothing is listed twice."""
    assert all(hasattr(bulkfetch, name) for name in bulkfetch.__all__)
    assert len(set(bulkfetch.__all__)) == len(bulkfetch.__all__)
