"""The settings of a run, each defined once.

A field carries its help, its bounds, its placeholder and the way its text form is read, so that the
command line, the environment, the TOML file, the README's table and the docstring of `Options` all
come from here. Values are validated when the object is made: an `Options` that exists can be run.
"""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from bulkfetch._config.checks import check_values, keep_as
from bulkfetch._config.proxy import split_proxy
from bulkfetch._config.setting import (
    Secret,
    Setting,
    as_text,
    parse_bytes,
    parse_count,
    parse_max_errors,
    parse_number,
    parse_rate,
    parse_seconds,
    parse_shard,
    parse_switch,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkfetch._config.setting import Readable

    SecretText: TypeAlias = Readable[Secret | None, Secret | str | None]
    File: TypeAlias = Readable[Path | None, Path | str | None]
    Rate: TypeAlias = Readable[float | None, float | str | None]
    MaxErrors: TypeAlias = Readable[str | None, int | str | None]
    Texts: TypeAlias = Readable[tuple[str, ...], Iterable[str]]
else:
    SecretText, File, Rate = Secret | None, Path | None, float | None
    MaxErrors, Texts = str | None, tuple[str, ...]

Namespaces: TypeAlias = Literal["auto", "http", "https"]
Durability: TypeAlias = Literal["batch", "course", "none"]

_DAY: Final = 86_400.0
_SOON: Final = 0.001
_MANY: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to reach the server and how hard to lean on it.

    Raises ConfigurationError, naming the field and the value, when a setting is missing or wrong.
    """

    # Connection
    endpoint: str = setting(
        "The SOAP endpoint of the account. There is no default.",
        metavar="URL",
        daily=True,
    )
    token: SecretText = setting(
        "Access token, when there is nothing to renew it with.",
        default=None,
        parse=Secret,
        flag=False,
    )
    token_file: File = setting(
        "File holding the access token (mode 0600), read again when the server refuses it.",
        default=None,
        metavar="FILE",
        parse=Path,
        daily=True,
    )
    token_command: str | None = setting(
        "Command that prints an access token, run again when the server refuses it.",
        default=None,
        metavar="COMMAND",
    )
    token_url: str | None = setting(
        "Token endpoint for client credentials, as https://HOST/api/v3/token.",
        default=None,
        metavar="URL",
        daily=True,
    )
    client_id: str | None = setting("Client id for the token endpoint.", default=None)
    client_secret: SecretText = setting(
        "Client secret for the token endpoint.", default=None, parse=Secret, flag=False
    )
    namespaces: Namespaces = setting(
        "Spelling of the XML namespaces: http, https, or auto (http, and https if refused).",
        default="auto",
        choices=("auto", "http", "https"),
    )
    soap_action: str | None = setting(
        'The SOAPAction header, {method} in it being the method\'s name; "" sends an empty one. '
        "Without it, the method's name.",
        default=None,
        least=0,
    )
    allow_http: bool = setting(
        "Allow plain http to hosts other than this one; the token then travels in the clear.",
        default=False,
        parse=parse_switch,
    )
    cacert: File = setting(
        "Certificate authorities to trust instead of the system's (PEM).",
        default=None,
        metavar="FILE",
        parse=Path,
    )
    cert: File = setting("Client certificate (PEM).", default=None, metavar="FILE", parse=Path)
    key: File = setting(
        "Private key of the client certificate (PEM).", default=None, metavar="FILE", parse=Path
    )
    proxy: str | None = setting(
        "HTTP proxy, as http://NAME@HOST:PORT; proxies from the environment are ignored.",
        default=None,
        metavar="URL",
    )
    proxy_password: Secret | str | None = setting(
        "Password for the proxy.", default=None, parse=Secret, flag=False
    )
    # Pace
    concurrency: int = setting(
        "Most requests in flight at once; fewer while the server struggles.",
        default=8,
        metavar="N",
        parse=parse_count,
        group="Pace",
        least=1,
        most=10_000,
        why="each request holds a connection, and a machine has some 28,000 ports for one server",
        daily=True,
        short="-c",
    )
    rate: Rate = setting(
        "Most requests started per second, as 20/s or 600/m; lateness beyond 20 ms is not made up.",
        default=None,
        metavar="N/s",
        parse=parse_rate,
        group="Pace",
        least=0.0001,
        most=100_000,
        why="one request in some hours is no export, and no machine sends more",
        daily=True,
    )
    adaptive: bool = setting(
        "Use fewer requests at once while the server shows strain.",
        default=True,
        parse=parse_switch,
        group="Pace",
    )
    retry_budget: float = setting(
        "Retries as a share of requests; beyond it, and beyond ten a second, they wait.",
        default=0.2,
        metavar="SHARE",
        parse=parse_number,
        group="Pace",
        least=0.001,
        most=100,
        why="0.2 is one retry for five requests; 100 is as good as no budget",
    )
    # Tries and timeouts
    retries: int = setting(
        "Extra tries for a course after a passing failure.",
        default=5,
        metavar="N",
        parse=parse_count,
        group="Tries and timeouts",
        least=0,
        most=1000,
        why="after so many tries a course has failed",
        daily=True,
    )
    timeout: float = setting(
        "Longest time for one whole request.",
        default=300.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=_SOON,
        most=7 * _DAY,
        why="a request that hangs must end some day",
    )
    connect_timeout: float = setting(
        "Longest time to connect.",
        default=10.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=_SOON,
        most=3600,
        why="the operating system gives up within minutes",
    )
    read_timeout: float = setting(
        "Longest silence within a response.",
        default=120.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=_SOON,
        most=_DAY,
        why="a connection that is dead must be noticed some day",
    )
    min_throughput: int = setting(
        "Fewest bytes per second of a response body, over 30 s; 0 switches the check off.",
        default=128,
        metavar="BYTES",
        parse=parse_bytes,
        group="Tries and timeouts",
        least=0,
        most=1 << 30,
        why="no network is that fast for sure",
    )
    backoff: float = setting(
        "Longest first pause before a retry; doubles with each try, with full jitter.",
        default=0.5,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=0,
        most=3600,
        why="it doubles with each try",
    )
    max_backoff: float = setting(
        "Longest pause before a retry.",
        default=60.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=0,
        most=_DAY,
        why="a run that sleeps for longer looks dead",
    )
    max_retry_after: float = setting(
        "Longest pause that a Retry-After header can ask for.",
        default=300.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Tries and timeouts",
        least=0,
        most=7 * _DAY,
        why="a server must not put a run to sleep for ever",
    )
    # When to stop
    breaker: int = setting(
        "Hold and probe once this many courses in a row failed for passing reasons; 0 never.",
        default=20,
        metavar="N",
        parse=parse_count,
        group="When to stop",
        least=0,
        most=1_000_000,
        why="0 switches it off",
    )
    patience: float = setting(
        "How long a failing server is probed before the run stops; at most 60 s, or 5 s where no "
        "connection was ever made, while nothing was fetched yet.",
        default=600.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="When to stop",
        least=0,
        most=30 * _DAY,
        why="a person should look at a server that is down for a month",
    )
    refusals: int = setting(
        "Stop after this many courses in a row met a refusal that all of them would share.",
        default=5,
        metavar="N",
        parse=parse_count,
        group="When to stop",
        least=1,
        most=1_000_000,
        why="a refused token must stop the run some time",
    )
    max_errors: MaxErrors = setting(
        "Stop when more courses failed or were refused: a number, or a percentage of those done.",
        default=None,
        metavar="N|N%",
        parse=parse_max_errors,
        group="When to stop",
        daily=True,
    )
    fail_fast: bool = setting(
        "Stop at the first course that fails or is refused.",
        default=False,
        parse=parse_switch,
        group="When to stop",
    )
    max_duration: float | None = setting(
        "Stop in good order after this time; the same command resumes.",
        default=None,
        metavar="SECONDS",
        parse=parse_seconds,
        group="When to stop",
        least=_SOON,
        most=366 * _DAY,
        why="longer is as good as no limit: leave it out",
        daily=True,
    )
    grace: float = setting(
        "Time for requests in flight to finish after the first Ctrl-C, SIGTERM or SIGHUP.",
        default=10.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="When to stop",
        least=0,
        most=_DAY,
        why="who stops a run does not wait for longer",
    )
    limit: int | None = setting(
        "Fetch at most this many courses.",
        default=None,
        metavar="N",
        parse=parse_count,
        group="When to stop",
        least=0,
        most=_MANY,
        why="no account has more courses: leave it out",
        daily=True,
    )
    # Output
    durability: Durability = setting(
        "When data is forced to disk: with each commit (200 ms or 8 MiB), each course, the end.",
        default="batch",
        choices=("batch", "course", "none"),
        group="Output",
    )
    ordered: bool = setting(
        "Write courses in the ids' order, the same bytes always; a slow one holds up the rest.",
        default=False,
        parse=parse_switch,
        group="Output",
    )
    shard: tuple[int, int] | None = setting(
        "Fetch only this share of the ids, as 0/8 to 7/8; each id is in one, always the same.",
        default=None,
        metavar="I/N",
        parse=parse_shard,
        group="Output",
    )
    stamp: bool = setting(
        "Add _fetched_at and _run_id to every row.",
        default=False,
        parse=parse_switch,
        group="Output",
        daily=True,
    )
    # What the server may send
    final_faults: Texts = setting(
        "Fault text that is the final word on a course (part of it, any case). May be repeated.",
        default=("Unknown content item", "Permission denied", "Wrong parameters"),
        group="What the server may send",
        many=True,
        least=0,  # "" means none
    )
    retry_faults: Texts = setting(
        "Fault text that means 'the server is busy'. May be repeated.",
        default=(
            *("too many requests", "rate limit", "try again", "throttl"),
            *("rate exceeded", "quota", "too busy", "slow down"),
        ),
        group="What the server may send",
        many=True,
        least=0,  # "" means none
    )
    auth_faults: Texts = setting(
        "Fault text that means 'token not accepted'. May be repeated.",
        default=("Authorization failed",),
        group="What the server may send",
        many=True,
        least=0,  # "" means none
    )
    fatal_faults: Texts = setting(
        "Fault text that no course of the run can escape. May be repeated.",
        default=("Account subscription expired",),
        group="What the server may send",
        many=True,
        least=0,  # "" means none
    )
    max_bytes: int = setting(
        "Largest response, decompressed.",
        default=8 << 30,
        metavar="BYTES",
        parse=parse_bytes,
        group="What the server may send",
        least=1,
        most=1 << 50,
        why="a response has to fit on a disk",
    )
    max_rows: int = setting(
        "Most rows in one response.",
        default=20_000_000,
        metavar="N",
        parse=parse_count,
        group="What the server may send",
        least=1,
        most=1000 * _MANY,
        why="a response has to fit on a disk",
    )
    max_row_bytes: int = setting(
        "Largest single row, and most XML around the rows.",
        default=1 << 20,
        metavar="BYTES",
        parse=parse_bytes,
        group="What the server may send",
        least=1024,
        most=1 << 30,
        why="a row is held in memory as a whole",
    )
    max_ratio: int = setting(
        "Largest compression ratio of a response, past its first 16 MiB.",
        default=200,
        metavar="N",
        parse=parse_count,
        group="What the server may send",
        least=1,
        most=1_000_000,
        why="no honest data is compressed better",
    )

    def __post_init__(self) -> None:
        proxy, password = split_proxy(self.proxy)
        object.__setattr__(self, "proxy", proxy)
        if password and not self.proxy_password:
            object.__setattr__(self, "proxy_password", password)
        for name, item in settings().items():
            object.__setattr__(self, name, keep_as(name, item, getattr(self, name)))
        check_values({name: getattr(self, name) for name in settings()}, settings())

    @property
    def host(self) -> str:
        """The endpoint's host and port, for messages and fingerprints."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2]

    @property
    def proxy_user(self) -> str:
        """The name that the proxy asks for; empty if there is none."""
        return unquote(urlsplit(self.proxy or "").username or "")


_SETTINGS: Final = {
    item.name: cast("Setting", item.metadata["setting"]) for item in fields(Options)
}
_UNITS: Final = {"SECONDS": "seconds", "BYTES": "bytes", "N/s": "requests a second or text"}


def settings() -> dict[str, Setting]:
    """Every field of `Options` by name, in the order of the README's table."""
    return _SETTINGS


def _documentation() -> str:
    words = textwrap.TextWrapper(96, initial_indent=" " * 8, subsequent_indent=" " * 8)
    lines = [inspect.cleandoc(str(Options.__doc__))]
    group = ""
    for name, item in _SETTINGS.items():
        if item.group != group:
            group = item.group
            lines += ["", f"{group}:"]
        lines += [f"    {name}{_facts(item)}", *words.wrap(item.help)]
    return "\n".join(lines)


def _facts(item: Setting) -> str:
    default = f"default {as_text(item.default)}" if item.default is not None else ""
    known = [fact for fact in (_UNITS.get(item.metavar), item.bounds, default) if fact]
    return f" ({', '.join(known)})" if known else ""


Options.__doc__ = _documentation()
