"""What the simulated LMS holds, as a pure function of its settings.

Every course's rows follow from (seed, course id) alone, so a test knows what must come out without
asking the server, also in another process. Learners and results come from two pools of `PERIOD`
entries: a course is a walk through both, beginning where its hash says, and the running number in
front of a user id makes it unique. Bodies are then rendered a block at a time, not a row at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Literal, TypedDict

from bulkfetch._domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD = 512
_SPREAD = 0x9E3779B1  # odd: n * _SPREAD modulo 2**32 never meets itself for n < 2**32
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """The settings of a simulated LMS; equal settings hold equal courses and rows.

    Shares lie between 0 and 1, durations are in seconds. Faults are drawn for each request, so a
    retry can succeed; unknown and denied ids stay what they are. Raises ConfigurationError.
    """

    seed: int = 0

    courses: int = 100
    """Courses that can be fetched; `unknown` and `denied` ids come on top."""
    unknown: int = 0
    denied: int = 0
    rows: tuple[int, int] = (5, 60)
    """Least and most rows of an ordinary course, both included, all sizes equally likely."""
    zero_share: float = 0.0
    huge_share: float = 0.0
    huge_rows: int = 200_000
    track_share: float = 0.0
    """Courses that GetContent lists as `track`."""

    latency: float = 0.0
    """Mean time from request to answer."""
    latency_shape: Literal["fixed", "uniform", "exponential"] = "fixed"
    """`uniform` spreads half the mean to either side."""
    capacity: int | None = None
    """Requests in flight beyond it share the speed: twice as many take twice the latency."""
    rate_limit: float | None = None
    """Requests per second; those above are answered 429 with Retry-After."""

    share_503: float = 0.0
    share_429: float = 0.0
    retry_after: int | None = 1
    """What `share_429` answers say; None leaves the header out."""
    share_reset: float = 0.0
    """Connections reset, half of them before the headers and half inside the body."""
    share_cut: float = 0.0
    """Bodies cut short: by length, inside a chunk, between chunks, inside gzip, by closing."""

    gzip: bool = False
    """Compress for clients that accept it."""
    chunk_size: int | None = None
    """Send bodies in chunks of this many bytes; None sends them with Content-Length."""

    token: str | None = "simulated-token"  # noqa: S105 - a token of nothing
    """A token that never expires; None accepts only those from the token endpoint."""
    client_id: str | None = "simulated-client"
    """None answers 403 to all who ask for a token."""
    client_secret: str = "simulated-secret"  # noqa: S105 - a secret of nothing
    token_lifetime: float = 1800.0
    namespaces: Literal["http", "https"] = "http"
    """The spelling the server insists on."""

    def __post_init__(self) -> None:
        _check(self)


class ExpectedRow(TypedDict):
    """One row as it must come out."""

    contentItemId: str
    userId: str
    status: str
    progress: float


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The ids of a simulation, each kind sorted; `ids` holds all of them."""

    ids: tuple[str, ...]
    fetchable: frozenset[str]
    unknown: tuple[str, ...]
    denied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """How many rows a course has, and where its walk through the pools begins."""

    rows: int
    first_user: int
    first_result: int


@dataclass(frozen=True, slots=True)
class Pools:
    """Endings of user ids, and (status, progress) as text; `PERIOD` of each, twice over."""

    users: tuple[str, ...]
    results: tuple[tuple[str, str], ...]


Fault = Literal[
    "503",
    "429",
    "reset-before-headers",
    "reset-inside-body",
    "cut-length",
    "cut-inside-chunk",
    "cut-between-chunks",
    "cut-gzip",
    "cut-by-closing",
]
_RESETS: tuple[Fault, ...] = ("reset-before-headers", "reset-inside-body")
_CUTS: tuple[Fault, ...] = (
    "cut-length",
    "cut-inside-chunk",
    "cut-between-chunks",
    "cut-gzip",
    "cut-by-closing",
)


def expected_rows(simulation: Simulation, course_id: str) -> list[ExpectedRow]:
    """Return the rows of a course in the server's order; none for ids that cannot be fetched."""
    if course_id not in catalogue(simulation).fetchable:
        return []
    return list(_rows(simulation, course_id))


def _rows(simulation: Simulation, course_id: str) -> Iterator[ExpectedRow]:
    found = course(simulation, course_id)
    drawn = pools(simulation.seed)
    for number in range(found.rows):
        user = found.first_user + number
        status, progress = drawn.results[(found.first_result + number) % PERIOD]
        yield {
            "contentItemId": course_id,
            "userId": f"{user * _SPREAD & _WORD:08x}{drawn.users[user % PERIOD]}",
            "status": status,
            "progress": float(progress),
        }


def user_numbers(first: int, count: int) -> tuple[int, ...]:
    """Return the numbers that begin the user ids of `count` learners from `first` on."""
    return tuple(
        [step & _WORD for step in range(first * _SPREAD, (first + count) * _SPREAD, _SPREAD)]
    )


@lru_cache(maxsize=8)
def catalogue(simulation: Simulation) -> Catalogue:
    """Return the ids of the simulation."""
    seed = simulation.seed
    fetchable = _ids(seed, "course", simulation.courses)
    unknown = _ids(seed, "unknown", simulation.unknown)
    denied = _ids(seed, "denied", simulation.denied)
    return Catalogue(
        tuple(sorted([*fetchable, *unknown, *denied])),
        frozenset(fetchable),
        tuple(sorted(unknown)),
        tuple(sorted(denied)),
    )


def _ids(seed: int, kind: str, count: int) -> list[str]:
    return [_uuid(_digest(seed, f"{kind} {number}").hex()) for number in range(count)]


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-11e9-{digits[12:16]}-{digits[16:28]}"


def _digest(seed: int, text: str) -> bytes:
    return blake2b(f"{seed}/{text}".encode(), digest_size=16).digest()


def course(simulation: Simulation, course_id: str) -> Course:
    """Return the shape of a course, whatever its id."""
    digest = _digest(simulation.seed, course_id)
    draw = int.from_bytes(digest[:4]) / 2**32
    size = int.from_bytes(digest[4:8])
    low, high = simulation.rows
    if draw < simulation.zero_share:
        rows = 0
    elif draw < simulation.zero_share + simulation.huge_share:
        rows = simulation.huge_rows
    else:
        rows = low + size % (high - low + 1)
    # Learners overlap between courses: the key of a row is the pair, never the user alone.
    return Course(rows, int.from_bytes(digest[8:12]) % 20_000, int.from_bytes(digest[12:]) % PERIOD)


_STATUSES = ("Passed", "In progress", "Failed", "Not started", "Complete")
_WEIGHTS = (40, 25, 12, 13, 10)
_ODD_STATUS = 'Passé <à revoir> & "подтверждено"'
"""Servers translate statuses: now and then one needs escaping and is not ASCII."""


@lru_cache(maxsize=8)
def pools(seed: int) -> Pools:
    """Return the pools of a seed."""
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    users = tuple(_uuid(f"{random.getrandbits(112):028x}")[8:] for _ in range(PERIOD))
    results = tuple(_result(random) for _ in range(PERIOD))
    return Pools(users * 2, results * 2)


def _result(random: Random) -> tuple[str, str]:
    status = random.choices(_STATUSES, _WEIGHTS)[0]
    partly = f"{random.randrange(1, 10_000) / 100:g}"
    progress = {"Passed": "100", "Complete": "100", "Not started": "0"}.get(status, partly)
    return (_ODD_STATUS if random.random() < 1 / 64 else status), progress


_TITLES = (
    "Fire safety",
    "Health & safety <basics>",
    'Selling: "101"',
    "Onboarding",
    "Führung im Alltag",
    "Работа с клиентами",  # noqa: RUF001 - a Russian title
    "Data protection",
    "Don't panic: 日本語 ☃",
)


def listed_content(simulation: Simulation) -> Iterator[dict[str, str]]:
    """Yield what GetContent lists: every id but the unknown."""
    found = catalogue(simulation)
    unknown = frozenset(found.unknown)
    return (_content(simulation, name) for name in found.ids if name not in unknown)


def _content(simulation: Simulation, course_id: str) -> dict[str, str]:
    digest = _digest(simulation.seed, f"content {course_id}")
    title = _TITLES[digest[0] % len(_TITLES)]
    track = int.from_bytes(digest[1:5]) / 2**32 < simulation.track_share
    return {
        "contentItemId": course_id,
        "title": f"{title} {int.from_bytes(digest[5:7])}",
        "subtitle": "",
        "description": f"{title} & more" if digest[7] % 2 else "",
        "userId": _uuid(digest.hex()),
        "addedDate": f"2019-{digest[8] % 12 + 1:02}-{digest[9] % 28 + 1:02}T09:41:07+00:00",
        "viewUrl": f"https://simulated.example/view?id={course_id}&from=soap",
        "type": "track" if track else "course",
    }


def fault_of(simulation: Simulation, number: int) -> Fault | None:
    """Return what befalls the request of this number."""
    digest = _digest(simulation.seed, f"fault {number}")
    draw = int.from_bytes(digest[:4]) / 2**32
    shares: tuple[tuple[float, tuple[Fault, ...]], ...] = (
        (simulation.share_503, ("503",)),
        (simulation.share_429, ("429",)),
        (simulation.share_reset, _RESETS),
        (simulation.share_cut, _CUTS),
    )
    for share, kinds in shares:
        if draw < share:
            return kinds[digest[4] % len(kinds)]
        draw -= share
    return None


def delay_of(simulation: Simulation, number: int, in_flight: int) -> float:
    """Return the seconds that the request of this number takes among so many in flight."""
    mean = simulation.latency
    if simulation.capacity is not None:
        mean *= max(1.0, in_flight / simulation.capacity)
    if simulation.latency_shape == "fixed":
        return mean
    draw = int.from_bytes(_digest(simulation.seed, f"delay {number}")[:4]) / 2**32
    if simulation.latency_shape == "uniform":
        return mean * (0.5 + draw)
    return -mean * math.log(1.0 - draw)


def _check(simulation: Simulation) -> None:
    low, high = simulation.rows
    if not 0 <= low <= high:
        raise _wrong("rows", simulation.rows, "give the least and the most, as (5, 60)")
    for name in ("courses", "unknown", "denied", "huge_rows", "latency", "retry_after"):
        value = getattr(simulation, name)
        if value is not None and not value >= 0:
            raise _wrong(name, value, "it cannot be negative")
    for name in ("capacity", "rate_limit", "chunk_size", "token_lifetime"):
        value = getattr(simulation, name)
        if value is not None and not value > 0:
            raise _wrong(name, value, "it must be greater than zero")
    _check_choice("latency_shape", simulation.latency_shape, ("fixed", "uniform", "exponential"))
    _check_choice("namespaces", simulation.namespaces, ("http", "https"))
    _check_shares(simulation, "zero_share", "huge_share")
    _check_shares(simulation, "track_share")
    _check_shares(simulation, "share_503", "share_429", "share_reset", "share_cut")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(name, value, f"choose one of {', '.join(choices)}")


def _check_shares(simulation: Simulation, *names: str) -> None:
    values = [getattr(simulation, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if not 0 <= value <= 1:
            raise _wrong(name, value, "a share lies between 0 and 1")
    if sum(values) > 1 + 1e-9:
        raise _wrong(" + ".join(names), sum(values), "together they cannot exceed 1")


def _wrong(name: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {value!r}: {remedy}")
