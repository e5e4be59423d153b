"""Answers of the service by value, so that no test has to write SOAP by hand.

What they return are bodies as bytes: `reply` makes a ScriptedReply of one, `http_answer` what a
RawServer sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from xml.sax.saxutils import escape

from bulkfetch.testing._scripted import ScriptedReply
from bulkfetch.testing._soap import AnsweredFault, envelope, fault_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Row: TypeAlias = "Mapping[str, object]"


def row(
    user_id: str, status: str | None = "Passed", progress: float | None = 100, **extra: object
) -> Row:
    """Return one learner's final status; None leaves the element out, `extra` adds others."""
    given = {"userId": user_id, "status": status, "progress": progress, **extra}
    return {name: value for name, value in given.items() if value is not None}


def answer(rows: Iterable[Row] = (), *, namespaces: str = "http") -> bytes:
    """Return the answer to GetContentItemFinalStatuses with these rows, made by `row`."""
    records = "".join(f"<ns1:status>{_children(one, 'ns1:')}</ns1:status>" for one in rows)
    result = "ns1:GetContentItemFinalStatusesResult"
    inner = f"<{result}><ns1:statuses>{records}</ns1:statuses></{result}>"
    return envelope(inner.encode(), namespaces)


def listing(items: Iterable[Row] = (), *, namespaces: str = "http") -> bytes:
    """Return the answer to GetContent: items with `contentItemId`, `title`, `type` and the like."""
    records = "".join(f"<contentItem>{_children(one)}</contentItem>" for one in items)
    inner = f"<GetContentResult>{records}</GetContentResult>"
    return envelope(inner.encode(), namespaces)


def fault(text: str, code: str = "SOAP-ENV:Server", *, namespaces: str = "http") -> bytes:
    """Return a fault with this text, as PHP's SoapServer writes it."""
    return fault_body(AnsweredFault(code, text), namespaces)


def reply(body: bytes, status: int = 200, **told: Any) -> ScriptedReply:
    """Return a scripted reply with this body; `told` are other fields of ScriptedReply."""
    return ScriptedReply(status=status, pieces=(body,), **told)


def _children(record: Row, prefix: str = "") -> str:
    return "".join(
        f"<{prefix}{name}>{escape(str(value))}</{prefix}{name}>" for name, value in record.items()
    )
