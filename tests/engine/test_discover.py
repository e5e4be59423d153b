"""The calls around an export: what courses there are, and would a run work."""

import dataclasses
import json

import aiohttp
import pytest
from answers import GOOD, HEAD, TAIL, TOKEN, fault, options, scripted, statuses
from trials import DROPPED, NOBODY
from virtual import Server, passed

from bulkfetch import (
    Checked,
    ConfigurationError,
    ContentItem,
    ServerRefuses,
    TemporarilyUnavailable,
    check,
    discover,
)
from bulkfetch._soap.protocol import Spelling
from bulkfetch.testing import (
    RawServer,
    ScriptedReply,
    ScriptedTransport,
    SimulatedServer,
    Simulation,
    http_answer,
)

UNKNOWN = scripted(fault("Unknown content item"), status=500)
WRONG = scripted(fault("Wrong parameters"), status=500)
DENIED = scripted(fault("Permission denied"), status=500)
REFUSALS = [
    (DENIED, ServerRefuses, "needs 'Can edit' access"),
    (ScriptedReply(status=401), ServerRefuses, "does not accept the token"),
    (ScriptedReply(status=404), ServerRefuses, "HTTP 404"),
    (scripted(b"<html><br></html>"), ServerRefuses, "HTML page.*begins: <html>"),
    (ScriptedReply(headers={"Content-Type": "text/html"}), TemporarilyUnavailable, "is empty"),
    (scripted(fault("Out of memory")), TemporarilyUnavailable, r"Out of memory.*3 tries"),
    (scripted(fault("No such field", "Client")), ServerRefuses, "No such field"),
    (scripted(fault("Account subscription expired")), ServerRefuses, "subscription expired"),
    (ScriptedReply(status=503), TemporarilyUnavailable, r"HTTP 503\) \(3 tries\)"),
    (scripted(b"<!DOCTYPE x><Envelope/>"), ServerRefuses, "DOCTYPE"),
]


def listed(*items):
    """A GetContent answer; items as dictionaries, in no namespace as in the vendor's sample."""
    inner = "".join(
        "<contentItem>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in item.items())
        + "</contentItem>"
        for item in items
    )
    return f"{HEAD}<GetContentResult>{inner}</GetContentResult>{TAIL}".encode()


async def discovered(*replies, **changes):
    transport = ScriptedTransport(replies)
    return await discover(options(**changes), transport=transport), transport


async def checked(*replies, course_id=None, **changes):
    transport = ScriptedTransport(replies)
    given = {} if course_id is None else {"course_id": course_id}
    return await check(options(**changes), transport=transport, **given), transport


# Discover


@pytest.mark.parametrize("namespaces", ["http", "https"])
async def test_discover_by_value(namespaces):
    """All items of the simulated LMS, in its order, with every field."""
    simulation = Simulation(courses=40, denied=3, unknown=2, track_share=0.3, namespaces=namespaces)
    async with SimulatedServer(simulation) as server:
        items = await discover(options(server.endpoint, token=server.token))
        expected = server.expected_content()
    assert [item.content_item_id for item in items] == [one["contentItemId"] for one in expected]
    assert [(item.title, item.type) for item in items] == [
        (one["title"], one["type"]) for one in expected
    ]
    for item, one in zip(items, expected, strict=True):
        named = {"contentItemId", "title", "type"}
        known = {name: value for name, value in one.items() if name not in named}
        assert {name: value or "" for name, value in item.extra.items()} == known


async def test_discover_sends_one_request():
    """One call, with the method's own header, and no id in it."""
    items, transport = await discovered(scripted(listed({"contentItemId": "1"})))
    assert items == [ContentItem("1", None, None, items[0].extra)]
    [request] = transport.requests
    assert request.headers["SOAPAction"] == '"GetContent"'
    assert b"contentItemId" not in request.body


async def test_an_account_without_content():
    """Nothing there is no error."""
    assert (await discovered(scripted(listed())))[0] == []


async def test_fields_without_text():
    """Left out or empty, a title is missing; unknown fields are kept."""
    items, _ = await discovered(
        scripted(listed({"contentItemId": "1", "title": "", "color": "red"}))
    )
    assert not items[0].title
    assert items[0].extra["color"] == "red"


async def test_discover_tries_again():
    """A passing failure is retried like that of any course."""
    items, transport = await discovered(
        ScriptedReply(status=503), scripted(listed({"contentItemId": "1"}))
    )
    assert len(items) == 1
    assert len(transport.requests) == 2


@pytest.mark.parametrize(("reply", "error", "words"), REFUSALS)
async def test_discover_refused(reply, error, words):
    """What one course may shrug off is final here."""
    with pytest.raises(error, match=words):
        await discovered(reply, retries=2)


async def test_discover_takes_no_other_answer():
    """The statuses of a course are no list of content."""
    with pytest.raises(ServerRefuses, match="GetContentItemFinalStatusesResult"):
        await discovered(scripted(statuses(GOOD)))


async def test_wrapped_items_are_no_empty_account():
    """Items in a list that nobody documented are foreign, not missing."""
    body = listed({"contentItemId": "a"})
    body = body.replace(b"<contentItem>", b"<contentItems><contentItem>")
    body = body.replace(b"</contentItem>", b"</contentItem></contentItems>")
    with pytest.raises(ServerRefuses, match="<contentItems> stands in <GetContentResult>"):
        await discovered(scripted(body))


@pytest.mark.parametrize(
    ("action", "header"),
    [(None, '"GetContent"'), ("", '""'), ("urn:a#{method}", '"urn:a#GetContent"')],
)
async def test_the_soap_action_is_a_setting(action, header):
    """It goes out as it was said."""
    _, transport = await discovered(scripted(listed()), soap_action=action)
    assert transport.requests[0].headers["SOAPAction"] == header


# Check


@pytest.mark.parametrize("namespaces", ["http", "https"])
async def test_check_by_an_id_that_no_course_has(namespaces):
    """An account that works says that it does not know it; the namespaces come along."""
    async with SimulatedServer(Simulation(courses=1, namespaces=namespaces)) as server:
        found = await check(options(server.endpoint, token=server.token))
        assert server.counters.requests <= 3
    assert isinstance(found, Checked)
    assert found.spelling == Spelling(namespaces, namespaces)
    assert found.message == "endpoint, namespaces and token work"
    assert found.seconds > 0


@pytest.mark.parametrize("reply", [UNKNOWN, WRONG])
async def test_check_asks_for_an_id_of_the_right_form(reply):
    """A server that looks at ids gets a UUID; either of its words for it shows that all works."""
    found, transport = await checked(reply)
    assert found.message == "endpoint, namespaces and token work"
    assert b">00000000-0000-4000-8000-000000000000<" in transport.requests[0].body
    with pytest.raises(ServerRefuses):
        await checked(reply, course_id="c1")


async def test_check_with_a_course():
    """The number of its learners shows the permission, too."""
    found, _ = await checked(scripted(statuses(GOOD)), course_id="c1")
    assert found.message == "course c1 has 5 learners"


async def test_check_with_a_course_that_is_not_there():
    """Then the id is wrong."""
    with pytest.raises(ServerRefuses, match="does not know course c1"):
        await checked(UNKNOWN, course_id="c1")


@pytest.mark.parametrize(("reply", "error", "words"), REFUSALS)
async def test_check_refused(reply, error, words):
    """It says in words what is wrong."""
    with pytest.raises(error, match=words):
        await checked(reply, retries=2)


async def test_check_without_a_token():
    """Nothing is sent without one."""
    with pytest.raises(ConfigurationError, match="no access token"):
        await checked(token=None)


@pytest.mark.parametrize("call", [check, discover])
async def test_a_session_of_ones_own(call):
    """It is used and not closed."""
    body = fault("Unknown content item") if call is check else listed()
    async with RawServer(http_answer(body)) as server, aiohttp.ClientSession() as session:
        await call(options(server.url), session=session)
        assert not session.closed
        assert len(server.requests) == 1


async def test_what_is_found_can_be_stored():
    """Both are plain records, without the token."""
    items, _ = await discovered(scripted(listed({"contentItemId": "1", "title": "A"})))
    found, _ = await checked(UNKNOWN)
    stored = json.dumps([dataclasses.asdict(items[0]), dataclasses.asdict(found)])
    assert '"title": "A"' in stored
    assert TOKEN not in stored


@pytest.mark.parametrize("call", [check, discover])
@pytest.mark.parametrize(("reply", "most"), [(NOBODY, 5.0), (DROPPED, 10.0)])
def test_nobody_is_waited_for_who_never_answers(call, reply, most):
    """A person waits: five seconds, or one connect timeout if that takes longer."""
    server = Server(lambda *_: reply())

    async def main():
        with pytest.raises(TemporarilyUnavailable, match=r"connect.* \((1 try|\d tries)\)"):
            await call(options(retries=50, backoff=2.0), transport=server)

    _, seconds = passed(main())
    assert seconds <= most


def test_a_server_that_was_reached_is_asked_as_often_as_is_set():
    """Its troubles pass, however long its answers take."""
    server = Server(lambda *_: ScriptedReply(status=500, delay=9.0))

    async def main():
        with pytest.raises(TemporarilyUnavailable, match="6 tries"):
            await check(options(), transport=server)

    passed(main())
    assert len(server.requests) == 6
