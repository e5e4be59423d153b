"""`simulate`: the simulated LMS as a server of its own, for tests of whoever uses this package."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.wording import by_count, counted, table
from bulkfetch.cli.files import writing
from bulkfetch.cli.flags import Number, command
from bulkfetch.cli.help import Flag

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice
    from bulkfetch.testing import SimulatedServer


class _Span(click.ParamType[Any]):
    """`5-60` or `30`: the least and the most."""

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,99})(?:-(\d{1,99}))?", value)
        if not match:
            self.fail(f"{value!r} is no span; write it like 5-60 or 30", param, ctx)
        least, most = match[1], match[2] or match[1]
        return _ROWS.convert(int(least), param, ctx), _ROWS.convert(int(most), param, ctx)


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words)


_SHARE = Number(0, 1)
_SECONDS = Number(0, 86_400)
_COURSES = click.IntRange(0, 1_000_000)
_ROWS = click.IntRange(0, 20_000_000)
_FLAGS: dict[str, list[tuple[str, Any, Any, str]]] = {
    "Content": [
        ("seed", int, 0, "The same seed gives the same courses and rows."),
        ("courses", _COURSES, 100, "Courses that can be fetched."),
        ("unknown", _COURSES, 0, "Ids on top that no course has."),
        ("denied", _COURSES, 0, "Ids on top that the account may not read."),
        ("rows", _Span(), (5, 60), "Least and most rows of a course, like 5-60."),
        ("zero_share", _SHARE, 0.0, "Share of courses without rows."),
        ("huge_share", _SHARE, 0.0, "Share of courses with --huge-rows rows."),
        ("huge_rows", _ROWS, 200_000, "Rows of a huge course."),
        ("track_share", _SHARE, 0.0, "Share of courses that are listed as tracks."),
    ],
    "Speed": [
        ("latency", _SECONDS, 0.0, "Mean seconds from request to answer."),
        ("latency_shape", _choice("fixed", "uniform", "exponential"), "fixed", "Its variation."),
        (
            "capacity",
            click.IntRange(1, 10_000),
            None,
            "Requests at once beyond which all become slower.",
        ),
        (
            "rate_limit",
            Number(0.001, 100_000),
            None,
            "Requests a second beyond which the answer is 429.",
        ),
    ],
    "Faults": [
        ("share_503", _SHARE, 0.0, "Share of requests answered 503."),
        ("share_429", _SHARE, 0.0, "Share of requests answered 429."),
        ("retry_after", click.IntRange(0, 86_400), 1, "Retry-After of those 429, in seconds."),
        ("share_reset", _SHARE, 0.0, "Share of connections that are reset."),
        ("share_cut", _SHARE, 0.0, "Share of bodies that are cut short."),
    ],
    "Protocol": [
        ("gzip", bool, False, "Compress for clients that accept it."),
        ("chunk_size", click.IntRange(1, 1 << 30), None, "Send bodies in chunks of so many bytes."),
        ("token_lifetime", _SECONDS, 1800.0, "Seconds that a token of the token endpoint lives."),
        ("namespaces", _choice("http", "https"), "http", "The spelling that is insisted on."),
    ],
}
"""Name, type, default and help; the defaults are those of `Simulation`, as a test makes sure."""


@command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0: any free one.",
)
@click.option("--write-ids", metavar="FILE", help="Write the list of all ids there first.")
def simulate(voice: Voice, *, host: str, port: int, write_ids: str | None, **given: Any) -> int:
    """Run a simulated LMS until Ctrl-C.

    It has a token endpoint, the SOAP endpoint and ?wsdl, and is as strict as a real one. What to
    set for `bulkfetch fetch` is printed on stdout, as lines to paste into a shell.
    """
    from bulkfetch.testing import Simulation, serve

    servers: list[SimulatedServer] = []

    def ready(server: SimulatedServer) -> None:
        servers.append(server)
        if write_ids:
            with writing(write_ids, overwrite=True) as write:
                write(f"{course_id}\n".encode() for course_id in server.course_ids)
        click.echo(_variables(server))
        voice.say(f"{counted(len(server.course_ids), 'course id')}; Ctrl-C ends it")
        voice.event("listening", {"endpoint": server.endpoint})

    try:
        serve(Simulation(**given), host=host, port=port, on_ready=ready)
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # asyncio's own words repeat the address
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port"
        ) from None
    for server in servers:
        voice.say("", *_report(server))
    return 0


simulate.params += [
    Flag(
        [f"--{name.replace('_', '-')}"],
        type=kind,
        default=default,
        is_flag=kind is bool,
        help=text,
        heading=heading,
    )
    for heading, flags in _FLAGS.items()
    for name, kind, default, text in flags
]


def _variables(server: SimulatedServer) -> str:
    simulation = server.simulation
    return "\n".join(
        [
            f"export BULKFETCH_ENDPOINT={server.endpoint}",
            f"export BULKFETCH_TOKEN={simulation.token}",
            "# or, for tokens that expire:",
            f"# export BULKFETCH_TOKEN_URL={server.token_url}",
            f"# export BULKFETCH_CLIENT_ID={simulation.client_id}",
            f"# export BULKFETCH_CLIENT_SECRET={simulation.client_secret}",
        ]
    )


def _report(server: SimulatedServer) -> list[str]:
    """Say what the server has seen."""
    seen = server.counters
    return table(
        [
            ("requests", f"{seen.requests:,}, at most {seen.max_in_flight:,} at once"),
            ("answers", by_count({str(status): n for status, n in seen.by_status.items()})),
            ("faults", by_count(seen.injected)),
            ("tokens", f"{seen.tokens_issued:,} issued"),
        ]
    )
