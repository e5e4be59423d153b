"""Documents of megabytes, garbled, for the parser: says what came of them and what memory it took.

    python tests/fuzz_parser.py 200

Each gives rows or a CourseError. The pieces are made as they are read, so that the memory measured
is the parser's alone.
"""

import gzip
import random
import re
import sys
from pathlib import Path

from answers import LIST_HEAD, LIST_TAIL, record, users

from bulkfetch._domain.errors import CourseError
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._http.gunzip import Gunzip
from bulkfetch._soap.parser import Limits, ResponseParser
from bulkfetch._soap.records import RowFormat

START, END = LIST_HEAD.encode(), LIST_TAIL.encode()
BORDER = b"</ns1:progress></ns1:status>"
PIECE = 16 << 10
LIMITS = Limits(max_bytes=64 << 20, max_rows=500_000)
TOKENS = (
    b"&foo;", b"&#0;", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<q:a/>", b"]]>", b"<!--",
    b"-->", b"<![CDATA[", b"\0", b"\xff", b"\xfe\xff", b"<ns1:status>", b"</ns1:status>",
    b"</ns1:statuses>", b"<ns1:statuses>", b"<html>", b"\x1b", b"<a>" * 300, b"x" * 2_000_000,
    b"&amp;" * 300_000, b" a='1'" * 50_000, b"<!-- x -->", b"<?x y?>", b"<![CDATA[&]]>",
    record("more", "Passed", 1).encode(), b"<other><x/></other>", b" " * 900_000,
)  # fmt: skip


def read(pieces, limits=LIMITS):
    """Feed the pieces; returns the number of rows, or the kind of error."""
    parser = ResponseParser(GET_FINAL_STATUSES, RowFormat(GET_FINAL_STATUSES).encoder("1"), limits)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.close()
    except CourseError as error:
        return error.kind
    return parser.rows


def cut(data, start=0, end=None):
    end = len(data) if end is None else end
    return (data[at : min(at + PIECE, end)] for at in range(start, end, PIECE))


def inflated(pieces):
    """Yield what a gzip body becomes, as the transport does."""
    gunzip = Gunzip(max_ratio=200)
    for piece in pieces:
        gunzip.put(piece)
        while out := gunzip.take():
            yield out


def garbled(rng, document, *, torn):
    """Yield the document in pieces, with garbage in up to three places, or over them if `torn`."""
    at = 0
    for place in sorted(rng.randrange(len(document)) for _ in range(rng.randint(1, 3))):
        # Between two records some of it may be taken.
        start = place if torn else max(at, document.find(BORDER, place) + len(BORDER))
        yield from cut(document, at, start)
        yield from cut(rng.choice(TOKENS))
        at = start + torn * rng.randint(1, 200)
    yield from cut(document, at)


def peak():
    """The most memory this program has held, in MiB; `ru_maxrss` would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def forget_peak():
    """Let the peak count from here."""
    Path("/proc/self/clear_refs").write_text("5")


def garble(count, seed):
    """Read so many garbled documents, plain and gzipped; print the answers and the memory."""
    rng = random.Random(seed)
    rows = "".join(record(*row) for row in users("u", 2_000)).encode()
    document = START + rows * 15 + END
    squeezed = gzip.compress(document, 1)
    assert read(cut(document)) == read(inflated(cut(squeezed))) == 30_000
    forget_peak()
    before, answers = peak(), {}
    for number in range(count):
        if number % 4 == 0:
            answer = read(inflated(garbled(rng, squeezed, torn=True)))
        else:
            answer = read(garbled(rng, document, torn=number % 4 == 1))
        kind = "rows" if isinstance(answer, int) else answer
        answers[kind] = answers.get(kind, 0) + 1
    grown = peak() - before
    print(f"{count} documents of {len(document) / 1e6:.1f} MB: {answers}; {grown:.1f} MiB grown")
    return grown


if __name__ == "__main__":
    garble(int(sys.argv[1]) if len(sys.argv) > 1 else 200, seed=6)
