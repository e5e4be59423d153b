"""Answers by value: the engine reads back what was put in, whatever characters it holds."""

import pytest
from answers import options

from bulkfetch import Refused, discover, export, stream
from bulkfetch.testing import (
    RawServer,
    ScriptedTransport,
    answer,
    fault,
    http_answer,
    listing,
    reply,
    row,
)

ROWS = [
    row("u<1>&", "Läuft & läuft", 45.5),
    row("u2", None, None),
    row("u3", "Passed", 100, grade="A"),
]


async def outcomes_of(body, **settings):
    transport = ScriptedTransport([reply(body)])
    async with stream(["7"], options(**settings), transport=transport) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("namespaces", ["http", "https"])
async def test_rows_come_back_as_they_were_given(namespaces):
    """User, status, progress and unknown children survive the way through the parser."""
    body = answer(ROWS, namespaces=namespaces)
    (fetched,) = await outcomes_of(body, namespaces=namespaces)
    assert [(one.user_id, one.status, one.progress, one.extra) for one in fetched.rows] == [
        ("u<1>&", "Läuft & läuft", 45.5, None),
        ("u2", None, None, None),
        ("u3", "Passed", 100, {"grade": "A"}),
    ]


async def test_no_rows_are_a_good_answer():
    """A course without learners is fetched."""
    (fetched,) = await outcomes_of(answer())
    assert len(fetched.rows) == 0


async def test_a_fault_is_the_server_s_word():
    """A documented text refuses the course."""
    (failed,) = await outcomes_of(fault("Unknown content item"))
    assert isinstance(failed.error, Refused)
    assert failed.error.kind == "unknown-content-item"


async def test_a_list_is_discovered():
    """GetContent's items come back in order."""
    items = [{"contentItemId": "7", "title": "A & B", "type": "Course"}, {"contentItemId": "8"}]
    found = await discover(options(), transport=ScriptedTransport([reply(listing(items))]))
    assert [(one.content_item_id, one.title, one.type) for one in found] == [
        ("7", "A & B", "Course"),
        ("8", None, None),
    ]


async def test_over_a_socket_too(tmp_path):
    """The same bytes are what a raw server sends."""
    async with RawServer([http_answer(answer(ROWS))]) as server:
        summary = await export(["7"], tmp_path / "out.ndjson", options(server.url))
    assert summary.rows == 3
