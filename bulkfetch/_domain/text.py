"""Strangers' text, made fit to be shown to a person.

What a server says ends up in terminals, logs and reports. Escape sequences, line breaks and
characters that turn the direction of writing are spelled out, and the length is bounded, so that
no response can draw on a screen or forge a log line.
"""

from __future__ import annotations

import codecs
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["harmless", "harmless_rows", "printable"]

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


def harmless(text: str) -> str:
    """Spell out what a terminal might obey, as JSON escapes: the value of the JSON is the same."""
    return "".join(
        character if printable(character) == character else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def harmless_rows() -> Callable[[bytes], bytes]:
    """Return a function that makes NDJSON, given in blocks cut anywhere, fit for a terminal."""
    decoder = codecs.getincrementaldecoder("utf-8")()

    def convert(block: bytes) -> bytes:
        lines = decoder.decode(block).split("\n")
        return "\n".join(harmless(line) for line in lines).encode()

    return convert
