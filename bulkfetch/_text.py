"""Strangers' text, made fit to be shown to a person.

What a server says ends up in terminals, logs and reports. Escape sequences, line breaks and
characters that turn the direction of writing are spelled out, and the length is bounded, so that
no response can draw on a screen or forge a log line.
"""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories without a shape of their own: controls, bidi marks, line separators."""


def printable(text: str, limit: int = 200) -> str:
    r"""Return `text` on one line, hidden characters as `\x1b` or `\u202e`, at most `limit` long."""
    cut = text[:limit]
    shown = "".join(
        character
        if unicodedata.category(character) not in _HIDDEN
        else character.encode("unicode_escape").decode()
        if ord(character) < 0xD800 or ord(character) > 0xDFFF
        else "?"
        for character in cut
    )
    return shown if len(text) <= limit else f"{shown}…"
