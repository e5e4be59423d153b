"""`parse` judges saved responses as a run does, small and large, and keeps nothing of a bad one."""

import subprocess
import sys

import pytest
from answers import GOOD, fault, statuses, users

LARGE = statuses(users("u", 2_000))
SENT = b"</ns1:statuses>"
FAULT = fault("Down").partition(b"Body>")[2].partition(b"</SOAP-ENV:Body>")[0]


def parse(folder, body):
    (folder / "c1.xml").write_bytes(body)
    return subprocess.run(
        [sys.executable, "-m", "bulkfetch", "parse", "c1.xml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("whole", [statuses(GOOD), LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.replace(SENT, SENT + b"<nextPageToken/>"), "<nextPageToken> stands in"),
        (lambda body: body.replace(SENT, b"<item/>" + SENT), "<item> stands in <statuses>"),
        (lambda body: body.replace(SENT, FAULT + SENT), "Down"),
        (lambda body: b"<b>Warning</b>: x\n" + body, "the body begins: <b>Warning</b>: x <?xml"),
        (lambda body: b"<html><br>" + body, "HTML page"),
        (lambda body: body.partition(SENT)[0], "ends too soon"),
        (lambda body: b"--b\r\nContent-Type: text/xml\r\n\r\n" + body, "multipart/related"),
    ],
)
def test_parse_judges_as_a_run_does(tmp_path, whole, change, words):
    """No rows, exit 1, and the words of the verdict."""
    done = parse(tmp_path, change(whole))
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_parse_reads_large_responses(tmp_path):
    """All rows of a body that is swept."""
    done = parse(tmp_path, LARGE)
    assert (done.returncode, done.stdout.count("\n")) == (0, 2_000)


@pytest.mark.parametrize(("own", "strays"), [("c1", 0), ("other", 5)])
def test_parse_warns_of_another_courses_rows(tmp_path, own, strays):
    """They are kept with their own id, as in a run, and said to be another's."""
    sent = f"<ns1:contentItemId>{own}</ns1:contentItemId></ns1:status>".encode()
    done = parse(
        tmp_path, statuses(GOOD).replace(b"</ns1:progress></ns1:status>", b"</ns1:progress>" + sent)
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 5)
    assert done.stdout.count('"_contentItemId":"other"') == strays
    assert ("c1.xml: 5 of its rows name another course" in done.stderr) is bool(strays)
