"""What a run came to, for a program: `--summary FILE`, written whatever the end.

One JSON object, private, described by `summary.schema.json`. It tells the run that ended and the
output as it stands then; the words of a bad end are those on the screen.
"""

from __future__ import annotations

import time
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from bulkfetch._domain.errors import BulkfetchError, ConfigurationError
from bulkfetch._domain.wording import duration, iso
from bulkfetch._output.layout import Layout
from bulkfetch.cli.ends import end_of
from bulkfetch.cli.help import Flag
from bulkfetch.cli.signals import Signalled

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from bulkfetch._config.options import Options
    from bulkfetch._engine.tally import State, Summary

FORMAT: Final = 1
_RUN: Final = (
    *("courses", "fetched", "rows", "requests", "seconds", "settled", "waited"),
    *("latency_p50", "latency_p90", "latency_p99"),
)
"""What a summary and a state both tell of a run."""


class Closing:
    """Collects what a command did, and writes it when the command is left."""

    def __init__(self, path: str, context: click.Context) -> None:
        self._path = path
        self._context = context
        self._named: list[object] = []
        self._refused = False
        self._state: Callable[[], State | None] = lambda: None
        self._summary: Summary | None = None

    def begin(self, options: Options, state: Callable[[], State | None]) -> None:
        """Note how the run is set, and where it can be looked at. Raises as `check`."""
        self._state = state
        self.check(options)

    def check(self, options: Options) -> None:
        """Refuse a place where the summary would replace a file of the run, or a stranger's.

        Raises ConfigurationError, OutputError when it cannot be looked at.
        """
        self._named = [getattr(options, item.name) for item in fields(options)]
        self._refused = True
        if self._path == "-":
            if self._output == "-":
                raise ConfigurationError("--summary - and -o - both write to stdout: name a file")
        else:
            from bulkfetch._output.guard import guard

            guard(self._path, used=self._used(), mine=_is_summary)
        self._refused = False

    @property
    def _output(self) -> str:
        """The output's name, once the flags have been read."""
        return self._context.params.get("output") or ""

    def finish(self, summary: Summary) -> None:
        """Note how the run ended well."""
        self._summary = summary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._refused or self._path == self._output == "-":
            return
        import orjson

        from bulkfetch.cli.files import writing

        told = orjson.dumps(
            self._told(error), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        )
        try:
            with writing(self._path, overwrite=True, used=self._used(), mine=_is_summary) as write:
                write([told])
        except BulkfetchError as failure:
            if error is None:
                raise
            self._context.obj.warn(str(failure))  # the end that it was to tell matters more

    def _used(self) -> dict[str, str]:
        """Return the files of the output, and any that was named."""
        named = [*self._named, *self._context.params.values(), *Layout.of(self._output).own]
        files = [str(name) for name in named if isinstance(name, str | Path) and str(name)]
        return dict.fromkeys(files, "a file of the run itself")

    def _told(self, error: BaseException | None) -> dict[str, Any]:
        code, kind, message = _end(error, self._summary)
        return {
            "format": FORMAT,
            "version": version("bulkfetch"),
            "command": self._context.info_name,
            "output": self._output,
            "ended": iso(time.time()),
            "exit_code": code,
            "kind": kind,
            "message": message,
            "run": self._run(),
            "in_output": self._in_output(),
        }

    def _run(self) -> dict[str, Any] | None:
        if (state := self._state()) is None:
            return None
        told = self._summary or state
        return {name: getattr(told, name) for name in _RUN} | {
            "failed": state.failed,
            "refused": state.refused,
            "retries": state.retries_by_kind,
            "total": state.total,
        }

    def _in_output(self) -> dict[str, Any] | None:
        """Tell the output, earlier runs included; None where nothing is known of it."""
        if summary := self._summary:
            return {
                "fetched": summary.output_courses,
                "refused": summary.refused,
                "failed": summary.failed - summary.refused,
                "rows": summary.output_rows,
                "failures": summary.failures,
            }
        from bulkfetch._output.parts import read_whole

        try:
            ledger = read_whole(self._output)
        except BulkfetchError:
            return None
        return {**ledger.outcomes(), "rows": ledger.rows, "failures": ledger.failures()}


def summary_flag(function: Any) -> Any:
    """Add `--summary` to a command; what collects it stands in the voice as `closing`."""
    return click.option(
        "--summary",
        cls=Flag,
        metavar="FILE|-",
        envvar="BULKFETCH_SUMMARY",
        expose_value=False,
        callback=_keep,
        help="Write what the run came to as JSON, whatever its end; also with -q.",
        heading="Messages",
    )(function)


def _keep(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path:
        context.obj.closing = context.with_resource(Closing(path, context))


def _is_summary(head: bytes) -> bool:
    """Whether a file begins like an earlier summary."""
    return head.startswith(b'{\n  "format": ') and b'\n  "exit_code": ' in head


def _end(error: BaseException | None, summary: Summary | None) -> tuple[int, str, str]:
    """Return exit code, kind and words of an end, those that are told on the screen."""
    match error:
        case None if summary:
            return int(summary.failed > 0), "finished", f"finished in {duration(summary.seconds)}"
        case None:
            return 0, "finished", "there was nothing to do"
        case Signalled():
            return _end(error.error, summary)
        case _:
            return end_of(error)
