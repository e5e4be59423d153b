"""What goes over the wire, as pure functions: requests to bytes, and the headers around them.

No socket, no clock, no XML library: requests are small enough to be built by an escape function,
and responses are read by `parser`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from bulkfetch._config.setting import Secret
    from bulkfetch._domain.model import Method

ENVELOPE = "://schemas.xmlsoap.org/soap/envelope/"
APPLICATION = "://ispringlearn.com/go/services/api/soap"


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


def request_headers(method: Method, action: str | None = None) -> dict[str, str]:
    """Return the headers of a SOAP 1.1 call (W3C note, section 6.1).

    `action` is the SOAPAction without its quotes, `{method}` in it the method's name; None is the
    name alone, as the API's samples have it.
    """
    said = "{method}" if action is None else action.strip('"')
    return {
        "Content-Type": "text/xml; charset=utf-8",
        "SOAPAction": f'"{said.replace("{method}", method.name)}"',
        "Accept": "text/xml",
        "Accept-Encoding": "gzip",
    }
