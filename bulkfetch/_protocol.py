"""What goes over the wire, as pure functions: requests to bytes, answers to verdicts.

No socket, no clock, no XML library: requests are small enough to be built by an escape function,
and responses are read by the parser next door. A fault is judged by its text before its HTTP
status, since a SOAP stack answers 500 for permanent refusals too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from bulkfetch._errors import (
    CourseError,
    NamespaceRefused,
    Refused,
    RunRefused,
    SoapFault,
    Transient,
    Unauthorized,
)
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._model import Method
    from bulkfetch._options import Options
    from bulkfetch._setting import Secret

ENVELOPE = "://schemas.xmlsoap.org/soap/envelope/"
APPLICATION = "://ispringlearn.com/go/services/api/soap"
MAX_ID_LENGTH = 256

# XML 1.0 section 2.2, without tab, line feed and carriage return, which no id holds either.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Spelling:
    """The schemes of the two namespaces. The documentation says https, real servers want http."""

    envelope: Literal["http", "https"] = "http"
    application: Literal["http", "https"] = "http"

    def other(self, part: Literal["envelope", "application"]) -> Spelling:
        """Return this spelling with one part turned round."""
        if part == "envelope":
            return Spelling("https" if self.envelope == "http" else "http", self.application)
        return Spelling(self.envelope, "https" if self.application == "http" else "http")


def check_id(course_id: str) -> str:
    """Return the id; raise ValueError when no server could mean it."""
    if not course_id:
        raise ValueError("an id is empty")
    if len(course_id) > MAX_ID_LENGTH:
        raise ValueError(
            f"an id has {len(course_id)} characters, at most {MAX_ID_LENGTH} make sense: "
            f"{printable(course_id, 40)!r}"
        )
    if _FORBIDDEN.search(course_id):
        raise ValueError(f"an id holds a control character: '{printable(course_id, 80)}'")
    return course_id


def encode_request(
    method: Method, token: Secret, value: str | None = None, *, spelling: Spelling
) -> bytes:
    """Return the request envelope (SOAP 1.1, UTF-8); made anew for each try, as tokens change."""
    parameter = f"<{method.parameter}>{escape(value or '')}</{method.parameter}>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="{spelling.envelope}{ENVELOPE}"'
        f' xmlns="{spelling.application}{APPLICATION}"><SOAP-ENV:Body><{method.request}>'
        f"<credentials><token>{escape(token.reveal())}</token></credentials>"
        f"{parameter if method.parameter else ''}"
        f"</{method.request}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    ).encode()


def request_headers(method: Method) -> dict[str, str]:
    """Return the headers of a SOAP 1.1 call (W3C note, section 6.1)."""
    return {
        "Content-Type": "text/xml; charset=utf-8",
        "SOAPAction": f'"{method.name}"',
        "Accept": "text/xml",
        "Accept-Encoding": "gzip",
    }


def check_reply(
    status: int, headers: Mapping[str, str], *, endpoint: str, now: float
) -> CourseError | None:
    """Judge a response by its head; None when it is a 200 that may hold rows.

    `now` is the Unix time, for Retry-After dates. For other answers than 200 the verdict stands
    only if `may_hold_fault` is false or the body holds no fault.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status == 200:
        return _html_page(endpoint) if kind in {"text/html", "application/xhtml+xml"} else None
    if 200 <= status < 300:
        return Transient("empty-response", f"the server answered HTTP {status} without a body")
    if 300 <= status < 400:
        return _redirect(status, headers.get("Location", ""), endpoint)
    pause = parse_retry_after(headers.get("Retry-After"), now)
    if status in {429, 503}:
        return Transient(
            f"http-{status}",
            f"the server is busy (HTTP {status})",
            retry_after=pause,
            overload=True,
        )
    if status == 408 or status >= 500:
        return Transient(
            f"http-{status}",
            f"the server failed (HTTP {status})",
            retry_after=pause,
            overload=status in {408, 502, 504},
        )
    if status == 401:
        return Unauthorized("http-401", "the server does not accept the token (HTTP 401)")
    return RunRefused(
        f"http-{status}",
        f"the endpoint {urlsplit(endpoint).path or '/'} answers HTTP {status}: check the endpoint "
        "and the permission of the account",
    )


def may_hold_fault(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the body must be read before the status counts."""
    return status >= 400 and "xml" in headers.get("Content-Type", "").lower()


def _html_page(endpoint: str) -> RunRefused:
    return RunRefused(
        "html-page",
        f"{urlsplit(endpoint).netloc} answers with an HTML page, perhaps a login page: "
        "check the path of the endpoint",
    )


def _redirect(status: int, location: str, endpoint: str) -> RunRefused:
    # Only scheme and host are shown: the rest of a Location may carry anything.
    origin = urlsplit(endpoint)
    try:
        target = urlsplit(location)
    except ValueError:
        target = urlsplit("//an-unreadable-address")
    shown = printable(f"{target.scheme or origin.scheme}://{target.hostname or origin.hostname}")
    hint = (
        "use https in the endpoint"
        if (origin.scheme, target.scheme) == ("http", "https")
        else "set the endpoint to where the API is; redirects are not followed: they leak the token"
    )
    return RunRefused("redirect", f"the endpoint redirects to {shown} (HTTP {status}): {hint}")


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the pause in seconds, from seconds or an HTTP date (RFC 9110, 10.2.3).

    None for nonsense; never negative; the caller caps it.
    """
    if value is None:
        return None
    if seconds := re.fullmatch(r"[ \t]*([0-9]{1,12})[ \t]*", value):
        return float(seconds[1])
    try:
        date = parsedate_to_datetime(value)
        # The form without a zone (asctime's) means GMT too, never this machine's zone.
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def judge_fault(fault: SoapFault, options: Options, token: Secret) -> CourseError:
    """Turn a fault into its verdict, by its code and text, compared without case.

    The documented texts are listed on the API's method pages; the two about namespaces are what
    PHP's SoapServer says. An unknown text is final for the course and reported. Should a text
    repeat the token, it is taken out before the text is cut short.
    """
    text, words = fault.message.lower(), printable(token.hidden_in(fault.message))
    if fault.code.rpartition(":")[2].lower() == "versionmismatch":
        return NamespaceRefused("envelope", f"the server refuses the envelope: {words}")
    if "procedure" in text and "not present" in text:
        return NamespaceRefused("application", f"the server does not know the method: {words}")
    if _mentions(text, options.auth_faults):
        return Unauthorized("authorization-failed", f"the token is not accepted: {words}")
    if _mentions(text, options.fatal_faults):
        return RunRefused("run-refused", f"the server refuses the account: {words}")
    if _mentions(text, options.retry_faults):
        return Transient("fault", f"the server asks to try again: {words}", overload=True)
    for known in ("unknown content item", "permission denied", "wrong parameters"):
        if known in text:
            return Refused(known.replace(" ", "-"), words)
    return Refused("fault", words or "a fault without a text")


def _mentions(text: str, parts: tuple[str, ...]) -> bool:
    return any(part.lower() in text for part in parts if part)
