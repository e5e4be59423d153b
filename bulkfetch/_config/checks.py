"""What a setting may be: types, bounds, addresses, and what does not go together.

All are pure functions of the values; each raises ConfigurationError with the field's name, the
value as it was given, and what would be right.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from bulkfetch._config.proxy import without_user
from bulkfetch._config.setting import (
    Secret,
    as_text,
    parse_bytes,
    parse_count,
    parse_max_errors,
    parse_number,
    parse_rate,
    parse_seconds,
    parse_shard,
    parse_switch,
    quoted,
)
from bulkfetch._domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkfetch._config.setting import Setting

TOKEN_SOURCES: Final = ("token", "token_file", "token_command", "token_url")
_MOST_TEXTS: Final = 1000
_NUMBER: Final = ((int, float), "it must be a number")
_WHOLE: Final = ((int,), "it must be a whole number")
_TYPES: Final[dict[Callable[[str], Any], tuple[tuple[type, ...], str]]] = {
    str: ((str,), "it must be text"),
    Secret: ((Secret,), "it must be text"),
    Path: ((Path,), "it must be a path"),
    parse_switch: ((bool,), "it must be true or false"),
    parse_count: _WHOLE,
    parse_bytes: _WHOLE,
    parse_number: _NUMBER,
    parse_rate: _NUMBER,
    parse_seconds: _NUMBER,
    parse_max_errors: ((str,), "it must be a number or a percentage"),
    parse_shard: ((tuple,), "it must be a number and how many there are"),
}


def keep_as(name: str, item: Setting, value: object) -> object:
    """Return a value in the type it is kept in, from the plainer one it may be given in."""
    if item.parse is parse_shard and value is not None:
        return _read_shard(value)
    if item.many:
        return (value,) if isinstance(value, str) else _as_tuple(name, value)
    if item.parse is parse_max_errors and isinstance(value, int) and not isinstance(value, bool):
        value = quoted(value)
    if not isinstance(value, str) or item.parse not in {Secret, Path, parse_rate, parse_max_errors}:
        return value
    if item.parse is Secret and not value:
        return None  # containers hand over empty variables for what is not set
    try:
        return item.parse(value)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _read_shard(value: object) -> tuple[int, int]:
    try:
        return parse_shard(value)
    except ValueError as error:
        raise ConfigurationError(f"shard: {error}") from None


def _as_tuple(name: str, value: Any) -> tuple[object, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise _wrong(name, value, "it must be texts") from None


def check_values(values: Mapping[str, Any], known: Mapping[str, Setting]) -> None:
    """Raise ConfigurationError for the first value that cannot be run with."""
    for name, item in known.items():
        if item.many:
            _check_texts(name, item, values[name])
        elif values[name] is not None or item.default is not None or name == "endpoint":
            _check_type(name, item, values[name])
    for name in ("endpoint", "token_url"):
        if values[name] is not None:
            _check_url(name, values[name], allow_http=values["allow_http"])
    if values["proxy"] is not None:
        _check_url("proxy", without_user(values["proxy"]), allow_http=True)
    for name, item in known.items():
        if not item.many and values[name] is not None:
            _check_value(name, item, values[name])
    if values["key"] and not values["cert"]:
        raise _wrong("key", str(values["key"]), "a key needs its certificate: set cert too")
    _check_header(values["soap_action"])
    _check_credentials(values)


def _check_header(action: str | None) -> None:
    if action is not None and not (action.isascii() and action.isprintable()):
        raise _wrong("soap_action", action, "a header holds printable ASCII characters only")


def _wrong(name: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {quoted(value)}: {remedy}")


def _check_type(name: str, item: Setting, value: object) -> None:
    types, remedy = _TYPES[item.parse]
    switch = isinstance(value, bool) and bool not in types  # to Python a bool is a whole number
    if switch or not isinstance(value, types):
        raise _wrong(name, type(value) if item.parse is Secret else value, remedy)


def _check_texts(name: str, item: Setting, texts: tuple[object, ...]) -> None:
    if len(texts) > _MOST_TEXTS:
        raise ConfigurationError(f"{name} holds {len(texts):,} texts: the most is {_MOST_TEXTS:,}")
    for text in texts:
        _check_type(name, item, text)
        _check_value(name, item, text)


def _check_value(name: str, item: Setting, value: Any) -> None:
    if item.choices and value not in item.choices:
        raise _wrong(name, value, f"choose {item.bounds}")
    if item.is_text:
        text = value.reveal() if isinstance(value, Secret) else str(value)
        check_text(name, text, shown=not isinstance(value, Secret))
        if name == "token" and not Secret(text).is_one_word:
            raise ConfigurationError(
                "token holds blanks, line breaks or control characters: it must be one line, "
                "the token itself"
            )
        if not item.least <= len(text) <= item.most:
            problem = f"{len(text):,} characters; from {item.least:,} to {item.most:,} are allowed"
            raise ConfigurationError(f"{name} has {problem}")
    elif not (item.is_switch or item.parse in {parse_max_errors, parse_shard}):
        _check_number(name, item, value)


def _check_number(name: str, item: Setting, value: float) -> None:
    why = f" ({item.why})" if item.why else ""
    if value != value:  # noqa: PLR0124 - which only nan is
        raise _wrong(name, value, "it must be a number")
    if value < item.least:
        raise _wrong(name, value, f"the least is {as_text(item.least)}{why}")
    if value > item.most:
        raise _wrong(name, value, f"the most is {as_text(item.most)}{why}")


def check_text(name: str, text: str, *, shown: bool = True) -> None:
    """Refuse a text that cannot be written into a journal, an environment or a header.

    Bytes of arguments and variables that are no UTF-8 arrive as lone surrogates.
    """
    value = f" {quoted(text)}" if shown else ""
    if "\0" in text:
        raise ConfigurationError(f"{name}{value} holds a zero byte: take it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{name}{value} holds bytes that are no UTF-8: write it in UTF-8, or rename the file"
        ) from None


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
        like = "http://HOST:PORT" if name == "proxy" else "https://acme.example/api/v2/soap/2.0"
        raise _wrong(name, url, f"write it like {like}")
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


def _check_credentials(values: Mapping[str, Any]) -> None:
    sources = [name for name in TOKEN_SOURCES if values[name] is not None]
    if len(sources) > 1:
        raise ConfigurationError(f"{' and '.join(sources)} are set: choose one source of the token")
    if values["token_url"] and not (values["client_id"] and values["client_secret"]):
        raise ConfigurationError(
            "token_url needs client_id and client_secret "
            "(BULKFETCH_CLIENT_ID and BULKFETCH_CLIENT_SECRET)"
        )
