"""What PHP's own SoapServer says when something goes wrong, and what becomes of it.

Skips where Debian's php-cli and php-soap are missing. The script is tests/data/php/soap.php, the
WSDL that of the simulated LMS.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from answers import run

from bulkfetch._domain.errors import (
    NamespaceRefused,
    Refused,
    RunError,
    Transient,
    UnknownFault,
)
from bulkfetch.testing._wsdl import wsdl

PATIENT = {"read_timeout": 300.0, "timeout": 300.0}
"""One second of PHP's own time may be many of a busy machine's."""
SCRIPTS = Path(__file__).parent.parent / "data" / "php"
HAS_PHP = bool(shutil.which("php")) and not subprocess.run(
    ["php", "-r", "exit(extension_loaded('soap') ? 0 : 1);"], check=False
).returncode  # fmt: skip
pytestmark = pytest.mark.skipif(not HAS_PHP, reason="php-cli and php-soap are not installed")


@pytest.fixture(scope="module")
def php(tmp_path_factory):
    """A SoapServer on loopback; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    description = tmp_path_factory.mktemp("php") / "lms.wsdl"
    url = f"http://{host}/soap.php"
    description.write_bytes(wsdl(url, "http://ispringlearn.com/go/services/api/soap"))
    with subprocess.Popen(
        ["php", "-S", host, "-t", SCRIPTS],
        env={**os.environ, "WSDL": str(description)},
        stderr=subprocess.PIPE,
    ) as server:
        assert b"started" in server.stderr.readline()
        yield url
        server.kill()


@pytest.mark.parametrize(
    ("course_id", "verdict", "kind", "words"),
    [
        ("memory", UnknownFault, "fault", "Allowed memory size of 8388608 bytes exhausted"),
        ("time", UnknownFault, "fault", "Maximum execution time of 1 second exceeded"),
        ("database", UnknownFault, "fault", "SQLSTATE[HY000] [2002] Connection refused"),
        ("token", UnknownFault, "fault", "Invalid token"),
        ("client", UnknownFault, "fault", "No such thing (SOAP-ENV:Client)"),
        ("throttle", Transient, "fault", "Too many requests"),
        ("unknown", Refused, "unknown-content-item", "Unknown content item"),
        ("null", Transient, "empty-result", "is empty, without <statuses>"),
        ("exception", Transient, "http-500", "HTTP 500"),
        ("exit", Transient, "empty-response", "the response is empty"),
    ],
)
async def test_what_php_says_has_its_verdict(php, course_id, verdict, kind, words):
    """By value: what is settled, what is asked again, and who is to blame."""
    result = await run([course_id], php, retries=0, **PATIENT)
    error = result.failed[course_id]
    assert (type(error), error.kind) == (verdict, kind)
    assert words in error.message
    assert error.settled is (verdict is Refused)
    assert getattr(error, "overload", False) is (course_id == "throttle")
    if verdict is UnknownFault:
        assert error.blames_request is (course_id == "client")


async def test_rows_and_no_rows_of_php(php):
    """The same envelope as from the simulated LMS, with and without learners."""
    result = await run(["good", "warning", "empty"], php)
    rows = [("u1", "Passed", 100.0), ("u2", "In progress", 45.22)]
    assert result.rows == {"good": rows, "warning": rows, "empty": []}


async def test_php_refuses_the_wrong_spelling(php):
    """With the documentation's namespaces it names what it does not know."""
    result = await run(["good"], php, namespaces="https", refusals=1)
    told = [*result.failed.values(), *([result.error] if result.error else [])]
    assert all(isinstance(one, NamespaceRefused | RunError) for one in told)
    assert "the server refuses the envelope: Wrong Version" in str(told[0])
