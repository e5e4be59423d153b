"""The simulated LMS as a server on loopback, for demonstrations, tests and benchmarks.

It answers as strictly as the real stack, and as badly as it is told: slow, over its rate, with
faults, resets and torn bodies. Nothing it does depends on who asks, only on its settings and on
the number of the request, so a retried course can succeed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter, deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Literal, Self

from aiohttp import ClientError, web

from bulkfetch._domain.model import GET_CONTENT
from bulkfetch.testing._raw import ARRIVAL, reset_connection
from bulkfetch.testing._simulation import (
    Simulation,
    catalogue,
    delay_of,
    expected_rows,
    fault_of,
    listed_content,
)
from bulkfetch.testing._soap import (
    XML_TYPE,
    AnsweredFault,
    Stream,
    application_namespace,
    content_body,
    fault_body,
    gzipped,
    read_call,
    statuses_body,
    torn_answer,
)
from bulkfetch.testing._wsdl import wsdl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkfetch.testing._simulation import ExpectedRow, Fault

SOAP_PATH = "/api/v2/soap/2.0"
TOKEN_PATH = "/api/v3/token"  # noqa: S105 - a path
_REMEMBERED_STARTS = 1_000_000


@dataclass(slots=True)
class Counters:
    """What the server has seen so far; SOAP requests only, but for `tokens_issued`."""

    requests: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    tokens_issued: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    """Answers sent whole, by HTTP status."""
    by_course: Counter[str] = field(default_factory=Counter)
    """Requests for a known course id, torn answers included, 429 and 503 not."""
    injected: Counter[str] = field(default_factory=Counter)
    """Injected faults by kind; `rate-limit` counts what was over the rate."""
    started_at: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_STARTS))
    """When requests came, by the event loop's clock; the last million."""


class SimulatedServer:
    """A simulated LMS: `async with SimulatedServer(Simulation(...)) as server`.

    A plain `with` runs it in a thread of its own, for blocking callers. Leaving ends it within a
    second, whatever is in flight. It listens on loopback unless told otherwise.
    """

    def __init__(
        self, simulation: Simulation | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.simulation = simulation or Simulation()
        self.counters = Counters()
        self.port = port
        self._host = host
        self._catalogue = catalogue(self.simulation)
        self._known = frozenset(self._catalogue.ids)
        self._denied = frozenset(self._catalogue.denied)
        self._tokens: dict[str, float] = {}
        self._admitted: deque[float] = deque()

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self.port}{SOAP_PATH}"

    @property
    def token_url(self) -> str:
        return f"http://{self._host}:{self.port}{TOKEN_PATH}"

    @property
    def token(self) -> str | None:
        return self.simulation.token

    @property
    def course_ids(self) -> tuple[str, ...]:
        """All ids in a fixed order: courses, unknown and denied ids mixed."""
        return self._catalogue.ids

    @property
    def unknown_ids(self) -> tuple[str, ...]:
        return self._catalogue.unknown

    @property
    def denied_ids(self) -> tuple[str, ...]:
        return self._catalogue.denied

    def expected_rows(self, course_id: str) -> list[ExpectedRow]:
        """Return the rows of a course in order; none for ids that cannot be fetched."""
        return expected_rows(self.simulation, course_id)

    def expected(self) -> dict[str, list[ExpectedRow]]:
        """Return the rows of every course that can be fetched, in the order of `course_ids`."""
        fetchable = self._catalogue.fetchable
        return {name: self.expected_rows(name) for name in self.course_ids if name in fetchable}

    def expected_content(self) -> list[dict[str, str]]:
        """Return what GetContent lists: all but the unknown ids."""
        return list(listed_content(self.simulation))

    def revoke_tokens(self) -> None:
        """Forget every token that the token endpoint has issued."""
        self._tokens.clear()

    async def __aenter__(self) -> Self:
        server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        self._wsdl = wsdl(self.endpoint, application_namespace(self.simulation.namespaces))
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._runner.cleanup()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            loop = stack.enter_context(_loop_in_thread())
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            stack.callback(
                lambda: asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except (ConnectionError, ClientError, web.RequestPayloadError):
            return web.Response(status=400)  # the client has gone: nobody reads it

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _mark, query = request.raw_path.partition("?")
        if path == TOKEN_PATH:
            return await self._token(request)
        if path != SOAP_PATH:
            return _page(404, "Not Found")
        if request.method == "POST":
            return await self._soap(request)
        if request.method == "GET" and query.lower() == "wsdl":
            return web.Response(body=self._wsdl, headers={"Content-Type": XML_TYPE})
        return _page(405, "Method Not Allowed", {"Allow": "POST"})

    async def _soap(self, request: web.BaseRequest) -> web.StreamResponse:
        counters = self.counters
        counters.requests += 1
        counters.in_flight += 1
        counters.max_in_flight = max(counters.max_in_flight, counters.in_flight)
        counters.started_at.append(asyncio.get_running_loop().time())
        try:
            response = await self._treat(request, counters.requests)
        finally:
            counters.in_flight -= 1
        if response is None:
            return web.Response()  # torn: the connection has ended, this goes nowhere
        counters.by_status[response.status] += 1
        return response

    async def _treat(self, request: web.BaseRequest, number: int) -> web.StreamResponse | None:
        """Answer a request, or tear its connection and return None."""
        simulation, counters = self.simulation, self.counters
        if (wait := self._over_rate(counters.started_at[-1])) is not None:
            counters.injected["rate-limit"] += 1
            return _busy(429, ceil(wait))
        fault = fault_of(simulation, number)
        sent = await request.read()
        if delay := delay_of(simulation, number, counters.in_flight):
            await asyncio.sleep(delay)
        if fault in ("503", "429"):
            counters.injected[fault] += 1
            return _busy(503) if fault == "503" else _busy(429, simulation.retry_after)
        try:
            body = self._perform(sent)
        except AnsweredFault as refusal:
            data = fault_body(refusal, simulation.namespaces)
            return web.Response(body=data, status=500, headers={"Content-Type": XML_TYPE})
        if fault is not None:
            await self._tear(request, fault, body)
            return None
        return await self._send(request, body)

    def _over_rate(self, now: float) -> float | None:
        """Return how long the rate stays exhausted; None admits the request."""
        rate = self.simulation.rate_limit
        if rate is None:
            return None
        most = max(1, int(rate))
        window = most / rate
        while self._admitted and self._admitted[0] <= now - window:
            self._admitted.popleft()
        if len(self._admitted) >= most:
            return self._admitted[0] + window - now
        self._admitted.append(now)
        return None

    def _perform(self, sent: bytes) -> bytes | Stream:
        call = read_call(sent, self.simulation.namespaces)
        if not self._is_accepted(call.token):
            raise AnsweredFault("SOAP-ENV:Server", "Authorization failed")
        if call.method == GET_CONTENT.name:
            return content_body(self.simulation)
        course_id = call.content_item_id
        if course_id in self._known:
            self.counters.by_course[course_id] += 1
        if course_id in self._catalogue.fetchable:
            return statuses_body(self.simulation, course_id)
        if not course_id:
            raise AnsweredFault("SOAP-ENV:Server", "Wrong parameters")
        if course_id in self._denied:
            raise AnsweredFault("SOAP-ENV:Server", "Permission denied")
        raise AnsweredFault("SOAP-ENV:Server", "Unknown content item")

    def _is_accepted(self, token: str) -> bool:
        if token and token == self.simulation.token:
            return True
        return self._tokens.get(token, 0.0) > asyncio.get_running_loop().time()

    async def _tear(self, request: web.BaseRequest, fault: Fault, body: bytes | Stream) -> None:
        self.counters.injected[fault] += 1
        transport = request.transport
        if transport is None:
            return  # the client was faster
        if fault != "reset-before-headers":
            # Of a stream its head and first block: torn is torn, and memory stays flat.
            begun = body if isinstance(body, bytes) else b"".join(islice(body.pieces, 2))
            transport.write(torn_answer(fault, begun, gzip=_takes_gzip(request)))
        if fault == "reset-inside-body":
            await asyncio.sleep(ARRIVAL)
        if fault.startswith("reset"):
            reset_connection(transport)
        else:
            transport.close()

    async def _send(self, request: web.BaseRequest, body: bytes | Stream) -> web.StreamResponse:
        size = self.simulation.chunk_size
        headers = {"Content-Type": XML_TYPE}
        pieces: Iterable[bytes] = (body,) if isinstance(body, bytes) else body.pieces
        length = len(body) if isinstance(body, bytes) else body.length
        if self.simulation.gzip and _takes_gzip(request):
            headers["Content-Encoding"] = "gzip"
            pieces, length = gzipped(pieces), None
        if isinstance(body, bytes) and size is None:
            return web.Response(body=b"".join(pieces), headers=headers)
        response = web.StreamResponse(headers=headers)
        if size is None:
            response.content_length = length
        await response.prepare(request)
        for piece in pieces if size is None else _sliced(pieces, size):
            await response.write(piece)
            await asyncio.sleep(0)  # a fast reader never blocks the write: others wait their turn
        await response.write_eof()
        return response

    async def _token(self, request: web.BaseRequest) -> web.Response:
        if request.method != "POST":
            return _page(405, "Method Not Allowed", {"Allow": "POST"})
        simulation = self.simulation
        form = await request.post()
        given = (form.get("client_id"), form.get("client_secret"))
        if simulation.client_id is None:
            return _token_error(403, "The account has no API access")
        if form.get("grant_type") != "client_credentials" or None in given:
            return _token_error(400, "client_id, client_secret and grant_type are required")
        if given != (simulation.client_id, simulation.client_secret):
            return _token_error(401, "Unknown client or wrong secret")
        token = self._issue(asyncio.get_running_loop().time())
        lifetime = int(simulation.token_lifetime)
        return web.json_response(
            {"access_token": token, "expires_in": lifetime, "token_type": "bearer"}
        )

    def _issue(self, now: float) -> str:
        self._tokens = {name: end for name, end in self._tokens.items() if end > now}
        token = token_urlsafe(32)
        self._tokens[token] = now + self.simulation.token_lifetime
        self.counters.tokens_issued += 1
        return token


def _takes_gzip(request: web.BaseRequest) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "").lower()


def _sliced(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]


def _page(status: int, title: str, headers: dict[str, str] | None = None) -> web.Response:
    text = f"<html><head><title>{status} {title}</title></head><body><h1>{title}</h1></body></html>"
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def _busy(status: Literal[429, 503], retry_after: int | None = None) -> web.Response:
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    title = {429: "Too Many Requests", 503: "Service Temporarily Unavailable"}[status]
    return _page(status, title, headers)


def _token_error(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message}, status=status)


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulated-lms", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    """End the handlers of connections that clients left open."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def serve(
    simulation: Simulation,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[SimulatedServer], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then return; both handlers are as before afterwards.

    Only for a process's main thread. `on_ready` is called once the server listens. Raises OSError
    when the port is taken.
    """
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {n: handler for n, handler in previous.items() if handler is not signal.SIG_IGN}
    try:
        asyncio.run(
            _serve_until(previous, SimulatedServer(simulation, host=host, port=port), on_ready)
        )
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


async def _serve_until(
    signals: Iterable[signal.Signals],
    server: SimulatedServer,
    on_ready: Callable[[SimulatedServer], None] | None,
) -> None:
    stop = asyncio.Event()
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        if on_ready is not None:
            on_ready(server)
        await stop.wait()
