"""Responses in, NDJSON rows out: incremental, bounded, and never fooled by half a document.

Bodies up to 64 KiB are parsed in one go; larger ones, saved files among them, by the sweep: the
pull parser reports only where the list of records begins, and after each piece all finished records
are taken in bulk and deleted, so that memory stays flat. Both judge a document by its end, and so
alike: not well-formed counts before a fault, a fault before another shape, and that before a record
that breaks the schema. Rows may be believed only when `close()` has returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from lxml import etree

from bulkfetch._domain.errors import CourseError, Diverted, SoapFault, Transient, Unreadable
from bulkfetch._domain.text import printable
from bulkfetch._soap.beginning import KEPT, doctype, empty, html_page, judge_beginning
from bulkfetch._soap.shape import (
    FEW,
    around_the_list,
    check_children,
    check_list,
    fault_in_list,
    find_lists,
    is_list,
    name_of,
    nothing_there,
    sole_list,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml.etree import _Element

    from bulkfetch._domain.model import Method
    from bulkfetch._soap.records import Encoder


WHOLE: Final = 64 << 10
"""Bodies up to this size are parsed at once: a pull parser costs them 15-22 % more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a server may send, in decompressed bytes and rows."""

    max_bytes: int = 8 << 30
    max_rows: int = 20_000_000
    max_row_bytes: int = 1 << 20


_NO_SURPRISES: Final = Limits()


_SAFE: Final[dict[str, Any]] = {
    "remove_comments": True,
    "remove_pis": True,
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
}


def _whole_parser() -> etree.XMLParser[_Element]:
    parser: etree.XMLParser[_Element] = etree.XMLParser(**_SAFE)
    return parser


def _pull_parser(method: Method) -> etree.XMLPullParser[_Element]:
    return etree.XMLPullParser(events=("start",), tag=_landmarks(method), **_SAFE)


def _landmarks(method: Method) -> tuple[str, ...]:
    return ("{*}Envelope", f"{{*}}{method.path[-2]}")


class ResponseParser:
    """Reads one response, fed in pieces of any size.

    `put` parses a piece and says whether there are rows to `take`: two steps of about the same
    length, so that others may have a turn between them; `feed` is both. `take`, `feed` and `close`
    return NDJSON bytes of the records finished since; `rows` counts them.
    Nothing else than a CourseError comes out: SoapFault, Transient (not whole, not XML, empty),
    Diverted (another document), Unreadable (another shape, limits, DOCTYPE, broken records).
    """

    def __init__(self, method: Method, encode: Encoder, limits: Limits = _NO_SURPRISES) -> None:
        self.rows = 0
        self.nbytes = 0
        self._method = method
        self._encode = encode
        self._limits = limits
        self._waiting: list[bytes] = []
        self._pull: etree.XMLPullParser[_Element] | None = None
        self._root: _Element | None = None
        self._list: _Element | None = None
        self._since_row = 0
        self._blank = True
        self._wrong: CourseError | None = None

    @property
    def beginning(self) -> bytes:
        """The first bytes of the body, for messages and for who must judge it by them."""
        return b"".join(self._waiting)[:KEPT]

    def feed(self, data: bytes) -> bytes:
        return self.take() if self.put(data) else b""

    def put(self, data: bytes) -> bool:
        self.nbytes += len(data)
        if self._pull is None:
            self._waiting.append(data)
        if self.nbytes > self._limits.max_bytes:
            raise _too_large("the response", self._limits.max_bytes, "bytes", "max_bytes")
        if self._pull is None:
            if self.nbytes <= WHOLE:
                return False
            data = b"".join(self._waiting)
            self._waiting = [data[:KEPT]]  # to be quoted
            if wrong := judge_beginning(data):
                raise wrong
            self._pull = _pull_parser(self._method)
        self._since_row += len(data)
        self._blank = self._blank and not data.strip(_BLANK)
        try:
            self._pull.feed(data)
        except etree.XMLSyntaxError as error:
            raise self._not_xml(error) from None
        return True

    def take(self) -> bytes:
        assert self._pull is not None
        rows = self._read_landmarks(self._pull)
        if self._list is not None and len(self._list) > 1:
            rows += self._cut(self._list, len(self._list) - 1)
        if self._since_row > self._limits.max_row_bytes:
            raise self._too_much_around()
        return rows

    def close(self) -> bytes:
        if self._pull is not None:
            return self._close_sweep(self._pull)
        body = b"".join(self._waiting)
        self._blank = not body.strip(_BLANK)
        try:
            root = etree.fromstring(body, _WHOLE_PARSER)
        except etree.XMLSyntaxError as error:
            raise self._not_xml(error) from None
        _check_root(root)
        holder = sole_list(root, self._method)
        if holder is not None:
            return self._rows_of(holder, len(holder))
        rows = b"".join(
            [self._cut(holder, len(holder)) for holder in find_lists(root, self._method)]
        )
        return self._believed(root, rows)

    def _rows_of(self, holder: _Element, count: int) -> bytes:
        """Return the rows of the first `count` children of a list; raises what is wrong in it."""
        if self.rows + count > self._limits.max_rows:
            raise _too_large("the response", self._limits.max_rows, "rows", "max_rows")
        record = self._method.path[-1]
        try:
            rows = None
            if many := len(holder) >= FEW:
                check_list(holder, None, record)
                rows = self._encode.in_bulk(holder, count)  # None unless all are records
            if rows is None:
                records = holder[:count]
                if not many:
                    check_list(holder, records, record)
                check_children(holder, records, record)
                rows = self._encode(records)
        except Unreadable as error:
            raise fault_in_list(holder, count) or error from None
        self.rows += count
        return rows

    def _read_landmarks(self, pull: etree.XMLPullParser[_Element]) -> bytes:
        rows = b""
        for _event, element in pull.read_events():
            assert isinstance(element, etree._Element)  # noqa: SLF001 - lxml's public type name
            if element.getparent() is None:
                if self._root is None and name_of(element) == "Envelope":
                    _check_root(element)  # another root is judged at the end, as in a whole body
                    self._root = element
            elif is_list(element, self._method):
                if self._list is not None:
                    rows += self._cut(self._list, len(self._list))
                self._list = element
        return rows

    def _cut(self, holder: _Element, count: int) -> bytes:
        """Encode and delete the first `count` records; the last of a list may be unfinished.

        What is wrong in them waits for the end, since worse may follow.
        """
        rows = b""
        try:
            rows = self._rows_of(holder, count)
        except CourseError as error:
            if error.kind == "too-large":
                raise
            self._defer(error)
        del holder[:count]
        self._since_row = 0
        return rows

    def _defer(self, error: CourseError) -> None:
        if self._wrong is None or _rank(error) < _rank(self._wrong):
            self._wrong = error

    def _believed(self, root: _Element, rows: bytes) -> bytes:
        """Return the last rows of a finished document; raises the worst of what is wrong in it."""
        around = around_the_list(root, self._method) or nothing_there(root, self._method)
        if around is not None:
            self._defer(around)
        if self._wrong is not None:
            raise self._wrong
        return rows

    def _too_much_around(self) -> CourseError:
        """Say what has gone on for too long without a row; the document may be unfinished."""
        if self._root is None:
            return Diverted("unexpected-root", "the response is no SOAP envelope")
        if self._list is not None:
            try:
                check_children(self._list, self._list[-1:], self._method.path[-1])
            except CourseError as error:
                self._defer(error)
        if around := around_the_list(self._root, self._method):
            self._defer(around)
        if self._wrong is not None and _rank(self._wrong) < _RECORD:
            return self._wrong
        what = "a row, or what stands around the rows,"
        return _too_large(what, self._limits.max_row_bytes, "bytes", "max_row_bytes")

    def _close_sweep(self, pull: etree.XMLPullParser[_Element]) -> bytes:
        try:
            root = pull.close()
        except etree.XMLSyntaxError as error:
            raise self._not_xml(error) from None
        rows = self._read_landmarks(pull)
        _check_root(root)
        if root is not self._root:
            raise _began_again()
        if self._list is not None:
            rows += self._cut(self._list, len(self._list))
        return self._believed(root, rows)

    def _not_xml(self, error: etree.XMLSyntaxError) -> CourseError:
        if self._blank:
            return empty()
        return judge_beginning(self.beginning) or _malformed(error)


_WHOLE_PARSER = _whole_parser()
_RECORD: Final = 2
_BLANK: Final = b" \t\r\n\0"


def _rank(error: CourseError) -> int:
    """What counts first of several things that are wrong: a fault, the shape, a record."""
    if isinstance(error, SoapFault):
        return 0
    return 1 if error.kind == "foreign" else _RECORD


def parse_file(source: IO[bytes], parser: ResponseParser) -> Iterator[bytes]:
    """Yield the rows of a saved response in blocks, blocking, in flat memory.

    Raises the parser's errors, at the latest after the last row.
    """
    while data := source.read(WHOLE):
        yield parser.feed(data)
    yield parser.close()


def _check_root(root: _Element) -> None:
    # Before any child is looked at: without a DOCTYPE there are no entities, and no bombs.
    is_html = name_of(root).lower() == "html"
    if root.getroottree().docinfo.doctype:
        raise html_page() if is_html else doctype()
    if is_html:
        raise html_page()
    if name_of(root) != "Envelope":
        name = printable(name_of(root), 60)
        raise Diverted(
            "unexpected-root", f"the response holds <{name}> where a SOAP envelope belongs"
        )


def _began_again() -> CourseError:
    # At an undefined entity lxml's feed() stops without an error, and takes what is fed next for
    # another document.
    return Transient("malformed", "the response is not well-formed XML: an entity is not defined")


def _malformed(error: etree.XMLSyntaxError) -> Transient | Unreadable:
    reason = printable(error.msg or "no reason given", 120)
    if error.code == etree.ErrorTypes.ERR_RESOURCE_LIMIT:  # bombs, depth, a text over 10 MB
        return Unreadable("too-large", f"the response exceeds what is safe to parse: {reason}")
    if "ended" in reason or "Premature" in reason:
        return Transient("truncated", f"the response ends too soon: {reason}")
    return Transient("malformed", f"the response is not well-formed XML: {reason}")


def _too_large(what: str, bound: int, unit: str, option: str) -> Unreadable:
    return Unreadable(
        "too-large", f"{what} exceeds {bound:,} {unit}: raise {option} if that is expected"
    )
