"""Strangers' text: whatever a server says, a terminal and a log line survive it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._domain.text import printable

ANY_TEXT = st.text(st.characters())  # surrogates and unassigned code points too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Unknown content item", "Unknown content item"),
        ("Übung 課程", "Übung 課程"),
        ("", ""),
        ("two\r\nlines", r"two\r\nlines"),
        ("tab\there", r"tab\there"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("\x7f", r"\x7f"),
        ("abc\u202edef", r"abc\u202edef"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ufeff\u200b", r"\ufeff\u200b"),
        ("\U000e0001", r"\U000e0001"),
        ("\ue000", r"\ue000"),
        ("\ud800", "?"),
        ("👩\u200d🔬", r"👩\u200d🔬"),
    ],
)
def test_f88_hidden_characters_are_spelled_out(text, shown):
    """Escapes, line breaks and bidi marks are shown as text, all else stays."""
    assert printable(text) == shown


@given(ANY_TEXT)
def test_f88_no_text_keeps_a_hidden_character(text):
    """Whatever comes in, one line of visible characters that UTF-8 can write comes out."""
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & {
        "Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp",
    }  # fmt: skip
    assert len(shown.splitlines()) <= 1
    shown.encode()


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc…"),
        ("\n" * 9, 2, r"\n\n…"),
        ("x" * 201, 200, "x" * 200 + "…"),
    ],
)
def test_length_is_bounded(text, limit, shown):
    """No more than `limit` characters of the text are shown, and a cut is marked."""
    assert printable(text, limit) == shown
