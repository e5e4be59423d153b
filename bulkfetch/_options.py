"""The settings of a run, each defined once.

A field carries its help, its placeholder and the way its text form is read, so that the command
line, the environment, the TOML file and the README's table all come from here. Values are
validated when the object is made: an `Options` that exists can be run.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias, cast
from urllib.parse import urlsplit

from bulkfetch._errors import ConfigurationError
from bulkfetch._setting import (
    Secret,
    Setting,
    parse_bytes,
    parse_max_errors,
    parse_rate,
    parse_seconds,
    parse_switch,
    setting,
)

Namespaces: TypeAlias = Literal["auto", "http", "https"]
Durability: TypeAlias = Literal["batch", "course", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to reach the server and how hard to lean on it.

    Durations are in seconds, sizes in bytes, rates in requests per second. Raises
    ConfigurationError, naming the field and the value, when a setting is missing or wrong.
    """

    # Connection
    endpoint: str = setting(
        "The SOAP endpoint of the account. There is no default.",
        metavar="URL",
    )
    token: Secret | str | None = setting(
        "Access token, when there is nothing to renew it with.",
        default=None,
        parse=Secret,
        flag=False,
    )
    token_file: Path | None = setting(
        "File holding the access token (mode 0600), read again when the server refuses it.",
        default=None,
        metavar="FILE",
        parse=Path,
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
    )
    client_id: str | None = setting("Client id for the token endpoint.", default=None)
    client_secret: Secret | str | None = setting(
        "Client secret for the token endpoint.", default=None, parse=Secret, flag=False
    )
    namespaces: Namespaces = setting(
        "Spelling of the XML namespaces: http, https, or auto (http, and https if refused).",
        default="auto",
        metavar="auto|http|https",
    )
    allow_http: bool = setting(
        "Allow plain http to hosts other than this one; the token then travels in the clear.",
        default=False,
        parse=parse_switch,
    )
    cacert: Path | None = setting(
        "Certificate authorities to trust instead of the system's (PEM).",
        default=None,
        metavar="FILE",
        parse=Path,
    )
    cert: Path | None = setting(
        "Client certificate (PEM).", default=None, metavar="FILE", parse=Path
    )
    key: Path | None = setting(
        "Private key of the client certificate (PEM).", default=None, metavar="FILE", parse=Path
    )
    proxy: str | None = setting(
        "HTTP proxy; proxies from the environment are ignored.", default=None, metavar="URL"
    )
    # Pace
    concurrency: int = setting(
        "Most requests in flight at once; fewer while the server struggles.",
        default=8,
        metavar="N",
        parse=int,
        group="Pace",
        short="-c",
    )
    rate: float | None = setting(
        "Most requests started per second, as 20/s or 600/m; never a burst.",
        default=None,
        metavar="N/s",
        parse=parse_rate,
        group="Pace",
    )
    adaptive: bool = setting(
        "Use fewer requests at once while the server shows strain.",
        default=True,
        parse=parse_switch,
        group="Pace",
    )
    retries: int = setting(
        "Extra tries for a course after a passing failure.",
        default=5,
        metavar="N",
        parse=int,
        group="Pace",
    )
    timeout: float = setting(
        "Longest time for one whole request.",
        default=300.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    connect_timeout: float = setting(
        "Longest time to connect.",
        default=10.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    read_timeout: float = setting(
        "Longest silence within a response.",
        default=120.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    min_throughput: int = setting(
        "Fewest bytes per second of a response body, over 30 s; 0 switches the check off.",
        default=128,
        metavar="BYTES",
        parse=parse_bytes,
        group="Pace",
    )
    backoff: float = setting(
        "Longest first pause before a retry; doubles with each try, with full jitter.",
        default=0.5,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    max_backoff: float = setting(
        "Longest pause before a retry.",
        default=60.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    max_retry_after: float = setting(
        "Longest pause that a Retry-After header can ask for.",
        default=300.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="Pace",
    )
    retry_budget: float = setting(
        "Retries as a share of requests; beyond it, and beyond ten a second, they wait.",
        default=0.2,
        metavar="SHARE",
        parse=float,
        group="Pace",
    )
    # When to stop
    breaker: int = setting(
        "Stop when this many requests in a row failed for a passing reason; 0 never stops.",
        default=20,
        metavar="N",
        parse=int,
        group="When to stop",
    )
    patience: float = setting(
        "Once something was fetched, probe a failing server this long before the breaker stops.",
        default=60.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="When to stop",
    )
    refusals: int = setting(
        "Stop after this many courses in a row met a refusal that all of them would share.",
        default=5,
        metavar="N",
        parse=int,
        group="When to stop",
    )
    max_errors: str | None = setting(
        "Stop when more courses than this failed: a number, or a percentage of those done.",
        default=None,
        metavar="N|N%",
        parse=parse_max_errors,
        group="When to stop",
    )
    fail_fast: bool = setting(
        "Stop at the first course that fails.",
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
    )
    grace: float = setting(
        "Time for requests in flight to finish after the first Ctrl-C or SIGTERM.",
        default=10.0,
        metavar="SECONDS",
        parse=parse_seconds,
        group="When to stop",
    )
    limit: int | None = setting(
        "Fetch at most this many courses.",
        default=None,
        metavar="N",
        parse=int,
        group="When to stop",
    )
    # Output
    durability: Durability = setting(
        "When data is forced to disk: with each commit (200 ms or 8 MiB), each course, the end.",
        default="batch",
        metavar="batch|course|none",
        group="Output",
    )
    ordered: bool = setting(
        "Write courses in the ids' order, the same bytes always; a slow one holds up the rest.",
        default=False,
        parse=parse_switch,
        group="Output",
    )
    stamp: bool = setting(
        "Add _fetched_at and _run_id to every row.",
        default=False,
        parse=parse_switch,
        group="Output",
    )
    # What the server may send
    retry_faults: tuple[str, ...] = setting(
        "Fault text that means 'try again' (part of it, any case). May be repeated.",
        default=(),
        group="What the server may send",
        many=True,
    )
    auth_faults: tuple[str, ...] = setting(
        "Fault text that means 'token not accepted'. May be repeated.",
        default=("Authorization failed",),
        group="What the server may send",
        many=True,
    )
    fatal_faults: tuple[str, ...] = setting(
        "Fault text that no course of the run can escape. May be repeated.",
        default=("Account subscription expired",),
        group="What the server may send",
        many=True,
    )
    max_bytes: int = setting(
        "Largest response, decompressed.",
        default=8 << 30,
        metavar="BYTES",
        parse=parse_bytes,
        group="What the server may send",
    )
    max_rows: int = setting(
        "Most rows in one response.",
        default=20_000_000,
        metavar="N",
        parse=int,
        group="What the server may send",
    )
    max_row_bytes: int = setting(
        "Largest single row, and most XML around the rows.",
        default=1 << 20,
        metavar="BYTES",
        parse=parse_bytes,
        group="What the server may send",
    )
    max_ratio: int = setting(
        "Largest compression ratio of a response, past its first 16 MiB.",
        default=200,
        metavar="N",
        parse=int,
        group="What the server may send",
    )

    def __post_init__(self) -> None:
        _coerce(self)
        for check in (
            _check_types,
            _check_urls,
            _check_numbers,
            _check_choices,
            _check_credentials,
        ):
            check(self)

    @property
    def host(self) -> str:
        """The endpoint's host and port, for messages and fingerprints."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2]


def settings() -> dict[str, Setting]:
    """Every field of `Options` by name, in the order of the README's table."""
    return {item.name: cast("Setting", item.metadata["setting"]) for item in fields(Options)}


def _coerce(options: Options) -> None:
    for name in ("token", "client_secret"):
        value = getattr(options, name)
        if isinstance(value, str):
            object.__setattr__(options, name, Secret(value) if value else None)
    for name in ("token_file", "cacert", "cert", "key"):
        value = getattr(options, name)
        if isinstance(value, str):
            object.__setattr__(options, name, Path(value))
    for name in ("retry_faults", "auth_faults", "fatal_faults"):
        value = getattr(options, name)
        object.__setattr__(options, name, (value,) if isinstance(value, str) else tuple(value))


def _wrong(name: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {value!r}: {remedy}")


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "it must be text"),
    "Secret": ((Secret,), "it must be text"),
    "bool": ((bool,), "it must be true or false"),
    "int": ((int,), "it must be a whole number"),
    "float": ((int, float), "it must be a number"),
}


def _check_types(options: Options) -> None:
    for item in fields(options):
        value = getattr(options, item.name)
        kind, _, optional = str(item.type).partition(" | ")
        types, remedy = _TYPES.get(kind, ((object,), ""))
        if not isinstance(value, types) and not (optional and value is None):
            raise _wrong(item.name, type(value) if kind == "Secret" else value, remedy)


def _check_urls(options: Options) -> None:
    for name in ("endpoint", "token_url", "proxy"):
        url = getattr(options, name)
        if url is not None:
            _check_url(name, url, allow_http=options.allow_http or name == "proxy")


def _check_url(name: str, url: str, *, allow_http: bool) -> None:
    if "@" in url:  # first of all, since the other messages show the URL
        raise ConfigurationError(
            f"{name} holds a user name or password: take it out of the URL (or write @ as %40)"
        )
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(name, url, f"not a URL ({error})") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise _wrong(name, url, "write it like https://acme.example/api/v2/soap/2.0")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise _wrong(
            name,
            url,
            "the token would travel unencrypted; use https, or say --allow-http if you must",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_AT_LEAST: dict[str, float] = {
    "concurrency": 1,
    "retries": 0,
    "min_throughput": 0,
    "backoff": 0,
    "max_backoff": 0,
    "max_retry_after": 0,
    "breaker": 0,
    "patience": 0,
    "refusals": 1,
    "grace": 0,
    "limit": 0,
    "max_bytes": 1,
    "max_rows": 1,
    "max_row_bytes": 1024,
    "max_ratio": 1,
}
_POSITIVE = ("rate", "timeout", "connect_timeout", "read_timeout", "max_duration", "retry_budget")


def _check_numbers(options: Options) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise _wrong(name, value, f"the least is {least:g}")
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise _wrong(name, value, "it must be greater than zero")
    if options.max_errors is not None:
        try:
            parse_max_errors(options.max_errors)
        except ValueError as error:
            raise ConfigurationError(f"max_errors: {error}") from None


def _check_choices(options: Options) -> None:
    for name, choices in (
        ("namespaces", ("auto", "http", "https")),
        ("durability", ("batch", "course", "none")),
    ):
        value = getattr(options, name)
        if value not in choices:
            raise _wrong(name, value, f"choose one of {', '.join(choices)}")
    if options.key and not options.cert:
        raise _wrong("key", str(options.key), "a key needs its certificate: set cert too")


def _check_credentials(options: Options) -> None:
    sources = [
        name
        for name in ("token", "token_file", "token_command", "token_url")
        if getattr(options, name) is not None
    ]
    if len(sources) > 1:
        raise ConfigurationError(f"{' and '.join(sources)} are set: choose one source of the token")
    if options.token_url and not (options.client_id and options.client_secret):
        raise ConfigurationError(
            "token_url needs client_id and client_secret "
            "(BULKFETCH_CLIENT_ID and BULKFETCH_CLIENT_SECRET)"
        )
