"""What to test against: a simulated LMS, a raw server that tears its answers, a scripted transport.

    transport = ScriptedTransport({"7": [reply(answer([row("u1", "Passed", 100)]))]})
    summary = await bulkfetch.export(["7"], "out.ndjson", options, transport=transport)

Public, for the tests of those who use this package too. The servers listen on loopback; nothing
here needs more than this package.
"""

from __future__ import annotations

from bulkfetch.testing._bodies import answer, fault, listing, reply, row
from bulkfetch.testing._raw import Answer, Exchange, RawRequest, RawServer, http_answer
from bulkfetch.testing._scripted import (
    Script,
    ScriptedReply,
    ScriptedRequest,
    ScriptedTransport,
)
from bulkfetch.testing._server import Counters, SimulatedServer, serve
from bulkfetch.testing._simulation import ExpectedRow, Simulation, expected_rows

__all__ = [
    "Answer",
    "Counters",
    "Exchange",
    "ExpectedRow",
    "RawRequest",
    "RawServer",
    "Script",
    "ScriptedReply",
    "ScriptedRequest",
    "ScriptedTransport",
    "SimulatedServer",
    "Simulation",
    "answer",
    "expected_rows",
    "fault",
    "http_answer",
    "listing",
    "reply",
    "row",
    "serve",
]
