"""What one run works on, and what it goes through: ready before anything is opened."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import CourseError
from bulkfetch._domain.hooks import Hooks
from bulkfetch._http.direct import open_transport
from bulkfetch._http.token import make_provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Container, Iterable

    from aiohttp import ClientSession

    from bulkfetch._config.options import Options
    from bulkfetch._http.token import TokenProvider
    from bulkfetch._http.transport import Transport
    from bulkfetch._pace.limiter import Limiter

_NO_HOOKS: Final = Hooks()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one run works on; all but ids and options have defaults that will do."""

    ids: Iterable[str] | AsyncIterable[str]
    options: Options
    session: ClientSession | None = None
    transport: Transport | None = None
    tokens: TokenProvider | None = None
    limiter: Limiter | None = None
    hooks: Hooks = _NO_HOOKS
    settled: Container[str] = frozenset()
    last: Container[str] = frozenset()
    """Courses to ask after all others: they failed in an earlier run."""
    proven: bool = False
    """Whether this output holds rows of an earlier run."""
    controls: tuple[str, ...] = ()
    """Courses of the output that were fetched, small ones first: a control asks for them again."""
    spool_directory: str | None = None
    run_id: str = ""


@asynccontextmanager
async def equipped(setup: Setup) -> AsyncIterator[tuple[Transport, TokenProvider]]:
    """Have ready what requests go through, and where tokens come from.

    Raises ConfigurationError for settings of either that cannot serve: no token, a token file or
    a certificate that cannot be read. Nobody is asked for anything yet.
    """
    async with AsyncExitStack() as stack:
        transport = setup.transport
        if transport is None:
            transport = await stack.enter_async_context(
                open_transport(setup.options, setup.session)
            )
        tokens = setup.tokens or make_provider(setup.options, transport)
        if setup.options.token_file is not None:
            with suppress(CourseError):  # this machine is short of files: the run waits for some
                await tokens.get()
        yield transport, tokens
