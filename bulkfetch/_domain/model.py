"""The words of the domain: methods, rows, outcomes.

All are frozen records. A course ends in exactly one `Outcome`: `Fetched` with all of its rows, or
`Failed` with the reason; there is no third state and no half a course.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkfetch._domain.errors import CourseError


@dataclass(frozen=True, slots=True)
class Field:
    """A documented child of a record; `decimal` is written as a JSON number."""

    name: str
    type: Literal["string", "decimal"] = "string"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A SOAP method as a value: what is asked, where the records stand, what they hold."""

    name: str
    """Also the SOAPAction; the request element is this plus `Request`."""
    parameter: str | None
    """The one parameter beside the credentials; each row carries its value under this name."""
    path: tuple[str, ...]
    """Local names from below `Body` down to the record."""
    fields: tuple[Field, ...]
    """In the order in which the documentation lists them."""

    @property
    def request(self) -> str:
        return f"{self.name}Request"


GET_FINAL_STATUSES = Method(
    name="GetContentItemFinalStatuses",
    parameter="contentItemId",
    path=("GetContentItemFinalStatusesResult", "statuses", "status"),
    fields=(Field("userId", required=True), Field("status"), Field("progress", "decimal")),
)

GET_CONTENT = Method(
    name="GetContent",
    parameter=None,
    path=("GetContentResult", "contentItem"),
    fields=(
        Field("contentItemId", required=True),
        Field("title"),
        Field("subtitle"),
        Field("description"),
        Field("userId"),
        Field("addedDate"),
        Field("viewUrl"),
        Field("type"),
    ),
)


@dataclass(frozen=True, slots=True)
class FinalStatus:
    """One learner's final status in one course.

    `status` is the server's display string, verbatim ("Passed", "In progress", ...); `progress` is
    a percentage, normally 0-100; both are None where the server left them out. `extra` holds
    children of the record that the documentation does not name.
    """

    course_id: str
    user_id: str
    status: str | None
    progress: float | None
    extra: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ContentItem:
    """A track, course or standalone item of the account, as GetContent lists it."""

    content_item_id: str
    title: str | None = None
    type: str | None = None
    extra: Mapping[str, object] | None = None


IN_MEMORY: Final = 1 << 20
"""Bytes of rows up to which those of a course are kept in memory."""


class Rows(Protocol):
    """All rows of one course: their number, the rows one by one, or their NDJSON bytes.

    May be read any number of times. Large ones live in an unlinked temporary file, freed by
    `close()` or with the object. Those of a fetched course are pickled and copied as their NDJSON
    bytes, all of them at once in memory, and are equal when these are.
    """

    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[FinalStatus]: ...
    def ndjson(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A course whose whole response was proven good.

    `attempts` counts requests that were answered or failed; `seconds` runs from the first request
    to the outcome, waiting included.
    """

    course_id: str
    rows: Rows
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """A course without rows, and why."""

    course_id: str
    error: CourseError
    attempts: int = 1
    seconds: float = 0.0


Outcome: TypeAlias = Fetched | Failed
