"""The parser against documents of every make: whole, byte by byte, in pieces, and from a file.

Each way of reading must give the very rows that a plain model computes, and nothing but a
CourseError for a document that is cut, garbled or hostile.
"""

from __future__ import annotations

import ast
import io
import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bulkfetch
from bulkfetch._domain.errors import CourseError, Diverted, SoapFault, Transient, Unreadable
from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES
from bulkfetch._soap import parser as _parser
from bulkfetch._soap.parser import _SAFE, WHOLE, Limits, ResponseParser, parse_file
from bulkfetch._soap.records import RowFormat

SAMPLE = Path(__file__).parent.parent / "data" / "sample_response.xml"
PACKAGE = Path(bulkfetch.__file__).parent
DEFAULT = Limits()

# Reading


def encoder(method=GET_FINAL_STATUSES):
    return RowFormat(method).encoder("123" if method.parameter else None)


@contextmanager
def whole_up_to(size):
    """Make the sweep reachable with small documents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parser, "WHOLE", size)
        yield


def feed(pieces, *, method=GET_FINAL_STATUSES, limits=DEFAULT):
    parser = ResponseParser(method, encoder(method), limits)
    text = b"".join([parser.feed(piece) for piece in pieces]) + parser.close()
    assert parser.rows == text.count(b"\n")
    assert parser.nbytes == sum(map(len, pieces))
    return text


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def whole(data, **given):
    return feed([data], **given)


def whole_byte_by_byte(data, **given):
    return feed(cut(data, 1), **given)


def sweep(data, **given):
    with whole_up_to(0):
        return feed([data], **given)


def sweep_byte_by_byte(data, **given):
    with whole_up_to(80):  # a body is never judged by one byte
        return feed(cut(data, 1), **given)


def sweep_in_pieces(data, **given):
    with whole_up_to(50):
        return feed(cut(data, 37), **given)


class Drip(io.BytesIO):
    """A file that gives a few bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 11))


def file(data, *, method=GET_FINAL_STATUSES):
    return b"".join(parse_file(io.BytesIO(data), ResponseParser(method, encoder(method))))


def dripping_file(data, *, method=GET_FINAL_STATUSES):
    return b"".join(parse_file(Drip(data), ResponseParser(method, encoder(method))))


XSI = "http://www.w3.org/2001/XMLSchema-instance"
FED = [whole, whole_byte_by_byte, sweep, sweep_byte_by_byte, sweep_in_pieces]
WAYS = [*FED, file, dripping_file]
every_fed_way = pytest.mark.parametrize("read", FED, ids=lambda read: read.__name__)
every_way = pytest.mark.parametrize("read", WAYS, ids=lambda read: read.__name__)


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def row(user, status="Passed", progress=100.0, **extra):
    return {
        "contentItemId": "123",
        "userId": user,
        "status": status,
        "progress": progress,
        **extra,
    }


def record(user, status="Passed", progress="100", more=""):
    return (
        f"<ns1:status><ns1:userId>{user}</ns1:userId><ns1:status>{status}</ns1:status>"
        f"<ns1:progress>{progress}</ns1:progress>{more}</ns1:status>"
    )


def envelope(body, *, prolog='<?xml version="1.0" encoding="UTF-8"?>\n', header=""):
    return (
        f'{prolog}<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"'
        f' xmlns:ns1="http://ispringlearn.com/go/services/api/soap">{header}'
        f"<SOAP-ENV:Body>{body}</SOAP-ENV:Body></SOAP-ENV:Envelope>"
    )


def result(*records):
    return (
        f"<ns1:GetContentItemFinalStatusesResult><ns1:statuses>{''.join(records)}"
        "</ns1:statuses></ns1:GetContentItemFinalStatusesResult>"
    )


def document(*records, **given):
    return envelope(result(*records), **given).encode()


def refusal(read, data, **given):
    """The CourseError with which `read` refuses the document."""
    with pytest.raises(CourseError) as caught:
        read(data, **given)
    return caught.value


# Any rows, in any make of document


XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda character: character >= " " or character in "\t\n\r"
    ),
    max_size=12,
)
NAMES = st.sampled_from(
    ["completionDate", "lastViewDate", "note", "Envelope", "statuses", "Body", "данные"]
)
INNER_NAMES = NAMES | st.sampled_from(["status", "userId", "progress", "contentItemId"])
EXTRAS = st.recursive(
    XML_TEXT,
    lambda inner: st.lists(st.tuples(INNER_NAMES, inner), min_size=1, max_size=3),
    max_leaves=4,
)
DECIMALS = st.one_of(
    st.integers(0, 100).map(str),
    st.decimals(0, 100, places=2).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["", " ", "1.", ".5", "+3", "-0.0", "1E1", "\r\n 66.66 "]),
)


@dataclass
class Record:
    """What one record says: its children by name, with texts or children of their own."""

    children: list = field(default_factory=list)

    def row(self):
        found = dict(self.children)
        made = {
            "contentItemId": "123",
            "userId": found["userId"].strip(),
            "status": found.get("status"),
            "progress": number(found.get("progress")),
        }
        extras = [item for item in self.children if item[0] not in made]
        return made | nested(extras)


def number(text):
    return float(text) if text and text.strip(" \t\r\n") else None


def nested(children):
    grouped = {}
    for name, content in children:
        value = nested(content) if isinstance(content, list) else content or None
        grouped.setdefault(name, []).append(value)
    return {name: values if values[1:] else values[0] for name, values in grouped.items()}


@st.composite
def any_record(draw):
    children = [("userId", draw(XML_TEXT.filter(str.strip)))]
    if draw(st.integers(0, 9)):
        children.append(("status", draw(st.sampled_from(["Passed", "In progress"]) | XML_TEXT)))
    if draw(st.integers(0, 9)):
        children.append(("progress", draw(DECIMALS)))
    if not draw(st.integers(0, 3)):
        children += draw(st.lists(st.tuples(NAMES, EXTRAS), max_size=3))
        children = draw(st.permutations(children))
    return Record(children)


@dataclass(frozen=True)
class Make:
    """How a document is written: names, namespaces, whitespace, and how a text is spelled."""

    declaration: str
    envelope: tuple[str, str]
    application: tuple[str, str]
    children: str
    indent: str
    noise: str
    header: str
    attribute: str
    spell: list

    def write(self, records):
        (soap, soap_uri), (app, app_uri) = self.envelope, self.application
        items = "".join(self.one(item) for item in records)
        return (
            f"{self.declaration}{self.noise}<{soap}Envelope {bind(soap, soap_uri)}>"
            f"{self.header.format(soap)}{self.indent}<{soap}Body{self.attribute}>{self.indent}"
            f"<{app}GetContentItemFinalStatusesResult {bind(app, app_uri)}>{self.noise}"
            f"<{app}statuses>{self.indent}{items}</{app}statuses>{self.indent}"
            f"</{app}GetContentItemFinalStatusesResult></{soap}Body>{self.noise}"
            f"</{soap}Envelope>{self.indent}"
        ).encode()

    def one(self, item):
        name = f"{self.application[0]}status"
        inner = "".join(self.child(*child) for child in item.children)
        return f"<{name}{self.attribute}>{self.indent}{inner}</{name}>{self.noise}{self.indent}"

    def child(self, name, content):
        name = f"{self.children}{name}"
        if isinstance(content, list):
            inner = self.indent + "".join(self.child(*item) for item in content)
        else:
            inner = self.text(content)
        return f"<{name}{self.attribute}>{inner}</{name}>{self.indent}"

    def text(self, text):
        spell = self.spell[len(text) % len(self.spell)]
        return spell(text)


def bind(prefix, uri):
    return f'xmlns{":" if prefix else ""}{prefix.rstrip(":")}="{uri}"' if uri else ""


def escaped(text):
    return escape(text, {"\r": "&#13;"})


def in_references(text):
    return "".join(f"&#x{ord(character):x};" for character in text)


def in_cdata(text):
    text = text.replace("]]>", "]]]]><![CDATA[>").replace("\r", "]]>&#13;<![CDATA[")
    return f"<![CDATA[{text}]]>"


def broken_up(text):
    half = len(text) // 2
    return f"<!-- a -->{escaped(text[:half])}<?p i?><!-- b -->{in_cdata(text[half:])}<?p?>"


MAKES = st.builds(
    Make,
    declaration=st.sampled_from(["", '<?xml version="1.0"?>', "\ufeff"]),
    envelope=st.sampled_from(
        [
            ("SOAP-ENV:", "http://schemas.xmlsoap.org/soap/envelope/"),
            ("soap:", "https://schemas.xmlsoap.org/soap/envelope/"),
            ("", "http://schemas.xmlsoap.org/soap/envelope/"),
            ("", ""),
        ]
    ),
    application=st.sampled_from(
        [
            ("ns1:", "http://ispringlearn.com/go/services/api/soap"),
            ("ns1:", "https://ispringlearn.com/go/services/api/soap"),
            ("", "http://ispringlearn.com/go/services/api/soap"),
            ("", ""),
        ]
    ),
    children=st.just("ns1:"),
    indent=st.sampled_from(["", "\n", "\n  ", "\r\n\t"]),
    noise=st.sampled_from(["", "<!-- <status> -->", "<?php echo 1 ?>"]),
    header=st.sampled_from(["", "<{0}Header><statuses><status/></statuses></{0}Header>"]),
    attribute=st.sampled_from(["", ' kind="status"']),
    spell=st.lists(
        st.sampled_from([escaped, in_references, in_cdata, broken_up]), min_size=1, max_size=3
    ),
).flatmap(
    lambda make: st.sampled_from([make.application[0], ""]).map(
        lambda prefix: Make(**{**vars(make), "children": prefix})
    )
)
DOCUMENTS = st.tuples(
    MAKES,
    st.builds(
        lambda items, times: items * times,
        st.lists(any_record(), max_size=5),
        st.sampled_from([1, 1, 1, 9]),
    ),
)


@given(DOCUMENTS, st.data())
def test_any_document_gives_exactly_its_rows(made, data):
    """Whatever the rows, the namespaces, the spelling and the pieces: these rows, in this order."""
    make, records = made
    text = make.write(records)
    expected = [list(item.row().items()) for item in records]
    pieces = data.draw(
        st.lists(st.integers(0, len(text)), max_size=6).map(
            lambda cuts: [
                text[start:end]
                for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True)
            ]
        )
    )
    with whole_up_to(data.draw(st.sampled_from([0, 40, WHOLE]))):
        split = feed(pieces)
    for read in WAYS:
        answer = read(text)
        assert [list(item.items()) for item in rows(answer)] == expected, read.__name__
        assert answer == split


@pytest.mark.parametrize("read", WAYS, ids=lambda read: read.__name__)
def test_the_specifications_sample_gives_its_rows(read):
    """The response as the method's page prints it: three learners, values compared."""
    assert rows(read(SAMPLE.read_bytes())) == [
        row("265f433a-6214-11e9-b9cf-7ef279cfa744"),
        row("43eb7146-6280-11e9-b274-a6210366ac32", "In progress", 45.22),
        row("13172bc2-5aa7-11e9-8b7e-7a64dbc74205", "Failed", 66.66),
    ]


@every_way
def test_content_items_stand_in_no_list_and_no_namespace(read):
    """GetContent's answer has its records straight below the result, unprefixed."""
    body = (
        "<GetContentResult><contentItem><contentItemId>6a51</contentItemId><title>Sample</title>"
        "<type>course</type></contentItem><contentItem><contentItemId>7</contentItemId>"
        "</contentItem></GetContentResult>"
    )
    answer = rows(read(envelope(body).encode(), method=GET_CONTENT))
    assert [(item["contentItemId"], item["title"], item["type"]) for item in answer] == [
        ("6a51", "Sample", "course"),
        ("7", None, None),
    ]


@every_way
def test_lists_elsewhere_are_not_read(read):
    """Only the list at the method's own place counts, not one in a header or in a record."""
    decoy = "<ns1:statuses><ns1:status><ns1:userId>x</ns1:userId></ns1:status></ns1:statuses>"
    inner = f"<Envelope><Body>{result(record('y'))}</Body></Envelope>"
    text = document(
        record("a", more=decoy),
        record("b", more=inner),
        header=f"<SOAP-ENV:Header>{decoy}{result(record('z'))}</SOAP-ENV:Header>",
    )
    assert [item["userId"] for item in rows(read(text))] == ["a", "b"]


def test_a_large_body_goes_through_the_sweep_as_it_would_whole():
    """Past the bound, in pieces as they come from a socket, the rows stay the same."""
    text = document(*(record(f"u{number}", progress=number % 101) for number in range(2000)))
    assert len(text) > 2 * WHOLE
    expected = [row(f"u{number}", progress=float(number % 101)) for number in range(2000)]
    for size in (4096, WHOLE, WHOLE + 1, len(text)):
        assert rows(feed(cut(text, size))) == expected
    with whole_up_to(len(text)):
        assert rows(feed([text])) == expected
    assert rows(file(text)) == expected


@every_way
def test_an_envelope_may_begin_late(read):
    """Comments and space before the root are no reason to refuse the document."""
    text = document(record("a"), prolog='<?xml version="1.0"?>\n<!-- ' + "- " * 200 + "-->\n")
    assert rows(read(text)) == [row("a")]


def test_an_envelope_may_begin_behind_the_bound_of_whole_bodies():
    """The first 64 KiB may hold no element at all."""
    text = document(record("a"), prolog="<!-- " + "- " * WHOLE + "-->\n")
    assert rows(feed(cut(text, 1000))) == [row("a")]


# Cut, garbled


@given(DOCUMENTS, st.data())
def test_a_cut_document_gives_no_rows(made, data):
    """Wherever a response ends too soon, no row may be believed, and another try is worth it."""
    make, records = made
    text = make.write(records)
    end = text.rindex(b">") + 1
    size = data.draw(st.integers(0, len(text)))
    for read in WAYS:
        if size >= end:
            assert len(rows(read(text[:size]))) == len(records)
        else:
            error = refusal(read, text[:size])
            assert isinstance(error, Transient)


@every_way
@pytest.mark.parametrize("blank", [b" ", b"\0", b"\r\n\t \0"])
@pytest.mark.parametrize("times", [1, 4, 20_000])
def test_nothing_but_blanks_is_an_empty_response(read, blank, times):
    assert refusal(read, blank * times).kind == "empty-response"


FULL = document(record("a"), record("b", more="<x><y>1</y><y/></x>"))
GARBAGE = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"&foo;", b"&#0;", b"&lt;", b"<!DOCTYPE a>", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;",
         b"<q:a/>", b' q:a="1"', b' xmlns:ns1=""', b"]]>", b"<!--", b"-->", b"<![CDATA[", b"\0",
         b"\xff", b"\xfe\xff", b"<ns1:status>", b"</ns1:status>", b"<ns1:statuses>", b"<html>",
         b"<?xml version='1.0'?>", b"\x1b", FULL]
    ),
)  # fmt: skip


@st.composite
def mutated(draw):
    text = FULL
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(start + 20, len(text))) | st.just(start))
        text = text[:start] + draw(GARBAGE) + text[end:]
    return text


def outcome(read, data):
    """The rows, or the error: nothing else may come out."""
    try:
        return rows(read(data))
    except CourseError as error:
        # Where an entity is not defined, only one of lxml's two ways tells in its own words.
        kind = "malformed" if error.kind == "truncated" else error.kind
        return type(error), kind, getattr(error, "code", None)


@given(mutated() | st.binary(max_size=80))
@example(FULL.replace(b"Passed", b"&foo;"))
@example(FULL.replace(b' xmlns:ns1="http:', b' xmlns:ns1="" xmlns:ns2="http:'))
@example(FULL.replace(b"ns1:userId", b"q:userId"))
@example(b"<A:statuses>")
@example(b"<statuses/></x>")
def test_garbage_gives_rows_or_a_course_error(data):
    """Whatever the bytes, every way ends in rows or a CourseError, and all ways in the same."""
    answers = [outcome(read, data) for read in WAYS]
    assert answers == [answers[0]] * len(WAYS)


@pytest.mark.parametrize("after", [FULL, b"<x/>", FULL.replace(b"Result", b"Other"), b"<html/>"])
@pytest.mark.parametrize("entity", [b"a&foo;", b"a<x y='&foo;'/>"])
def test_what_follows_an_undefined_entity_is_no_second_document(entity, after):
    """lxml's feed() forgets a document at an undefined entity: what comes next is not its end."""
    start = document(record("z"), record("y", status="ab"))
    start = start[: start.index(b"ab</")] + entity
    with whole_up_to(0):
        assert isinstance(refusal(feed, [start, after]), CourseError)
    whole_file = start + b" " * (32768 - len(start)) + after  # iterparse reads 32 KiB at a time
    assert isinstance(refusal(file, whole_file), CourseError)


def test_a_cut_response_is_told_from_a_malformed_one():
    """The kind of the error says whether the end was missing."""
    assert refusal(whole, FULL.partition(b"</ns1:statuses>")[0]).kind == "truncated"
    assert refusal(whole, FULL.replace(b"</ns1:userId>", b"</ns1:user>", 1)).kind == "malformed"


@every_fed_way
@pytest.mark.parametrize("data", [b"", b" \r\n\t", b"\0\0"])
def test_f35_an_empty_body_is_a_passing_failure(read, data):
    """200 with nothing in it: another try is worth it."""
    assert isinstance(refusal(read, data), Transient)


# Other documents


@every_way
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<feed><statuses><status/></statuses></feed>", "<feed> where a SOAP envelope belongs"),
        ("<a>\u202e</a>", "<a> where"),
        ("<a><Envelope/></a>", "<a> where"),
    ],
)
def test_f38_another_document_is_diverted(read, text, words):
    """Other roots are never taken for zero rows."""
    error = refusal(read, text.encode())
    assert (type(error), error.kind) == (Diverted, "unexpected-root")
    assert words in error.message


@every_way
@pytest.mark.parametrize(
    "text",
    [
        "<html><body><p>Sign in</p></body></html>",
        '<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "x.dtd"><html><body/></html>',
        "<!-- login --><!DOCTYPE HTML><HTML><BODY/></HTML>",
        "\ufeff<?xml version='1.0'?><!-- a --> <!-- b --><html lang='en'><br>",
        "<x:html xmlns:x='http://www.w3.org/1999/xhtml'/>",
    ],
)
def test_f33_a_login_page_is_diverted(read, text):
    """An HTML page is told by its first tag, and is never a course with 0 rows."""
    error = refusal(read, text.encode())
    assert (type(error), error.kind) == (Diverted, "html-page")


@every_way
@pytest.mark.parametrize("text", ["--uuid:1\r\nContent-Type: application/xop+xml\r\n\r\n<a/>",
                                  "\r\n--b\nX: y\ncontent-id: 1\n\n<a/>\n--b--"])  # fmt: skip
def test_a_multipart_answer_is_called_so(read, text):
    """MTOM and attachments are not read, and said in words."""
    error = refusal(read, text.encode())
    assert (type(error), error.kind) == (Unreadable, "multipart")
    assert "multipart/related" in error.message


@every_way
@pytest.mark.parametrize("text", ["{}", ' {"error": 1}', "[1]"])
def test_json_is_another_document(read, text):
    """An answer of some other API is not that of this one."""
    error = refusal(read, text.encode())
    assert (type(error), error.kind) == (Diverted, "unexpected-root")


@pytest.mark.parametrize(
    "start",
    [
        "<!doctype html>\n<html>",
        "\n<HTML>",
        "<html lang=en>",
        "<!DOCTYPE HTML SYSTEM>",
        "<!DOCTYPE\nhtml>",
    ],
)
@pytest.mark.parametrize("size", [50, 2 * WHOLE])
def test_f34_a_broken_page_is_diverted(start, size):
    """HTML that is no XML is recognised by how it begins, small or large."""
    text = f"{start}<br><p>{'x' * size}".encode()
    for pieces in ([text], cut(text, 1000)):
        error = refusal(feed, pieces)
        assert (type(error), error.kind) == (Diverted, "html-page")


FAULT_1_1 = (
    "<SOAP-ENV:Fault><faultcode>SOAP-ENV:Server</faultcode>"
    "<faultstring>{}</faultstring><detail><x>y</x></detail></SOAP-ENV:Fault>"
)
FAULT_1_2 = (
    "<SOAP-ENV:Fault><SOAP-ENV:Code><SOAP-ENV:Value>SOAP-ENV:Server</SOAP-ENV:Value>"
    '</SOAP-ENV:Code><SOAP-ENV:Reason><SOAP-ENV:Text xml:lang="en">{}</SOAP-ENV:Text>'
    "</SOAP-ENV:Reason></SOAP-ENV:Fault>"
)


@every_way
@pytest.mark.parametrize("shape", [FAULT_1_1, FAULT_1_2], ids=["soap-1.1", "soap-1.2"])
@pytest.mark.parametrize("text", ["Unknown content item", " a &amp; b ", ""])
def test_f31_a_fault_is_read_in_both_shapes(read, shape, text):
    """SOAP 1.1 and 1.2 faults come out as code and text, whatever the HTTP status was."""
    error = refusal(read, envelope(shape.format(text)).encode())
    assert type(error) is SoapFault
    assert error.code == "SOAP-ENV:Server"
    assert error.message == text.strip().replace("&amp;", "&")


@every_way
def test_a_fault_in_several_languages_is_read_in_all(read):
    """The text on a list may be any of them."""
    one = '<SOAP-ENV:Text xml:lang="en">{}</SOAP-ENV:Text>'
    two = '<SOAP-ENV:Text xml:lang="de">Unbekannt</SOAP-ENV:Text>'
    shape = FAULT_1_2.replace(one, two + one)
    error = refusal(read, envelope(shape.format("Unknown content item")).encode())
    assert error.message == "Unbekannt / Unknown content item"


@every_way
def test_an_empty_fault_is_still_a_fault(read):
    """A fault without any text is no crash and no rows."""
    error = refusal(read, envelope("<SOAP-ENV:Fault/>").encode())
    assert (type(error), error.code, error.message) == (SoapFault, "", "")


# Other shapes


RESULT = "ns1:GetContentItemFinalStatusesResult"
LIST = result(record("a"), record("b"))
MANY = [record(f"u{number}") for number in range(30)]
IN_LIST = [
    ("<item><userId>u</userId></item>", "<item> stands in <statuses>"),
    ("<ns1:total>2</ns1:total>", "<total> stands in <statuses>"),
    ("<error>no</error>", "<error> stands in <statuses>"),
    ("<ns1:statuses/>", "<statuses> stands in <statuses>"),
    ("Access denied", "text stands in <statuses>"),
    ("<![CDATA[x]]>", "text stands in <statuses>"),
    ("<status href='#1'/>", "a record refers to another place by href"),
    ("<status><userId>u</userId><progress href='#1'/></status>", "<progress> refers to another"),
]
ENC = "xmlns:e='http://www.w3.org/2003/05/soap-encoding'"
AROUND = [
    (f"<{RESULT}><ns1:statuses/><ns1:nextPageToken>a</ns1:nextPageToken></{RESULT}>",
     "<nextPageToken> stands in <GetContentItemFinalStatusesResult>, where only <statuses>"),
    (f"<{RESULT}><hasMore>true</hasMore><ns1:statuses/></{RESULT}>", "<hasMore> stands in"),
    (f"<{RESULT}><ns1:statuses/><ns1:statuses/></{RESULT}>", "where only one <statuses> belongs"),
    (f"<{RESULT}><ns1:statuses/>text</{RESULT}>", "text stands in <GetContentItem"),
    (f"<{RESULT}>Access denied</{RESULT}>", "text stands in <GetContentItem"),
    (f"<{RESULT}><item/></{RESULT}>", "<item> stands in <GetContentItemFinalStatusesResult>"),
    (f"<{RESULT} href='#1'/>", "<GetContentItemFinalStatusesResult> refers to another place"),
    (f"<{RESULT} href='#1'/><multiRef id='1'/>", "<multiRef> stands in <Body>"),
    (f"<{RESULT}><ns1:statuses href='#1'/></{RESULT}>", "<statuses> refers to another place"),
    (f"<{RESULT}><ns1:statuses xlink:href='#1' xmlns:xlink='x'/></{RESULT}>", "by href"),
    (f"<{RESULT}><ns1:statuses {ENC} e:ref='_1'/></{RESULT}>", "by ref"),
    (f"<{RESULT} {ENC} e:ref='_1'/>", "Result> refers to another place"),
    (f"<{RESULT}><ns1:statuses hasMore='true'/></{RESULT}>", "<statuses> says hasMore"),
    (f"<{RESULT}><ns1:statuses count='0' next_page_token='x'/></{RESULT}>", "says next_page_token"),
    (f"<{RESULT}><ns1:statuses {ENC} e:offset='[1]'/></{RESULT}>", "<statuses> says offset"),
    (LIST + LIST, "<GetContentItemFinalStatusesResult> stands in <Body>, where only one"),
    (f"{LIST}<x/>", "<x> stands in <Body>"),
    ("<ns1:GetUsersResult><a/></ns1:GetUsersResult>", "<GetUsersResult> stands in <Body>"),
    (f"text{LIST}", "text stands in <Body>"),
    (f"{LIST}</SOAP-ENV:Body><more/><SOAP-ENV:Body>", "<more> stands in <Envelope>"),
    (f"{LIST}</SOAP-ENV:Body><SOAP-ENV:Body>", "<Body> stands in <Envelope>, where only one"),
]  # fmt: skip


@every_way
@pytest.mark.parametrize(("bad", "words"), IN_LIST)
@pytest.mark.parametrize("place", [0, 1, 15, 30])
@pytest.mark.parametrize("many", [0, 30])
def test_f101_nothing_foreign_in_the_list_passes_for_rows(read, bad, words, place, many):
    """Wherever it stands, alone or among records: no rows, and its name."""
    records = MANY[:many]
    records.insert(place, bad)
    error = refusal(read, document(*records))
    assert (type(error), error.kind) == (Unreadable, "foreign")
    assert words in error.message


@every_way
@pytest.mark.parametrize(("body", "words"), AROUND)
def test_f101_nothing_foreign_around_the_list_passes_for_rows(read, body, words):
    """A second page, a second list, a referenced one, another result: no rows, and its name."""
    error = refusal(read, envelope(body).encode())
    assert (type(error), error.kind) == (Unreadable, "foreign")
    assert words in error.message


@every_way
@pytest.mark.parametrize("text", ["<Envelope/>", "<Envelope><Header><a/></Header></Envelope>"])
def test_f101_an_envelope_without_a_body_is_foreign(read, text):
    """No Body, no rows."""
    error = refusal(read, text.encode())
    assert (type(error), error.kind) == (Unreadable, "foreign")


@every_way
@pytest.mark.parametrize("body", ["", f"<{RESULT}/>", f"<{RESULT}>\n</{RESULT}>",
                                  f"<{RESULT} xsi:nil='1' xmlns:xsi='{XSI}'/>"])  # fmt: skip
def test_f101_an_empty_result_is_a_passing_failure(read, body):
    """PHP answers so when its function returned null: never zero rows, never foreign."""
    error = refusal(read, envelope(body).encode())
    assert (type(error), error.kind) == (Transient, "empty-result")


@every_way
@pytest.mark.parametrize("body", ["<contentItems><contentItem/></contentItems>", "<item/>", "no"])
def test_f101_wrapped_content_items_are_foreign(read, body):
    """GetContent has no wrapper around its items."""
    text = envelope(f"<GetContentResult>{body}</GetContentResult>").encode()
    assert refusal(read, text, method=GET_CONTENT).kind == "foreign"


FAULT = FAULT_1_1.format("Database connection lost")


@every_way
@pytest.mark.parametrize(
    "body",
    [
        LIST + FAULT,
        FAULT + LIST,
        result(record("a"), FAULT, record("b")),
        result(*MANY, FAULT),
        result(FAULT, *MANY),
        result(record("a", progress="bad"), *MANY, FAULT),
        result("<item/>", *MANY, record("b", more=FAULT)),
        result(record("b", more=FAULT)),
        f"<{RESULT}>{FAULT}</{RESULT}>",
        f"<{RESULT}><ns1:statuses/>{FAULT}</{RESULT}>",
        f"<{RESULT}>{FAULT}<ns1:statuses>{record('a')}</ns1:statuses></{RESULT}>",
        f"<x/>{FAULT}",
    ],
)
def test_f101_a_fault_anywhere_counts(read, body):
    """Before, beside or after rows, among or in them, with anything else: the fault, no rows."""
    error = refusal(read, envelope(body).encode())
    assert (type(error), error.message) == (SoapFault, "Database connection lost")


@every_way
def test_an_extra_that_is_called_fault_is_no_fault(read):
    """A record's child of that name without a fault's parts is carried along."""
    assert rows(read(document(record("a", more="<Fault>none</Fault>")))) == [row("a", Fault="none")]


@every_way
@pytest.mark.parametrize("kind", ["before", "in a list", "beside"])
def test_a_huge_fault_is_a_fault(read, kind):
    """A megabyte of text in a fault changes nothing."""
    fault = FAULT_1_1.format("x" * 1_200_000)
    body = {"before": fault + LIST, "in a list": result(fault), "beside": LIST + fault}[kind]
    assert type(refusal(read, envelope(body).encode())) is SoapFault


BITS = st.sampled_from([
    record("a"), record(" b "), record("c", more="<x/>"), record(""), record("d", progress="x"),
    "<item/>", "text", FAULT, record("e", more=FAULT), "<ns1:status/>", "<ns1:statuses/>", " ",
    "<!-- c -->", "<ns1:status href='#1'/>", "<a>", "&foo;", result(record("f")),
])  # fmt: skip
SHAPES = st.tuples(*[st.lists(BITS, max_size=size) for size in (2, 2, 9, 2, 2)], st.integers(1, 9))


@given(SHAPES)
def test_every_way_has_the_same_verdict_on_any_shape(shape):
    """Whatever stands where, whole or in pieces or from a file: the same rows or the same kind."""
    before, ahead, inside, behind, after, times = ("".join(x) if isinstance(x, list) else x
                                                   for x in shape)  # fmt: skip
    inner = f"{ahead}<ns1:statuses>{inside * times}</ns1:statuses>{behind}"
    text = envelope(f"{before}<{RESULT}>{inner}</{RESULT}>{after}").encode()
    answers = [outcome(read, text) for read in WAYS]
    assert answers == [answers[0]] * len(WAYS)


# Content


@every_way
@pytest.mark.parametrize(("text", "user"), [(" a ", "a"), ("\n\ta\n", "a"), ("a b", "a b"),
                                            ("\u00a0\u0416\u00a0", "\u0416")])  # fmt: skip
@pytest.mark.parametrize("many", [0, 20])
def test_white_space_around_a_user_id_is_none_of_it(read, text, user, many):
    """Pretty-printed or padded, the id is the same; inside it nothing changes."""
    answer = rows(read(document(*MANY[:many], record(text))))
    assert answer[-1] == row(user)


@every_way
@pytest.mark.parametrize("text", ["   ", "\n", "\u00a0"])
@pytest.mark.parametrize("many", [0, 20])
def test_a_user_id_of_white_space_is_missing(read, text, many):
    """No row without a learner."""
    assert refusal(read, document(*MANY[:many], record(text))).kind == "missing-field"


@every_way
@pytest.mark.parametrize("body", ["<ns1:statuses/>", "<ns1:statuses></ns1:statuses>",
                                  "<ns1:statuses>\n  \n</ns1:statuses>",
                                  "<ns1:statuses><!-- none --></ns1:statuses>"])  # fmt: skip
def test_f39_a_course_without_rows_is_a_success(read, body):
    """An empty list is zero rows, not an error."""
    name = "ns1:GetContentItemFinalStatusesResult"
    assert read(envelope(f"<{name}>{body}</{name}>").encode()) == b""


@every_way
def test_f40_a_learner_who_comes_twice_is_kept_twice(read):
    """Repeated userIds are the server's business: every record is a row, and counted."""
    answer = rows(read(document(record("a"), record("a"), record("a", "Failed", "0"))))
    assert answer == [row("a"), row("a"), row("a", "Failed", 0.0)]


LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'ha'>{}]>".format(
    "".join(f"<!ENTITY a{level} '{f'&a{level - 1};' * 10}'>" for level in range(1, 10))
)
LAUGHING_ATTRIBUTE = "<ns1:status a='&a9;'><ns1:userId>u</ns1:userId></ns1:status>"
QUADRATIC = f"<!DOCTYPE x [<!ENTITY a '{'a' * 40_000}'>]>"


def hostile(doctype, text):
    return document(record(text), record("b"), prolog=f'<?xml version="1.0"?>{doctype}')


def assert_refused_for_its_doctype(read, data):
    error = refusal(read, data)
    assert (type(error), error.kind) == (Unreadable, "doctype")


def assert_refused_for_good(read, data):
    """At the DOCTYPE, or by libxml2's own bound when that comes first; never asked for again."""
    error = refusal(read, data)
    assert type(error) is Unreadable
    assert error.kind in {"doctype", "too-large"}


@every_way
def test_f41_billion_laughs_is_refused(read):
    """Nested entities are never expanded."""
    assert_refused_for_good(read, hostile(LAUGHS, "&a9;"))


@every_way
def test_f41_billion_laughs_in_an_attribute_is_refused(read):
    """Attribute values would be expanded by libxml2 itself, which gives up."""
    assert_refused_for_good(read, document(LAUGHING_ATTRIBUTE, prolog=LAUGHS))


@pytest.mark.parametrize("read", [whole, sweep, file], ids=lambda read: read.__name__)
def test_f42_quadratic_blowup_is_refused(read):
    """One long entity used many times is never expanded either."""
    assert_refused_for_good(read, hostile(QUADRATIC, "&a;" * 5_000))


@every_way
def test_f43_no_local_file_is_read(read, tmp_path):
    """An external entity brings nothing of this machine into rows or messages."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    doctype = f'<!DOCTYPE x [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    error = refusal(read, hostile(doctype, "&x;"))
    assert error.kind == "doctype"
    assert "hunter2" not in error.message


@pytest.fixture
def listener():
    """A server that nobody may call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@every_way
def test_f44_no_external_dtd_is_fetched(read, listener):
    """Neither a DTD nor an entity makes a connection."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.dtd"
    for doctype in (
        f'<!DOCTYPE x SYSTEM "{url}">',
        f'<!DOCTYPE x PUBLIC "-//X//Y" "{url}">',
        f'<!DOCTYPE x [<!ENTITY % p SYSTEM "{url}">%p;]>',
        f'<!DOCTYPE x [<!ENTITY x SYSTEM "{url}">]>',
    ):
        assert_refused_for_its_doctype(
            read, hostile(doctype, "&x;" if "ENTITY x" in doctype else "")
        )
    with pytest.raises(BlockingIOError):
        listener.accept()


@every_way
@pytest.mark.parametrize("doctype", ["<!DOCTYPE x>", "<!DOCTYPE x []>", "<!DOCTYPE a:b [ ]>"])
def test_f45_a_bare_doctype_is_refused(read, doctype):
    """No SOAP message may declare one, so none is looked into."""
    assert_refused_for_its_doctype(read, hostile(doctype, "a"))


def endless(piece, *, first=None):
    """A response that never ends."""
    yield first or document(record("first")).partition(b"</ns1:statuses>")[0]
    while True:
        yield piece


def feed_until_refused(pieces, limits):
    parser = ResponseParser(GET_FINAL_STATUSES, encoder(), limits)
    with pytest.raises(CourseError) as caught:  # noqa: PT012 - where it stops is the question
        for piece in pieces:
            parser.feed(piece)
    return caught.value, parser


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_bytes=300_000), "the response exceeds 300,000 bytes: raise max_bytes"),
        (Limits(max_rows=5_000), "the response exceeds 5,000 rows: raise max_rows"),
    ],
)
def test_f48_endless_records_are_stopped(limits, words):
    """Bytes and rows have bounds; the message names the one that was met and the setting."""
    block = b"".join(record(f"u{number}").encode() for number in range(20))
    error, parser = feed_until_refused(endless(block), limits)
    assert (type(error), error.kind) == (Unreadable, "too-large")
    assert words in error.message
    assert parser.nbytes <= 2_000_000


@every_fed_way
def test_f48_the_bounds_hold_on_every_way(read):
    """A small body is bounded like a large one."""
    limits = Limits(max_rows=2)
    assert len(rows(read(document(record("a"), record("b")), limits=limits))) == 2
    error = refusal(read, document(record("a"), record("b"), record("c")), limits=limits)
    assert error.kind == "too-large"
    assert refusal(read, FULL, limits=Limits(max_bytes=len(FULL) - 1)).kind == "too-large"
    assert read(FULL, limits=Limits(max_bytes=len(FULL)))


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (None, b" " * 5000),
        (None, b"<ns1:status><ns1:userId>" + b"x" * 5000),
        (None, b"<!--" + b"x" * 5000 + b"-->"),
    ],
    ids=["spaces", "open records", "comments"],
)
def test_f46_what_is_no_row_is_bounded(first, piece):
    """Spaces, comments and anything else around rows are stopped at max_row_bytes."""
    error, parser = feed_until_refused(endless(piece, first=first), Limits(max_row_bytes=200_000))
    assert (type(error), error.kind) == (Unreadable, "too-large")
    assert "raise max_row_bytes" in error.message
    assert parser.nbytes < 200_000 + WHOLE + 2 * len(piece)


@pytest.mark.parametrize("place", [b"<ns1:GetContentItem", b"</SOAP-ENV:Body>", b"<ns1:status>"])
def test_f101_endless_strangers_are_foreign(place):
    """Before, behind or in the list, an answer without end is called what it is."""
    first = document(record("a")).partition(place)[0]
    error, _ = feed_until_refused(endless(b"<a/>" * 1000, first=first), Limits(max_bytes=4 << 20))
    assert error.kind in {"foreign", "too-large"}
    error, _ = feed_until_refused(endless(b"<a>" + b"x" * WHOLE, first=first), Limits())
    assert error.kind == "foreign"


def test_an_endless_document_of_another_kind_is_diverted():
    """What is no envelope is called so, however long it is."""
    error, _ = feed_until_refused(endless(b"<a/>" * 1000, first=b"<feed>"), Limits())
    assert (type(error), error.kind) == (Diverted, "unexpected-root")


def test_the_bound_of_a_row_counts_from_the_last_row():
    """Many rows may be larger than the bound of one."""
    text = document(*(record(f"u{number}") for number in range(100)))
    limits = Limits(max_row_bytes=1024)
    assert len(text) > 10 * limits.max_row_bytes
    for read in (sweep_byte_by_byte, sweep_in_pieces):
        assert len(rows(read(text, limits=limits))) == 100
        error = refusal(read, document(record("a"), record("x" * 1024)), limits=limits)
        assert error.kind == "too-large"


def test_f49_a_huge_user_id_is_refused_before_it_is_read():
    """10 MB of text in one field are not waited for."""
    start = document(record("first")).partition(b"</ns1:statuses>")[0]
    text = start + record("x" * 10_000_000).encode()
    error, parser = feed_until_refused(cut(text, WHOLE), Limits())
    assert error.kind == "too-large"
    assert parser.nbytes <= (1 << 20) + 3 * WHOLE


@every_way
def test_f50_depth_300_is_refused(read):
    """Elements nested too deeply are refused for good, since they would come again the same."""
    error = refusal(read, document(record("a", more="<a>" * 300 + "</a>" * 300)))
    assert (type(error), error.kind) == (Unreadable, "too-large")


@every_way
@pytest.mark.parametrize(
    "bad",
    [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\0", b"\x1b", b"&#27;", b"&#0;", b"&#xFFFE;", b"\x08"],
)
def test_f51_what_is_no_xml_text_is_refused(read, bad):
    """Invalid UTF-8, NUL and control characters refuse the document, and may pass next time."""
    error = refusal(read, document(record("MARK"), record("b")).replace(b"MARK", bad))
    assert (type(error), error.kind) == (Transient, "malformed")


@every_way
@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("UTF-8", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16", "utf-16-le"),
        ("utf-16", "utf-16-be"),
        ("windows-1251", "windows-1251"),
        ("koi8-r", "koi8-r"),
        ("iso-8859-5", "iso-8859-5"),
    ],
)
def test_f52_other_encodings_give_the_right_values(read, declared, codec):
    """UTF-16, a byte-order mark, and legacy encodings that the document declares."""
    text = document(record("Ж1", "Пройден"), prolog=f'<?xml version="1.0" encoding="{declared}"?>')
    assert rows(read(text.decode().encode(codec))) == [row("Ж1", "Пройден")]


@every_way
def test_f53_the_documents_own_encoding_counts(read):
    """The header's charset is not even given to the parser."""
    assert rows(read(document(record("Ж1", "Пройден")))) == [row("Ж1", "Пройден")]


@every_way
@pytest.mark.parametrize(
    "text",
    ["a<!-- x -->bc", "<!-- x -->abc", "a<?php x ?>bc<?y?>", "<![CDATA[abc]]>", "a<![CDATA[b]]>c",
     "<![CDATA[a]]><![CDATA[bc]]>", "a<!-- x --><![CDATA[b]]><?y?>c", "&#97;b&#x63;"],
)  # fmt: skip
def test_f54_comment_pi_cdata_inside_user_id_gives_whole_text(read, text):
    """Nothing inside a value cuts it short."""
    assert rows(read(document(record(text)))) == [row("abc")]


@every_way
def test_f54_a_text_in_parts_is_not_mistaken_for_two(read):
    """Among many records, one text in several parts and one without parts stay where they are."""
    usual = [record(f"u{number}", progress=number) for number in range(20)]
    parts = record("parts", progress="4<!-- x -->5<![CDATA[6]]>")
    text = document(*usual, parts, record("none", progress=""), *usual, record("last"))
    assert rows(read(text)) == [
        *(row(f"u{number}", progress=float(number)) for number in range(20)),
        row("parts", progress=456.0),
        row("none", progress=None),
        *(row(f"u{number}", progress=float(number)) for number in range(20)),
        row("last"),
    ]


@every_way
def test_f56_an_empty_user_id_among_many_refuses_the_course(read):
    """A userId that is an empty CDATA section is missing, however many records are whole."""
    usual = [record(f"u{number}") for number in range(20)]
    error = refusal(read, document(*usual, record("<![CDATA[]]>"), *usual))
    assert (type(error), error.kind) == (Unreadable, "missing-field")


@every_way
@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("101", 101.0), ("-1", -1.0), ("45.22", 45.22)]
)
def test_f55_a_progress_out_of_range_is_kept(read, text, value):
    """What is a number is passed through, and an empty one is null."""
    assert rows(read(document(record("a", progress=text)))) == [row("a", progress=value)]


@every_way
@pytest.mark.parametrize("text", ["nan", "infinity", "1_0", "45,22", "INF", "\u0661"])
def test_f55_a_progress_that_is_no_number_refuses_the_course(read, text):
    """No row of such a course is written, and no null in its place."""
    error = refusal(read, document(record("a"), record("b", progress=text)))
    assert (type(error), error.kind) == (Unreadable, "bad-number")


@every_way
def test_f56_missing_unknown_and_reordered_children(read):
    """Each shape of a record gives its values; unknown children are carried along."""
    answer = rows(
        read(
            document(
                "<ns1:status><ns1:userId>a</ns1:userId></ns1:status>",
                "<ns1:status><progress>1</progress><x>2</x><userId>b</userId></ns1:status>",
                record("c", more="<ns1:completionDate>2020</ns1:completionDate>"),
            )
        )
    )
    assert answer == [
        row("a", None, None),
        row("b", None, 1.0, x="2"),
        row("c", completionDate="2020"),
    ]


@every_way
@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (record("b", more="<ns1:userId>c</ns1:userId>"), "doubled-field"),
        (record(""), "missing-field"),
        ("<ns1:status/>", "missing-field"),
        (record("<a/>"), "nested-field"),
    ],
)
def test_f56_a_record_that_breaks_the_schema_refuses_the_course(read, bad, kind):
    """Which learner is meant is never guessed."""
    error = refusal(read, document(record("a"), bad))
    assert (type(error), error.kind) == (Unreadable, kind)


@every_way
@pytest.mark.parametrize("tail", [b"x", b"<a/>", b"\0", FULL, b"&amp;", b"</a>", b"<![CDATA[]]>"])
def test_f57_anything_after_the_root_refuses_the_document(read, tail):
    """Trailing garbage or a second root: no rows."""
    assert isinstance(refusal(read, FULL + tail), Transient)


@every_way
@pytest.mark.parametrize("tail", [b"\n", b" \r\n\t ", b"<!-- end -->", b"<?end?>\n"])
def test_f57_space_and_comments_after_the_root_are_allowed(read, tail):
    """What XML allows after the root is no garbage."""
    assert len(rows(read(FULL + tail))) == 2


@every_way
def test_f58_the_nested_status_is_one_record_with_its_value(read):
    """Record and field are both called status: as many rows as records, and no status is None."""
    names = ["Passed", "In progress", "Failed", "Not started", "Complete"]
    text = document(*(record(f"u{n}", names[n % 5], n) for n in range(30)))
    assert rows(read(text)) == [row(f"u{n}", names[n % 5], float(n)) for n in range(30)]


# Memory


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_the_tree_does_not_grow(size):
    """After each piece the list holds at most its unfinished record: the rest is deleted."""
    text = document(*(record(f"u{number}") for number in range(300)))
    with whole_up_to(0):
        parser = ResponseParser(GET_FINAL_STATUSES, encoder())
        held = 0
        for piece in cut(text, size):
            parser.feed(piece)
            held = max(held, 0 if parser._list is None else len(parser._list))
        parser.close()
    assert parser.rows == 300
    assert held == 1
    assert parser._list is not None
    assert len(parser._list) == 0


CHILD = """
import io, sys
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._soap.parser import ResponseParser, parse_file
from bulkfetch._soap.records import RowFormat

START, RECORD, END = {parts!r}
way, megabytes = sys.argv[1], int(sys.argv[2])
block = b"".join(RECORD % number for number in range(1000))
blocks = megabytes * 1_000_000 // len(block)

class Response(io.RawIOBase):
    def __init__(self):
        self.waiting = iter([START, *[block] * blocks, END])
        self.rest = b""
    def read(self, size=-1):
        self.rest = self.rest or next(self.waiting, b"")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

encode = RowFormat(GET_FINAL_STATUSES).encoder("1")
if way == "file":
    parser = ResponseParser(GET_FINAL_STATUSES, encode)
    for _ in parse_file(Response(), parser):
        pass
    rows = parser.rows
else:
    response, parser = Response(), ResponseParser(GET_FINAL_STATUSES, encode)
    while piece := response.read(65536):
        parser.feed(piece)
    parser.close()
    rows = parser.rows
assert rows == blocks * 1000, rows
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_kib(way, megabytes):
    start, end = document("MARK").split(b"MARK")
    program = CHILD.format(parts=(start, record("265f433a-%012d").encode(), end))
    done = subprocess.run(
        [sys.executable, "-c", program, way, str(megabytes)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
@pytest.mark.parametrize(("way", "large"), [("sweep", 30), ("file", 15)])
def test_memory_does_not_grow_with_the_response(way, large):
    """Ten times the response, the same peak: within 4 MiB."""
    assert peak_kib(way, large) - peak_kib(way, 3) < 4096


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_f42_entity_bombs_cost_no_memory():
    """Refusing bombs takes a few MiB, not what they would expand to."""
    program = (
        "import io, sys\n"
        "from bulkfetch._domain.errors import CourseError\n"
        "from bulkfetch._domain.model import GET_FINAL_STATUSES as METHOD\n"
        "from bulkfetch._soap.parser import ResponseParser, parse_file\n"
        "from bulkfetch._soap.records import RowFormat\n"
        "def peak():\n"
        "    lines = open('/proc/self/status')\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('VmHWM'))\n"
        "encode = RowFormat(METHOD).encoder('1')\n"
        "bombs, before = eval(sys.stdin.read()), peak()\n"
        "for bomb in bombs:\n"
        "    for way in range(2):\n"
        "        try:\n"
        "            if way: list(parse_file(io.BytesIO(bomb), ResponseParser(METHOD, encode)))\n"
        "            else:\n"
        "                parser = ResponseParser(METHOD, encode)\n"
        "                parser.feed(bomb), parser.close()\n"
        "        except CourseError: continue\n"
        "        raise SystemExit('a bomb was read')\n"
        "print(peak() - before)\n"
    )
    bombs = [
        hostile(LAUGHS, "&a9;"),
        document(LAUGHING_ATTRIBUTE, prolog=LAUGHS),
        hostile(QUADRATIC, "&a;" * 5_000),
        hostile(QUADRATIC, "&a;" * 40_000),
    ]
    done = subprocess.run(
        [sys.executable, "-c", program], input=repr(bombs),
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert int(done.stdout) < 16 * 1024


# No other parser


def xml_calls(source):
    """Calls in this source, by name, of what an XML module gives."""
    tree = ast.parse(source)
    modules = {"lxml", "xml", "defusedxml", "html"}
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                alias.asname or alias.name.partition(".")[0]: alias.name
                for alias in node.names
                if alias.name.partition(".")[0] in modules
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in modules:
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.partition(".")[0] in known:
                yield known[name.partition(".")[0]] + name[len(name.partition(".")[0]) :], node


PARSES = {
    "XML", "XMLID", "XMLParser", "XMLPullParser", "HTML", "HTMLParser", "HTMLPullParser",
    "ETCompatXMLParser", "fromstring", "fromstringlist", "iterparse", "parse", "parseString",
    "parseid", "XMLDTDID", "make_parser", "ParserCreate", "XSLT", "XInclude",
}  # fmt: skip


def parsing_calls(source):
    return [(name, node) for name, node in xml_calls(source) if name.rpartition(".")[2] in PARSES]


def is_safe(name, node):
    """Whether the parser is made with _SAFE, or is one that was."""
    if name == "etree.fromstring":
        return [ast.unparse(argument) for argument in node.args[1:]] == ["_WHOLE_PARSER"]
    return [ast.unparse(word.value) for word in node.keywords if word.arg is None] == ["_SAFE"]


def test_f43_the_safe_settings_are_these():
    """No entities, no network, no DTD, no limits lifted; comments and PIs cut no text."""
    assert _SAFE == {
        "remove_comments": True,
        "remove_pis": True,
        "resolve_entities": False,
        "no_network": True,
        "load_dtd": False,
        "huge_tree": False,
    }


def test_f43_every_parser_is_made_with_the_safe_settings():
    """The package makes its XML parsers in one file, all with _SAFE."""
    calls = parsing_calls((PACKAGE / "_soap/parser.py").read_text())
    assert {name for name, _ in calls} == {
        "etree.XMLParser", "etree.XMLPullParser", "etree.fromstring",
    }  # fmt: skip
    assert [ast.unparse(node) for name, node in calls if not is_safe(name, node)] == []


def test_f43_no_other_file_makes_a_parser():
    """Nothing else parses XML; the simulated server reads its requests with xml."""
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "_soap/parser.py"
        for name, _ in parsing_calls(path.read_text())
    }
    assert {item for item in found if not item[0].startswith("testing/")} == set()
    assert {name for _, name in found} <= {"ElementTree.fromstring"}


@pytest.mark.parametrize(
    "source",
    [
        "from lxml import etree\netree.fromstring(b)",
        "import lxml.etree\nlxml.etree.XMLParser()",
        "from lxml.etree import iterparse as i\ni(f)",
        "def f():\n    from xml.etree import ElementTree as ET\n    ET.parse(f)",
        "import xml.dom.minidom as m\nm.parseString(s)",
        "from lxml import etree\netree.XMLParser(**OTHER)",
        "from lxml import etree\netree.XMLPullParser(events=('start',))",
        "from lxml import etree\netree.fromstring(b, None)",
    ],
)
def test_the_search_for_parsers_finds_one(source):
    """A parser made elsewhere, or with other settings, would be seen."""
    calls = parsing_calls(source)
    assert len(calls) == 1
    assert not is_safe(*calls[0])
