"""Answers by value, and one way to run the engine against them, shared by the tests.

A row is (userId, status, progress). Torn answers carry other users than whole ones, so that a row
of a failed try shows wherever it turns up.
"""

import gzip
from dataclasses import dataclass, field

from bulkfetch import Failed, Fetched, Hooks, Options, RunError, stream
from bulkfetch.testing import ScriptedReply

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:ns1="http://ispringlearn.com/go/services/api/soap"><SOAP-ENV:Body>'
)
TAIL = "</SOAP-ENV:Body></SOAP-ENV:Envelope>"
TOKEN = "Zt4-sentinel-0f1e2d3c4b5a"
LIST_HEAD = f"{HEAD}<ns1:GetContentItemFinalStatusesResult><ns1:statuses>"
LIST_TAIL = f"</ns1:statuses></ns1:GetContentItemFinalStatusesResult>{TAIL}"
SMALL, LARGE = 3, 2_000
"""Rows below and well above what the parser takes in one go."""


def users(prefix, count):
    return [(f"{prefix}-{number}", "Passed", number % 101) for number in range(count)]


def record(user, status, progress):
    return (
        f"<ns1:status><ns1:userId>{user}</ns1:userId><ns1:status>{status}</ns1:status>"
        f"<ns1:progress>{progress}</ns1:progress></ns1:status>"
    )


def statuses(rows):
    """A whole envelope with these rows."""
    return (LIST_HEAD + "".join(record(*row) for row in rows) + LIST_TAIL).encode()


def fault(text, code="SOAP-ENV:Server"):
    inner = f"<faultcode>{code}</faultcode><faultstring>{text}</faultstring>"
    return f"{HEAD}<SOAP-ENV:Fault>{inner}</SOAP-ENV:Fault>{TAIL}".encode()


GOOD = users("good", 5)
TORN = {size: statuses(users("torn", size)) for size in (SMALL, LARGE)}
GZIPPED = {size: gzip.compress(body) for size, body in TORN.items()}


def options(endpoint="http://127.0.0.1:1/", **changes):
    """Options that neither wait nor adapt; timeouts end a hanging test, not a slow one."""
    settings = {
        "endpoint": endpoint,
        "token": TOKEN,
        "adaptive": False,
        "backoff": 0.0,
        "max_retry_after": 0.05,
        "connect_timeout": 5.0,
        "read_timeout": 10.0,
        "timeout": 20.0,
        "grace": 1.0,
    }
    return Options(**(settings | changes))


@dataclass
class Result:
    """What came out of a run, rows as tuples."""

    rows: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    attempts: list = field(default_factory=list)
    error: RunError | None = None
    outcomes: list = field(default_factory=list)
    summary: object = None
    state: object = None

    @property
    def kinds(self):
        """How each request ended, in order; None stands for rows."""
        return [attempt.error and attempt.error.kind for attempt in self.attempts]


async def run(ids=("c1",), endpoint="http://127.0.0.1:1/", *, setup=None, **changes):
    """Stream the ids to the end; the run's own error is a part of the result."""
    result = Result()
    hooks = Hooks(attempt=result.attempts.append)
    settings = options(endpoint, **changes)
    async with stream(ids, settings, hooks=hooks, **(setup or {})) as outcomes:
        try:
            async for outcome in outcomes:
                result.outcomes.append(outcome)
                if isinstance(outcome, Fetched):
                    assert all(row.course_id == outcome.course_id for row in outcome.rows)
                    result.rows[outcome.course_id] = [
                        (row.user_id, row.status, row.progress) for row in outcome.rows
                    ]
                elif isinstance(outcome, Failed):
                    result.failed[outcome.course_id] = outcome.error
        except RunError as error:
            result.error = error
        result.summary, result.state = outcomes.summary, outcomes.state
    return result


def scripted(body, **head):
    """A scripted reply with this body."""
    return ScriptedReply(pieces=(body,), **head)
