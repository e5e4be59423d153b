"""Responses in, NDJSON rows out: incremental, bounded, and never fooled by half a document.

Bodies up to 64 KiB are parsed in one go; larger ones by the sweep: the pull parser reports only
where the list of records begins, and after each piece all finished records are taken in bulk and
deleted, so that memory stays flat. Saved files go through lxml's iterparse. All three find records
by their path, which tells the record `status` from its field `status`, and share one definition of
a row. Rows may be believed only when `close()` has returned: then the envelope's end was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

from lxml import etree

from bulkfetch._errors import CourseError, RunRefused, SoapFault, Transient, Unreadable
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml.etree import _Element

    from bulkfetch._model import Method

    class Encoder(Protocol):
        """Makes NDJSON of records: one by one, or the first of a list in bulk where it can."""

        def __call__(self, records: list[_Element]) -> bytes: ...
        def in_bulk(self, holder: _Element, count: int) -> bytes | None: ...


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
    Nothing else than a CourseError comes out: SoapFault, Transient (not whole, not XML),
    RunRefused (another document), Unreadable (limits, DOCTYPE, values that break the schema).
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

    def feed(self, data: bytes) -> bytes:
        return self.take() if self.put(data) else b""

    def put(self, data: bytes) -> bool:
        self.nbytes += len(data)
        if self.nbytes > self._limits.max_bytes:
            raise _too_large("the response", self._limits.max_bytes, "bytes", "max_bytes")
        if self._pull is None:
            self._waiting.append(data)
            if self.nbytes <= WHOLE:
                return False
            data = b"".join(self._waiting)
            self._waiting.clear()
            if _begins_as_html(data):
                raise _html_page()
            self._pull = _pull_parser(self._method)
        self._since_row += len(data)
        try:
            self._pull.feed(data)
        except etree.XMLSyntaxError as error:
            raise _malformed(error) from None
        return True

    def take(self) -> bytes:
        assert self._pull is not None
        rows = self._read_landmarks(self._pull)
        if self._list is not None:
            rows += self._cut(len(self._list) - 1)
        if self._since_row > self._limits.max_row_bytes:
            if self._root is None:
                raise _not_an_envelope()
            raise _too_large(
                "a row, or what stands around the rows,",
                self._limits.max_row_bytes,
                "bytes",
                "max_row_bytes",
            )
        return rows

    def close(self) -> bytes:
        if self._pull is not None:
            return self._close_sweep(self._pull)
        body = b"".join(self._waiting)
        if not body.strip(b" \t\r\n\0"):
            raise Transient("empty-response", "the response is empty")
        try:
            root = etree.fromstring(body, _WHOLE_PARSER)
        except etree.XMLSyntaxError as error:
            raise _html_page() if _begins_as_html(body) else _malformed(error) from None
        _check_root(root)
        method = self._method
        lists = find_lists(root, method)
        if not lists:
            raise _no_rows(root, method)
        return b"".join([self._rows_of(holder, len(holder)) for holder in lists])

    def _rows_of(self, holder: _Element, count: int) -> bytes:
        """Return the rows of the first `count` children of a list."""
        self._check_rows(count)
        rows = self._encode.in_bulk(holder, count)
        if rows is None:
            records = _records(holder[:count], holder, self._method)
            rows, count = self._encode(records), len(records)
        self.rows += count
        return rows

    def _check_rows(self, more: int) -> None:
        if self.rows + more > self._limits.max_rows:
            raise _too_large("the response", self._limits.max_rows, "rows", "max_rows")

    def _read_landmarks(self, pull: etree.XMLPullParser[_Element]) -> bytes:
        rows = b""
        for _event, element in pull.read_events():
            assert isinstance(element, etree._Element)  # noqa: SLF001 - lxml's public type name
            if element.getparent() is None:
                if self._root is None:
                    _check_root(element)
                    self._root = element
            elif _is_list(element, self._method):
                if self._list is not None:
                    rows += self._cut(len(self._list))
                self._list = element
        return rows

    def _cut(self, count: int) -> bytes:
        """Encode and delete the first `count` records; the last of a list may be unfinished."""
        if self._list is None or count < 1:
            return b""
        rows = self._rows_of(self._list, count)
        del self._list[:count]
        self._since_row = 0
        return rows

    def _close_sweep(self, pull: etree.XMLPullParser[_Element]) -> bytes:
        try:
            root = pull.close()
        except etree.XMLSyntaxError as error:
            raise _malformed(error) from None
        rows = self._read_landmarks(pull)
        _check_root(root)
        if root is not self._root:
            raise _began_again()
        if self._list is None:
            raise _no_rows(root, self._method)
        return rows + self._cut(len(self._list))


_WHOLE_PARSER = _whole_parser()


def parse_file(source: IO[bytes], method: Method, encode: Encoder) -> Iterator[bytes]:
    """Yield one NDJSON row per record of a saved response, blocking, in flat memory.

    Raises the same errors as ResponseParser, at the latest after the last row.
    """
    tags = (*_landmarks(method), f"{{*}}{method.path[-1]}")
    context = etree.iterparse(source, events=("start", "end"), tag=tags, **_SAFE)
    root: _Element | None = None
    lists = 0
    try:
        for event, element in context:
            if root is None:
                root = element.getroottree().getroot()
                _check_root(root)
            parent = element.getparent()
            if event == "start":
                lists += _is_list(element, method)
            elif parent is not None and _is_list(parent, method):
                yield encode(_records([element], parent, method))
                del parent[: parent.index(element) + 1]  # those after it are read ahead already
    except etree.XMLSyntaxError as error:
        raise _malformed(error) from None
    last_root = cast("_Element", context.root)
    _check_root(last_root)
    if last_root is not root:
        raise _began_again()
    if not lists:
        raise _no_rows(last_root, method)


def _check_root(root: _Element) -> None:
    # Before any child is looked at: without a DOCTYPE there are no entities, and no bombs.
    if root.getroottree().docinfo.doctype:
        raise _doctype(root)
    if _name(root) != "Envelope":
        raise _unexpected(root, "a SOAP envelope")


def find_lists(root: _Element, method: Method) -> list[_Element]:
    """Return the elements that hold the records: `Envelope/Body/<path without its end>`."""
    names = ("Body", *method.path[:-1])
    element = root
    for name in names:  # normally there is nothing else: half the price of looking everywhere
        if len(element) != 1 or _name(element := element[0]) != name:
            break
    else:
        return [element]
    level = [root]
    for name in names:
        level = [child for element in level for child in element if _name(child) == name]
    return level


def _is_list(element: _Element, method: Method) -> bool:
    expected = ("Envelope", "Body", *method.path[:-1])
    for name in reversed(expected):
        if element is None or _name(element) != name:
            return False
        element = element.getparent()  # type: ignore[assignment]
    return element is None


def _records(children: list[_Element], holder: _Element, method: Method) -> list[_Element]:
    """Return those children that are records: normally all, at the price of one comparison."""
    tag, name = str(holder.tag), method.path[-1]
    usual = f"{tag[: tag.find('}') + 1]}{name}"
    if all([child.tag == usual for child in children]):  # noqa: C419 - twice as fast as lazily
        return children
    return [child for child in children if _name(child) == name]


def _name(element: _Element) -> str:
    # Not by etree.QName: it refuses names whose prefix is undefined, which a later error tells.
    return str(element.tag).rpartition("}")[2]


def _no_rows(root: _Element, method: Method) -> CourseError:
    """Say what stands in the body instead of rows: a fault, or another answer."""
    bodies = [child for child in root if _name(child) == "Body"]
    for answer in (child for body in bodies for child in body):
        if _name(answer) == "Fault":
            return _read_fault(answer)
        return _unexpected(answer, "/".join(method.path[:-1]))
    return RunRefused("unexpected-root", "the envelope is empty: check the endpoint")


def _read_fault(fault: _Element) -> SoapFault:
    """Read a fault in SOAP 1.1 shape, or in 1.2 shape, which some stacks send in a 1.1 envelope."""

    def text(*names: str) -> str:
        level = [fault]
        for name in names:
            level = [child for item in level for child in item if _name(child) == name]
        return "".join(level[0].itertext()).strip() if level else ""

    return SoapFault(
        text("faultcode") or text("Code", "Value"), text("faultstring") or text("Reason", "Text")
    )


def _unexpected(element: _Element, wanted: str) -> CourseError:
    name = _name(element)
    if name.lower() == "html":
        return _html_page()
    return RunRefused(
        "unexpected-root",
        f"the response holds <{printable(name, 60)}> where {wanted} belongs: check the endpoint",
    )


def _doctype(root: _Element) -> CourseError:
    if _name(root).lower() == "html":
        return _html_page()
    return Unreadable("doctype", "the response declares a DOCTYPE, which no SOAP message may")


def _begins_as_html(body: bytes) -> bool:
    return body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _html_page() -> RunRefused:
    return RunRefused(
        "html-page", "the endpoint answers with an HTML page, perhaps a login page: check it"
    )


def _not_an_envelope() -> RunRefused:
    return RunRefused("unexpected-root", "the response is no SOAP envelope: check the endpoint")


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
