"""One request over HTTP, and nothing more: no retry, no redirect, no cookies, no proxy unasked.

`Transport` is all that the engine knows of HTTP, so that a scripted one can stand in for it in
tests. Whatever goes wrong comes out as one of our own errors, made anew without its cause, since
other libraries' texts can hold addresses and headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager


class Sealed(bytes):
    """Bytes that hold a token: no log and no traceback with locals shows them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Sealed({len(self)} bytes)"

    __str__ = __repr__


class Reply(Protocol):
    """A response whose head has come."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self) -> bytes:
        """Return the next decompressed bytes, up to 64 KiB; b"" at the end. Raises CourseError."""


class Transport(Protocol):
    """Sends one POST; entering raises CourseError, leaving early drops the connection."""

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Reply]: ...
