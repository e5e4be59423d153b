"""Lists of ids: every format, and every way in which they can be wrong or look wrong."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import os
import re
import shutil
import subprocess

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import ConfigurationError
from bulkfetch._ids.formats import IdReader
from bulkfetch._ids.reader import open_ids
from bulkfetch._ids.table import Records


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
    "a header in a text": ("a.txt", b"# mine\ncontentItemId\n1\n2\n", None),
    "a header through a pipe": ("stdin", b'\xef\xbb\xbf"Course ID"\r\n1\r\n2\r\n', None),
    "double quotes": ("a.txt", b'"1"\n\n"2" # two\n', None),
    "quotes with a header": ("a.txt", b"'id'\n'1'\n'2'\n", None),
    "typographic quotes": ("a.txt", "\u201c1\u201d\n\u201c2\u201d\n".encode(), None),
    "json strings, one a line": ("stdin", b'"1"\n"2"\n', None),
    "invisible around": ("a.txt", "\u200b1\u00a0\n\u00a02\ufeff\n\u200b\n".encode(), None),
    "invisible in a table": ("a.csv", "\u200bid,n\n1\u00a0,\n\ufeff2,\n".encode(), None),
    "files put together": ("a.txt", b"\xef\xbb\xbf1\n\xef\xbb\xbf2\n", None),
    "suffix in capitals": ("A.CSV", b"title,ID\nx,1\ny,2\n", None),
    "tsv whose first cells are empty": ("a.tsv", b"title\tid\n\t1\n\t2\n", None),
    "tsv with loose quotes": ("a.tsv", b'title\tid\n19" screen\t1\nx "y\t2\n', None),
    "csv with loose quotes": ("a.csv", b'title,id\n19" screen,1\nx "y,2\n', None),
    "csv with quotes in quotes": ("a.csv", b'title,id\n"a ""b"", c",1\n"""",2\n', None),
    "tsv with quoted cells": ("a.tsv", b'title\tid\n"a\tb"\t"1"\n"c\nd"\t2\n', None),
    "csv by pipes": ("a.csv", b"title|id\nx, y|1\nz|2\n", None),
    "csv with a column more": ("a.csv", b"title,id\nx,1,,\ny,2,\n", None),
    "csv by a name in another case": ("a.csv", b"Course,n\n1,x\n2,y\n", "course"),
    "ndjson without some": (
        "a.ndjson",
        b'{"contentItemId":"1"}\n{"contentItemId":null}\n{"contentItemId":" 2 "}\n',
        None,
    ),
    "ndjson by field": ("stdin", b'{"id":"1"}\n{"id":"2"}\n', "id"),
}


@pytest.mark.parametrize(("name", "data", "column"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("step", [None, 1, 3])
def test_every_format_gives_the_same_ids_however_it_comes(name, data, column, step):
    """Text, CSV and NDJSON hold the same ids, in one piece or byte by byte."""
    assert read(name, data, column, step) == ["1", "2"]


def test_a_text_list_stays_text_unless_its_first_line_names_the_ids():
    """Commas alone, and names without a known one, make no table."""
    for data in (b"a,b\nid,x\n", b"course,title\n1,x\n"):
        assert read("stdin", data) == data.decode().split()
    assert read("stdin", b"id\n1,x\n") == ["1,x"]


WRONG = {
    "empty": ("a.txt", b"", None, "a.txt holds no ids"),
    "only comments": ("a.txt", b"# none\n\n", None, "a.txt holds no ids"),
    "control character": ("a.txt", b"1\n2\x073\n", None, r"a.txt, line 2: .*control.*2\\x073"),
    "NUL": ("a.txt", b"1\n\n\0\0\n", None, "a.txt, line 3: .*NUL"),
    "UTF-16": ("a.txt", "\ufeff1\n2\n".encode("utf-16-le"), None, "UTF-16: iconv -f UTF-16"),
    "UTF-16, big": ("a.txt", "\ufeff1\n2\n".encode("utf-16-be"), None, "UTF-16: iconv -f UTF-16"),
    "UTF-16 without mark": ("a.txt", "1\n2\n".encode("utf-16-le"), None, "line 1: .*UTF-16"),
    "windows-1252": ("a.txt", b"1\ncaf\xe9\n", None, "line 2: .*UTF-8; .*iconv -f WINDOWS-1252"),
    "workbook": ("a.xlsx", b"PK\x03\x04\n\0", None, "a.xlsx: the file is a workbook.*as CSV"),
    "gzip by another name": ("a.txt", gzip.compress(b"1\n"), None, "ends in .gz"),
    "zstd by another name": ("a.txt", zstandard.compress(b"1\n"), None, "ends in .zst"),
    "xz": ("a.xz", lzma.compress(b"1\n"), None, "by xz: unpack it"),
    "binary in one line": ("a", gzip.compress(os.urandom(2 << 20), 0), None, "gzip|1 MiB|UTF-8"),
    "Macintosh line ends": ("a.txt", b"1\r2\r", None, "line 1: .*carriage|line 1.*tr '.r' '.n'"),
    "Macintosh line ends in a table": (
        "a.csv",
        b"id,n\r1,a\r2,b\r",
        None,
        r"line 1: not a line of CSV.*tr '\\r' '\\n'",
    ),
    "ids in braces": ("a.txt", b"{%s}\n" % (b"0" * 36), None, "line 1: the id stands in braces"),
    "all in one line": ("a.txt", b"1234567," * 99 + b"1", None, "793 characters.*tr ',' "),
    "JSON array": (
        "a.json",
        b'["1","2"]',
        None,
        r"line 1: this is a JSON array; .*jq -r '\.\[]' a",
    ),
    "JSON of objects": (
        "a.json",
        b'[{"contentItemId":"1"}]',
        None,
        r"jq -r '\.\[]\.contentItemId'",
    ),
    "JSON array over lines": ("stdin", b'[\n  "1",\n  "2"\n]\n', None, r"line 1: .*jq -r '\.\[]'$"),
    "JSON over lines": ("a b.json", b'{\n "id": 1\n}', None, "line 1: .*jq -c . 'a b.json'"),
    "SQL tuples": ("a.txt", b"('1'),\n('2');\n", None, "line 1: this is SQL; .*grep -oE"),
    "SQL numbers": ("a.txt", b"(1),\n(2);\n", None, "line 1: this is SQL; .*[0-9]"),
    "SQL in": ("a.txt", b"in ('1', '2')\n", None, "line 1: this is SQL"),
    "SQL inserted": ("a.txt", b"INSERT INTO ids VALUES ('1');\n", None, "line 1: this is SQL"),
    "SQL selected": ("a.txt", b"select id from courses;\n", None, "line 1: this is SQL"),
    "SQL IN-list": ("a.txt", b"'1',\n'2'\n", None, "line 1: this is SQL"),
    "JSON strings": ("a.txt", b'"1",\n"2"\n', None, "line 1: this is a piece of JSON or CSV"),
    "several in one line": ("a.txt", b'"1","2"\n', None, "line 1: this is a piece of JSON"),
    "trailing comma": ("a.txt", b"1\n2,\n", None, "line 2: the line ends with a comma"),
    "web page": ("a.txt", b"<!doctype html>\n", None, "line 1: this is XML or HTML"),
    "drawn by mysql": (
        "a.txt",
        b"+----+\n| id |\n",
        None,
        "line 1: this is a table that a program",
    ),
    "drawn by psql": ("a.txt", b" id \n----\n 1\n", None, "line 2: this is a table that a program"),
    "quotes around some": ("a.txt", b"'1'\n2\n", None, "line 2: '2' and the ids above are not all"),
    "quotes around others": ("a.txt", b'1\n"2"\n', None, "line 2: .*not all in quotes"),
    "a header alone": ("a.txt", b"contentItemId\n", None, "holds no ids but a header"),
    "cells that shift": ("a.csv", b"title,id\nFire, safety,1\n", None, "line 2: .* 3 cells, the"),
    "text after a quote": (
        "a.csv",
        b'title,id\n"Fire" safety,1\n',
        None,
        "line 2: not a line of CSV",
    ),
    "a quote over all": (
        "a.csv",
        b'id\n"never closed\n' + b"1\n" * 50_000,
        None,
        "line 2: .*closed",
    ),
    "a quote that another closes": (
        "a.csv",
        b'id,t\n1,"never closed\n2,x\n3,"y"\n',
        None,
        "line 2: not a line of CSV",
    ),
    "binary": ("a.dat", b"1\n\x80\x81\n", None, "a.dat, line 2: .*UTF-8"),
    "long id": ("a.txt", b"1\n" + b"x" * 300, None, "a.txt, line 2: .*300 characters"),
    "no line ends": ("a.txt", b"x" * (2 << 20), None, "a.txt, line 1: .*longer than 1 MiB"),
    "no such column": ("a.csv", b"course,n\n1,2\n", None, "no column contentItemId.*'course', 'n'"),
    "column not there": ("a.csv", b"id\n1\n", "course", "no column course"),
    "short line": ("a.csv", b"n,id\n1,2\n3\n", None, "a.csv, line 3: .*only 1 of the columns"),
    "carriage return in a cell": ("a.csv", b"id,n\n1\r2,3\n", None, "line 2: not a line of CSV"),
    "open quote": ("a.csv", b'id\n"1\n2\n', None, "a.csv, line 2: .*quotation mark"),
    "csv without rows": ("a.csv", b"id,title\n", None, "a.csv holds no ids but a header"),
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


ODD = {
    "rounded": ("a.txt", b"1\n1.23E+15\n", ["line 2: '1.23E.15' is a number that a spreadsheet"]),
    "rounded with a comma": ("a.csv", b"id;t\n1,2e+9;x\n", ["line 2: '1,2e.9' is a number"]),
    "rounded in JSON": ("a", b'{"contentItemId":"9E+20"}', ["line 1: '9E.20' is a number"]),
    "apostrophe": ("a.txt", b"1\n'2\n", [r"line 2: \"'2\" begins with an apostrophe"]),
    "invisible within": ("a.txt", "1\u200b2\n".encode(), [r"line 1: '1.u200b2' holds characters"]),
    "invisible around": ("a.csv", "id\n1\u00a0\n".encode(), ["line 2: invisible .* around '1'"]),
    "a comma": ("a.txt", b"1,2\n", ["line 1: '1,2' is asked as one id"]),
    "a blank": ("a.txt", b"1 2\n", ["line 1: '1 2' is asked as one id"]),
    "many": (
        "a.txt",
        b"1\n2E+9\n3\n" * 1000,
        ["line 2: '2E.9'", "1,000 ids in scientific.*line 2"],
    ),
    "an empty cell": ("a.csv", b"id,t\n1,x\n,y\n", ["line 3: column 1 is empty"]),
    "empty cells": (
        "a.csv",
        b"id,t\n,x\n1,\n\n,\n",
        ["line 2:", "2 records without an id.*line 2"],
    ),
    "empty fields": (
        "a",
        b'{"contentItemId":""}\n{"contentItemId":1}',
        ["line 1: contentItemId is"],
    ),
    "two columns": (
        "a.csv",
        b"id,title,Content Item ID\n9,x,1\n",
        ["from column 3, 'Content Item ID', not from 'id'"],
    ),
    "two columns of one name": ("a.csv", b"id,id\n1,2\n", ["from column 1, 'id', not from 'id'"]),
    "nothing": ("a.txt", b"# mine\n265f433a-6214-11e9-b9cf-7ef279cfa744\n\n1e5\n", []),
}


@pytest.mark.parametrize(("name", "data", "words"), ODD.values(), ids=ODD)
def test_f121_what_looks_spoilt_is_warned_of_with_its_line(name, data, words):
    """Each kind once, with the first line, and how many there were at the end."""
    told = []
    reader = IdReader(name, warn=told.append)
    assert reader.feed(data) + reader.close()
    assert len(told) == len(words)
    for message, pattern in zip(told, words, strict=True):
        assert re.search(f"^{name}(, |: ).*{pattern}|^{name}, {pattern}", message)


ADVISED = {
    "SQL tuples": b"insert into t values ('a-1', 'b');\n",
    "SQL IN-list": b"in ('a-1','b')\n",
    "SQL lines": b"'a-1',\n'b'\n",
    "JSON strings": b'"a-1",\n"b"\n',
    "CSV line": b'"a-1","b"\n',
    "commas": b"a-1,\nb\n",
    "JSON array": b'["a-1","b"]',
    "JSON of objects": b'[{"contentItemId":"a-1"},{"contentItemId":"b"}]',
    "JSON over lines": b'{\n"contentItemId":"a-1"\n}\n{\n"contentItemId":"b"\n}\n',
}


@pytest.mark.parametrize("data", ADVISED.values(), ids=ADVISED)
def test_f121_the_command_that_is_advised_makes_a_list_of_it(data, tmp_path):
    """What the message says to type gives the ids, also from a file with a blank in its name."""
    assert advised(tmp_path / "my list.txt", data) == ["a-1", "b"]


@pytest.mark.parametrize("data", [b"a-1,n\nb,m\n", b'"a-1";"n"\n"b";"m"\n', b"a-1\nb\n"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_without_a_header_gets_advice_that_works(data, suffix, tmp_path):
    """The first column is made a list that is read as it is."""
    if suffix == ".tsv":
        data = data.replace(b",", b"\t").replace(b";", b"\t")
    assert advised(tmp_path / f"my list{suffix}", data) == ["a-1", "b"]


def test_ids_in_braces_get_advice_that_works(tmp_path):
    """As a database prints its GUIDs, which are no JSON."""
    guids = [letter * 8 + "-0000" * 3 + "-" + letter * 12 for letter in "aB"]
    data = "".join(f"{{{guid}}}\n" for guid in guids).encode()
    assert advised(tmp_path / "my list.txt", data) == guids


def advised(path, data):
    """Return the ids, the last two, that come of the command which is advised for this list."""
    path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        open_ids(str(path))
    command = str(caught.value).partition("as by: ")[2]
    if not shutil.which(command.split()[0]):
        pytest.skip(f"no {command.split()[0]} here")
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    return read("out", done.stdout)[-2:]


@given(
    cells=st.lists(
        st.tuples(st.text(st.sampled_from('ab" ,;\n\t'), max_size=6), st.sampled_from("123")),
        min_size=1,
    ),
    delimiter=st.sampled_from(",;\t|"),
    step=st.integers(1, 50),
)
def test_f118_any_table_that_python_writes_is_read(cells, delimiter, step):
    """Quotes, delimiters and line ends inside cells change no id and no number of ids."""
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("title", "id"), *cells])
    assert read("a.csv", table.getvalue().encode(), step=step) == [one for _, one in cells]


def test_f118_reading_a_table_is_linear():
    """Each line of a long quoted cell is looked at once, however many there are."""
    data = b'id,t\n1,"' + b"x,\n" * 900 + b'"\n2,y\n'
    looked = 0

    class Counted(Records):
        def _opens(self, line):
            nonlocal looked
            looked += len(line)
            return super()._opens(line)

    reader = IdReader("a.csv")
    reader._first_line("id,t")
    reader._records = Counted(",")
    assert reader.feed(data.partition(b"\n")[2]) + reader.close() == ["1", "2"]
    assert looked < 2 * len(data)
