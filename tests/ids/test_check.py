"""Which texts can be a course id at all."""

from __future__ import annotations

import pytest

from bulkfetch._domain.text import printable
from bulkfetch._ids.check import MAX_ID_LENGTH, check_id


def harmless(text):
    """Whether the text may be shown on a terminal as it is."""
    return printable(text, len(text)) == text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "an id is empty"),
        ("a\r\nb", r"a control character: 'a\\r\\nb'"),
        ("a\rb", "a control character"),
        ("a\nb", "a control character"),
        ("a\tb", "a control character"),
        ("\x00", "a control character"),
        ("\x1b[2J", r"'\\x1b\[2J'"),
        ("\x85", "a control character"),
        ("\ud800", "a control character"),
        ("\uffff", "a control character"),
        ("x" * (MAX_ID_LENGTH + 1), "an id has 257 characters, at most 256"),
    ],
)
def test_f89_an_id_that_no_server_can_mean_is_refused(value, words):
    """Control characters and absurd lengths never reach the wire; the message shows them safely."""
    with pytest.raises(ValueError, match=words) as caught:
        check_id(value)
    assert harmless(str(caught.value))


@pytest.mark.parametrize(
    "value", ["1", "265f433a-6214-11e9-b9cf-7ef279cfa744", "x" * MAX_ID_LENGTH]
)
def test_a_usual_id_is_taken_as_it_is(value):
    """UUIDs, numbers and any other line of text are ids."""
    assert check_id(value) == value
