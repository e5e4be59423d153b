"""Which texts can be a course id at all, before any server is asked."""

from __future__ import annotations

import re

from bulkfetch._domain.text import printable

MAX_ID_LENGTH = 256

# XML 1.0 section 2.2, without tab, line feed and carriage return, which no id holds either.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


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
