"""One definition of a row: the unrolled way and the general way say the same, value by value."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from bulkfetch._domain.errors import CourseError, Unreadable
from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES, Field, Method
from bulkfetch._soap import records as _records
from bulkfetch._soap.records import RowFormat

XSI = "http://www.w3.org/2001/XMLSchema-instance"
NAMED_ALIKE = Method(  # the same fields, but not the method that has a way of its own
    GET_FINAL_STATUSES.name,
    GET_FINAL_STATUSES.parameter,
    GET_FINAL_STATUSES.path,
    GET_FINAL_STATUSES.fields,
)
BOTH = pytest.mark.parametrize("method", [GET_FINAL_STATUSES, NAMED_ALIKE], ids=["fast", "general"])
USUAL = "<userId>u</userId><status>Passed</status><progress>45.22</progress>"


def records(*bodies, namespace=""):
    attribute = f' xmlns="{namespace}"' if namespace else ""
    return list(
        etree.fromstring(
            f'<statuses{attribute} xmlns:xsi="{XSI}">'
            + "".join(f"<status>{body}</status>" for body in bodies)
            + "</statuses>"
        )
    )


def rows(method, *bodies, value="123", stamp="", namespace=""):
    encode = RowFormat(method).encoder(value, stamp)
    return [
        json.loads(line, object_pairs_hook=pairs)
        for line in encode(records(*bodies, namespace=namespace)).splitlines()
    ]


def pairs(items):
    """Build a dict from JSON, refusing a key that stands twice."""
    made = dict(items)
    assert len(made) == len(items), f"a key stands twice: {items}"
    return made


@BOTH
@pytest.mark.parametrize("namespace", ["", "http://ispringlearn.com/go/services/api/soap"])
def test_the_documented_record_is_the_documented_row(method, namespace):
    """Key by key, in order, with the progress as a number."""
    encode = RowFormat(method).encoder("123")
    assert encode(records(USUAL, namespace=namespace)) == (
        b'{"contentItemId":"123","userId":"u","status":"Passed","progress":45.22}\n'
    )


@BOTH
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100", 100.0),
        ("45.22", 45.22),
        ("0", 0.0),
        ("+7", 7.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1E2", 100.0),
        ("1e-2", 0.01),
        (" 66.66\n", 66.66),
        ("101", 101.0),
        ("-1", -1.0),
        ("-0", 0.0),
        ("", None),
        (" \n\t", None),
        ("<!-- none -->", None),
    ],
)
def test_f55_a_progress_that_is_a_number_is_kept(method, text, number):
    """Decimals in any xsd form pass, also outside 0-100; an empty one is null."""
    body = f"<userId>u</userId><status>s</status><progress>{text}</progress>"
    parsed = etree.fromstring(
        f"<r><status>{body}</status></r>", etree.XMLParser(remove_comments=True)
    )
    encode = RowFormat(method).encoder("123")
    assert json.loads(encode(list(parsed)))["progress"] == number


@BOTH
@pytest.mark.parametrize(
    "text",
    ["nan", "NaN", "infinity", "INF", "-inf", "1e999", "1_0", "45,22", "0x10", "١٢", "1 2", "--1",
     "e5", ".", "100%", "\u00a0", "Passed"],
)  # fmt: skip
def test_f55_a_progress_that_is_no_number_is_refused(method, text):
    """What float() would take, but JSON or a schema would not, refuses the course with its text."""
    with pytest.raises(Unreadable, match=r"progress is '.*', not a number") as caught:
        rows(method, f"<userId>u</userId><status>s</status><progress>{text}</progress>")
    assert caught.value.kind == "bad-number"
    assert not caught.value.settled, "the next run asks again"


@BOTH
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<userId>u</userId>", {"userId": "u", "status": None, "progress": None}),
        (
            "<userId>u</userId><status/><progress/>",
            {"userId": "u", "status": "", "progress": None},
        ),
        (
            "<progress>1</progress><status>s</status><userId>u</userId>",
            {"userId": "u", "status": "s", "progress": 1.0},
        ),
        (
            f"{USUAL}<completionDate>2020-01-02</completionDate><lastViewDate/>",
            {
                "userId": "u",
                "status": "Passed",
                "progress": 45.22,
                "completionDate": "2020-01-02",
                "lastViewDate": None,
            },
        ),
        (
            f"{USUAL}<tag>a</tag><tag>b</tag><tag><deep><status>c</status></deep></tag>",
            {
                "userId": "u",
                "status": "Passed",
                "progress": 45.22,
                "tag": ["a", "b", {"deep": {"status": "c"}}],
            },
        ),
        (
            '<userId>u</userId><status xsi:nil="true"/><progress xsi:nil="1"/>',
            {"userId": "u", "status": None, "progress": None},
        ),
        (
            '<userId>u</userId><status xsi:nil="false"/><progress xsi:nil="true">7</progress>',
            {"userId": "u", "status": "", "progress": 7.0},
        ),
        (
            f'{USUAL}<contentItemId>other</contentItemId><other xmlns="urn:x">1</other>',
            {
                "userId": "u",
                "status": "Passed",
                "progress": 45.22,
                "other": "1",
                "_contentItemId": "other",
            },
        ),
        (
            f"{USUAL}<contentItemId> 123 </contentItemId>",
            {"userId": "u", "status": "Passed", "progress": 45.22},
        ),
        (
            f"{USUAL}<contentItemId/>",
            {"userId": "u", "status": "Passed", "progress": 45.22},
        ),
        (
            '<userId xmlns="urn:x">u</userId><status>s</status><progress>1</progress>',
            {"userId": "u", "status": "s", "progress": 1.0},
        ),
    ],
)
def test_f56_missing_unknown_and_reordered_children(method, body, expected):
    """A missing field is null, unknown children come along by name, order does not matter."""
    row = rows(method, body)[0]
    assert row == {"contentItemId": "123", **expected}
    assert list(row)[:4] == ["contentItemId", "userId", "status", "progress"]


@BOTH
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("<status>s</status><progress>1</progress>", "missing-field", "a record has no userId"),
        (
            "<userId/><status>s</status><progress>1</progress>",
            "missing-field",
            "a record has no userId",
        ),
        ('<userId xsi:nil="true"/>', "missing-field", "a record has no userId"),
        ("", "missing-field", "a record has no userId"),
        (f"{USUAL}<userId>v</userId>", "doubled-field", "holds userId twice"),
        ("<userId>u</userId><status>a</status><status>b</status>", "doubled-field", "status twice"),
        (
            '<userId>u</userId><status>a</status><status xmlns="urn:x">b</status>',
            "doubled-field",
            "status twice",
        ),
        (
            "<userId>u<b/></userId><status>s</status><progress>1</progress>",
            "nested-field",
            "userId holds elements",
        ),
        (
            "<userId>u</userId><status>s<b/></status><progress>1</progress>",
            "nested-field",
            "status holds elements",
        ),
        (
            "<userId>u</userId><status>s</status><progress>1<b/></progress>",
            "nested-field",
            "progress holds elements",
        ),
        (
            "<userId>u</userId><status><status>s</status></status><progress>1</progress>",
            "nested-field",
            "status holds elements",
        ),
    ],
)
def test_f56_a_record_that_breaks_the_schema_is_refused(method, body, kind, words):
    """No userId, a field twice, or elements in a field: no row is guessed."""
    with pytest.raises(Unreadable, match=words) as caught:
        rows(method, USUAL, body)
    assert caught.value.kind == kind


@BOTH
def test_f50_an_extra_nested_too_deeply_for_json_is_refused(method):
    """Extras that no JSON writer takes refuse the course instead of crashing the run."""
    deep = "x"
    for _ in range(140):  # each level is a list in an object: 280 levels of JSON
        deep = f"<a/><a>{deep}</a>"
    with pytest.raises(Unreadable, match="a is nested too deeply") as caught:
        rows(method, USUAL + deep)
    assert caught.value.kind == "nested-field"


@BOTH
def test_ids_and_stamps_stand_in_every_row(method):
    """Each row begins with the request's id, escaped, and ends with the stamp."""
    made = rows(method, USUAL, "<userId>v</userId>", value='a"\\b', stamp='"_run_id":"r1"')
    assert [row["contentItemId"] for row in made] == ['a"\\b', 'a"\\b']
    assert [list(row.items())[-1] for row in made] == [("_run_id", "r1")] * 2


@BOTH
def test_rows_of_another_course_are_counted(method):
    """By the encoder of each answer, and by the format of all."""
    form = RowFormat(method)
    own = "<userId>u</userId><contentItemId>{}</contentItemId>"
    first, second = form.encoder("123"), form.encoder('a"b')
    first(records(own.format("123"), own.format("456"), USUAL, own.format("7")))
    second(records(own.format('a"b')))
    assert (first.strays, second.strays, form.strays) == (2, 0, 2)


def test_a_method_without_a_parameter_has_rows_of_its_fields():
    """GetContent's items carry no id but their own."""
    assert rows(GET_CONTENT, "<contentItemId>7</contentItemId><title>T</title>", value=None) == [
        {
            "contentItemId": "7",
            "title": "T",
            "subtitle": None,
            "description": None,
            "userId": None,
            "addedDate": None,
            "viewUrl": None,
            "type": None,
        }
    ]


def test_a_decimal_of_another_method_is_named_in_its_refusal():
    """The message names the field of the method, not a fixed one."""
    method = Method("M", None, ("r", "status"), (Field("score", "decimal"),))
    with pytest.raises(Unreadable, match="score is 'x', not a number"):
        rows(method, "<score>x</score>")


def test_no_records_make_no_bytes():
    """A course without rows is an empty export, not an empty line."""
    assert RowFormat(GET_FINAL_STATUSES).encoder("1")([]) == b""


def test_records_of_two_namespaces_are_both_read():
    """The tags are compared anew when a record's namespace changes."""
    mixed = records(USUAL, namespace="urn:a") + records(USUAL) + records(USUAL, namespace="urn:a")
    assert RowFormat(GET_FINAL_STATUSES).encoder("1")(mixed).count(b'"userId":"u"') == 3


ODD = [
    "<userId>u</userId><status>s</status><note>n</note>",
    "<userId>u</userId><status>s</status><status>s</status>",
    "<status>s</status><userId>u</userId><progress>1</progress>",
    "<userId>u</userId><status/><progress>1</progress>",
    '<userId xmlns="urn:x">u</userId><status>s</status><progress>1</progress>',
    f"{USUAL}<note/>",
    "<userId>u</userId>",
    "",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 10, 20])
def test_an_odd_record_among_many_changes_no_other(odd, place):
    """Wherever it stands, also as the one not taken yet, the rest are the rows they were."""
    bodies = [
        f"<userId>u{number}</userId><status>s{number}</status><progress>{number}</progress>"
        for number in range(20)
    ]
    bodies.insert(place, odd)
    fast = RowFormat(GET_FINAL_STATUSES).encoder("1")
    general = RowFormat(NAMED_ALIKE).encoder("1")
    for start, end in ((0, 21), (0, 20), (0, 19), (1, 21), (3, 18)):
        made = outcome(fast, *records(*bodies)[start:end])
        assert made == outcome(general, *records(*bodies)[start:end])
        assert isinstance(made, tuple) or made.count(b"\n") == end - start


def test_records_without_a_list_are_read():
    """Records that stand in no list are encoded all the same."""
    shape = (("userId", "u"), ("status", "s"), ("progress", "1"))
    loose = [build(shape) for _ in range(20)]
    assert RowFormat(GET_FINAL_STATUSES).encoder("1")(loose).count(b'"userId":"u"') == 20


# Both ways, on anything


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda character: character >= " " or character in "\t\n"
    ),
    max_size=8,
)
NUMBERS = st.decimals(-1000, 1000, places=2).map(str) | st.floats(
    allow_nan=False, allow_infinity=False
).map(repr)
CHILDREN = st.tuples(
    st.sampled_from(["userId", "status", "progress", "completionDate", "note"]),
    TEXT | NUMBERS | st.sampled_from(["", " ", "Passed", "nan"]),
)
SHAPES = st.one_of(
    st.tuples(
        st.tuples(st.just("userId"), TEXT),
        st.tuples(st.just("status"), TEXT),
        st.tuples(st.just("progress"), NUMBERS | TEXT),
    ),
    st.lists(CHILDREN, max_size=5),
)


def build(shape, namespace=""):
    record = etree.Element(f"{namespace}status")
    for name, text in shape:
        etree.SubElement(record, f"{namespace}{name}").text = text
    return record


def outcome(encode, *records):
    try:
        return encode(list(records))
    except CourseError as error:
        return type(error), error.kind, error.message


@given(st.lists(SHAPES, max_size=6), st.integers(0, 3))
def test_both_ways_say_the_same_of_any_record(shapes, remembered):
    """Same bytes or same refusal, in whatever order records come and however much is remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_records, "_MAX_REMEMBERED", remembered)
        fast = RowFormat(GET_FINAL_STATUSES).encoder("1")
        general = RowFormat(NAMED_ALIKE).encoder("1")
        for shape in shapes:
            assert outcome(fast, build(shape)) == outcome(general, build(shape))


USUAL_SHAPES = st.tuples(
    st.tuples(st.just("userId"), TEXT.filter(bool)),
    st.tuples(st.just("status"), st.sampled_from(["Passed", "Failed"]) | TEXT.filter(bool)),
    st.tuples(st.just("progress"), NUMBERS),
)


@settings(max_examples=150)
@given(
    st.lists(USUAL_SHAPES, max_size=30),
    st.lists(st.tuples(st.integers(0, 30), SHAPES), max_size=2),
    st.sampled_from(["", "{urn:a}"]),
)
def test_both_ways_say_the_same_of_any_list(shapes, odd, namespace):
    """Many records at once, some of them unusual, the last one perhaps not taken yet."""
    for place, shape in odd:
        shapes.insert(place, shape)
    holder = etree.Element(f"{namespace}statuses")
    holder.extend([build(shape, namespace) for shape in shapes])
    fast = RowFormat(GET_FINAL_STATUSES).encoder("1")
    general = RowFormat(NAMED_ALIKE).encoder("1")
    for taken in (list(holder), list(holder)[:-1]):
        assert outcome(fast, *taken) == outcome(general, *taken)


@given(TEXT.filter(str.strip), TEXT, st.decimals(0, 100, places=2))
def test_values_come_out_as_they_went_in(user, status, progress):
    """Any text and any percentage is the same in row and record, space around ids apart."""
    shape = [("userId", user), ("status", status), ("progress", f"{progress}")]
    row = json.loads(RowFormat(GET_FINAL_STATUSES).encoder("1")([build(shape)]))
    assert (row["userId"], row["status"]) == (user.strip(), status)
    assert Decimal(repr(row["progress"])) == progress


@BOTH
def test_what_is_remembered_is_bounded_and_right(method, monkeypatch):
    """Past the bound values are still encoded, and no more are kept."""
    monkeypatch.setattr(_records, "_MAX_REMEMBERED", 5)
    form = RowFormat(method)
    encode = form.encoder("1")
    for _ in range(2):
        for number in range(20):
            body = f"<userId>u</userId><status>s{number}</status><progress>{number}</progress>"
            row = json.loads(encode(records(body)))
            assert (row["status"], row["progress"]) == (f"s{number}", number)
    assert len(form._strings) <= 5
    assert len(form._decimals) <= 5


def test_long_texts_are_not_remembered():
    """Memory of common values is bounded in bytes: only short ones are kept, and never ids."""
    form = RowFormat(GET_FINAL_STATUSES)
    encode = form.encoder("1")
    for number in range(50):
        text = f"{number}" * 10_000
        assert json.loads(encode([build([("userId", f"u{number}"), ("status", text)])]))
    assert form._strings == {}
