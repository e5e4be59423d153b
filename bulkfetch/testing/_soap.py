"""The simulated LMS on the wire: requests read, answers written, without any socket.

It is as strict as the PHP stack that the real service seems to run: both namespaces are compared
letter by letter, only the two request elements exist, and every refusal is a fault. Answers have
the shapes seen in the vendor's samples: prefixed children for the statuses, and no prefixes below
the body of GetContent's answer. The sample has no namespace there either, which no WSDL can say so
that PHP and suds read it; here it is the application's.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES
from bulkfetch.testing._simulation import (
    PERIOD,
    course,
    listed_content,
    pools,
    user_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulkfetch.testing._simulation import Course, Fault, Simulation

XML_TYPE = "text/xml; charset=utf-8"
_ENVELOPE = "://schemas.xmlsoap.org/soap/envelope/"
_APPLICATION = "://ispringlearn.com/go/services/api/soap"


class AnsweredFault(Exception):
    """A refusal that the server sends as a fault."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Call:
    """A request that the stack lets through to the application."""

    method: str
    token: str
    content_item_id: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A body too large to be held; `length` is None where only sending it would tell."""

    pieces: Iterator[bytes]
    length: int | None


def read_call(body: bytes, namespaces: str) -> Call:
    """Read a request; raises AnsweredFault in the words of a PHP SoapServer."""
    if b"<!DOCTYPE" in body:
        raise AnsweredFault("SOAP-ENV:Server", "DTD are not supported by SOAP")
    try:
        root = ET.fromstring(body)  # noqa: S314 - without a DTD there are no entities
    except (ET.ParseError, ValueError, LookupError):
        raise AnsweredFault("SOAP-ENV:Client", "Bad Request") from None
    space, name = _split(root.tag)
    if name != "Envelope":
        text = 'looks like we got XML without "Envelope" element'
        raise AnsweredFault("SOAP-ENV:Client", text)
    if space != namespaces + _ENVELOPE:
        raise AnsweredFault("SOAP-ENV:VersionMismatch", "Wrong Version")
    request = next((part[0] for part in root if part.tag == f"{{{space}}}Body" and len(part)), None)
    if request is None:
        raise AnsweredFault("SOAP-ENV:Client", "Body must be present in a SOAP envelope")
    space, name = _split(request.tag)
    for method in (GET_FINAL_STATUSES, GET_CONTENT):
        if name == method.request and space == namespaces + _APPLICATION:
            return Call(
                method.name, _text(request, "credentials", "token"), _text(request, "contentItemId")
            )
    raise AnsweredFault("SOAP-ENV:Server", f"Procedure '{name}' not present")


def _split(tag: str) -> tuple[str, str]:
    space, _brace, name = tag.rpartition("}")
    return space.removeprefix("{"), name


def _text(element: ET.Element, *names: str) -> str:
    """Return the text below `element`, by local names as PHP reads parameters; "" if none."""
    for name in names:
        found = next((child for child in element if _split(child.tag)[1] == name), None)
        if found is None:
            return ""
        element = found
    return element.text or ""


def application_namespace(namespaces: str) -> str:
    """Return the namespace of the requests, in the given spelling."""
    return namespaces + _APPLICATION


def _head(namespaces: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="{namespaces}{_ENVELOPE}"'
        f' xmlns:ns1="{namespaces}{_APPLICATION}"><SOAP-ENV:Body>'
    ).encode()


_TAIL = b"</SOAP-ENV:Body></SOAP-ENV:Envelope>\n"


def envelope(inner: bytes, namespaces: str) -> bytes:
    """Return `inner` in the body of an envelope."""
    return _head(namespaces) + inner + _TAIL


def fault_body(fault: AnsweredFault, namespaces: str) -> bytes:
    """Return the envelope of a fault."""
    inner = (
        f"<SOAP-ENV:Fault><faultcode>{escape(fault.code)}</faultcode>"
        f"<faultstring>{escape(fault.text)}</faultstring></SOAP-ENV:Fault>"
    )
    return envelope(inner.encode(), namespaces)


def statuses_body(simulation: Simulation, course_id: str) -> bytes | Stream:
    """Return the final statuses of a course; a stream has `PERIOD` rows to a piece."""
    found = course(simulation, course_id)
    head = _head(simulation.namespaces) + b"<ns1:GetContentItemFinalStatusesResult>"
    tail = b"</ns1:GetContentItemFinalStatusesResult>" + _TAIL
    if not found.rows:
        return head + b"<ns1:statuses/>" + tail
    head, tail = head + b"<ns1:statuses>", b"</ns1:statuses>" + tail
    if found.rows <= PERIOD:
        return head + _rows(simulation.seed, found) + tail
    return _stream(simulation.seed, found, head, tail)


def _rows(seed: int, found: Course) -> bytes:
    return _template(seed, found, found.rows) % user_numbers(found.first_user, found.rows)


def _stream(seed: int, found: Course, head: bytes, tail: bytes) -> Stream:
    blocks, rest = divmod(found.rows, PERIOD)
    block, last = _template(seed, found, PERIOD), _template(seed, found, rest)

    def pieces() -> Iterator[bytes]:
        yield head
        for number in range(blocks):
            yield block % user_numbers(found.first_user + number * PERIOD, PERIOD)
        yield last % user_numbers(found.first_user + blocks * PERIOD, rest) + tail

    # A template holds the four characters %08x where its row will have eight.
    length = len(head) + blocks * len(block) + len(last) + 4 * found.rows + len(tail)
    return Stream(pieces(), length)


def _template(seed: int, found: Course, count: int) -> bytes:
    users, results = _wire_pools(seed)
    first = found.first_user % PERIOD
    pairs = zip(
        users[first : first + count],
        results[found.first_result : found.first_result + count],
        strict=True,
    )
    return b"".join(chain.from_iterable(pairs))


@lru_cache(maxsize=8)
def _wire_pools(seed: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    drawn = pools(seed)
    return (
        tuple(f"<ns1:status><ns1:userId>%08x{user}</ns1:userId>".encode() for user in drawn.users),
        tuple(
            f"<ns1:status>{escape(status)}</ns1:status>"
            f"<ns1:progress>{progress}</ns1:progress></ns1:status>".encode()
            for status, progress in drawn.results
        ),
    )


def content_body(simulation: Simulation) -> bytes | Stream:
    """Return the list of content items, unprefixed as in the vendor's sample."""
    items = listed_content(simulation)
    blocks = iter(lambda: _items(islice(items, PERIOD)), b"")
    space = application_namespace(simulation.namespaces)
    head = _head(simulation.namespaces) + f'<GetContentResult xmlns="{space}">'.encode()
    pieces = chain((head,), blocks, (b"</GetContentResult>" + _TAIL,))
    if simulation.courses + simulation.denied <= PERIOD:
        return b"".join(pieces)
    return Stream(pieces, None)


def _items(items: Iterator[dict[str, str]]) -> bytes:
    return "".join(
        "<contentItem>"
        + "".join(
            f"<{name}>{escape(value)}</{name}>" if value else f"<{name}/>"
            for name, value in item.items()
        )
        + "</contentItem>"
        for item in items
    ).encode()


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compress pieces as they come, as fast as may be."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, wbits=31)
    for piece in pieces:
        if data := squeeze.compress(piece):
            yield data
    yield squeeze.flush()


def torn_answer(fault: Fault, body: bytes, *, gzip: bool) -> bytes:
    """Return the bytes that reach the client before the connection ends, head included.

    A gzip cut has correct HTTP around it: only its missing trailer tells. Where the client takes
    no gzip, closing does as much harm.
    """
    half = body[: len(body) // 2]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + XML_TYPE.encode() + b"\r\n"
    if fault == "cut-gzip" and gzip:
        data = b"".join(gzipped((body,)))
        data = data[: len(data) // 2]
        head += b"Connection: close\r\nContent-Encoding: gzip\r\n"
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
    if fault in ("cut-by-closing", "cut-gzip"):
        return head + b"Connection: close\r\n\r\n" + half
    if fault == "cut-inside-chunk":
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(body), half)
    if fault == "cut-between-chunks":
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(half), half)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), half)
