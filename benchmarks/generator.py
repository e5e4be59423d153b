"""What the endpoint answers and what must come out: rows as a pure function of their number.

All courses of one size share one body; the id in a row comes from the request. `verify` reads an
output back and compares every value: a client that loses the inner `status`, a row or a course
has no time to show.
"""

from __future__ import annotations

import sys
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import orjson

from bulkfetch._soap.protocol import APPLICATION, ENVELOPE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMESPACE = f"http{APPLICATION}"
_PERIOD = 4096
_BLOCK = 10_000
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="http{ENVELOPE}" xmlns:ns1="{NAMESPACE}"><SOAP-ENV:Body>'
    "<ns1:GetContentItemFinalStatusesResult><ns1:statuses>"
).encode()
_TAIL = (
    b"</ns1:statuses></ns1:GetContentItemFinalStatusesResult></SOAP-ENV:Body></SOAP-ENV:Envelope>\n"
)


def course_id(number: int) -> str:
    return f"{number:08x}-b4ec-11e9-8dc4-0a580af40990"


def course_ids(count: int) -> list[str]:
    return [course_id(number) for number in range(count)]


@cache
def _pool() -> list[tuple[str, str, str]]:
    """End of a user id, status and progress, as the service writes them: 100, 45.22, 7.5."""
    random = Random(4)
    pool = []
    for _ in range(_PERIOD):
        digits = f"{random.getrandbits(96):024x}"
        user = f"{digits[:4]}-{digits[4:8]}-{digits[8:12]}-{digits[12:]}"
        status = random.choices(("Passed", "In progress", "Failed"), (55, 30, 15))[0]
        progress = "100" if status == "Passed" else f"{random.randrange(10_000) / 100:g}"
        pool.append((user, status, progress))
    return pool


def _row(number: int) -> tuple[str, str, str]:
    user, status, progress = _pool()[number % _PERIOD]
    return f"{number * 0x9E3779B1 & 0xFFFFFFFF:08x}-{user}", status, progress


def pieces(rows: int) -> Iterator[bytes]:
    """Yield the body with so many rows, on one line, about 1.5 MB at a time."""
    yield _HEAD
    for start in range(0, rows, _BLOCK):
        block = []
        for number in range(start, min(rows, start + _BLOCK)):
            user, status, progress = _row(number)
            block.append(
                f"<ns1:status><ns1:userId>{user}</ns1:userId><ns1:status>{status}</ns1:status>"
                f"<ns1:progress>{progress}</ns1:progress></ns1:status>"
            )
        yield "".join(block).encode()
    yield _TAIL


def body(rows: int) -> bytes:
    return b"".join(pieces(rows))


@cache
def _expected(rows: int) -> list[tuple[str, str, float]]:
    drawn = map(_row, range(rows))
    return [(user, status, float(progress)) for user, status, progress in drawn]


def verify(output: Path, ids: list[str], rows: int) -> None:
    """Raise ValueError unless the NDJSON holds the rows of every id, each course's in order.

    Rows of several courses may take turns.
    """
    if not output.exists():
        raise ValueError(f"{output.name} was not written")
    expected = _expected(rows)
    seen = dict.fromkeys(ids, 0)
    with output.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            course = row.pop("contentItemId", None)
            number = seen.get(course, rows)
            if number >= rows:
                raise ValueError(f"{output.name}: a row too many of course {course!r}")
            user, status, progress = expected[number]
            if row != {"userId": user, "status": status, "progress": progress}:
                raise ValueError(
                    f"{output.name}: row {number} of course {course} is {row}, "
                    f"expected {expected[number]}"
                )
            seen[course] = number + 1
    short = [course for course, count in seen.items() if count != rows]
    if short:
        raise ValueError(f"{output.name}: {len(short)} courses miss rows, the first is {short[0]}")


def verify_pieces(output: Path, ids: list[str], rows: int) -> None:
    """Do the same, quicker, where each course's rows are one piece: compare byte by byte."""
    lines = [
        {"contentItemId": course_id(0), "userId": user, "status": status, "progress": progress}
        for user, status, progress in _expected(rows)
    ]
    piece = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    mark, start = course_id(0).encode(), len(b'{"contentItemId":"')
    left = {one.encode() for one in ids}
    with output.open("rb") as file:
        while found := file.read(len(piece)):
            course = found[start : start + len(mark)]
            if course not in left or found != piece.replace(mark, course):
                raise ValueError(f"{output.name}: wrong or twice at course {course!r}")
            left.remove(course)
    if left:
        raise ValueError(f"{output.name}: {len(left)} courses are missing, one is {min(left)!r}")


if __name__ == "__main__":  # so many ids, one a line
    sys.stdout.writelines(f"{course_id(number)}\n" for number in range(int(sys.argv[1])))
