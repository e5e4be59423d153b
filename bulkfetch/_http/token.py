"""Where access tokens come from: given, a file, a command, or the token endpoint.

Every provider has the same three calls. However many requests ask at once, a token is fetched once:
all wait for the same fetch (single flight), and for as long as the token endpoint asks to be left
alone. Its tokens are renewed some time before they expire, since a long run outlives them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import ConfigurationError, Transient, Unauthorized
from bulkfetch._domain.wording import duration
from bulkfetch._http.local_token import check_command, read_file, run_command
from bulkfetch._http.oauth import ask_endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bulkfetch._config.options import Options
    from bulkfetch._http.transport import Transport

_log = logging.getLogger("bulkfetch")


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
        return RenewedToken(partial(read_file, options.token_file))
    if options.token_command is not None:
        check_command(options.token_command)
        return RenewedToken(partial(run_command, options.token_command))
    if options.token_url is not None:
        return RenewedToken(
            partial(ask_endpoint, options, transport), longest=options.max_retry_after
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
