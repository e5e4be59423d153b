"""Answers that grow without end, or become huge once they are unpacked."""

import zlib

MEBIBYTE = 1 << 20


async def endless_headers(exchange):
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X-Header: %b\r\n" % (b"a" * 1000))


async def endless_header(exchange):
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-Header: ")
    while True:
        await exchange.send(b"a" * 1000)


def bomb(before, block, times, after):
    """Gzip with `block` repeated, made without ever holding it."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, wbits=31)
    head = squeeze.compress(before) + squeeze.flush(zlib.Z_FULL_FLUSH)
    repeated = squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH)
    tail = squeeze.compress(after) + squeeze.flush()  # the checksum is wrong: nobody gets there
    return head + repeated * times + tail
