"""Servers to test against: a simulated LMS, and a raw one that tears its answers.

Public, for the tests of those who use this package too. Both listen on loopback and need nothing
but this package.
"""

from __future__ import annotations

from bulkfetch.testing._raw import Answer, Exchange, RawRequest, RawServer, http_answer
from bulkfetch.testing._server import Counters, SimulatedServer, serve
from bulkfetch.testing._simulation import ExpectedRow, Simulation, expected_rows

__all__ = [
    "Answer",
    "Counters",
    "Exchange",
    "ExpectedRow",
    "RawRequest",
    "RawServer",
    "SimulatedServer",
    "Simulation",
    "expected_rows",
    "http_answer",
    "serve",
]
