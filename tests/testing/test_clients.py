"""The simulated LMS's WSDL, read by the SOAP libraries of four languages: the same rows in each.

Each test skips where its library is missing: Debian's php-cli with php-soap, libsoap-lite-perl,
npm's `soap` (NODE_PATH names where), and suds-community.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bulkfetch.testing import SimulatedServer, Simulation

CLIENTS = Path(__file__).parent.parent / "data" / "clients"


def knows(*command):
    """Whether this probe of a library ends well."""
    return (
        bool(shutil.which(command[0]))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


SUDS = bool(importlib.util.find_spec("suds"))
LIBRARIES = [
    (["php", "ask.php"], knows("php", "-r", "exit(extension_loaded('soap') ? 0 : 1);")),
    (["node", "ask.js"], knows("node", "-e", "require('soap')")),
    (["perl", "ask.pl"], knows("perl", "-MSOAP::Lite", "-MJSON::PP", "-e", "1")),
    ([sys.executable, "ask_suds.py"], SUDS),
]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.skipif(not there, reason="is not installed"))
        for command, there in LIBRARIES
    ],
    ids=["php", "node-soap", "soap-lite", "suds"],
)
def test_the_wsdl_is_understood_by(command):
    """Rows of courses with many, one and no learners, and the list of content, by value."""
    simulation = Simulation(courses=5, rows=(1, 4), zero_share=0.3, seed=3, track_share=0.3)
    with SimulatedServer(simulation) as server:
        program, script = command
        done = subprocess.run(
            [program, CLIENTS / script, server.endpoint, server.token, *server.course_ids],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "no_proxy": "*"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answer = json.loads(done.stdout)
        assert answer["rows"] == {
            name: [[row["userId"], row["status"], row["progress"]] for row in rows]
            for name, rows in server.expected().items()
        }
        assert [] in answer["rows"].values()
        assert answer["content"] == [
            [item["contentItemId"], item["title"], item["type"]]
            for item in server.expected_content()
        ]
