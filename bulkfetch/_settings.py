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

from bulkfetch._errors import ConfigurationError
from bulkfetch._options import Options, settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bulkfetch._setting import Setting

PREFIX: Final = "BULKFETCH_"
CONFIG: Final = f"{PREFIX}CONFIG"
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
    )
)
"""What the commands understand besides the settings."""
_TOKEN_SOURCES: Final = ("token", "token_file", "token_command", "token_url")
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
        yield name, "***" if hidden else _text(one.value), one.source


def default_text(name: str) -> str:
    """Return a setting's default as a person would write it; empty if there is none."""
    default = _defaults().get(name)
    return _text(default.value) if default else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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
        if text := environment.get(variable):  # an empty variable counts as none
            value = [part.strip() for part in text.split(";")] if item.many else text
            found[name] = _read(item, value, variable)
    return found


def _from_file(path: str) -> dict[str, Chosen]:
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} cannot be read: {error.strerror}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {path} is not TOML: {error}") from None
    known = settings()
    found: dict[str, Chosen] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{path}: {key!r} is no setting{_nearest(name, known)}")
        if not known[name].flag and mode & 0o077:
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
        return Chosen(tuple(str(part) for part in value), source)
    if item.is_switch and isinstance(value, bool):
        return Chosen(value, source)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigurationError(f"{label}: {value!r} is not one text or number")
    try:
        return Chosen(item.parse(str(value)), source)
    except ValueError as error:
        # What int() and float() say helps nobody.
        number = {int: "a whole number", float: "a number"}.get(item.parse)  # type: ignore[call-overload]
        reason = f"{value!r} is not {number}" if number else error
        raise ConfigurationError(f"{label}: {reason}") from None


def _one_token_source(layers: Iterable[Layer]) -> list[dict[str, Chosen]]:
    """The token's source is one choice: the nearest layer that makes it hides all others."""
    result: list[dict[str, Chosen]] = []
    made = False
    for layer in layers:
        result.append({n: v for n, v in layer.items() if not (made and n in _TOKEN_SOURCES)})
        made = made or any(name in layer for name in _TOKEN_SOURCES)
    return result


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""
