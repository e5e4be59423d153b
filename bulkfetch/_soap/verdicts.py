"""One answer, one verdict: the only place that says what an HTTP status and a body mean together.

The body is read before a header is believed. A fault in it counts whatever the status, rows count
with any 2xx, and for the rest the status decides; the Content-Type proves nothing, since PHP sends
faults as text/html and proxies send login pages as anything. Only texts on the final list settle
a course. What many verdicts add up to is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from bulkfetch._config.options import Options
from bulkfetch._domain.errors import (
    CourseError,
    Diverted,
    NamespaceRefused,
    Refused,
    RunRefused,
    SoapFault,
    Transient,
    Unauthorized,
    UnknownFault,
)
from bulkfetch._domain.retry_after import asked_pause
from bulkfetch._domain.text import printable
from bulkfetch._soap.beginning import hidden, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.setting import Secret

DOCUMENTED: Final = ("unknown content item", "permission denied", "wrong parameters")
"""The final texts of the API's method pages; each names the kind of its refusal."""
_BUSY: Final = {420, 429, 430, 503, 509, 529}
"""Too many requests, also in the numbers that single vendors took for it."""
_OVERLOAD: Final = {408, 502, 504, *_BUSY}
_QUOTING: Final = {"malformed", "truncated", "foreign", "multipart", "html-page", "unexpected-root"}
"""Kinds whose cause is the body: their messages show how it begins."""
_WORDS: Final = {
    400: "a server or proxy there does not understand the request: check the endpoint's scheme, "
    "port and path",
    403: "it forbids the call: check the endpoint's path, whether this machine's address is "
    "allowed, and the account's permission",
    404: "nothing is there: check the endpoint's path",
    405: "it takes no POST there: check the endpoint's path",
    407: "the proxy asks for a user name and a password",
    410: "nothing is there any more: check the endpoint's path",
    413: "a server or proxy finds the request too large, though it is small: check its limit, and "
    "that the token is one",
    415: "it takes no text/xml there: check that this is the SOAP 1.1 endpoint",
    431: "a server or proxy finds the request's head too large: check its limit",
}
_TLS_WORDS: Final = (
    ("plain http request was sent to https", "use https in the endpoint"),
    ("speaking plain http to an ssl", "use https in the endpoint"),
    ("no required ssl certificate", "it asks for a client certificate: name it with --cert"),
    ("ssl certificate error", "it does not accept the client certificate: check --cert"),
    (
        "cannot perform post-handshake authentication",
        "it asks for a client certificate for this path: name it with --cert",
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers, the body's beginning, and the Unix time of now.

    A server may repeat the token in the two that no traceback with locals shows.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    beginning: bytes = field(repr=False)
    now: float

    @property
    def pause(self) -> float | None:
        """Seconds that the server asks to wait."""
        return asked_pause(self.headers, self.now)


def judge(
    answer: Answer, found: CourseError | None, options: Options, token: Secret
) -> CourseError | None:
    """Return what an answer means; None when its rows may be believed.

    `found` is what reading the body ended with; None: rows, proven whole.
    """
    by_status = judge_status(answer, options.endpoint, token)
    if isinstance(found, SoapFault):
        return _with_status(judge_fault(found, FaultTexts.of(options), token), by_status, answer)
    return judge_body(answer, found, token) if by_status is None else by_status


def judge_body(
    answer: Answer, found: CourseError | None, token: Secret | None
) -> CourseError | None:
    """Return what reading the body of a 2xx ended with, in words that show how it begins."""
    if found is None:
        return None
    if found.kind == "empty-response" and answer.status != 200:
        found.args = (f"{found.message} (HTTP {answer.status})",)
    if found.kind in _QUOTING:
        found.args = (found.message + _begins(answer.beginning, token),)
    return found


def judge_saved(found: CourseError, beginning: bytes) -> CourseError:
    """Return what reading a saved response ended with, by the default fault texts."""
    if isinstance(found, SoapFault):
        verdict = judge_fault(found, FaultTexts(), None)
        verdict.args = (f"the server answered with a fault: {verdict.message}",)
        return verdict
    return judge_body(Answer(200, {}, beginning, 0.0), found, None) or found


def judge_status(answer: Answer, endpoint: str, token: Secret | None) -> CourseError | None:
    """Return what the status says when the body holds no fault; None: the body decides."""
    status = answer.status
    if 200 <= status < 300:
        return None
    if status == 401:
        return Unauthorized("http-401", "the server does not accept the token (HTTP 401)")
    if status == 408 or status in _BUSY or status >= 500:
        busy = status in _BUSY
        return Transient(
            f"http-{status}",
            f"the server {'is busy' if busy else 'failed'} (HTTP {status})",
            retry_after=answer.pause,
            overload=status in _OVERLOAD,
        )
    if 300 <= status < 400:
        words = _redirect(status, answer.headers.get("Location", ""), endpoint)
        return Diverted("redirect", words, retry_after=answer.pause)
    return Diverted(
        f"http-{status}",
        f"the endpoint {printable(urlsplit(endpoint).path or '/')} answers HTTP {status}: "
        f"{_status_words(answer)}{_begins(answer.beginning, token)}",
        retry_after=answer.pause,
    )


def _status_words(answer: Answer) -> str:
    if answer.status in {400, 403}:
        text = answer.beginning.decode("latin-1").lower()
        for part, words in _TLS_WORDS:
            if part in text:
                return words
    return _WORDS.get(answer.status, "check the endpoint")


def _redirect(status: int, location: str, endpoint: str) -> str:
    # Only the host is shown, since a Location can hold secrets.
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
    return f"the endpoint redirects to {shown} (HTTP {status}): {hint}"


def _begins(body: bytes, token: Secret | None) -> str:
    words = quoted(body, token)
    return f"; the body begins: {words}" if words else ""


def _default(name: str) -> Any:
    return next(item.default for item in fields(Options) if item.name == name)


@dataclass(frozen=True, slots=True)
class FaultTexts:
    """Parts of fault texts and what they mean, as the settings say."""

    final: tuple[str, ...] = _default("final_faults")
    auth: tuple[str, ...] = _default("auth_faults")
    fatal: tuple[str, ...] = _default("fatal_faults")
    retry: tuple[str, ...] = _default("retry_faults")

    @staticmethod
    def of(options: Options) -> FaultTexts:
        """Return the texts of a run's options."""
        return FaultTexts(
            options.final_faults, options.auth_faults, options.fatal_faults, options.retry_faults
        )


def judge_fault(fault: SoapFault, texts: FaultTexts, token: Secret | None) -> CourseError:
    """Turn a fault into its verdict, by its text and code: case and white space mean nothing.

    What PHP's SoapServer says of namespaces is known; any other text is an `UnknownFault`. Should
    a fault repeat the token, it is taken out before the text is cut short.
    """
    text = _folded(fault.message)
    words = printable(" ".join(hidden(fault.message, token).split())) or "a fault without a text"
    if _mentions(text, texts.final):
        known = next((known for known in DOCUMENTED if known in text), "final fault")
        return Refused(known.replace(" ", "-"), words)
    if _mentions(text, texts.auth):
        return Unauthorized("authorization-failed", f"the token is not accepted: {words}")
    if _mentions(text, texts.fatal):
        return RunRefused("run-refused", f"the server refuses the account: {words}")
    if _mentions(text, texts.retry):
        return Transient("fault", f"the server asks to try again: {words}", overload=True)
    code = printable(hidden(fault.code, token), 60)
    if code.rpartition(":")[2].lower() == "versionmismatch":
        return NamespaceRefused("envelope", f"the server refuses the envelope: {words}")
    if "procedure" in text and "not present" in text:
        return NamespaceRefused("application", f"the server does not know the method: {words}")
    return UnknownFault(code, f"{words}{f' ({code})' if code else ''}{_remedy(text, code)}")


def _remedy(text: str, code: str) -> str:
    """Say what helps where the fault is known to be about a header (SOAP::Lite, .NET, Axis)."""
    if "soapaction" in text or "actionnotsupported" in code.lower():
        return "; say which SOAPAction it wants with --soap-action"
    return ""


def _with_status(
    verdict: CourseError, by_status: CourseError | None, answer: Answer
) -> CourseError:
    """Let the status add to a fault that asks for time or says nothing known."""
    if isinstance(verdict, UnknownFault) and isinstance(by_status, Unauthorized):
        return Unauthorized(by_status.kind, f"{by_status.message}: {verdict.message}")
    if isinstance(verdict, Transient):
        verdict.retry_after = answer.pause
        verdict.overload |= isinstance(by_status, Transient) and by_status.overload
    return verdict


def _mentions(text: str, parts: tuple[str, ...]) -> bool:
    return any(folded in text for part in parts if (folded := _folded(part)))


def _folded(text: str) -> str:
    return " ".join(text.split()).lower()
