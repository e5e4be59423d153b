"""The scripted transport, which other tests stand on, on its own terms."""

import pytest
from answers import GOOD, options, statuses

from bulkfetch import Transient, stream
from bulkfetch.testing import ScriptedReply, ScriptedTransport

BODY = b"<x><contentItemId>%b</contentItemId></x>"


async def ask(transport, course_id="c1"):
    """Send one request; return the status and the pieces."""
    pieces = []
    async with transport.post("http://x/", BODY % course_id.encode(), {"A": "b"}) as reply:
        while piece := await reply.read():
            pieces.append(piece)
        return reply.status, dict(reply.headers), pieces


async def test_replies_in_turn():
    """The n-th request gets the n-th reply, later ones the last again."""
    transport = ScriptedTransport([ScriptedReply(status=status) for status in (200, 503, 404)])
    assert [(await ask(transport))[0] for _ in range(5)] == [200, 503, 404, 404, 404]


async def test_replies_by_course():
    """Each course has its own turns."""
    transport = ScriptedTransport(
        {"a": [ScriptedReply(status=503), ScriptedReply()], "b&c": [ScriptedReply(status=404)]}
    )
    seen = [(await ask(transport, name))[0] for name in ("a", "b&amp;c", "a", "b&amp;c")]
    assert seen == [503, 404, 200, 404]
    with pytest.raises(KeyError, match="unheard-of"):
        await ask(transport, "unheard-of")


async def test_a_function_of_the_request():
    """It sees URL, body, headers and the course id."""
    transport = ScriptedTransport(
        lambda request: ScriptedReply(pieces=[request.course_id.encode()])
    )
    assert (await ask(transport, "&lt;1&gt;"))[2] == [b"<1>"]
    [request] = transport.requests
    assert (request.url, request.headers) == ("http://x/", {"A": "b"})
    assert request.body == BODY % b"&lt;1&gt;"


async def test_a_request_without_an_id():
    """Other methods have none."""
    transport = ScriptedTransport([ScriptedReply()])
    async with transport.post("http://x/", b"<GetContentRequest/>", {}):
        pass
    assert transport.requests[0].course_id == ""


async def test_pieces_and_headers():
    """Pieces come one by one, then the end, as often as one asks."""
    transport = ScriptedTransport([ScriptedReply(headers={"X": "1"}, pieces=[b"a", b"b"])])
    async with transport.post("http://x/", b"", {}) as reply:
        assert [await reply.read() for _ in range(4)] == [b"a", b"b", b"", b""]
        assert reply.headers == {"X": "1"}
    assert (await ask(ScriptedTransport([ScriptedReply()])))[1] == {
        "Content-Type": "text/xml; charset=utf-8"
    }


async def test_errors():
    """Without pieces an error comes instead of the head, else after the last piece."""
    error = Transient("cut", "-")
    with pytest.raises(Transient):
        await ask(ScriptedTransport([ScriptedReply(error=error)]))
    transport = ScriptedTransport([ScriptedReply(pieces=[b"a"], error=error)])
    async with transport.post("http://x/", b"", {}) as reply:
        assert await reply.read() == b"a"
        with pytest.raises(Transient):
            await reply.read()


async def test_delays():
    """They go to the given sleep, before the head or the error."""
    slept = []

    async def sleep(seconds):
        slept.append((seconds, transport.in_flight))

    replies = [ScriptedReply(delay=3), ScriptedReply(delay=5, error=Transient("cut", "-"))]
    transport = ScriptedTransport(replies, sleep=sleep)
    await ask(transport)
    with pytest.raises(Transient):
        await ask(transport)
    assert slept == [(3, 1), (5, 1)]
    assert (transport.in_flight, transport.max_in_flight) == (0, 1)


async def test_in_the_engine():
    """It stands in for HTTP through `transport=`."""
    transport = ScriptedTransport({"c1": [ScriptedReply(pieces=[statuses(GOOD)])]})
    async with stream(["c1"], options(), transport=transport) as outcomes:
        [outcome] = [outcome async for outcome in outcomes]
    assert len(outcome.rows) == 5
