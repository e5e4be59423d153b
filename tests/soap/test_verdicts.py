"""One answer, one verdict: statuses, bodies and faults against the table, whatever the headers."""

from __future__ import annotations

import pytest
from answers import GOOD, HEAD, TAIL, TOKEN, fault, statuses
from hypothesis import given
from hypothesis import strategies as st
from verdict_table import ANSWERS, FOLLOWS, table

from bulkfetch._config.options import Options
from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import (
    CourseError,
    Diverted,
    NamespaceRefused,
    Refused,
    RunRefused,
    SoapFault,
    Transient,
    Unauthorized,
    UnknownFault,
    Unreadable,
)
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._domain.text import printable
from bulkfetch._soap.parser import ResponseParser
from bulkfetch._soap.records import RowFormat
from bulkfetch._soap.verdicts import Answer, FaultTexts, judge, judge_fault

URL = "https://acme.example/api/v2/soap/2.0?account=7"
NOW = 784111777.0
ROWS = statuses(GOOD)
UNKNOWN = fault("Unknown content item")
PAGE = b"<html><head><title>Sign in</title></head><body><br></body></html>"


def options(**changes):
    return Options(endpoint=URL, token=TOKEN, **changes)


def verdict(status, body, headers=None, **changes):
    """What comes of this answer; None: its rows."""
    settings = options(**changes)
    parser = ResponseParser(GET_FINAL_STATUSES, RowFormat(GET_FINAL_STATUSES).encoder("1"))
    found = None
    try:
        parser.feed(body)
        parser.close()
    except CourseError as error:
        found = error
    answer = Answer(status, headers or {}, parser.beginning, NOW)
    return judge(answer, found, settings, Secret(TOKEN))


def judged(text, code="Server", **changes):
    return judge_fault(SoapFault(code, text), FaultTexts.of(options(**changes)), Secret("token"))


def harmless(text):
    """Whether the text may be shown on a terminal as it is."""
    return printable(text, len(text)) == text


# Statuses and bodies


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected", "overload"),
    [
        (200, ROWS, None, None, False),
        (201, ROWS, None, None, False),
        (202, ROWS, None, None, False),
        (206, ROWS, None, None, False),
        (200, b"", "empty-response", Transient, False),
        (202, b" \n", "empty-response", Transient, False),
        (204, b"", "empty-response", Transient, False),
        (200, PAGE, "html-page", Diverted, False),
        (203, PAGE, "html-page", Diverted, False),
        (200, b"<feed/>", "unexpected-root", Diverted, False),
        (200, b'{"error": "no"}', "unexpected-root", Diverted, False),
        (200, b"Service unavailable", "malformed", Transient, False),
        (200, ROWS.partition(b"</ns1:statuses>")[0], "truncated", Transient, False),
        (301, b"", "redirect", Diverted, False),
        (302, PAGE, "redirect", Diverted, False),
        (307, ROWS, "redirect", Diverted, False),
        (400, PAGE, "http-400", Diverted, False),
        (401, PAGE, "http-401", Unauthorized, False),
        (403, b"", "http-403", Diverted, False),
        (404, PAGE, "http-404", Diverted, False),
        (405, b"", "http-405", Diverted, False),
        (407, PAGE, "http-407", Diverted, False),
        (408, b"", "http-408", Transient, True),
        (410, b"", "http-410", Diverted, False),
        (413, b"", "http-413", Diverted, False),
        (415, b"", "http-415", Diverted, False),
        (418, b"", "http-418", Diverted, False),
        (429, PAGE, "http-429", Transient, True),
        (500, b"", "http-500", Transient, False),
        (500, PAGE, "http-500", Transient, False),
        (500, ROWS, "http-500", Transient, False),
        (502, PAGE, "http-502", Transient, True),
        (503, PAGE, "http-503", Transient, True),
        (504, b"", "http-504", Transient, True),
        (520, b"", "http-520", Transient, False),
    ],
)
@pytest.mark.parametrize("content_type", [None, "text/xml", "text/html; charset=x", "image/png"])
def test_an_answer_is_judged_by_status_and_body(
    status, body, kind, expected, overload, content_type
):
    """Each pair has one verdict; its Content-Type proves nothing."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    error = verdict(status, body, headers)
    if kind is None:
        assert error is None
        return
    assert (type(error), error.kind) == (expected, kind)
    assert getattr(error, "overload", False) is overload
    assert not error.settled
    assert harmless(error.message)
    if status != 200 and kind not in ("html-page", "redirect"):
        assert f"HTTP {status}" in error.message


@pytest.mark.parametrize("status", [200, 202, 302, 400, 401, 403, 404, 429, 500, 502, 503])
@pytest.mark.parametrize("content_type", ["text/xml", "text/html", "", "application/json"])
def test_f102_a_fault_counts_whatever_status_and_type_say(status, content_type):
    """A final text settles the course even as an HTTP 500 text/html."""
    error = verdict(status, UNKNOWN, {"Content-Type": content_type})
    assert (type(error), error.kind, error.settled) == (Refused, "unknown-content-item", True)


def test_an_unknown_fault_takes_what_the_status_adds():
    """401 asks for a token, 503 for less; what is on a list needs no help."""
    assert type(verdict(401, fault("Session is gone"))) is Unauthorized
    error = verdict(503, fault("Sorry"), {"Retry-After": "2.5"})
    assert (type(error), error.overload, error.retry_after) == (UnknownFault, True, 2.5)
    error = verdict(500, fault("Too many requests"), {"Retry-After": "3"})
    assert (type(error), error.overload, error.retry_after) == (Transient, True, 3.0)


@pytest.mark.parametrize("status", [302, 403, 404, 408, 429, 500, 502, 503, 504])
def test_the_pause_that_a_server_asks_for_is_kept(status):
    """Retry-After is read with every passing status, and absent when it is not sent."""
    assert verdict(status, b"", {"Retry-After": "7"}).retry_after == 7.0
    assert verdict(status, b"").retry_after is None


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b"", "check the endpoint's scheme"),
        (400, b"<html>400 The plain HTTP request was sent to HTTPS port", "use https in the"),
        (400, b"<html>No required SSL certificate was sent", "--cert"),
        (403, b"", "permission"),
        (404, b"", "/api/v2/soap/2.0 answers HTTP 404: nothing is there"),
        (405, b"", "POST"),
        (407, b"", "proxy"),
        (413, b"", "too large"),
        (415, b"", "SOAP 1.1"),
        (418, b"", "check the endpoint"),
    ],
)
def test_other_statuses_say_what_helps(status, body, words):
    """Who meets one reads what to look at."""
    assert words in verdict(status, body).message


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'<br />\n<b>Warning</b>:  Undefined key "x"\n<?xml version="1.0"?>\n' + ROWS,
         '; the body begins: <br /> <b>Warning</b>: Undefined key "x" <?xml'),
        (PAGE, "; the body begins: <html> <head>".replace("> <", "><")),
        ("<html>Вход".encode("utf-16"), "; the body begins: <html>Вход"),
        (b"busy\x1b[2J", r"; the body begins: busy\x1b[2J"),
        (f"no <{TOKEN}>".encode(), "; the body begins: no <***>"),
        (f"{'x' * 70}{TOKEN}{'y' * 90}".encode(), f"; the body begins: {'x' * 70}***yyyyyyy…"),
        ((HEAD + "<x/>" + TAIL).encode(), '; the body begins: <?xml version="1.0"'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_shown(body, shown):
    """The first 80 printable characters on one line, whatever the encoding; never the token."""
    message = verdict(200, body).message
    assert shown in message
    assert len(message.partition("; the body begins: ")[2]) <= 100
    assert TOKEN not in message


@pytest.mark.parametrize(
    "spelled",
    [
        "ab/cd+ef&gh==",
        r"ab\/cd+ef&gh==",
        r"ab\u002fcd\u002Bef\u0026gh==",
        "ab%2Fcd%2Bef%26gh%3D%3D",
        "ab%2fcd%2bef%26gh%3d%3d",
        "ab&#x2F;cd&#43;ef&amp;gh&#061;=",
    ],
)
def test_f86_a_token_is_hidden_however_it_is_spelled(spelled):
    """As it is, and as JSON, an address and XML write its signs."""
    token = Secret("ab/cd+ef&gh==")
    answer = Answer(403, {}, f'{{"message":"bad {spelled}, sir"}}'.encode(), NOW)
    error = judge(answer, Transient("malformed", "-"), options(), token)
    assert error.message.endswith('the body begins: {"message":"bad ***, sir"}')


def test_a_token_that_xml_spells_otherwise_is_hidden():
    """An & in the token comes back as &amp;."""
    token = Secret("a&b<sentinel>")
    body = b"no a&amp;b&lt;sentinel&gt; here"
    answer = Answer(200, {}, body, NOW)
    error = judge(answer, Transient("malformed", "-"), options(), token)
    assert error.message == "-; the body begins: no *** here"


@given(st.integers(200, 599), st.binary(max_size=300), st.text(max_size=9))
def test_any_answer_has_a_printable_verdict(status, body, value):
    """Whatever comes, there are rows or a short message fit for a terminal."""
    error = verdict(status, body, {"Content-Type": value, "Retry-After": value, "Location": value})
    assert error is not None
    assert harmless(error.message)
    assert len(error.message) < 1000


def redirected(status, location, endpoint=URL):
    answer = Answer(status, {"Location": location}, b"", NOW)
    return judge(answer, None, Options(endpoint=endpoint, token="t", allow_http=True), Secret("t"))


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
    error = redirected(status, location)
    assert type(error) is Diverted
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
    error = redirected(301, location, endpoint)
    assert ("use https in the endpoint" in error.message) is hinted


@given(st.text())
def test_f25_no_location_breaks_the_verdict(location):
    """A redirect diverts, whatever stands in its Location."""
    error = redirected(302, location)
    assert error.kind == "redirect"
    assert harmless(error.message)


# Faults


@pytest.mark.parametrize(
    ("code", "text", "expected", "kind"),
    [
        ("SOAP-ENV:Server", "Unknown content item", Refused, "unknown-content-item"),
        ("SOAP-ENV:Server", "UNKNOWN CONTENT ITEM: 7", Refused, "unknown-content-item"),
        ("SOAP-ENV:Server", "\n Unknown\n\t content  item", Refused, "unknown-content-item"),
        ("SOAP-ENV:Server", "Permission denied", Refused, "permission-denied"),
        ("", "Wrong parameters", Refused, "wrong-parameters"),
        ("Client", "Something new", UnknownFault, "fault"),
        ("Client", "", UnknownFault, "fault"),
        ("Server", "SQLSTATE[HY000] [2002] Connection refused", UnknownFault, "fault"),
        ("Server", "Too many requests", Transient, "fault"),
        ("Server", "Rate limit exceeded", Transient, "fault"),
        ("Server", "please TRY\nAGAIN later", Transient, "fault"),
        ("Server", "Request was throttled", Transient, "fault"),
        ("Client", "Rate exceeded", Transient, "fault"),
        ("Client", "Request quota used up", Transient, "fault"),
        ("Server", "Authorization failed", Unauthorized, "authorization-failed"),
        ("Server", "authorization\n FAILED.", Unauthorized, "authorization-failed"),
        ("Server", "Account subscription expired", RunRefused, "run-refused"),
        ("SOAP-ENV:VersionMismatch", "Wrong Version", NamespaceRefused, "namespace"),
        ("versionmismatch", "", NamespaceRefused, "namespace"),
        (
            "SOAP-ENV:Server",
            "Procedure 'GetContentItemFinalStatusesRequest' not present",
            NamespaceRefused,
            "namespace",
        ),
        ("SOAP-ENV:VersionMismatch", "Permission denied", Refused, "permission-denied"),
    ],
)
def test_a_fault_is_judged_by_its_text_and_code(code, text, expected, kind):
    """The lists in their order, then what PHP says of namespaces; any other text is unknown."""
    error = judged(text, code)
    assert (type(error), error.kind) == (expected, kind)
    assert error.message
    assert error.settled is (expected is Refused)
    assert getattr(error, "overload", False) is (expected is Transient)


@pytest.mark.parametrize(
    ("code", "blames"),
    [("SOAP-ENV:Client", True), ("env:Sender", True), ("Client.Auth", True),
     ("SOAP-ENV:Server", False), ("env:Receiver", False), ("x:1234", False), ("", False)],
)  # fmt: skip
def test_f95_f96_an_unknown_fault_says_whom_it_blames(code, blames):
    """By its code; it is tried again at most twice and never settled."""
    error = judged("whatever", code)
    assert (error.code, error.blames_request) == (code, blames)
    assert (error.most_retries, error.settled) == (2, False)
    assert error.message == f"whatever{f' ({code})' if code else ''}"


@pytest.mark.parametrize(
    ("code", "text", "part"),
    [("x:VersionMismatch", "", "envelope"), ("", "Procedure 'X' not present", "application")],
)
def test_a_refused_namespace_names_its_part(code, text, part):
    """The verdict says which of the two namespaces to spell the other way."""
    assert judged(text, code).part == part


@pytest.mark.parametrize(
    ("changes", "text", "expected"),
    [
        ({"retry_faults": ("too many requests",)}, "Too many requests!", Transient),
        ({"retry_faults": ("",)}, "anything", UnknownFault),
        ({"retry_faults": ()}, "Too many requests", UnknownFault),
        ({"auth_faults": ("session is over",)}, "Your session is over", Unauthorized),
        ({"auth_faults": ()}, "Authorization failed", UnknownFault),
        ({"fatal_faults": ("closed",)}, "Account closed", RunRefused),
        ({"fatal_faults": ()}, "Account subscription expired", UnknownFault),
        ({"final_faults": ("",)}, "Unknown content item", UnknownFault),
        ({"final_faults": (" ",)}, "Unknown content item", UnknownFault),
        ({"final_faults": ()}, "Permission denied", UnknownFault),
        ({"final_faults": ("course  WAS\ndeleted",)}, "Course was deleted", Refused),
        ({"final_faults": ("failed",)}, "Authorization failed", Refused),
    ],
)
def test_the_lists_of_fault_texts_are_settings(changes, text, expected):
    """What an undocumented text means can be said; an empty part matches nothing."""
    assert type(judged(text, **changes)) is expected


def test_a_final_text_of_ones_own_has_its_kind():
    """It is told from the documented ones, and from unknown faults."""
    assert judged("Course was deleted", final_faults=("was deleted",)).kind == "final-fault"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("Client", "SOAPAction shall match 'uri#method' if present (got 'x', expected 'y')"),
        ("Client", "Server did not recognize the value of HTTP Header SOAPAction: x."),
        ("ns1:Client.NoSOAPAction", "no SOAPAction header!"),
        ("a:ActionNotSupported", "The message with Action 'x' cannot be processed"),
    ],
)
def test_complaints_about_the_soap_action_name_the_setting(code, text):
    """SOAP::Lite, ASP.NET, Axis and WCF each in their words."""
    assert "--soap-action" in judged(text, code).message


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "\x1b[2J\x07\u202e" * 99, "a token here", "", " \n "]
)
def test_any_fault_text_is_bounded_cleaned_and_hidden(text):
    """A megabyte, control characters, the token itself, nothing at all: a short clean sentence."""
    error = judged(text, text)
    assert 0 < len(error.message) < 1500
    assert harmless(error.message)
    assert harmless(error.code)
    assert "token" not in error.message + error.code


@given(st.text(), st.text())
def test_f88_no_fault_text_is_shown_raw(code, text):
    """Whatever a server puts into a fault, the verdict's message is printable and short."""
    error = judged(text, code)
    assert harmless(error.message)
    assert len(error.message) < 2500


def test_an_errors_message_is_its_text():
    """`kind` is for counting, `message` for reading, and only refusals are settled."""
    assert SoapFault("c", "t").message == str(SoapFault("c", "t")) == "t"
    assert Refused("k", "m").settled
    assert not any(kind.settled for kind in (Transient, Unauthorized, Unreadable))


def test_the_readers_table_comes_from_the_code():
    """Each answer of the table has words, and all words are used."""
    text = table()
    assert len(text.splitlines()) == len(ANSWERS) + 2
    for words in FOLLOWS.values():
        assert words.partition("{")[0] in text
