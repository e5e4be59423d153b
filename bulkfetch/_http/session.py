"""Requests over an aiohttp session: the caller's, or our own where there is a proxy.

A session of the caller's is used as it is and never closed. Its connections are aiohttp's own:
nobody can say whether one is new, and an answer is lost when bytes that are no HTTP follow it. The
course is then tried once more, on a connection of its own.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from bulkfetch._config.setting import Secret
from bulkfetch._http.listener import LONGEST_LINE, Handler
from bulkfetch._http.reply import HttpReply
from bulkfetch._http.tls import LateAlerts, Trust, tls_trouble
from bulkfetch._http.trouble import BEFORE_THE_HEAD, Way, before_the_head, proxy_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiohttp.client_proto import ResponseHandler

    from bulkfetch._config.options import Options
    from bulkfetch._domain.errors import CourseError

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for what no event tells of: a deadline, a chunk that is broken."""
_MOST_REMEMBERED: Final = 1024
SEEN: Final = ("3.14.5",)
"""The versions of aiohttp that the tests have seen. Its inner parts change in patches too."""


def known() -> bool:
    """Whether aiohttp's inner parts are those that the tests have seen."""
    return aiohttp.__version__ in SEEN


class HttpTransport:
    """A Transport over one aiohttp session; `own` says that its connections are ours alone."""

    def __init__(
        self,
        options: Options,
        session: aiohttp.ClientSession,
        *,
        own: bool = False,
        way: str = "session",
    ) -> None:
        self.way = way
        self.options = options
        self.session = session
        self.kept = not (own and known())
        self.trust = Trust(options)
        self.alone = Alone()
        # A caller's session may connect in ways of its own.
        self.alerts = LateAlerts(self.trust) if own and not options.proxy else None
        self.timeout = aiohttp.ClientTimeout(
            total=options.timeout,
            # A caller's session may make us wait for one of its connections, which is no fault.
            connect=options.connect_timeout if own else None,
            sock_connect=options.connect_timeout,
            sock_read=options.read_timeout,
        )
        self.proxy, self._credentials = _proxy(options)

    def credentials(self) -> dict[str, str] | None:
        """Return the header that tells the proxy who asks, if it shall know."""
        said = self._credentials
        return {"Proxy-Authorization": said.reveal()} if said else None

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> _SessionExchange:
        return _SessionExchange(self, url, body, headers)


def _proxy(options: Options) -> tuple[str | None, Secret | None]:
    """Return the proxy's bare address, and what tells it who asks."""
    user, password = options.proxy_user, options.proxy_password
    if options.proxy is None or not (user or password):
        return options.proxy, None
    known = password.reveal() if isinstance(password, Secret) else ""
    credentials = b64encode(f"{user}:{known}".encode()).decode()
    return str(URL(options.proxy).with_user(None)), Secret(f"Basic {credentials}")


class _SessionExchange:
    """A request and its response; not a generator, which would cost a small request 4 %."""

    __slots__ = ("_body", "_headers", "_owner", "_response", "_url", "_watch")

    def __init__(
        self, owner: HttpTransport, url: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self._owner = owner
        self._url = url
        self._body = body
        self._headers = headers
        self._watch: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> HttpReply:
        owner = self._owner
        try:
            response = self._response = await self._ask()
        except BEFORE_THE_HEAD as error:
            raise await judged(owner, self._url, self._body, error, kept=owner.kept) from None
        if owner.alerts:
            owner.alerts.answered(self._url)
        if response.status == 407 and owner.proxy:
            response.close()
            raise proxy_refusal(407, self._way())
        self._look()
        max_ratio = owner.options.max_ratio
        return HttpReply(response.status, response.headers, response.content, max_ratio)

    async def _ask(self) -> aiohttp.ClientResponse:
        owner = self._owner
        headers = owner.alone.headers(self._headers, self._body)
        told = owner.credentials()
        tunnel = self._url.startswith("https:")  # else the proxy reads the request itself
        return await owner.session.post(
            self._url,
            data=self._body,
            headers=headers if tunnel or not told else {**headers, **told},
            allow_redirects=False,
            auto_decompress=False,
            timeout=owner.timeout,
            proxy=owner.proxy,
            proxy_headers=told if tunnel else None,
            ssl=owner.trust.context(),
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

    def _way(self) -> Way:
        return Way.of(self._url, self._owner.options)

    async def __aexit__(self, *_: object) -> None:
        response = self._response
        if self._watch:
            self._watch.cancel()
        if response.content.is_eof():  # all of it has come, whether it was read or not
            response.release()
        else:
            response.close()

    def _look(self) -> None:
        """While more of the body is to come, look now and then whether it broke."""
        content, connection = self._response.content, self._response.connection
        protocol = connection and connection.protocol  # which is false when its queue is empty
        if protocol is not None and not content.is_eof():
            end_if_broken(content, protocol)
            self._watch = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)


class Alone:
    """Which requests shall have a connection of their own: those whose answer was no HTTP.

    It may have been spoilt by bytes behind it, or behind the answer before it on that connection.
    With `Connection: close` the server ends its answer by closing, and nothing can follow.
    """

    def __init__(self) -> None:
        self._bodies: set[bytes] = set()

    def note(self, verdict: CourseError, body: bytes) -> None:
        if verdict.kind == "bad-http" and len(self._bodies) < _MOST_REMEMBERED:
            self._bodies.add(body)

    def headers(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Return the headers of the request with this body, asked for once."""
        if not self._bodies or body not in self._bodies:
            return headers
        self._bodies.discard(body)
        return {**headers, "Connection": "close"}


class Judging(Protocol):
    """What a transport has that judges what came before the head."""

    @property
    def options(self) -> Options: ...

    @property
    def alone(self) -> Alone: ...

    @property
    def alerts(self) -> LateAlerts | None: ...


async def judged(
    owner: Judging,
    url: str,
    body: bytes,
    error: Exception,
    *,
    kept: bool = False,
) -> CourseError:
    """Say what an exception before the head means; see `before_the_head` and `LateAlerts`."""
    way = Way.of(url, owner.options)
    verdict = before_the_head(error, way, kept=kept)
    lost = verdict.kind == "disconnected" and url.startswith("https:")
    if lost and owner.alerts and (reason := await owner.alerts.at(url)):
        verdict = tls_trouble(reason, way.server(), certified=way.certified)
    owner.alone.note(verdict, body)
    return verdict


def end_if_broken(content: aiohttp.StreamReader, protocol: ResponseHandler) -> None:
    """Let a body's reader know that it broke: of a bad chunk aiohttp tells the protocol alone."""
    error = protocol.exception()
    if isinstance(error, HttpProcessingError) and not content.is_eof():
        content.set_exception(error)


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that keeps no cookies and asks the environment for nothing."""
    connector = aiohttp.TCPConnector(limit=0)  # the limiter decides how many at once
    if known():
        setattr(connector, "_factory", partial(Handler, connector._loop))  # noqa: B010, SLF001 - no public way, and no public type
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        yield session
