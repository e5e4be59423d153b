"""Lists of ids: every format, every way they can be wrong, files and pipes."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from contextlib import aclosing

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import ConfigurationError
from bulkfetch._ids import CountedIds, IdReader, _from_descriptor, open_ids


def read(name, data, column=None, step=None):
    reader = IdReader(name, column)
    step = step or len(data) or 1
    ids = []
    for at in range(0, len(data), step):
        ids += reader.feed(data[at : at + step])
    return ids + reader.close()


FORMATS = {
    "text": ("a.txt", b"1\n2\n", None),
    "no line feed at the end": ("a", b"1\n2", None),
    "Windows line ends": ("a.txt", b"1\r\n2\r\n", None),
    "byte order mark": ("a.txt", b"\xef\xbb\xbf1\n2\n", None),
    "comments and blanks": ("a.txt", b"# courses\n\n  1  \n2\t# fire safety\n   \n", None),
    "csv": ("a.csv", b"contentItemId,title\n1,x\n2,y\n", None),
    "csv with semicolons": ("a.csv", b"title;course_id\nx;1\ny;2\n", None),
    "tsv": ("a.tsv", b"id\ttitle\n1\tx\n2\ty\n", None),
    "csv by column": ("a.csv", b"id,course\n9,1\n9,2\n", "course"),
    "csv from stdin by column": ("stdin", b"id,course\n9,1\n9,2\n", "course"),
    "csv from stdin": ("stdin", b"title,contentItemId\nx,1\ny,2\n", None),
    "csv from stdin, quoted": ("stdin", b'"Title";"COURSEID"\r\n"x";"1"\r\n"y";"2"\r\n', None),
    "tsv from stdin after comments": ("stdin", b"# mine\n\nId\ttitle\n1\tx\n2\ty\n", None),
    "csv in a text file": ("a.txt", b"\xef\xbb\xbfcontent_item_id,title\n1,x\n2,y\n", None),
    "ndjson from stdin after a comment": (
        "stdin",
        b'# mine\n{"contentItemId":"1"}\n{ "contentItemId":2}\n',
        None,
    ),
    "csv with byte order mark": ("a.csv", b"\xef\xbb\xbfid\r\n1\r\n2\r\n", None),
    "csv cells that span lines": ("a.csv", b'title,id\n"a\nb, ""c""",1\n"d",2\n', None),
    "csv blank lines and cells": ("a.csv", b"id,title\n1,x\n\n,no id\n2,y\n", None),
    "csv quoted ids": ("a.csv", b'id\n"1"\n" 2 "\n', None),
    "ndjson": ("a.ndjson", b'{"contentItemId":"1"}\n\n{"contentItemId":2}\n', None),
    "ndjson by field": ("stdin", b'{"id":"1"}\n{"id":"2"}\n', "id"),
}


@pytest.mark.parametrize(("name", "data", "column"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("step", [None, 1, 3])
def test_every_format_gives_the_same_ids_however_it_comes(name, data, column, step):
    """Text, CSV and NDJSON hold the same ids, in one piece or byte by byte."""
    assert read(name, data, column, step) == ["1", "2"]


def test_a_text_list_stays_text_unless_its_first_line_names_the_ids():
    """Commas alone, and names without a known one, make no table."""
    for data in (b"a,b\nid,x\n", b"course,title\n1,x\n", b"id\n1,x\n"):
        assert read("stdin", data) == data.decode().split()


WRONG = {
    "empty": ("a.txt", b"", None, "a.txt holds no ids"),
    "only comments": ("a.txt", b"# none\n\n", None, "a.txt holds no ids"),
    "control character": ("a.txt", b"1\n2\x073\n", None, r"a.txt, line 2: .*control.*2\\x073"),
    "NUL": ("a.txt", b"1\n\n\0\0\n", None, "a.txt, line 3: .*NUL"),
    "UTF-16": ("a.txt", "\ufeff1\n2\n".encode("utf-16-le"), None, "a.txt, line 1: .*UTF-8"),
    "binary": ("a.dat", b"1\n\x80\x81\n", None, "a.dat, line 2: .*UTF-8"),
    "long id": ("a.txt", b"1\n" + b"x" * 300, None, "a.txt, line 2: .*300 characters"),
    "no line ends": ("a.txt", b"x" * (2 << 20), None, "a.txt, line 1: .*longer than 1 MiB"),
    "no such column": ("a.csv", b"course,n\n1,2\n", None, "no column contentItemId.*course,n"),
    "column not there": ("a.csv", b"id\n1\n", "course", "no column course"),
    "short line": ("a.csv", b"n,id\n1,2\n3\n", None, "a.csv, line 3: .*only 1 of the columns"),
    "carriage return in a cell": ("a.csv", b"id,n\n1\r2,3\n", None, "line 2: not a line of CSV"),
    "open quote": ("a.csv", b'id\n"1\n2\n', None, "a.csv, line 4: .*quotation mark"),
    "csv without rows": ("a.csv", b"id,title\n", None, "a.csv holds no ids"),
    "no JSON": ("a.ndjson", b'{"contentItemId":"1"}\nx\n', None, "line 2: not a JSON object"),
    "JSON without field": ("a.ndjson", b'{"id":"1"}\n', None, "line 1: .*no 'contentItemId'"),
    "JSON with another type": ("a.ndjson", b'{"contentItemId":true}\n', None, "line 1: .*True"),
}


@pytest.mark.parametrize(("name", "data", "column", "message"), WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_is_named_with_file_and_line(name, data, column, message):
    """A list that cannot be meant is refused, and the message says where and why."""
    with pytest.raises(ConfigurationError, match=message):
        read(name, data, column)


@given(
    data=st.binary(max_size=200), step=st.integers(1, 20), head=st.sampled_from([b"", b"id,x\n"])
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_any_bytes_give_ids_or_our_error(name, data, step, head):
    """No bytes whatever make the reader raise anything else, nor depend on how they are cut."""

    data = head + data

    def outcome(step):
        try:
            return read(name, data, step=step)
        except ConfigurationError as error:
            return str(error)

    assert outcome(step) == outcome(None)


def test_a_file_is_read_lazily_more_than_once_and_its_length_is_known(tmp_path):
    """A plain file has a length, and gives its ids again each time it is asked."""
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{number}\n" for number in range(20_000)))
    ids = open_ids(str(path))
    assert isinstance(ids, CountedIds)
    assert len(ids) == 20_000
    assert list(ids) == list(ids) == [str(number) for number in range(20_000)]


def test_the_mistake_in_the_last_line_is_found_before_the_run(tmp_path):
    """A file of moderate size is checked to its end when it is opened."""
    path = tmp_path / "ids.txt"
    path.write_text("1\n" * 50_000 + "a\x1bb\n")
    with pytest.raises(ConfigurationError, match="line 50001"):
        open_ids(str(path))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        (".zst", lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:])),
    ],
)
def test_compressed_lists_are_read_to_the_end_of_their_last_part(tmp_path, suffix, compress):
    """gzip and zstd are known by the suffix; several members in a row are one list."""
    data = b"id,n\n" + b"".join(b"%d,x\n" % number for number in range(5000))
    path = tmp_path / f"ids.csv{suffix}"
    path.write_bytes(compress(data))
    assert list(open_ids(str(path))) == [str(number) for number in range(5000)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_is_not_compressed_as_its_name_says_is_refused(tmp_path, suffix):
    """A damaged archive is one clear message."""
    path = tmp_path / f"ids.txt{suffix}"
    path.write_bytes(b"1\n2\n3\n")
    with pytest.raises(ConfigurationError, match="cannot be decompressed"):
        open_ids(str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    """The two commonest slips are told apart."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.txt cannot be read: No such file"):
        open_ids(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigurationError, match="is a folder"):
        open_ids(str(tmp_path))


def test_a_device_that_is_no_pipe_is_read_like_a_file():
    """/dev/null, which no event loop can watch, is an empty list."""
    with pytest.raises(ConfigurationError, match="/dev/null holds no ids"):
        list(open_ids("/dev/null"))


async def test_a_pipe_is_read_without_blocking_the_event_loop(tmp_path):
    """While the writer pauses other tasks run, and no id is lost."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    came, others_ran = asyncio.Event(), threading.Event()
    ids = []

    def write():
        with path.open("w") as pipe:
            pipe.write("1\n2")
            pipe.flush()
            others_ran.wait(10)  # only another task of the same loop ends this
            pipe.write("3\n4\n")

    async def others():
        await came.wait()
        others_ran.set()

    writer = threading.Thread(target=write)
    writer.start()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(others())
        async for course_id in open_ids(str(path)):
            ids.append(course_id)
            came.set()
    writer.join()
    assert ids == ["1", "23", "4"]
    assert others_ran.is_set()


async def test_a_pipe_is_left_as_it_was_found():
    """Reading in an event loop does not leave a shared descriptor non-blocking behind."""
    reading, writing = os.pipe()
    os.write(writing, b"1\n2\n")
    os.close(writing)
    ids = _from_descriptor(os.dup(reading), "stdin", None)
    assert [course_id async for course_id in ids] == ["1", "2"]
    assert os.get_blocking(reading)
    os.close(reading)


async def test_a_pipe_that_is_left_early_is_closed():
    """Who takes only some ids leaves no descriptor and no reader behind."""
    reading, writing = os.pipe()
    os.write(writing, b"1\n2\n")
    async with aclosing(aiter(_from_descriptor(reading, "stdin", None))) as ids:
        assert await anext(ids) == "1"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    await asyncio.sleep(0)  # the transport closes in the loop's next turn
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"3\n")
    os.close(writing)
