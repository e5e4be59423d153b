"""Every error the engine raises or reports, under one root.

The type is the verdict on one answer: `Transient` is worth another try, `Refused` is the server's
final word on that course, `RunRefused` says that no course of this run can succeed. What many
verdicts add up to is decided elsewhere. Whoever handles an error looks at its type, never at its
text. No message ever holds the token, or more of a response than a server's fault text or the first
characters of a body that cannot be read, cleaned and cut short.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

__all__ = [
    "NEVER_CONNECTED",
    "BulkfetchError",
    "ConfigurationError",
    "CourseError",
    "Diverted",
    "Interrupted",
    "LocalFault",
    "NamespaceRefused",
    "OutputClosed",
    "OutputError",
    "OutputLocked",
    "Refused",
    "RunError",
    "RunRefused",
    "ServerRefuses",
    "SoapFault",
    "StaleConnection",
    "StoppedEarly",
    "TemporarilyUnavailable",
    "Transient",
    "Unauthorized",
    "UnknownFault",
    "Unreadable",
]

NEVER_CONNECTED: Final = frozenset({"connect", "connect-timeout", "dns", "route", "tls"})
"""Kinds of `Transient` that say that no connection came about: nobody is there to be waited for."""


class BulkfetchError(Exception):
    """The root of everything this package raises on purpose.

    A value like any other: two of one type are equal when all they hold is, and each can be
    pickled and copied, whatever its constructor takes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.args), self.__dict__ or None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.args, self.__dict__) == (other.args, other.__dict__)

    def __hash__(self) -> int:
        return hash((type(self), self.args))


def _remade(kind: type[BulkfetchError], args: tuple[object, ...]) -> BulkfetchError:
    return kind.__new__(kind, *args)


class CourseError(BulkfetchError):
    """Why one course has no rows.

    `kind` is a short stable word for counting and filtering ("timeout", "unknown-content-item");
    the message is a sentence for a person.
    """

    settled: bool = False
    """Whether the next run leaves the course alone."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def message(self) -> str:
        return str(self.args[0])


class Transient(CourseError):
    """A passing failure: another try may succeed.

    `retry_after` is the pause in seconds that the server asked for, if any. `overload` is true
    when the failure says that the server is struggling (429, 503, a timeout), so that the engine
    asks for less. `most_retries` is set where few more tries make sense.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retry_after: float | None = None,
        overload: bool = False,
        most_retries: int | None = None,
    ) -> None:
        super().__init__(kind, message)
        self.retry_after = retry_after
        self.overload = overload
        self.most_retries = most_retries


class StaleConnection(Transient):
    """The server closed a kept-alive connection just as it was used again.

    The call only reads, so it is repeated at once and not counted as a try. An aiohttp session
    does not tell a new connection from a kept one: through it, any that ends unanswered is this.
    """


class LocalFault(Transient):
    """This machine ran short (file descriptors, ports); the server is not to blame.

    It is waited out, spends no try, and no stop rule counts it.
    """


class Diverted(Transient):
    """An answer that does not come from the API: a redirect, a login page, a 404 of some proxy.

    In the middle of a run it may pass; where nothing was fetched yet the endpoint is wrong.
    """


class UnknownFault(Transient):
    """A fault whose text is on no list: tried again twice as a rule, then failed, never settled.

    `code` is its faultcode as it was sent. SOAP 1.1, section 4.4.1: a code ending in Client (1.2:
    Sender) blames the request, any other says that the same request may succeed later.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__("fault", message, most_retries=2)
        self.code = code

    @property
    def blames_request(self) -> bool:
        """Whether the code says that the request itself is at fault."""
        return self.code.rpartition(":")[2].partition(".")[0].lower() in {"client", "sender"}


class Refused(CourseError):
    """The server's final word on this course: reported, not asked again by itself.

    `settled` is false while it may be the account's fault rather than the course's.
    """

    def __init__(self, kind: str, message: str, *, settled: bool = True) -> None:
        super().__init__(kind, message)
        self.settled = settled


class Unreadable(CourseError):
    """A response that cannot be taken as rows: another shape, limits, values no schema allows.

    Tried again at most twice, and only once this account has fetched something; never settled.
    """


class SoapFault(CourseError):
    """A fault as it stands in a response, not yet judged."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__("fault", text)
        self.code = code


class Unauthorized(CourseError):
    """The token was not accepted: it is renewed once; refused again it may end the run."""


class RunRefused(CourseError):
    """A failure that every course would share (subscription, certificate, a refused client)."""


class NamespaceRefused(RunRefused):
    """The server does not know a namespace in which it was asked."""

    def __init__(self, part: Literal["envelope", "application"], message: str) -> None:
        super().__init__("namespace", message)
        self.part = part


class RunError(BulkfetchError):
    """The run as a whole ended early; what was committed is safe."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(RunError, ValueError):
    """A setting is missing or wrong."""

    exit_code = 2


class StoppedEarly(RunError):
    """`max_errors` or `fail_fast` was reached."""

    exit_code = 3


class ServerRefuses(RunError):
    """The server refuses the run: token, permission, subscription, wrong endpoint."""

    exit_code = 4


class TemporarilyUnavailable(RunError):
    """The server fails for everybody now, or time is up: the same command resumes later."""

    exit_code = 5


class Interrupted(RunError):
    """The run was asked to stop; the same command resumes it."""

    exit_code = 130


class OutputLocked(RunError):
    """Another run holds the output."""

    exit_code = 5


class OutputError(RunError):
    """The output cannot be written or is not what its journal says."""

    exit_code = 6


class OutputClosed(RunError):
    """The reader of the output pipe went away."""

    exit_code = 141
