"""Where access tokens come from: given, a file, a command, or the token endpoint.

Every provider has the same three calls. However many requests ask at once, a token is fetched once:
all wait for the same fetch (single flight), and for as long as the token endpoint asks to be left
alone. Its tokens are renewed some time before they expire, since a long run outlives them. Every
message names the token endpoint, so that none is taken for the API's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shlex
import shutil
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode, urlsplit

import orjson

from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import (
    ConfigurationError,
    CourseError,
    LocalFault,
    RunRefused,
    StaleConnection,
    Transient,
    Unauthorized,
)
from bulkfetch._domain.retry_after import asked_pause
from bulkfetch._domain.text import printable
from bulkfetch._domain.wording import duration
from bulkfetch._http.shortage import local_fault
from bulkfetch._http.transport import Sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from io import FileIO
    from pathlib import Path

    from bulkfetch._config.options import Options
    from bulkfetch._http.transport import Reply, Transport

_log = logging.getLogger("bulkfetch")

_COMMAND_SECONDS: Final = 60.0
_MAX_ANSWER: Final = 64 << 10
_USUAL_LIFETIME: Final = 1800.0
_HTML: Final = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_SHELL_SIGNS: Final = re.compile(r"[|;&<>$`*~]")
_SHELLS: Final = ("sh", "bash", "/bin/sh", "/bin/bash")


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
    """Return the provider that the options name.

    Raises ConfigurationError if none, or for a command that is not there to run.
    """
    if isinstance(options.token, Secret):
        return FixedToken(options.token)
    if options.token_file is not None:
        return RenewedToken(partial(_read_file, options.token_file))
    if options.token_command is not None:
        _check_command(options.token_command)
        return RenewedToken(partial(_run_command, options.token_command))
    if options.token_url is not None:
        return RenewedToken(
            partial(_ask_endpoint, options, transport), longest=options.max_retry_after
        )
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

    `fetch` returns the token and its lifetime in seconds, counted from when it was asked for. When
    it fails and names a pause, nobody asks again before that is over, or `longest` seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[tuple[Secret, float]]],
        clock: Callable[[], float] = time.monotonic,
        *,
        longest: float = 300.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._longest = longest
        self._sleep = sleep
        self._token: Secret | None = None
        self._renew_at = 0.0
        self._ask_at = 0.0
        self._lock = asyncio.Lock()

    def at_hand(self) -> Secret | None:
        return self._token if self._clock() < self._renew_at else None

    async def get(self) -> Secret:
        async with self._lock:
            if (token := self.at_hand()) is None:
                if (pause := self._ask_at - self._clock()) > 0:
                    await self._sleep(pause)
                token = await self._renewed()
            return token

    async def _renewed(self) -> Secret:
        asked = self._clock()
        try:
            token, lifetime = await self._fetch()
        except Transient as error:
            if error.retry_after:
                pause = min(error.retry_after, self._longest)
                self._ask_at = self._clock() + pause
                _log.info("%s; nobody asks it for %s", error.message, duration(pause))
            raise
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
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            text = await _private_text(path)
    except TimeoutError:
        raise ConfigurationError(
            f"the token file {path} is a pipe that nobody wrote to its end within "
            f"{_COMMAND_SECONDS:g} s: start what writes the token into it, or name a file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise local_fault(error) or ConfigurationError(
            f"the token file {path} cannot be read: {reason}"
        ) from None
    return _checked(text, f"the token file {path}"), float("inf")


async def _private_text(path: Path) -> Secret:
    # Not blocking: whoever writes into a pipe may come later, and the event loop waits better.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        mode = os.fstat(fd).st_mode
        if mode & 0o077:
            raise ConfigurationError(
                f"the token file {path} can be read by others (mode {mode & 0o777:04o}): "
                f"run chmod 600 {shlex.quote(str(path))}"
            )
        data = await _read_pipe(file) if stat.S_ISFIFO(mode) else Sealed(file.read(_MAX_ANSWER + 1))
    return Secret(data.decode("utf-8-sig").strip())


async def _run_command(command: str) -> tuple[Secret, float]:
    process = await _start(command)
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            said = await _read_output(process)
            await process.wait()
    except TimeoutError:
        raise Transient(
            "token",
            f"the token command did not end within {_COMMAND_SECONDS:g} s; it has no terminal and "
            "no input: should it ask for something, it must not",
        ) from None
    finally:
        if process.returncode is None:
            # Kills, and lets go of the pipe, which nothing else does while there is more to read.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
            await process.wait()
    if process.returncode:
        raise RunRefused(
            "token",
            f"the token command failed with exit code {process.returncode}; what it said stands "
            f"above{_shell_advice(command)}",
        )
    if said.reveal() in shlex.split(command):  # as `echo $TOKEN` does without a shell
        said = Secret("")
    return _checked(said, "the token command", _shell_advice(command)), float("inf")


def _check_command(command: str) -> None:
    """Raise ConfigurationError for a command that cannot be started, without starting it."""
    try:
        program = (shlex.split(command) or [""])[0]
    except ValueError as error:
        raise _not_run(command, error) from None
    if shutil.which(program) is None:
        code = errno.EACCES if os.access(program, os.F_OK) else errno.ENOENT
        raise _not_run(command, os.strerror(code))


def _not_run(command: str, reason: object) -> ConfigurationError:
    return ConfigurationError(f"the token command cannot be run: {reason}{_shell_advice(command)}")


async def _start(command: str) -> asyncio.subprocess.Process:
    """Start the command. Raises ConfigurationError, LocalFault."""
    try:
        words = shlex.split(command)
        return await asyncio.create_subprocess_exec(
            *(words or [""]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BlockingIOError):  # fork: as many processes as the user may have
            raise LocalFault("local", "this machine is short of processes (EAGAIN)") from None
        if short := local_fault(error):
            raise short from None
        reason = getattr(error, "strerror", None) or error
        raise _not_run(command, reason) from None


def _shell_advice(command: str) -> str:
    """Say what is missing where a command was written for a shell."""
    if not _SHELL_SIGNS.search(command) or command.split()[:1] in ([name] for name in _SHELLS):
        return ""
    return "; no shell runs it: for pipes, variables and && write  sh -c '...'"


async def _read_output(process: asyncio.subprocess.Process) -> Secret:
    assert process.stdout is not None
    return Secret((await _read_all(process.stdout)).decode("utf-8", "replace").strip())


async def _read_pipe(pipe: FileIO) -> Sealed:
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    try:
        return await _read_all(stream)
    finally:
        transport.close()


async def _read_all(stream: asyncio.StreamReader) -> Sealed:
    """Read what comes; more than any token has is read and dropped."""
    said = Sealed()
    while piece := Sealed(await stream.read(_MAX_ANSWER)):
        said = Sealed((said + piece)[: _MAX_ANSWER + 1])
    return said


def _checked(token: Secret, source: str, advice: str = "") -> Secret:
    if not token or not token.is_one_word or len(token.reveal()) > _MAX_ANSWER:
        raise ConfigurationError(
            f"{source} gave no token: it must hold one line, the token itself{advice}"
        )
    return token


async def _ask_endpoint(options: Options, transport: Transport) -> tuple[Secret, float]:
    """Ask the token endpoint (OAuth 2.0 client credentials, RFC 6749 section 4.4)."""
    url = str(options.token_url)
    name = f"the token endpoint {urlsplit(url).netloc}"
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    try:
        try:
            reply, body = await _post(transport, url, _form(options), headers)
        except StaleConnection:  # the server closed a kept connection: no fault of anybody
            reply, body = await _post(transport, url, _form(options), headers)
    except CourseError as error:
        error.args = (f"{name}: {error.message}",)
        raise
    pause = asked_pause(reply.headers, time.time())
    if verdict := _refusal(name, reply.status, body, options, pause=pause):
        raise verdict
    return _read_answer(name, body)


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


async def _post(
    transport: Transport, url: str, form: Sealed, headers: Mapping[str, str]
) -> tuple[Reply, Sealed]:
    body = Sealed()
    async with transport.post(url, form, headers) as reply:
        while len(body) < _MAX_ANSWER and (piece := Sealed(await reply.read())):
            body = Sealed(body + piece)
    return reply, body


def _refusal(
    name: str, status: int, body: bytes, options: Options, *, pause: float | None = None
) -> CourseError | None:
    """Judge what the endpoint answers; None when it may be a token."""
    if 200 <= status < 300:
        return None
    words = _endpoints_words(body, options)
    said = f"{name} answers HTTP {status}{words}"
    page = "; what came is an HTML page" if _HTML.match(body) else ""
    if status in {408, 429} or status >= 500:
        return Transient("token", said, retry_after=pause, overload=True)
    if 300 <= status < 400:
        return RunRefused("token", f"{said}: check --token-url, redirects are not followed")
    if status in {404, 405, 410}:
        return RunRefused("token", f"{said}: check --token-url{page}")
    return RunRefused(
        "token",
        f"{name} refuses with HTTP {status}{words}: "
        f"check --token-url, the client id and the client secret{page}",
    )


def _endpoints_words(body: bytes, options: Options) -> str:
    """Return what the endpoint says of an error, cleaned and in brackets; nothing if nothing.

    `error` and `error_description` are OAuth's (RFC 6749, 5.2), `message` is iSpring's.
    """
    answer = _json_object(body)
    parts = [answer.get(key) for key in ("error", "error_description", "message")]
    words = ": ".join(part for part in parts if isinstance(part, str) and part)
    for secret in (options.client_secret, options.token):
        words = Secret(secret).hidden_in(words) if secret else words
    return f" ({printable(words)})" if words else ""


def _read_answer(name: str, body: bytes) -> tuple[Secret, float]:
    answer = _json_object(body)
    token, lifetime = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str) or not token.strip() or not token.strip().isprintable():
        page = " with an HTML page, perhaps a login page," if _HTML.match(body) else ""
        raise RunRefused(
            "token", f"{name} answers{page} without an access_token: check the path of --token-url"
        )
    return Secret(token.strip()), _seconds(lifetime)


def _seconds(lifetime: object) -> float:
    """Return a token's lifetime; half an hour if the endpoint says nothing sensible."""
    try:
        seconds = 0.0 if isinstance(lifetime, bool) else float(str(lifetime))
    except ValueError:
        return _USUAL_LIFETIME
    return seconds if 0 < seconds < float("inf") else _USUAL_LIFETIME


def _json_object(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(bytes(body))  # orjson takes no subclass
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
