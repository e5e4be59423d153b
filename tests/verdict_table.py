"""README's table of what the server says and what bulkfetch does: each row is asked of the code.

    python tests/verdict_table.py

prints it. A row is an answer; its verdict comes from the one table in `_soap/verdicts`, so that
what a person reads cannot drift from what a run does.
"""

from answers import GOOD, HEAD, TAIL, fault, statuses

from bulkfetch._config.options import Options
from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import CourseError, Transient, UnknownFault
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._soap.parser import ResponseParser
from bulkfetch._soap.records import RowFormat
from bulkfetch._soap.verdicts import Answer, judge

EMPTY = f"{HEAD}<ns1:GetContentItemFinalStatusesResult/>{TAIL}".encode()
MORE = statuses(GOOD).replace(b"</ns1:statuses>", b"</ns1:statuses><nextPageToken/>")
ANSWERS = [
    ("the result with its list, HTTP 2xx, whatever the Content-Type", 200, statuses(GOOD)),
    ("a fault `Unknown content item`, with any HTTP status", 500, fault("Unknown content item")),
    ("a fault `Permission denied`", 500, fault("Permission denied")),
    ("a fault `Wrong parameters`", 500, fault("Wrong parameters")),
    ("a fault `Authorization failed`", 500, fault("Authorization failed")),
    ("HTTP 401", 401, b""),
    ("a fault `Account subscription expired`", 500, fault("Account subscription expired")),
    ("a fault `Too many requests`, `rate limit`, `try again`", 500, fault("Too many requests")),
    ("a fault VersionMismatch, or `Procedure … not present`", 500, fault("", "x:VersionMismatch")),
    ("any other fault whose code ends in Client or Sender", 500, fault("No", "Client")),
    ("any other fault (`SQLSTATE…`, `Allowed memory size…`)", 500, fault("SQLSTATE", "Server")),
    ("HTTP 429, 503, 408, 502, 504; a timeout", 503, b""),
    ("any other HTTP 5xx without a fault", 500, b"<html>"),
    ("a body that is cut or not well-formed", 200, statuses(GOOD)[:300]),
    ("an empty body; an empty result", 200, EMPTY),
    ("an HTML page in an envelope's place, or another document", 200, b"<html><br>"),
    ("a redirect; HTTP 400, 403, 404, 405, 413, 415, …", 404, b""),
    ("an envelope of another shape (a second page, an array of items)", 200, MORE),
]  # fmt: skip
FOLLOWS = {
    "rows": "rows; the course is *fetched*",
    "Refused": "*refused*, kind `{kind}`: settled, not asked again",
    "Unauthorized": "the token is renewed once; refused again, tried again where it worked before; "
    "the run stops, exit 4, when it does not pass",
    "RunRefused": "no course can succeed: the run stops, exit 4",
    "NamespaceRefused": "the other spelling of the namespace is tried, once; tried again where "
    "this one worked before",
    "overload": "fewer requests; tried again after a pause, or after Retry-After",
    "passing": "tried again; *failed* when the tries are used up, asked again by the next run",
    "Server fault": "tried again twice, or as often as any where several courses fail and nothing "
    "was fetched yet; then *failed*; never settled",
    "Client fault": "*failed* after two retries at most; never settled",
    "Diverted": "not the API: tried again; the run stops, exit 4, when it does not pass",
    "Unreadable": "*failed*, kind `{kind}`, naming the element: never taken for zero rows",
}


def verdict(status, body):
    """What the code makes of this answer."""
    parser = ResponseParser(GET_FINAL_STATUSES, RowFormat(GET_FINAL_STATUSES).encoder("1"))
    found = None
    try:
        parser.feed(body)
        parser.close()
    except CourseError as error:
        found = error
    settings = Options(endpoint="https://acme.example/", token="secret")
    return judge(Answer(status, {}, parser.beginning, 0.0), found, settings, Secret("secret"))


def follows(error):
    """The words for a verdict, by its type."""
    if error is None:
        return FOLLOWS["rows"]
    name = type(error).__name__
    if isinstance(error, UnknownFault):
        name = "Client fault" if error.blames_request else "Server fault"
    elif type(error) is Transient:
        name = "overload" if error.overload else "passing"
    return FOLLOWS[name].format(kind=error.kind)


def table():
    """Return the table in Markdown."""
    rows = [f"| {words} | {follows(verdict(status, body))} |" for words, status, body in ANSWERS]
    return "\n".join(["| what the server says | what bulkfetch does |", "| --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
