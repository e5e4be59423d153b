"""OpenTelemetry spans of a run, its courses and their attempts.

Spans are made where the program around has the API package and a tracer provider; else nothing is
done and nothing costs. The engine tells of things when they are over, so spans begin in the past.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bulkfetch._domain.hooks import Hooks
from bulkfetch._domain.model import Failed, Fetched

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from bulkfetch._domain.errors import CourseError
    from bulkfetch._domain.hooks import Attempt, Wait
    from bulkfetch._domain.model import Outcome


def tracing_hooks() -> Hooks:
    """Return hooks that make spans of courses and their attempts, children of the current span.

    Call it inside the span of the run, once for each run. Empty where no tracer provider was set.
    A course that the run's end leaves without an outcome has no span.
    """
    tracer = _tracer()
    return _Spans(tracer, trace.get_current_span()).hooks if tracer else Hooks()


@contextmanager
def tracing(attributes: Mapping[str, str | int]) -> Iterator[Hooks]:
    """Make a span of what happens inside, a child of the current one; give it these hooks.

    The run's span has `attributes`; an exception that leaves the context is recorded in it. Courses
    that are left without an outcome end with it.
    """
    if (tracer := _tracer()) is None:
        yield Hooks()
        return
    with tracer.start_as_current_span("bulkfetch.run", attributes=attributes) as run:
        spans = _Spans(tracer, run)
        try:
            yield spans.hooks
        finally:
            spans.close()


def _tracer() -> Tracer | None:
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace.get_tracer("bulkfetch")


class _Spans:
    """The spans of courses at work, by id."""

    def __init__(self, tracer: Tracer, run: Span) -> None:
        self._tracer = tracer
        self._run = run
        self._courses: dict[str, Span] = {}

    @property
    def hooks(self) -> Hooks:
        return Hooks(outcome=self.ended, attempt=self.attempted, wait=self.waits)

    def attempted(self, attempt: Attempt) -> None:
        start = _ago(attempt.seconds)
        span = self._tracer.start_span(
            "bulkfetch.attempt",
            trace.set_span_in_context(self._course(attempt.course_id, start)),
            kind=trace.SpanKind.CLIENT,
            attributes={"bulkfetch.attempt.number": attempt.number},
            start_time=start,
        )
        if attempt.error:
            _fail(span, attempt.error)
        span.end()

    def waits(self, wait: Wait) -> None:
        span = self._course(wait.course_id, time.time_ns())
        span.add_event("wait", {"bulkfetch.seconds": wait.seconds, "error.type": wait.cause})

    def ended(self, outcome: Outcome) -> None:
        span = self._course(outcome.course_id, _ago(outcome.seconds))
        del self._courses[outcome.course_id]
        span.set_attribute("bulkfetch.course.attempts", outcome.attempts)
        match outcome:
            case Fetched(rows=rows):
                span.set_attribute("bulkfetch.course.rows", len(rows))
            case Failed(error=error):
                _fail(span, error)
        span.end()

    def close(self) -> None:
        """End the spans of courses that the run's end left without an outcome."""
        for span in self._courses.values():
            span.end()

    def _course(self, course_id: str, start: int) -> Span:
        if course_id not in self._courses:
            self._courses[course_id] = self._tracer.start_span(
                "bulkfetch.course",
                trace.set_span_in_context(self._run),
                attributes={"bulkfetch.course.id": course_id},
                start_time=start,
            )
        return self._courses[course_id]


def _fail(span: Span, error: CourseError) -> None:
    span.set_attribute("error.type", error.kind)
    span.set_status(trace.StatusCode.ERROR, error.message)


def _ago(seconds: float) -> int:
    return time.time_ns() - int(seconds * 1e9)
