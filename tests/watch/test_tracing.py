"""Spans as an OpenTelemetry exporter gets them: who belongs to whom, what failed, and when."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bulkfetch import (
    Attempt,
    Failed,
    Hooks,
    Options,
    Refused,
    ServerRefuses,
    Transient,
    Wait,
    export,
    tracing_hooks,
)
from bulkfetch._watch import tracing as module
from bulkfetch._watch.tracing import tracing
from bulkfetch.cli import main
from bulkfetch.testing import SimulatedServer, Simulation

SIMULATION = Simulation(courses=20, unknown=2, share_503=0.2, retry_after=None, seed=4)


@pytest.fixture
def spans(monkeypatch):
    """Set a tracer provider for this test; gives the function that returns the finished spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter.get_finished_spans
    provider.shutdown()


def named(spans, name):
    return [span for span in spans() if span.name == f"bulkfetch.{name}"]


async def test_every_request_is_a_span_in_its_course_in_the_run(spans, tmp_path):
    """Run, courses and attempts are nested in each other, in time and by parent."""
    async with SimulatedServer(SIMULATION) as server:
        options = Options(endpoint=server.endpoint, token=server.token, backoff=0.01)
        out = tmp_path / "out.ndjson"
        with (
            trace.get_tracer("caller").start_as_current_span("job") as job,
            tracing({"server.address": options.host}) as hooks,
        ):
            summary = await export(server.course_ids, out, options, hooks=hooks)
    (run,) = named(spans, "run")
    courses, attempts = named(spans, "course"), named(spans, "attempt")
    assert run.parent.span_id == job.get_span_context().span_id
    assert run.attributes["server.address"] == options.host
    assert {course.parent.span_id for course in courses} == {run.context.span_id}
    ids = [course.attributes["bulkfetch.course.id"] for course in courses]
    assert sorted(ids) == sorted(server.course_ids)
    assert len(attempts) == summary.requests > len(courses)
    by_id = {course.context.span_id: course for course in courses}
    for attempt in attempts:
        course = by_id[attempt.parent.span_id]
        assert course.start_time <= attempt.start_time <= attempt.end_time <= course.end_time
    tries = sum(course.attributes["bulkfetch.course.attempts"] for course in courses)
    assert tries == len(attempts)
    rows = sum(course.attributes.get("bulkfetch.course.rows", 0) for course in courses)
    assert rows == summary.rows


async def test_what_failed_says_why(spans, tmp_path):
    """Failed attempts and courses have their class, the server's words, and the waits between."""
    async with SimulatedServer(SIMULATION) as server:
        options = Options(endpoint=server.endpoint, token=server.token, backoff=0.01)
        with tracing({}) as hooks:
            await export(server.course_ids, tmp_path / "out.ndjson", options, hooks=hooks)
    failed = [span for span in named(spans, "course") if not span.status.is_ok]
    failed = [span for span in failed if span.status.description]
    assert [span.attributes["error.type"] for span in failed] == ["unknown-content-item"] * 2
    assert {span.status.description for span in failed} == {"Unknown content item"}
    kinds = {span.attributes.get("error.type") for span in named(spans, "attempt")}
    assert kinds == {None, "http-503", "unknown-content-item"}
    waits = [event for span in named(spans, "course") for event in span.events]
    assert waits
    assert {event.attributes["error.type"] for event in waits} == {"http-503"}


def test_a_course_cut_short_is_ended_with_the_run(spans):
    """Spans of courses without an outcome are ended, and the run's error is recorded."""

    def stopped():
        with tracing({}) as hooks:
            hooks.attempt(Attempt("a", 1, 0.5, Transient("timeout", "no answer")))
            hooks.wait(Wait("a", 1.0, "timeout"))
            raise ServerRefuses("no")

    with pytest.raises(ServerRefuses):
        stopped()
    (run,) = named(spans, "run")
    (course,) = named(spans, "course")
    assert not run.status.is_ok
    assert course.end_time - course.start_time >= 0.5e9
    assert len(named(spans, "attempt")) == 1


def test_an_embedding_program_has_its_own_span_of_the_run(spans):
    """The public hooks hang courses and attempts under whatever span is current."""
    with trace.get_tracer("caller").start_as_current_span("job") as job:
        hooks = tracing_hooks()
        hooks.attempt(Attempt("a", 1, 0.5, None))
        hooks.outcome(Failed("a", Refused("denied", "no")))
    (course,) = named(spans, "course")
    (attempt,) = named(spans, "attempt")
    assert course.parent.span_id == job.get_span_context().span_id
    assert attempt.parent.span_id == course.context.span_id
    assert named(spans, "run") == []


def test_a_course_refused_before_any_request_has_a_span(spans):
    """An outcome without an attempt is a course, too."""
    with tracing({}) as hooks:
        hooks.outcome(Failed("a", Refused("id", "no id"), 0, 0.0))
    (course,) = named(spans, "course")
    assert course.attributes["error.type"] == "id"


def test_nothing_is_traced_without_a_provider_or_package(monkeypatch):
    """Where nobody set up tracing, the hooks are empty: no cost at all."""
    with tracing({}) as hooks:
        assert hooks == Hooks() == tracing_hooks()
    monkeypatch.setattr(module, "trace", None)
    with tracing({}) as hooks:
        assert hooks == Hooks() == tracing_hooks()


def test_the_command_traces_by_itself(spans, tmp_path, monkeypatch):
    """`fetch` inside an instrumented process makes the spans without a flag."""
    with SimulatedServer(SIMULATION) as server:
        monkeypatch.setenv("BULKFETCH_TOKEN", server.token)
        (tmp_path / "ids").write_text("\n".join(server.course_ids))
        arguments = ["--endpoint", server.endpoint, "-i", str(tmp_path / "ids"), "-q"]
        with pytest.raises(SystemExit) as caught:
            main(["fetch", *arguments, "-o", str(tmp_path / "out.ndjson")])
    assert caught.value.code == 1
    (run,) = named(spans, "run")
    assert run.attributes["bulkfetch.concurrency"] == 8
    assert len(named(spans, "course")) == 22
