"""Bulk export of learners' final statuses from a SOAP API: every row exactly once.

`stream` hands over each course's outcome as it comes, `export` writes a journaled NDJSON file;
both are set up by `Options`. Submodules with a leading underscore are private.

Where things live, from the ground up; a file imports lower floors only:

0 words      _errors _text _setting _options _model
1 pure       on the wire: _protocol _parser _records _gunzip; pace: _pacing _adaptive; output:
             _journal _layout _members; counts: _tally _hooks; pictures: _charts _latency _timeline
2 hands      server: _transport _direct _plain _token _limiter; ids: _ids _source; output: _rows
             _outbox _batch _system _sink _pipe _inspect; settings: _settings; rows read again:
             _survey
3 machine    _fetch (one course), _engine (all of them), _export (into a file), _discover
4 people     cli _progress _report _report_page _metrics _tracing _bench testing
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `X as X` is how a type checker knows a public name
    from bulkfetch._discover import Checked as Checked
    from bulkfetch._discover import check as check
    from bulkfetch._discover import discover as discover
    from bulkfetch._engine import Run as Run
    from bulkfetch._engine import stream as stream
    from bulkfetch._errors import BulkfetchError as BulkfetchError
    from bulkfetch._errors import ConfigurationError as ConfigurationError
    from bulkfetch._errors import CourseError as CourseError
    from bulkfetch._errors import Interrupted as Interrupted
    from bulkfetch._errors import OutputClosed as OutputClosed
    from bulkfetch._errors import OutputError as OutputError
    from bulkfetch._errors import OutputLocked as OutputLocked
    from bulkfetch._errors import Refused as Refused
    from bulkfetch._errors import RunError as RunError
    from bulkfetch._errors import RunRefused as RunRefused
    from bulkfetch._errors import ServerRefuses as ServerRefuses
    from bulkfetch._errors import StoppedEarly as StoppedEarly
    from bulkfetch._errors import TemporarilyUnavailable as TemporarilyUnavailable
    from bulkfetch._errors import Transient as Transient
    from bulkfetch._errors import Unauthorized as Unauthorized
    from bulkfetch._errors import Unreadable as Unreadable
    from bulkfetch._export import Monitor as Monitor
    from bulkfetch._export import export as export
    from bulkfetch._hooks import Attempt as Attempt
    from bulkfetch._hooks import Commit as Commit
    from bulkfetch._hooks import Hooks as Hooks
    from bulkfetch._hooks import Wait as Wait
    from bulkfetch._limiter import Limiter as Limiter
    from bulkfetch._model import ContentItem as ContentItem
    from bulkfetch._model import Failed as Failed
    from bulkfetch._model import Fetched as Fetched
    from bulkfetch._model import FinalStatus as FinalStatus
    from bulkfetch._model import Outcome as Outcome
    from bulkfetch._model import Rows as Rows
    from bulkfetch._options import Options as Options
    from bulkfetch._setting import Secret as Secret
    from bulkfetch._tally import State as State
    from bulkfetch._tally import Summary as Summary
    from bulkfetch._transport import Reply as Reply
    from bulkfetch._transport import Transport as Transport

_HOMES = {
    "_discover": ("Checked", "check", "discover"),
    "_engine": ("Run", "stream"),
    "_errors": (
        "BulkfetchError",
        "ConfigurationError",
        "CourseError",
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
        "Unreadable",
    ),
    "_export": ("Monitor", "export"),
    "_hooks": ("Attempt", "Commit", "Hooks", "Wait"),
    "_limiter": ("Limiter",),
    "_model": ("ContentItem", "Failed", "Fetched", "FinalStatus", "Outcome", "Rows"),
    "_options": ("Options",),
    "_setting": ("Secret",),
    "_tally": ("State", "Summary"),
    "_transport": ("Reply", "Transport"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> object:
    """Import a public name's module at first use, so that `bulkfetch --help` stays fast."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
