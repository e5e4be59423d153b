"""The ends that people meet most: screen, `status`, report and `--summary` tell the same story.

`python tests/cli/test_ends.py` prints them side by side.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import signal
import ssl
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[place]) for place in (1, 2)]

from commands import ENOUGH, bulkfetch, started

from bulkfetch._report.page import page
from bulkfetch._report.story import Report, read_report
from bulkfetch.cli.program import run_command
from bulkfetch.testing import answer, fault, row

CERTIFICATE = Path(__file__).parents[1] / "data" / "self_signed.pem"
ROWS = answer([row(f"u{number}", "Passed", 100) for number in range(200)])
FAULTS = {
    "nobody": "Unknown content item",
    "denied": "Authorization failed",
    "expired": "Account subscription expired",
}
GOOD = tuple(f"good-{number}" for number in range(8))


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Stay silent: a client that refuses the certificate hangs up."""


@dataclass
class Server:
    """Answers by what a course's id begins with; to `stuck` never."""

    certificate: Path | None = None
    stuck: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, asked: str) -> tuple[int, bytes]:
        if "stuck" in asked:
            self.stuck.set()
            self.over.wait(ENOUGH)
        for word, text in FAULTS.items():
            if word in asked:
                return 500, fault(text)
        if "busy" in asked:
            return 503, b""
        if "bad" in asked:
            return 500, b""
        return 200, b"<!doctype html><title>Log in</title>" if "login" in asked else ROWS

    @contextmanager
    def listening(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, body = server.answer(asked)
                with contextlib.suppress(ConnectionError):  # the caller may be gone by now
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        listener = _Listener(("127.0.0.1", 0), Handler)
        scheme = "http"
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
            scheme = "https"
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{listener.server_port}/soap"
        finally:
            self.over.set()
            listener.shutdown()
            listener.server_close()
            thread.join()


@dataclass(frozen=True)
class End:
    """How to come to an end, and what is to be said of it everywhere."""

    name: str
    code: int
    words: str
    ids: tuple[str, ...] = GOOD
    more: tuple[str, ...] = ()
    send: signal.Signals | None = None
    endpoint: str | None = None
    certificate: Path | None = None
    colour: str = "bad"
    replaced: bool = False
    """Whether the list becomes another while it is read."""
    largest: int = resource.RLIM_INFINITY
    """Bytes that a file may have: as good as a full disk."""
    list: str = "ids"
    out: str = "out"


def named(word, number=8):
    return tuple(f"{word}-{place}" for place in range(number))


MENDED = "once the cause is mended the same command goes on"
STOPS = (
    End("wrong token", 4, "the server refuses the token", named("denied")),
    End("login page", 4, "the answers do not come from the API", named("login")),
    End("subscription expired", 4, "the server refuses the account", named("expired")),
    End("TLS", 4, "an authority that is not known here", certificate=CERTIFICATE),
    End("server down", 5, "ECONNREFUSED", endpoint="http://127.0.0.1:1/soap", colour="warn"),
    End("503 only", 5, "the server is busy (HTTP 503)", named("busy"), colour="warn"),
    End(
        "list changed",
        2,
        "the list changed",
        ("stuck", *named("x" * 200, 2_000)),
        ("-c", "8"),
        replaced=True,
    ),
    End("--max-errors", 3, "more than max_errors 2", GOOD + named("bad"), ("--max-errors", "2")),
    End("Ctrl-C", 130, "stopped by Ctrl-C", (*GOOD, "stuck"), (), signal.SIGINT, colour="open"),
    End("SIGTERM", 143, "stopped by SIGTERM", (*GOOD, "stuck"), (), signal.SIGTERM, colour="open"),
)
FULL = End("disk full", 6, "the file may not grow any further", largest=60_000)
FINISHES = (
    End("some failed", 1, "", GOOD + named("bad", 2)),
    End("some refused", 1, "", named("nobody", 2) + GOOD),
    End("some of both", 1, "", (*named("nobody", 2), "good-x", *named("bad", 1), *GOOD)),
)
WITHOUT_OUTPUT = (
    End("no list", 2, "absent", list="absent"),
    End("no folder", 6, "no/out", out="no/out"),
)
FAST = ("--patience", "1", "--retries", "1", "--backoff", "0.01", "-c", "1", "--grace", "0")


@dataclass(frozen=True)
class Told:
    """What each place says of one end; no report where there is no output."""

    code: int
    screen: str
    status: str
    status_json: dict
    report: Report | None
    page: str
    summary: dict


def come_to(end, place):
    """Run `fetch` to this end in the folder `place`, and ask everywhere what became of it."""
    (place / "ids").write_text("\n".join(end.ids))
    server = Server(end.certificate)
    with server.listening() as url:
        files = {"-i": end.list, "-o": end.out, "--summary": "s.json"}
        arguments = ["fetch", "--endpoint", end.endpoint or url, *FAST, *end.more]
        for flag, name in files.items():
            arguments += [flag, name]
        with started(*arguments, cwd=place, preexec_fn=lambda: limit(end.largest)) as process:
            if "stuck" in end.ids:
                assert server.stuck.wait(ENOUGH)
            if end.send:
                process.send_signal(end.send)
            if end.replaced:
                (place / "ids").write_text("other")
                server.over.set()
            _, screen = process.communicate(timeout=ENOUGH)
    return look(place, process.returncode, screen)


def limit(largest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def look(place, code, screen):
    report = read_report(place / "out", now=0) if (place / "out.journal").exists() else None
    return Told(
        code=code,
        screen=screen,
        status=status_of(place / "out"),
        status_json=json.loads(status_of(place / "out", "--json") or "{}"),
        report=report,
        page=page(report) if report else "",
        summary=json.loads((place / "s.json").read_text()),
    )


def status_of(*arguments):
    """What `status` prints, asked in this process, which is quicker."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(None):
        run_command(["status", *map(str, arguments)])
    return said.buffer.getvalue().decode()


def by_name(ends):
    return pytest.mark.parametrize("end", ends, ids=lambda end: end.name)


def assert_same_counts(told):
    """Courses by outcome, and failures by kind, are the same in all five places."""
    report, summary, status = told.report, told.summary, told.status_json
    counts = {name: report.courses[name] for name in ("fetched", "refused", "failed")}
    kinds = {one.kind: one.courses for one in report.failures}
    assert {name: summary["in_output"][name] for name in counts} == counts
    assert {name: summary["run"][name] for name in counts} == counts
    assert status["courses"] == counts
    assert status["failures"] == summary["in_output"]["failures"] == kinds
    assert (status["rows"], summary["in_output"]["rows"]) == (report.rows, report.rows)
    for name in ("refused", "failed"):
        assert count_of(told.status, name) == counts[name]
        assert count_of(told.screen, name) == counts[name]


def count_of(text, name):
    """The number beside a word, on whichever side of it; 0 when the word has none."""
    found = re.search(rf"^  {name} +([\d,]+)|([\d,]+) {name}, ", text, re.MULTILINE)
    return int((found[1] or found[2]).replace(",", "")) if found else 0


@by_name(STOPS)
def test_a_stop_is_told_alike_everywhere(end, tmp_path):
    """One code, one sentence, one kind and the same counts, in the colour of the code."""
    told = come_to(end, tmp_path)
    stop, summary = told.report.stop, told.summary
    assert end.words in stop.message
    codes = (told.code, summary["exit_code"], stop.exit_code, told.status_json["stop"]["exit_code"])
    assert codes == (end.code,) * 4
    assert summary["message"] == told.status_json["stop"]["message"] == stop.message
    assert summary["kind"] == told.status_json["stop"]["kind"] == stop.kind
    assert told.screen.endswith(f"bulkfetch: {stop.message}\n")
    assert f"  {stop.message} (exit code {end.code})\n" in told.status
    assert f'<header class="{end.colour}">' in told.page
    assert f"<h1>{escape(stop.message)}</h1>" in told.page
    assert (MENDED in told.status) == (MENDED in told.page) == (end.code in {2, 4})
    assert_same_counts(told)


@by_name(FINISHES)
def test_a_finish_with_failures_is_told_alike_everywhere(end, tmp_path):
    """Code 1 and `finished` in each place, the same counts, and what to do next."""
    told = come_to(end, tmp_path)
    assert (told.code, told.summary["exit_code"], told.summary["kind"]) == (1, 1, "finished")
    assert (told.status_json["state"], told.report.state) == ("finished", "finished")
    assert told.screen.startswith("finished in")
    assert told.report.outcome.startswith("Finished, but")
    assert all("retry-failed out" in words for words in (told.screen, told.page))
    assert_same_counts(told)


def test_a_full_disk_is_told_where_there_is_room(tmp_path):
    """Screen and summary say the same; the journal may lack it, and tells what is safe."""
    told = come_to(FULL, tmp_path)
    assert (told.code, told.summary["exit_code"], told.summary["kind"]) == (6, 6, "OutputError")
    assert FULL.words in told.summary["message"]
    assert told.screen.endswith(f"bulkfetch: {told.summary['message']}\n")
    assert told.status_json["courses"]["fetched"] == told.summary["in_output"]["fetched"]
    assert told.report.courses["fetched"] == told.summary["in_output"]["fetched"]


@by_name(WITHOUT_OUTPUT)
def test_an_end_before_the_beginning_leaves_no_output(end, tmp_path):
    """Screen and summary say the same; there is nothing to ask for a status or a report."""
    told = come_to(end, tmp_path)
    assert (told.code, told.summary["exit_code"]) == (end.code, end.code)
    assert end.words in told.summary["message"]
    assert told.screen == f"bulkfetch: {told.summary['message']}\n"
    assert (told.report, told.summary["run"], told.status) == (None, None, "")


def test_a_second_run_is_turned_away_and_the_first_is_told(tmp_path):
    """Code 5 and the same words for the one; `status` and report tell of the other."""
    (tmp_path / "ids").write_text("\n".join((*GOOD, "stuck")))
    server = Server()
    with server.listening() as url:
        arguments = ("fetch", "--endpoint", url, "-i", "ids", "-o", "out", *FAST)
        with started(*arguments, cwd=tmp_path) as first:
            assert server.stuck.wait(ENOUGH)
            second = bulkfetch(*arguments, "--summary", "s.json", cwd=tmp_path)
            told = look(tmp_path, second.returncode, second.stderr)
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=ENOUGH)
    assert (told.code, told.summary["exit_code"], told.summary["kind"]) == (5, 5, "OutputLocked")
    assert told.screen == f"bulkfetch: {told.summary['message']}\n"
    assert "another run" in told.summary["message"]
    assert (told.status_json["state"], told.report.stop) == ("running", None)


def main():
    """Print each end as it is told in each place."""
    for end in (*STOPS, FULL, *FINISHES, *WITHOUT_OUTPUT):
        with tempfile.TemporaryDirectory() as place:
            told = come_to(end, Path(place))
        print(f"## {end.name}: exit {told.code}\nscreen   {told.screen.strip()}")
        print(f"status   {told.status.strip()}")
        if told.report:
            print("report  ", told.report.stop.message if told.report.stop else "")
            print("        ", told.report.outcome, dict(told.report.courses))
        named = {name: told.summary[name] for name in ("exit_code", "kind", "message")}
        print(f"summary  {named} {told.summary['in_output']}\n", flush=True)


if __name__ == "__main__":
    main()
