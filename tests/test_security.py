"""What nobody may get: the token, other people's rows, a terminal, an unproven peer.

The token is searched for wherever a run leaves anything: streams, logs, files, process lists. What
strangers say is shown on a real terminal, with every character that a terminal might obey.
"""

import ast
import asyncio
import base64
import json
import os
import pty
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from answers import HEAD, TAIL, fault, statuses, users
from commands import COMMAND, ENOUGH, bulkfetch, environment, fetch, started

import bulkfetch as package
from bulkfetch._config.options import settings
from bulkfetch.testing import RawServer, SimulatedServer, Simulation, http_answer

PACKAGE = Path(package.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TOKEN = "Zt4-s&nt<in>l/0f1e+2d3c"
SECRET = "Zt4-c&ient/secret+9a8b7c"


# The token (F86)


def forms(secret):
    """A secret as it stands, and as XML, URLs, JSON and headers write it."""
    plain = {secret, escape(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {form.encode() for form in plain} | {base64.b64encode(secret.encode())}


class Search:
    """Every place that was searched for the secrets, and those that held one."""

    def __init__(self):
        self.places = []
        self.hits = []

    def look(self, place, data):
        data = data.encode() if isinstance(data, str) else data
        self.places.append((place, len(data)))
        self.hits += [place for secret in (TOKEN, SECRET) for f in forms(secret) if f in data]

    def run(self, *words, expect=(0, 1), **given):
        """Run a command and look at what it says; the token comes by the environment."""
        given = {"token": TOKEN} | given
        done = bulkfetch(*words, **given)
        assert done.returncode in expect, done.stderr
        self.look(f"{words[0]}: stdout", done.stdout)
        self.look(f"{words[0]}: stderr", done.stderr)
        return done

    def files(self, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                self.look(path.name, path.read_bytes())

    def processes(self):
        """Look at the command line of every process, as `ps` shows it."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.look(str(path), path.read_bytes())
            except OSError:
                continue  # it has just ended


def test_f86_the_search_finds_what_is_there(tmp_path):
    """The search for the token is no search that cannot find: each form of it is a hit."""
    for number, form in enumerate(sorted(forms(TOKEN) | forms(SECRET))):
        search = Search()
        (tmp_path / "file").write_bytes(b"some %b text" % form)
        search.files(tmp_path)
        assert search.hits, (number, form)


def test_f86_the_token_is_nowhere(tmp_path, record_property):
    """Every command at its most talkative, every source of the token, a kill: no place holds it."""
    search = Search()
    out, lists = tmp_path / "out", tmp_path / "lists"
    out.mkdir()
    lists.mkdir()
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(TOKEN)
    simulation = Simulation(
        courses=30, rows=(0, 5), unknown=2, denied=2, token=TOKEN, client_secret=SECRET,
        share_503=0.1, share_cut=0.1, share_reset=0.1, latency=0.01,
    )  # fmt: skip
    talk = ("-vv", "--no-adaptive", "--backoff", "0.01")
    with SimulatedServer(simulation) as server:
        words = fetch(server, out / "a.ndjson", lists / "ids.txt", *talk)
        asking = ("--endpoint", server.endpoint, *talk)
        dev = {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}
        search.run(*words, variables=dev)
        search.run(*fetch(server, out / "b", lists / "ids.txt", *talk, "--log-format", "json"))
        search.run("retry-failed", out / "a.ndjson", *asking)
        search.run("check", *asking[:3])
        search.run("discover", *asking[:3])
        search.run("config", *asking)
        search.run("status", out / "a.ndjson")
        search.run("verify", out / "a.ndjson")
        search.run(*words[:-1], "0.01", "-n")
        for name, more in (
            ("file", ("--token-file", file)),
            ("command", ("--token-command", f"cat {file}")),
            ("url", ("--token-url", server.token_url, "--client-id", simulation.client_id)),
        ):
            words = fetch(server, out / name, lists / "ids.txt", *talk, *more)
            variables = {"BULKFETCH_CLIENT_SECRET": SECRET} if name == "url" else {}
            search.run(*words, token="", variables=variables)
        words = fetch(server, out / "killed", lists / "ids.txt", *talk, "-c", "1")
        with started(*words, token=TOKEN, stderr=subprocess.DEVNULL) as process:
            while not (out / "killed.part").exists():
                time.sleep(0.01)
            search.processes()
            search.look("the command line", Path(f"/proc/{process.pid}/cmdline").read_bytes())
        search.files(out)
        assert server.counters.by_status[200] > 150  # so the token was taken every time
    assert (out / "killed.part").exists()
    tell(search, record_property)


def tell(search, record_property):
    size = sum(size for _, size in search.places)
    record_property("token", f"{len(search.places)} places searched, {len(search.hits)} hits")
    print(f"\n{len(search.places)} places, {size:,} bytes searched; hits: {len(search.hits)}")
    assert search.hits == []


REFUSALS = {
    "401": http_answer(b"<html>" + TOKEN.encode(), status="401 No", content_type="text/html"),
    "redirect": http_answer(b"", status="302 Found", headers=[f"Location: http://x/?t={TOKEN}"]),
    "not xml": http_answer(b"<a>" + TOKEN.encode()),
    "encoding": http_answer(b"x", headers=["Content-Encoding: br"]),
    "not http": b"what is " + TOKEN.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
async def test_f86_nor_when_the_server_sends_it_back(answer, tmp_path):
    """A refusal that carries the token itself does not bring it into streams or files."""
    search = Search()
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"c{number}\n" for number in range(8)))
    out = tmp_path / "out"
    out.mkdir()
    async with RawServer(answer) as server:
        words = ("--endpoint", server.url, "--backoff", "0.01", "--retries", "1", "-vv")
        fetching = ("fetch", "-i", ids, "-o", out / "a", *words)
        await asyncio.to_thread(search.run, *fetching, expect=(1, 4, 5))
        assert escape(TOKEN).encode() in server.requests[0].body
    search.files(out)
    assert search.hits == []


@pytest.mark.parametrize("token_url", [False, True], ids=["fault", "token endpoint"])
async def test_f86_nor_in_the_servers_own_words(token_url, tmp_path):
    """A fault text is shown, but not the token that it repeats."""
    search = Search()
    text = f"no access for {SECRET if token_url else TOKEN} today"
    answer = http_answer(fault(escape(text)), status="500 Oops")
    if token_url:
        answer = http_answer(json.dumps({"message": text}).encode(), status="400 Bad")
    async with RawServer(answer) as server:
        words = ["check", "--endpoint", server.url]
        given = {}
        if token_url:
            words += ["--token-url", server.url, "--client-id", "me"]
            given = {"token": "", "variables": {"BULKFETCH_CLIENT_SECRET": SECRET}}
        code = 4 if token_url else 5  # an unknown fault may pass
        done = await asyncio.to_thread(search.run, *words, expect=(code,), **given)
    assert "no access for" in done.stderr
    assert search.hits == []


# Private files (F87)


async def test_f87_a_large_course_waits_in_a_private_file_without_a_name(tmp_path):
    """Rows that outgrow the memory lie in a nameless 0600 file beside the output, umask or not."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "ids.txt").write_text("c1\n")
    half = statuses(users("u", 40_000))[:-2000]
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n" + half
    async with RawServer(lambda exchange: exchange.stall(answer)) as server:
        words = ("fetch", "-i", tmp_path / "ids.txt", "-o", out / "a", "--endpoint", server.url)
        with started(*words, umask=0) as process:
            while not (found := spools(process.pid)):
                assert process.poll() is None
                await asyncio.sleep(0.02)
    assert [target.parent for target in found] == [out]
    assert set(found.values()) == {0o600}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}
    assert modes == {0o600}


def spools(pid):
    """The nameless files that a process has open, and their modes."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            target = link.readlink()
            if target.is_absolute() and target.name.endswith(" (deleted)"):
                found[target] = stat.S_IMODE(link.stat().st_mode)
    return found


# What a terminal obeys


HOSTILE = ("\x9b31m", "\x85", "\u202e", "\u2066", "\r", "\n", "\u2028", "\ufeff")
"""What XML 1.0 lets through: C1 controls, line ends, characters that turn the writing round."""
EVIL = "".join(f"{character}HACK" for character in HOSTILE)
ESCAPES = "\x1b[2J\x1b]0;HACK\x07"
RAW_EVIL = escape(EVIL).replace("\r", "&#13;")


def on_terminal(*words, token="t", variables=None):
    """Run a command on a terminal and return all it shows there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(token, TERM="xterm", COLUMNS="200", **(variables or {})),
    )
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    process.wait(ENOUGH)
    return shown.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # the other end was closed


def harmless(shown):
    """Say whether the stranger's words came, and each behind a plain character."""
    before = {shown[at - 1] for at in range(1, len(shown)) if shown.startswith("HACK", at)}
    return bool(before) and all(" " <= character <= "~" for character in before)


async def shown_for(answer, *words, **given):
    async with RawServer(answer) as server:
        words = [word.format(server.url) if isinstance(word, str) else word for word in words]
        return await asyncio.to_thread(on_terminal, *words, **given)


FAULT = http_answer(fault(RAW_EVIL), status="500 Oops")
PAGES = {
    "a fault": FAULT,
    "a fault's code": http_answer(fault("x", RAW_EVIL), status="500 Oops"),
    "an element": http_answer(f"<x{'HACK' * 20}/>".encode()),
    "a host": http_answer(b"", status="302 Found", headers=["Location: http://a\x9b\x85HACK/"]),
    "an encoding": http_answer(b"x", headers=["Content-Encoding: \x9b\x85HACK"]),
    "a type": http_answer(b"x", content_type="a/\x9b\x85HACK", status="403 No"),
}


@pytest.mark.parametrize("words", [(), ("--log-format", "json"), ("-vv",)])
async def test_f88_a_fault_is_shown_harmless_by_fetch(words, tmp_path):
    """On the terminal and in the list of failed courses nothing obeys the server."""
    (tmp_path / "ids.txt").write_text("c1\nc2\n")
    out = tmp_path / "out.ndjson"
    fetching = ("fetch", "--endpoint", "{}", "-i", tmp_path / "ids.txt", "-o", out, "-vv")
    shown = await shown_for(FAULT, *fetching, "--retry-faults", "HACK", "--retries", "1", *words)
    failed = out.with_name("out.ndjson.failed.ndjson").read_text()
    assert harmless(shown)
    assert harmless(failed)


@pytest.mark.parametrize("answer", PAGES.values(), ids=PAGES)
async def test_f88_whatever_the_answer_check_is_harmless(answer):
    """No part of an answer that a message may quote reaches the terminal raw."""
    shown = await shown_for(answer, "check", "--endpoint", "{}", "--retries", "0")
    assert "bulkfetch:" in shown
    assert harmless(shown) or "HACK" not in shown


async def test_f88_the_token_endpoints_words_are_harmless():
    """JSON can carry ESC and BEL: they are spelled out, too."""
    answer = http_answer(json.dumps({"message": ESCAPES + EVIL}).encode(), status="400 Bad")
    variables = {"BULKFETCH_CLIENT_SECRET": "s"}
    words = ("check", "--endpoint", "{}", "--token-url", "{}", "--client-id", "me")
    shown = await shown_for(answer, *words, token="", variables=variables)
    assert harmless(shown.replace(";HACK", "HACK"))
    assert "\x1b]0" not in shown


@pytest.mark.parametrize("words", [(), ("--ids",)])
async def test_f88_titles_and_ids_are_harmless_on_a_terminal(words):
    """`discover` shows the account's own texts without what a terminal obeys."""
    item = f"<contentItem><contentItemId>{RAW_EVIL}</contentItemId><title>{RAW_EVIL}</title>"
    body = f"{HEAD}<GetContentResult>{item}</contentItem></GetContentResult>{TAIL}".encode()
    shown = await shown_for(http_answer(body), "discover", "--endpoint", "{}", *words)
    assert harmless(shown)


ROWS = statuses([(f"u{RAW_EVIL}", f"s{RAW_EVIL}", 1)])


async def test_f88_rows_on_a_terminal_are_harmless(tmp_path):
    """`fetch -o -` and `parse` on a terminal: the rows are the same JSON, without what it obeys."""
    (tmp_path / "ids.txt").write_text("c1\n")
    (tmp_path / "c1.xml").write_bytes(ROWS)
    fetching = ("fetch", "--endpoint", "{}", "-i", tmp_path / "ids.txt", "-o", "-", "-q")
    assert harmless(await shown_for(http_answer(ROWS), *fetching))
    assert harmless(await asyncio.to_thread(on_terminal, "parse", tmp_path / "c1.xml"))


def test_f88_names_of_files_and_ids_are_harmless(tmp_path):
    """Nor does a list of ids that a stranger made."""
    (tmp_path / "ids.txt").write_text(f"c1\x9bHACK{EVIL}\n")
    words = ("fetch", "--endpoint", "http://127.0.0.1:1/", "-o", tmp_path / "out")
    shown = on_terminal(*words, "-i", tmp_path / "ids.txt")
    assert harmless(shown)


# Tables, TLS, plain http


def test_f90_no_table_for_spreadsheets_is_written():
    """There is no CSV output, so no cell can be a formula: CSV is only ever read."""
    for path in SOURCES:
        source = path.read_text()
        assert "csv.writer" not in source, path
        assert "DictWriter" not in source, path


def test_tls_is_never_switched_off():
    """No setting and no line of code turns the check of certificates or host names off."""
    names = " ".join(settings())
    assert not any(word in names for word in ("insecure", "verify", "no_check"))
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for name in ("CERT_NONE", "_create_unverified_context", "verify_ssl"):
            assert name not in path.read_text(), path
        for node in ast.walk(tree):
            off = isinstance(node, ast.Constant) and node.value is False
            assert not (isinstance(node, ast.Assign) and _names(node) & {"check_hostname"}), path
            assert not (isinstance(node, ast.keyword) and node.arg == "ssl" and off), path


def _names(assignment):
    return {getattr(target, "attr", getattr(target, "id", "")) for target in assignment.targets}


@pytest.mark.parametrize("command", [("check",), ("discover",), ("fetch", "-i", "-", "-o", "x")])
def test_plain_http_to_another_host_is_refused(command, tmp_path):
    """No command sends the token unencrypted to another machine unless told to."""
    done = bulkfetch(*command, "--endpoint", "http://lms.invalid/", input="c1\n", cwd=tmp_path)
    assert done.returncode == 2
    assert "the token would travel unencrypted" in done.stderr
    assert list(tmp_path.iterdir()) == []
