"""Where access tokens come from: given, a file, a command, or the token endpoint.

Every provider has the same three calls. However many requests ask at once, a token is fetched once:
all wait for the same fetch (single flight). Tokens of the endpoint are renewed some time before
they expire, since a long run outlives them.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode, urlsplit

import orjson

from bulkfetch._errors import ConfigurationError, RunRefused, Transient, Unauthorized
from bulkfetch._setting import Secret
from bulkfetch._text import printable
from bulkfetch._transport import Sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from bulkfetch._options import Options
    from bulkfetch._transport import Reply, Transport

_COMMAND_SECONDS: Final = 60.0
_MAX_ANSWER: Final = 64 << 10


class TokenProvider(Protocol):
    """Hands out the access token."""

    def at_hand(self) -> Secret | None:
        """Return the token if there is one that should be valid now."""

    async def get(self) -> Secret:
        """Return a token that should be valid now. Raises CourseError or ConfigurationError."""

    async def renew(self, refused: Secret) -> None:
        """Replace a token that the server refused; does nothing if another task just did.

        Raises Unauthorized when there is nothing to replace it with.
        """


def make_provider(options: Options, transport: Transport) -> TokenProvider:
    """Return the provider that the options name; raises ConfigurationError if none."""
    if isinstance(options.token, Secret):
        return FixedToken(options.token)
    if options.token_file is not None:
        return RenewedToken(partial(_read_file, options.token_file))
    if options.token_command is not None:
        return RenewedToken(partial(_run_command, options.token_command))
    if options.token_url is not None:
        return RenewedToken(partial(_ask_endpoint, options, transport))
    raise ConfigurationError(
        "no access token: set BULKFETCH_TOKEN, or say --token-file FILE, --token-command COMMAND, "
        "or --token-url URL with BULKFETCH_CLIENT_ID and BULKFETCH_CLIENT_SECRET"
    )


class FixedToken:
    """A token that was given and cannot be renewed."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def at_hand(self) -> Secret:
        return self._token

    async def get(self) -> Secret:
        return self._token

    async def renew(self, refused: Secret) -> None:  # noqa: ARG002 - part of the protocol
        raise Unauthorized(
            "authorization-failed",
            "the server does not accept the token; get a new one and run again",
        )


class RenewedToken:
    """A token that `fetch` can bring anew: one fetch at a time, all who wait share its result.

    `fetch` returns the token and its lifetime in seconds, counted from when it was asked for.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[tuple[Secret, float]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._token: Secret | None = None
        self._renew_at = 0.0
        self._lock = asyncio.Lock()

    def at_hand(self) -> Secret | None:
        return self._token if self._clock() < self._renew_at else None

    async def get(self) -> Secret:
        async with self._lock:
            if (token := self.at_hand()) is None:
                asked = self._clock()
                token, lifetime = await self._fetch()
                self._token, self._renew_at = token, asked + lifetime - renewal_margin(lifetime)
            return token

    async def renew(self, refused: Secret) -> None:
        async with self._lock:
            if self._token == refused:
                self._token = None


def renewal_margin(lifetime: float) -> float:
    """Return how long before its end a token is replaced: a tenth of its life, 60-300 s if long."""
    return min(300.0, max(lifetime / 10, min(60.0, lifetime / 5)))


async def _read_file(path: Path) -> tuple[Secret, float]:
    return _checked(_private_text(path), f"the token file {path}"), float("inf")


def _private_text(path: Path) -> Secret:
    try:
        mode = path.stat().st_mode
        if not mode & 0o077:
            return Secret(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"the token file {path} cannot be read: {reason}") from None
    raise ConfigurationError(
        f"the token file {path} can be read by others (mode {mode & 0o777:04o}): "
        f"run chmod 600 {shlex.quote(str(path))}"
    )


async def _run_command(command: str) -> tuple[Secret, float]:
    try:
        process = await asyncio.create_subprocess_exec(
            *(shlex.split(command) or [""]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the token command cannot be run: {error}") from None
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            said = Secret((await process.communicate())[0].decode("utf-8", "replace").strip())
    except TimeoutError:
        raise Transient(
            "token", f"the token command did not end within {_COMMAND_SECONDS:g} s"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RunRefused("token", f"the token command failed with exit code {process.returncode}")
    return _checked(said, "the token command"), float("inf")


def _checked(token: Secret, source: str) -> Secret:
    if not token or not token.reveal().isprintable():
        raise ConfigurationError(f"{source} gave no token: it must hold one line, the token itself")
    return token


async def _ask_endpoint(options: Options, transport: Transport) -> tuple[Secret, float]:
    """Ask the token endpoint (OAuth 2.0 client credentials, RFC 6749 section 4.4)."""
    url = str(options.token_url)
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    async with transport.post(url, _form(options), headers) as reply:
        body = await _read_all(reply)
        status = reply.status
    host = urlsplit(url).netloc
    if status in {408, 429} or status >= 500:
        raise Transient("token", f"the token endpoint {host} answers HTTP {status}", overload=True)
    if status != 200:
        raise RunRefused("token", _refusal(host, status, body, Secret(options.client_secret or "")))
    return _read_answer(host, body)


def _form(options: Options) -> Sealed:
    return Sealed(
        urlencode(
            {
                "client_id": options.client_id,
                "client_secret": Secret(options.client_secret or "").reveal(),
                "grant_type": "client_credentials",
            }
        ).encode()
    )


async def _read_all(reply: Reply) -> Sealed:
    body = Sealed()
    while len(body) < _MAX_ANSWER and (piece := Sealed(await reply.read())):
        body = Sealed(body + piece)
    return body


def _refusal(host: str, status: int, body: bytes, secret: Secret) -> str:
    said = _json_object(body).get("message")
    words = f" ({printable(secret.hidden_in(said))})" if isinstance(said, str) and said else ""
    return (
        f"the token endpoint {host} refuses with HTTP {status}{words}: "
        "check --token-url, the client id and the client secret"
    )


def _read_answer(host: str, body: bytes) -> tuple[Secret, float]:
    answer = _json_object(body)
    token, lifetime = answer.get("access_token"), answer.get("expires_in", 1800)
    if not isinstance(token, str) or not token:
        raise RunRefused("token", f"the token endpoint {host} answers without an access_token")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = 1800
    return Secret(token), float(lifetime)


def _json_object(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(bytes(body))  # orjson takes no subclass
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
