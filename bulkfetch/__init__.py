"""Export every learner's final status from a SOAP API: every row exactly once.

    options = bulkfetch.Options(endpoint="https://acme.example/api/v2/soap/2.0", token=...)
    summary = await bulkfetch.export(course_ids, "statuses.ndjson", options)   # a journaled file

    async with bulkfetch.stream(course_ids, options) as outcomes:            # or one by one
        async for outcome in outcomes:              # Fetched(course_id, rows) | Failed(..., error)
            ...

`discover` lists the account's courses, `check` asks whether the settings work; `load` puts an
output into a warehouse, `diff` tells one output from the next. The failure of a course is a value;
what ends a run is a `RunError`. `bulkfetch.testing` has a simulated server for your own tests.
Folders with a leading underscore are private; each says in a sentence what it is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `X as X` is how a type checker knows a public name
    from bulkfetch._config.options import Options as Options
    from bulkfetch._config.setting import Secret as Secret
    from bulkfetch._domain.errors import BulkfetchError as BulkfetchError
    from bulkfetch._domain.errors import ConfigurationError as ConfigurationError
    from bulkfetch._domain.errors import CourseError as CourseError
    from bulkfetch._domain.errors import Diverted as Diverted
    from bulkfetch._domain.errors import Interrupted as Interrupted
    from bulkfetch._domain.errors import OutputClosed as OutputClosed
    from bulkfetch._domain.errors import OutputError as OutputError
    from bulkfetch._domain.errors import OutputLocked as OutputLocked
    from bulkfetch._domain.errors import Refused as Refused
    from bulkfetch._domain.errors import RunError as RunError
    from bulkfetch._domain.errors import RunRefused as RunRefused
    from bulkfetch._domain.errors import ServerRefuses as ServerRefuses
    from bulkfetch._domain.errors import StoppedEarly as StoppedEarly
    from bulkfetch._domain.errors import TemporarilyUnavailable as TemporarilyUnavailable
    from bulkfetch._domain.errors import Transient as Transient
    from bulkfetch._domain.errors import Unauthorized as Unauthorized
    from bulkfetch._domain.errors import UnknownFault as UnknownFault
    from bulkfetch._domain.errors import Unreadable as Unreadable
    from bulkfetch._domain.hooks import Attempt as Attempt
    from bulkfetch._domain.hooks import Commit as Commit
    from bulkfetch._domain.hooks import Hooks as Hooks
    from bulkfetch._domain.hooks import Wait as Wait
    from bulkfetch._domain.model import ContentItem as ContentItem
    from bulkfetch._domain.model import Failed as Failed
    from bulkfetch._domain.model import Fetched as Fetched
    from bulkfetch._domain.model import FinalStatus as FinalStatus
    from bulkfetch._domain.model import Outcome as Outcome
    from bulkfetch._domain.model import Rows as Rows
    from bulkfetch._engine.discover import Checked as Checked
    from bulkfetch._engine.discover import check as check
    from bulkfetch._engine.discover import discover as discover
    from bulkfetch._engine.export import Monitor as Monitor
    from bulkfetch._engine.export import export as export
    from bulkfetch._engine.run import Run as Run
    from bulkfetch._engine.run import stream as stream
    from bulkfetch._engine.tally import State as State
    from bulkfetch._engine.tally import Summary as Summary
    from bulkfetch._http.transport import Reply as Reply
    from bulkfetch._http.transport import Transport as Transport
    from bulkfetch._load.compare import Comparison as Comparison
    from bulkfetch._load.compare import diff as diff
    from bulkfetch._load.differ import Added as Added
    from bulkfetch._load.differ import Change as Change
    from bulkfetch._load.differ import Changed as Changed
    from bulkfetch._load.differ import Removed as Removed
    from bulkfetch._load.load import Loaded as Loaded
    from bulkfetch._load.load import load as load
    from bulkfetch._pace.limiter import Limiter as Limiter
    from bulkfetch._watch.adapters import prometheus_hooks as prometheus_hooks
    from bulkfetch._watch.tracing import tracing_hooks as tracing_hooks

_HOMES = {
    "_engine.discover": ("Checked", "check", "discover"),
    "_engine.run": ("Run", "stream"),
    "_domain.errors": (
        "BulkfetchError",
        "ConfigurationError",
        "CourseError",
        "Diverted",
        "Interrupted",
        "OutputClosed",
        "OutputError",
        "OutputLocked",
        "Refused",
        "RunError",
        "RunRefused",
        "ServerRefuses",
        "StoppedEarly",
        "TemporarilyUnavailable",
        "Transient",
        "Unauthorized",
        "UnknownFault",
        "Unreadable",
    ),
    "_engine.export": ("Monitor", "export"),
    "_domain.hooks": ("Attempt", "Commit", "Hooks", "Wait"),
    "_pace.limiter": ("Limiter",),
    "_domain.model": ("ContentItem", "Failed", "Fetched", "FinalStatus", "Outcome", "Rows"),
    "_config.options": ("Options",),
    "_config.setting": ("Secret",),
    "_engine.tally": ("State", "Summary"),
    "_http.transport": ("Reply", "Transport"),
    "_load.compare": ("Comparison", "diff"),
    "_load.differ": ("Added", "Change", "Changed", "Removed"),
    "_load.load": ("Loaded", "load"),
    "_watch.adapters": ("prometheus_hooks",),
    "_watch.tracing": ("tracing_hooks",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> object:
        """Import a public name's module at first use, so that `bulkfetch --help` stays fast."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
