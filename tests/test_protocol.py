"""Requests to bytes, answers to verdicts: against the specification's own samples and tables."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from bulkfetch._errors import (
    NamespaceRefused,
    Refused,
    RunRefused,
    SoapFault,
    Transient,
    Unauthorized,
)
from bulkfetch._model import GET_CONTENT, GET_FINAL_STATUSES
from bulkfetch._options import Options
from bulkfetch._protocol import (
    MAX_ID_LENGTH,
    Spelling,
    check_id,
    check_reply,
    encode_request,
    judge_fault,
    may_hold_fault,
    parse_retry_after,
    request_headers,
)
from bulkfetch._setting import Secret
from bulkfetch._text import printable

SAMPLE = Path(__file__).parent / "data" / "sample_request.xml"
SAMPLE_TOKEN = Secret("p-1sJDjmULL5DdpXPJTcbm4jVIaWVHvNmrjAxATRbNE")
URL = "https://acme.example/api/v2/soap/2.0?account=7"
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda character: character >= " " or character in "\t\n"
    )
)


def tree(element, *, local):
    """The element as nested tuples, without the whitespace between elements."""
    tag = etree.QName(element).localname if local else element.tag
    return tag, (element.text or "").strip(), [tree(child, local=local) for child in element]


def harmless(text):
    """Whether the text may be shown on a terminal as it is."""
    return printable(text, len(text)) == text


def options(**changes):
    return Options(endpoint=URL, token="t", **changes)


# Requests


@pytest.mark.parametrize("envelope", ["http", "https"])
@pytest.mark.parametrize("application", ["http", "https"])
def test_the_request_is_the_specifications_sample(envelope, application):
    """Element for element the sample of the method's page, namespaces apart."""
    made = encode_request(
        GET_FINAL_STATUSES, SAMPLE_TOKEN, "123", spelling=Spelling(envelope, application)
    )
    sample = etree.fromstring(SAMPLE.read_bytes())
    assert tree(etree.fromstring(made), local=True) == tree(sample, local=True)


def test_spelled_with_https_the_request_is_the_sample_with_its_namespaces():
    """With the documentation's spelling even the namespaces are those of the page."""
    made = encode_request(
        GET_FINAL_STATUSES, SAMPLE_TOKEN, "123", spelling=Spelling("https", "https")
    )
    sample = etree.fromstring(SAMPLE.read_bytes())
    assert tree(etree.fromstring(made), local=False) == tree(sample, local=False)
    assert made.startswith(b'<?xml version="1.0" encoding="utf-8"?>')


def test_the_default_spelling_is_what_real_stacks_know():
    """Both namespaces are sent with http:// unless something else is asked for."""
    root = etree.fromstring(
        encode_request(GET_FINAL_STATUSES, SAMPLE_TOKEN, "1", spelling=Spelling())
    )
    assert root.tag == "{http://schemas.xmlsoap.org/soap/envelope/}Envelope"
    assert root[0][0].tag == (
        "{http://ispringlearn.com/go/services/api/soap}GetContentItemFinalStatusesRequest"
    )


def test_a_method_without_a_parameter_sends_credentials_alone():
    """GetContent's request holds the token and nothing else."""
    root = etree.fromstring(encode_request(GET_CONTENT, Secret("t"), spelling=Spelling()))
    assert tree(root[0][0], local=True) == (
        "GetContentRequest",
        "",
        [("credentials", "", [("token", "t", [])])],
    )


def test_the_headers_are_those_of_a_soap_1_1_call():
    """Content-Type, a quoted SOAPAction, and gzip as the only encoding; the token is no header."""
    assert request_headers(GET_FINAL_STATUSES) == {
        "Content-Type": "text/xml; charset=utf-8",
        "SOAPAction": '"GetContentItemFinalStatuses"',
        "Accept": "text/xml",
        "Accept-Encoding": "gzip",
    }


@pytest.mark.parametrize(
    "value", ["<", "&", "]]>", "a<b>&amp;c", "\"'", "é", "курс", "&#10;", " x "]
)
def test_f89_an_id_with_markup_arrives_as_it_is(value):
    """Characters that mean something to XML are escaped, in the id and in the token."""
    root = etree.fromstring(
        encode_request(GET_FINAL_STATUSES, Secret(value), check_id(value), spelling=Spelling())
    )
    texts = [element.text for element in root.iter() if element.text and not len(element)]
    assert texts == [value, value]
    assert len(list(root.iter())) == 6, "no element was smuggled in"


@given(XML_TEXT)
def test_f89_any_text_survives_the_envelope(value):
    """Whatever XML can hold comes out of the envelope as it went in."""
    made = encode_request(GET_FINAL_STATUSES, Secret("t"), value, spelling=Spelling())
    assert (etree.fromstring(made)[0][0][1].text or "") == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "an id is empty"),
        ("a\r\nb", r"a control character: 'a\\r\\nb'"),
        ("a\rb", "a control character"),
        ("a\nb", "a control character"),
        ("a\tb", "a control character"),
        ("\x00", "a control character"),
        ("\x1b[2J", r"'\\x1b\[2J'"),
        ("\x85", "a control character"),
        ("\ud800", "a control character"),
        ("\uffff", "a control character"),
        ("x" * (MAX_ID_LENGTH + 1), "an id has 257 characters, at most 256"),
    ],
)
def test_f89_an_id_that_no_server_can_mean_is_refused(value, words):
    """Control characters and absurd lengths never reach the wire; the message shows them safely."""
    with pytest.raises(ValueError, match=words) as caught:
        check_id(value)
    assert harmless(str(caught.value))


@pytest.mark.parametrize(
    "value", ["1", "265f433a-6214-11e9-b9cf-7ef279cfa744", "x" * MAX_ID_LENGTH]
)
def test_a_usual_id_is_taken_as_it_is(value):
    """UUIDs, numbers and any other line of text are ids."""
    assert check_id(value) == value


@given(st.text(max_size=300))
def test_an_id_that_is_taken_can_be_sent(value):
    """An id either raises ValueError or makes a request that XML parsers read back."""
    try:
        check_id(value)
    except ValueError:
        return
    made = encode_request(GET_FINAL_STATUSES, Secret("t"), value, spelling=Spelling())
    assert etree.fromstring(made)[0][0][1].text == value


@pytest.mark.parametrize("part", ["envelope", "application"])
def test_the_other_spelling_turns_one_part_round(part):
    """`other` changes the part that was refused, and twice gives the first again."""
    turned = Spelling().other(part)
    assert getattr(turned, part) == "https"
    assert turned != Spelling("https", "https")
    assert turned.other(part) == Spelling()


# Heads of answers


@pytest.mark.parametrize(
    ("status", "headers", "verdict", "kind", "overload"),
    [
        (200, {}, None, "", False),
        (200, {"Content-Type": "text/xml"}, None, "", False),
        (200, {"Content-Type": "text/xml; charset=windows-1251"}, None, "", False),
        (200, {"Content-Type": "application/soap+xml"}, None, "", False),
        (200, {"Content-Type": "application/octet-stream"}, None, "", False),
        (200, {"Content-Type": "text/html"}, RunRefused, "html-page", False),
        (200, {"Content-Type": "Text/HTML ; charset=utf-8"}, RunRefused, "html-page", False),
        (200, {"Content-Type": "application/xhtml+xml"}, RunRefused, "html-page", False),
        (202, {}, Transient, "empty-response", False),
        (204, {}, Transient, "empty-response", False),
        (301, {"Location": "/login"}, RunRefused, "redirect", False),
        (307, {}, RunRefused, "redirect", False),
        (400, {}, RunRefused, "http-400", False),
        (401, {}, Unauthorized, "http-401", False),
        (403, {}, RunRefused, "http-403", False),
        (404, {"Content-Type": "text/html"}, RunRefused, "http-404", False),
        (405, {}, RunRefused, "http-405", False),
        (408, {}, Transient, "http-408", True),
        (410, {}, RunRefused, "http-410", False),
        (429, {}, Transient, "http-429", True),
        (500, {"Content-Type": "text/html"}, Transient, "http-500", False),
        (502, {}, Transient, "http-502", True),
        (503, {}, Transient, "http-503", True),
        (504, {}, Transient, "http-504", True),
        (520, {}, Transient, "http-520", False),
    ],
)
def test_the_head_of_an_answer_is_judged(status, headers, verdict, kind, overload):
    """Each status has one verdict; passing ones say whether the server is struggling."""
    error = check_reply(status, headers, endpoint=URL, now=NOW)
    if verdict is None:
        assert error is None
        return
    assert type(error) is verdict
    assert error.kind == kind
    assert harmless(error.message)
    assert getattr(error, "overload", False) is overload
    if kind.startswith("http-") or kind == "empty-response":
        assert f"HTTP {status}" in error.message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_the_pause_that_a_server_asks_for_is_kept(status):
    """Retry-After is read with every passing status, and absent when it is not sent."""
    asked = check_reply(status, {"Retry-After": "7"}, endpoint=URL, now=NOW)
    assert asked.retry_after == 7.0
    assert check_reply(status, {}, endpoint=URL, now=NOW).retry_after is None


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"Content-Type": "text/xml"}, False),
        (500, {"Content-Type": "text/xml"}, True),
        (500, {"Content-Type": "application/soap+XML"}, True),
        (500, {"Content-Type": "text/html"}, False),
        (500, {}, False),
        (403, {"Content-Type": "text/xml"}, True),
        (302, {"Content-Type": "text/xml"}, False),
    ],
)
def test_an_error_with_xml_is_read_before_it_is_judged(status, headers, expected):
    """A SOAP stack sends 500 for permanent faults too: the body is asked first."""
    assert may_hold_fault(status, headers) is expected


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://evil.example/steal?token=abc#t", "https://evil.example "),
        ("https://me:hunter2@evil.example:8443/x", "https://evil.example "),
        ("//evil.example/x", "https://evil.example "),
        ("/login?next=abc", "https://acme.example "),
        ("", "https://acme.example "),
        ("https://\u202eevil.example/", r"https://\u202eevil.example "),
        ("https://[::1", "https://an-unreadable-address "),
        ("https://evil\u2100.example/", "https://an-unreadable-address "),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f25_a_redirect_shows_the_host_and_nothing_more(status, location, shown):
    """Whatever a Location holds, the message shows its scheme and host."""
    error = check_reply(status, {"Location": location}, endpoint=URL, now=NOW)
    assert type(error) is RunRefused
    assert f"redirects to {shown}(HTTP {status})" in error.message
    assert "leak the token" in error.message
    for hidden in ("abc", "hunter2", "steal", "login"):
        assert hidden not in error.message


@pytest.mark.parametrize(
    ("endpoint", "location", "hinted"),
    [
        ("http://acme.example/soap", "https://acme.example/soap", True),
        ("http://acme.example/soap", "http://www.acme.example/soap", False),
        ("https://acme.example/soap", "https://www.acme.example/soap", False),
    ],
)
def test_f26_a_redirect_to_https_says_so(endpoint, location, hinted):
    """The usual mistake, http in the endpoint, gets its own remedy."""
    error = check_reply(301, {"Location": location}, endpoint=endpoint, now=NOW)
    assert ("use https in the endpoint" in error.message) is hinted


@given(st.text())
def test_f25_no_location_breaks_the_verdict(location):
    """A redirect is a refusal of the run, whatever stands in its Location."""
    error = check_reply(302, {"Location": location}, endpoint=URL, now=NOW)
    assert error.kind == "redirect"
    assert harmless(error.message)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("1000000000", 1e9),  # absurd, and capped by whoever waits
        ("9" * 13, None),
        ("0\x1f", None),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120.0),
        ("Sunday, 06-Nov-94 08:51:37 GMT", 120.0),
        ("Sun Nov  6 08:51:37 1994", 120.0),
        ("Sun, 06 Nov 1994 08:51:37 -0000", 120.0),
        ("Sun, 06 Nov 1994 10:51:37 +0200", 120.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("١٢", None),
        ("Sun, 99 Nov 1994 08:51:37 GMT", None),
        ("Sun, 06 Nov 10000 08:51:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 252618189022.0),
    ],
)
def test_f28_retry_after_in_all_its_forms(value, pause, monkeypatch):
    """Seconds and the three date forms of RFC 9110 are read; nonsense is no pause."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # dates are GMT, wherever this runs
    time.tzset()
    try:
        assert parse_retry_after(value, NOW) == pause
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_f28_any_http_date_is_a_pause_from_now(moment):
    """A date is as far away as it is, and never in the past."""
    date = moment.replace(tzinfo=UTC, microsecond=0)
    pause = parse_retry_after(format_datetime(date, usegmt=True), NOW)
    assert pause == max(0.0, date.timestamp() - NOW)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S*"))
def test_f28_no_retry_after_breaks_the_verdict(value):
    """Any text is a pause that is not negative, or none."""
    pause = parse_retry_after(value, NOW)
    assert pause is None or pause >= 0


# Faults


@pytest.mark.parametrize(
    ("code", "text", "verdict", "kind"),
    [
        ("SOAP-ENV:Server", "Unknown content item", Refused, "unknown-content-item"),
        ("SOAP-ENV:Server", "UNKNOWN CONTENT ITEM: 7", Refused, "unknown-content-item"),
        ("SOAP-ENV:Server", "Permission denied", Refused, "permission-denied"),
        ("", "Wrong parameters", Refused, "wrong-parameters"),
        ("Client", "Something new", Refused, "fault"),
        ("Client", "", Refused, "fault"),
        ("Server", "Authorization failed", Unauthorized, "authorization-failed"),
        ("Server", "authorization FAILED.", Unauthorized, "authorization-failed"),
        ("Server", "Account subscription expired", RunRefused, "run-refused"),
        ("SOAP-ENV:VersionMismatch", "Wrong Version", NamespaceRefused, "namespace"),
        ("versionmismatch", "", NamespaceRefused, "namespace"),
        (
            "SOAP-ENV:Server",
            "Procedure 'GetContentItemFinalStatusesRequest' not present",
            NamespaceRefused,
            "namespace",
        ),
    ],
)
def test_a_fault_is_judged_by_its_code_and_text(code, text, verdict, kind):
    """The documented texts and what PHP says of namespaces have verdicts; others are refusals."""
    error = judge_fault(SoapFault(code, text), options(), Secret("token"))
    assert type(error) is verdict
    assert error.kind == kind
    assert error.message


@pytest.mark.parametrize(
    ("code", "text", "part"),
    [("x:VersionMismatch", "", "envelope"), ("", "Procedure 'X' not present", "application")],
)
def test_a_refused_namespace_names_its_part(code, text, part):
    """The verdict says which of the two namespaces to spell the other way."""
    assert judge_fault(SoapFault(code, text), options(), Secret("token")).part == part


@pytest.mark.parametrize(
    ("changes", "text", "verdict"),
    [
        ({"retry_faults": ("too many requests",)}, "Too many requests!", Transient),
        ({"retry_faults": ("",)}, "anything", Refused),
        ({"auth_faults": ("session is over",)}, "Your session is over", Unauthorized),
        ({"auth_faults": ()}, "Authorization failed", Refused),
        ({"fatal_faults": ("closed",)}, "Account closed", RunRefused),
        ({"fatal_faults": ()}, "Account subscription expired", Refused),
    ],
)
def test_the_lists_of_fault_texts_are_settings(changes, text, verdict):
    """What an undocumented text means can be said in the options; an empty part matches nothing."""
    error = judge_fault(SoapFault("Server", text), options(**changes), Secret("token"))
    assert type(error) is verdict
    assert getattr(error, "overload", True)


@given(st.text(), st.text())
def test_f88_no_fault_text_is_shown_raw(code, text):
    """Whatever a server puts into a fault, the verdict's message is printable and short."""
    error = judge_fault(SoapFault(code, text), options(), Secret("token"))
    assert harmless(error.message)
    assert len(error.message) < 2500


def test_an_errors_message_is_its_text():
    """`kind` is for counting, `message` for reading, and only refusals are settled."""
    assert SoapFault("c", "t").message == str(SoapFault("c", "t")) == "t"
    assert (Refused.settled, Transient.settled, Unauthorized.settled) == (True, False, False)
