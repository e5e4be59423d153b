"""What the first bytes of a body tell when the body is no envelope: a page, a DOCTYPE, a message.

A login page, a PHP warning before the XML and a multipart message all fail to parse; which of them
it was decides who is to blame. Only the body is believed, never its Content-Type.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import CourseError, Diverted, Transient, Unreadable
from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from bulkfetch._config.setting import Secret

KEPT: Final = 16 << 10
"""Bytes of a body's beginning that are kept to be judged and quoted."""
_QUOTED: Final = 80
_BEFORE_THE_TAG = re.compile(r"\A(?:\s|\ufeff|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_PUBLIC = re.compile(r"\A\s*<!doctype\s+html\s+public\s[^>]*>", re.IGNORECASE)
_PAGE = re.compile(r"<(?:!doctype\s+)?html(?:[\s>/]|\Z)", re.IGNORECASE)
_PART = re.compile(r"\s*--\S+[ \t]*\r?\n(?:[^\r\n]+\r?\n)*?content-", re.IGNORECASE)
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)


def text_of(body: bytes) -> str:
    """Return the beginning of a body as text, whatever its encoding."""
    found = next((codec for mark, codec in _MARKS if body.startswith(mark)), "utf-8")
    return body[:KEPT].decode(found, "replace").removeprefix("\ufeff")


def quoted(body: bytes, token: Secret | None) -> str:
    """Return the body's first printable characters on one line, without the token; "" if none.

    The long DOCTYPE of a page as Apache sends it would fill them, and is left out.
    """
    text = _PUBLIC.sub("", hidden(text_of(body), token))
    return printable(" ".join(text.replace("\0", " ").split()), _QUOTED)


def hidden(text: str, token: Secret | None) -> str:
    """Take the token out of a text, however XML, JSON or an address spell it."""
    return text if token is None else token.hidden_in(text)


def judge_beginning(body: bytes) -> CourseError | None:
    """Say what a body is that is no envelope, by how it begins; None when that says nothing."""
    text = text_of(body)
    after = _BEFORE_THE_TAG.sub("", text, count=1)
    first = after[:14].lower()
    if _PAGE.match(after):
        return html_page()
    if first.startswith("<!doctype"):
        return doctype()
    if _PART.match(text):
        return Unreadable(
            "multipart",
            "the answer is multipart/related (MTOM, or SOAP with attachments), which is not read: "
            "switch it off where the service is configured",
        )
    if first.startswith(("{", "[")):
        return Diverted("unexpected-root", "the response is JSON, no SOAP envelope")
    return None


def html_page() -> Diverted:
    return Diverted(
        "html-page", "the endpoint answers with an HTML page, perhaps a login page: check it"
    )


def doctype() -> Unreadable:
    return Unreadable("doctype", "the response declares a DOCTYPE, which no SOAP message may")


def empty() -> Transient:
    return Transient("empty-response", "the response is empty")
