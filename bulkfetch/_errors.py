"""Every error the engine raises or reports, under one root.

The type is the verdict: `Transient` is worth another try, `Refused` is settled for that course,
`RunRefused` says that no course of this run can succeed. Whoever handles an error looks at its
type, never at its text. No message ever holds the token or a piece of a response body beyond the
server's own fault text, cleaned and cut short.
"""

from __future__ import annotations

from typing import ClassVar, Literal

__all__ = [
    "BulkfetchError",
    "ConfigurationError",
    "CourseError",
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
    "Unreadable",
]


class BulkfetchError(Exception):
    """The root of everything this package raises on purpose."""


class CourseError(BulkfetchError):
    """Why one course has no rows.

    `kind` is a short stable word for counting and filtering ("timeout", "unknown-content-item");
    the message is a sentence for a person.
    """

    settled: ClassVar[bool] = False
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
    """This machine ran short (file descriptors, ports); the server is not to blame."""


class Refused(CourseError):
    """The server's final word on this course: reported, never asked again."""

    settled = True


class Unreadable(CourseError):
    """A response that cannot be taken as rows, and would come again the same.

    Not asked for again in this run, but not settled either: the next run tries once more.
    """


class SoapFault(CourseError):
    """A fault as it stands in a response, not yet judged."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__("fault", text)
        self.code = code


class Unauthorized(CourseError):
    """The token was not accepted: renewed once, then the run is given up."""


class RunRefused(CourseError):
    """A failure that every course would share (subscription, wrong path, login page)."""


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
