"""Where settings come from: flags, environment, a TOML file, defaults, in this order.

Every setting of `Options` is known under its name everywhere: `--max-errors`, BULKFETCH_MAX_ERRORS,
`max_errors = "5%"`. Each value remembers where it came from, for messages and for a person who
wonders. Secrets have no flag, and none may stand in a file that others can read.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bulkfetch._config.checks import TOKEN_SOURCES
from bulkfetch._config.options import Options, settings
from bulkfetch._config.proxy import split_password
from bulkfetch._config.setting import as_text, quoted
from bulkfetch._domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bulkfetch._config.setting import Setting

PREFIX: Final = "BULKFETCH_"
CONFIG: Final = f"{PREFIX}CONFIG"
_LONGEST_FILE: Final = 1 << 20
OTHER_VARIABLES: Final = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "CONFIG",
        "LOG_FORMAT",
        "INPUT",
        "OUTPUT",
        "ID_COLUMN",
        "METRICS_ADDR",
        "METRICS_FILE",
        "SHARDS",
        "SCHEDULER",
    )
)
"""What the commands understand besides the settings."""
_HIDDEN: Final = (*(name for name, item in settings().items() if not item.flag), "token_command")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value and where it came from: a flag, a variable, a file, or "default"."""

    value: object
    source: str


Layer: TypeAlias = "Mapping[str, Chosen]"


def choose(
    flags: Mapping[str, Any], *, environment: Mapping[str, str], config: str | None = None
) -> dict[str, Chosen]:
    """Return every setting that has a value, the nearest one.

    `flags` holds texts (switches: booleans) by field name; None and () were not given. `config`
    names the TOML file, else BULKFETCH_CONFIG does. Raises ConfigurationError naming the source.
    """
    path = config or environment.get(CONFIG)
    layers = (
        _from_flags(flags),
        _from_environment(environment),
        _from_file(path) if path else {},
    )
    chosen = _defaults()
    for layer in reversed(_one_token_source(layers)):
        chosen.update(layer)
    return chosen


def make_options(chosen: Mapping[str, Chosen]) -> Options:
    """Return the options; raises ConfigurationError for what is missing or does not go together."""
    values: dict[str, Any] = {name: one.value for name, one in chosen.items()}
    if not values.get("endpoint"):
        raise ConfigurationError(
            "no endpoint: say --endpoint URL, or set BULKFETCH_ENDPOINT; it is the address of the "
            "account's SOAP service, like https://acme.example/api/v2/soap/2.0"
        )
    return Options(**values)


def shown(chosen: Mapping[str, Chosen]) -> Iterator[tuple[str, str, str]]:
    """Yield name, value as text and source of every setting; secrets and commands are masked."""
    for name in settings():
        one = chosen.get(name, Chosen(None, "not set"))
        hidden = name in _HIDDEN and one.value is not None
        text = split_password(as_text(one.value))[0] if name == "proxy" else as_text(one.value)
        yield name, "***" if hidden else text, one.source


def default_text(name: str) -> str:
    """Return a setting's default as a person would write it; empty if there is none."""
    return as_text(settings()[name].default)


def template() -> str:
    """Return a TOML file of all settings: defaults as they are, the rest as comments to fill in."""
    lines = ["# Settings of bulkfetch: bulkfetch fetch --config THIS_FILE", ""]
    group = ""
    for name, item in settings().items():
        if item.group != group:
            group = item.group
            lines += [f"# --- {group} ---", ""]
        bounds = f" ({item.bounds})" if item.bounds else ""
        lines.append(f"# {item.help}{bounds}")
        if not item.flag:
            lines.append(f"# Better in {PREFIX}{name.upper()}; here only in a file of mode 0600.")
        set_ = item.default is not None
        value = item.default if set_ else _EXAMPLES.get(name, _EXAMPLES.get(item.metavar, "..."))
        lines += [f"{'' if set_ else '# '}{name} = {_as_toml(value)}", ""]
    return "\n".join(lines)


_EXAMPLES: Final[dict[str, object]] = {
    "endpoint": "https://acme.example/api/v2/soap/2.0",
    "token_url": "https://api-learn.acme.example/api/v3/token",
    "token_command": "pass show lms/token",
    "URL": "http://proxy.example:3128",
    "FILE": "/etc/bulkfetch/FILE",
    "N/s": "20/s",
    "N|N%": "5%",
    "I/N": "0/8",
    "SECONDS": "2h",
    "N": 1000,
}


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    return as_text(value) if isinstance(value, int | float) else f'"{value}"'


def strangers(environment: Mapping[str, str]) -> list[str]:
    """Name each BULKFETCH_ variable that means nothing here: mostly a slip of the pen."""
    known = {*(PREFIX + name.upper() for name in settings()), *OTHER_VARIABLES}
    unknown = sorted(n for n in environment if n.startswith(PREFIX) and n not in known)
    return [f"{name} is no setting and has no effect{_nearest(name, known)}" for name in unknown]


def _defaults() -> dict[str, Chosen]:
    return {
        item.name: Chosen(item.default, "default")
        for item in fields(Options)
        if item.default is not MISSING
    }


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Chosen]:
    if split_password(str(flags.get("proxy") or ""))[1]:
        raise ConfigurationError(
            "--proxy holds a password, which everybody on this machine could see: say --proxy "
            f"http://NAME@HOST:PORT and set {PREFIX}PROXY_PASSWORD"
        )
    return {
        name: _read(settings()[name], value, _flag_of(name, value))
        for name, value in flags.items()
        if value is not None and value != ()
    }


def _flag_of(name: str, value: object) -> str:
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Chosen]:
    found: dict[str, Chosen] = {}
    for name, item in settings().items():
        variable = PREFIX + name.upper()
        if text := environment.get(variable, "").strip():  # an empty variable counts as none
            value = [part.strip() for part in text.split(";")] if item.many else text
            found[name] = _read(item, value, variable)
    return found


def _from_file(path: str) -> dict[str, Chosen]:
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            table = tomllib.loads(file.read(_LONGEST_FILE).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} cannot be read: {error.strerror}"
        ) from None
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, endless numbers, endless brackets
        raise ConfigurationError(f"the configuration file {path} is not TOML: {error}") from None
    known = settings()
    found: dict[str, Chosen] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{path}: {key!r} is no setting{_nearest(name, known)}")
        secret = not known[name].flag or (name == "proxy" and split_password(str(value))[1])
        if secret and mode & 0o077:
            raise ConfigurationError(
                f"{path} holds {name} and can be read by others (mode {mode & 0o777:04o}): "
                f"run chmod 600 {path}"
            )
        found[name] = _read(known[name], value, path, label=f"{path}, {key}")
    return found


def _read(item: Setting, value: Any, source: str, *, label: str | None = None) -> Chosen:
    """Read a value as the setting's type; numbers go the way of their text."""
    label = label or source
    if item.many and isinstance(value, list | tuple):
        return Chosen(tuple(map(str, value)), source)
    if item.is_switch and isinstance(value, bool):
        return Chosen(value, source)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigurationError(f"{label}: {quoted(value)} is not one text or number")
    try:
        return Chosen(item.parse(value if isinstance(value, str) else quoted(value)), source)
    except ValueError as error:
        raise ConfigurationError(f"{label}: {error}") from None


def _one_token_source(layers: Iterable[Layer]) -> list[dict[str, Chosen]]:
    """The token's source is one choice: the nearest layer that makes it hides all others."""
    result: list[dict[str, Chosen]] = []
    made = False
    for layer in layers:
        result.append({n: v for n, v in layer.items() if not (made and n in TOKEN_SOURCES)})
        made = made or any(name in layer for name in TOKEN_SOURCES)
    return result


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""
