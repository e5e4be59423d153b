"""How a file is compressed, by its name alone: one place for what is written and what is read."""

from __future__ import annotations

from typing import Literal, TypeAlias

Compression: TypeAlias = Literal["gzip", "zstd"]


def compression(name: str) -> Compression | None:
    """Return what a file's suffix says, in capitals too: `.gz`, `.zst`, or nothing."""
    lower = name.lower()
    if lower.endswith(".gz"):
        return "gzip"
    return "zstd" if lower.endswith(".zst") else None
