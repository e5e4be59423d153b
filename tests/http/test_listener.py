"""How aiohttp's handler, as we use it, takes an answer that comes in pieces."""

import asyncio

import pytest

from bulkfetch._http.listener import Handler

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
BODY = b"<ok />"


@pytest.mark.parametrize("cut", range(1, len(HEAD + BODY)))
async def test_a_body_comes_to_whoever_took_the_head(cut):
    """Wherever packets part, also between head and body, the reader gets the whole body."""
    handler = Handler(asyncio.get_running_loop())
    handler.connection_made(asyncio.Transport())
    handler.ask()
    handler.data_received((HEAD + BODY)[:cut])
    reading = asyncio.ensure_future(handler.read())
    await asyncio.sleep(0)  # the head is taken before the body comes
    await asyncio.sleep(0)
    early = handler.whole or (reading.result()[1] if reading.done() else None)
    handler.data_received((HEAD + BODY)[cut:])
    message, content = await reading
    content = early or handler.whole or content
    assert message.code == 200
    assert content.is_eof()
    assert content.read_nowait(-1) == BODY
