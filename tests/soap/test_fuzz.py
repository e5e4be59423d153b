"""Any bytes at all, at every door that strangers' bytes come in by: rows or one of our errors.

The parser's own property, whole and byte by byte, stands with the parser's tests; here are the
doors before it, its memory, and a fuzzer guided by coverage, which needs atheris:

    pip install atheris && pytest -m slow -s tests/soap/test_fuzz.py
"""

import asyncio
import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from answers import GOOD, options, run, scripted, statuses
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_parser import FULL, GARBAGE, mutated

from bulkfetch import CourseError, Refused, ServerRefuses, TemporarilyUnavailable
from bulkfetch._http.gunzip import Gunzip
from bulkfetch._http.oauth import read_answer, refusal
from bulkfetch.testing import RawServer, ScriptedReply, ScriptedTransport, http_answer

HERE = Path(__file__).parent.parent
BODY = statuses(GOOD)
CLIENT = options(
    token=None, token_url="https://lms.example/token", client_id="me", client_secret="s3cret"
)
documents = mutated() | st.binary(max_size=80) | st.just(BODY)
pieces = st.lists(st.binary(min_size=1, max_size=40) | GARBAGE.filter(bool), max_size=6)


def fetched(reply):
    """Fetch one course with this reply; exactly one outcome comes out, rows or a CourseError."""
    transport = ScriptedTransport([reply])
    result = asyncio.run(run(setup={"transport": transport}, retries=0, patience=0))
    one_outcome(result)
    return result


def one_outcome(result):
    """One course, one outcome; without rows and without a final word the run ends in an error."""
    assert len(result.outcomes) == 1
    [error] = result.failed.values() or [None]
    assert error is None or isinstance(error, CourseError)
    if error is None or isinstance(error, Refused):
        assert result.error is None
    else:
        assert isinstance(result.error, ServerRefuses | TemporarilyUnavailable)


heads = st.dictionaries(
    st.sampled_from(["Content-Type", "Retry-After", "Location", "Server"]),
    st.text(max_size=20) | st.sampled_from(["text/xml", "text/html", "1e999", "//["]),
)


@given(st.integers(100, 599), heads, documents | st.just(FULL))
def test_any_answer_has_one_outcome(status, headers, body):
    """Whatever status, headers and body: the course ends once, and never as rows but with a 2xx."""
    result = fetched(scripted(body, status=status, headers=headers))
    assert not result.rows or 200 <= status < 300


@given(documents, st.lists(st.integers(1, 300), max_size=5))
def test_the_pieces_make_no_difference(body, cuts):
    """However the network cuts a body, the outcome is the same."""
    places = sorted(cut for cut in cuts if cut < len(body))
    parts = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    whole = fetched(scripted(body))
    cut = fetched(ScriptedReply(pieces=[part for part in parts if part]))
    assert (cut.rows, cut.kinds) == (whole.rows, whole.kinds)


@st.composite
def raw_answers(draw):
    """Bytes on the wire: an answer, garbled in places."""
    answer = http_answer(BODY)
    if draw(st.booleans()):
        answer = http_answer(gzip.compress(BODY), headers=["Content-Encoding: gzip"])
    for garbage in draw(pieces):
        start = draw(st.integers(0, len(answer)))
        answer = answer[:start] + garbage + answer[start + draw(st.integers(0, 9)) :]
    return answer


@settings(max_examples=40)
@given(raw_answers() | st.binary(max_size=200))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n")
def test_any_bytes_on_the_wire_have_one_outcome(answer):
    """Whatever a server sends and then closes, the course ends once: all of the rows, or none."""

    async def over_the_wire():
        async with RawServer(lambda exchange: exchange.cut(answer)) as server:
            return await run(endpoint=server.url, retries=0, read_timeout=2.0, patience=0)

    one_outcome(asyncio.run(over_the_wire()))


def gunzipped(parts):
    """Return what comes out, or the kind of error."""
    gunzip, out = Gunzip(max_ratio=200), b""
    try:
        for part in parts:
            gunzip.put(part)
            while piece := gunzip.take():
                out += piece
    except CourseError as error:
        return error.kind
    return out


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=5))
def test_any_gzip_whole_and_byte_by_byte(text, place, garbage):
    """Garbled gzip becomes the same bytes, or the same error, however it is cut."""
    data = gzip.compress(text) * 2
    data = data[:place] + garbage + data[place + len(garbage) :]
    assert gunzipped([data]) == gunzipped([data[at : at + 1] for at in range(len(data))])
    assert gunzipped([gzip.compress(text)]) == text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)
answers = st.fixed_dictionaries(
    {}, optional={"access_token": values, "expires_in": values, "message": values}
)


@given(st.binary(max_size=60) | st.builds(repr, values).map(str.encode) | answers.map(repr))
def test_any_answer_of_the_token_endpoint(body):
    """A token with a time to live, or one of our errors; the words are always printable."""
    data = body if isinstance(body, bytes) else body.replace("'", '"').encode("utf-8", "replace")
    assert refusal("host", 400, data, CLIENT).message.isprintable()
    try:
        token, lifetime = read_answer("host", data)
    except CourseError:
        return
    assert token
    assert lifetime > 0


def test_garbled_megabytes_take_no_memory():
    """Large documents, garbled in many ways: rows or an error each, in bounded memory.

    A hostile element of a megabyte (50,000 attributes) takes libxml2 some 30 times as much; forty
    documents take no more than one.
    """
    done = subprocess.run(
        [sys.executable, "-c", "from fuzz_parser import garble; print(garble(40, seed=6))"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    told, grown = done.stdout.splitlines()
    assert "40 documents" in told
    assert float(grown) < 64


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
def test_guided_by_coverage(tmp_path):
    """A minute of libFuzzer: the same whole and byte by byte, and memory bounded."""
    words = ["-max_total_time=60", "-print_final_stats=1", str(tmp_path), str(HERE / "data")]
    done = subprocess.run(
        [sys.executable, HERE / "fuzz_atheris.py", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(*[line for line in done.stderr.splitlines() if line.startswith(("Done", "stat::"))])
