"""One definition of a row: a finished XML record becomes one line of NDJSON.

The documented shape goes through an unrolled fast path, anything unusual (other order, missing or
unknown children) through the general one; both are checked against each other by tests. Values
that repeat, such as statuses and percentages, are encoded once and remembered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson
from lxml import etree

from bulkfetch._domain.errors import Unreadable
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._domain.text import printable
from bulkfetch._soap.shape import foreign, is_fault, name_of, read_fault, refers_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lxml.etree import _Element

    from bulkfetch._domain.model import Field, Method
_MAX_REMEMBERED: Final = 20_000
"""Distinct values whose JSON is remembered: percentages with two decimals fit."""
_SHORT: Final = 64
"""Characters of the longest value that is remembered, so that memory is bounded in bytes too."""

# The finite lexical form of xsd:float; float() alone also takes "nan", "1_0" and other digits.
_DECIMAL = re.compile(r"[ \t\r\n]*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\r\n]*")


_COLUMNS_PAY: Final = 12
"""From so many records on, gathering columns is faster than going through the records."""


class _Shape:
    """Tags and queries for the records and fields of one namespace, in the form `{uri}` or ""."""

    def __init__(self, namespace: str, record: str, names: tuple[str, ...]) -> None:
        self.namespace = namespace
        self.tags = tuple(f"{namespace}{name}" for name in names)
        uri = namespace[1:-1]
        prefix, spaces = ("r:", {"r": uri}) if uri else ("", None)
        self.records = _query(f"count({prefix}{record})", spaces)
        self.columns = [_query(f"*/{prefix}{name}[1]/text()", spaces) for name in names]


def _query(path: str, namespaces: dict[str, str] | None = None) -> Callable[[_Element], Any]:
    query: Callable[[_Element], Any] = etree.XPath(path, namespaces=namespaces, smart_strings=False)
    return query


_CHILDREN: Final = _query("count(*/*)")
_NODES: Final = _query("count(*/*/node())")


class Encoder:
    """Encodes the records of the answer to one request; raises Unreadable for a broken one."""

    __slots__ = ("_format", "_head", "_tail", "strays")

    def __init__(self, form: RowFormat, head: str, tail: str) -> None:
        self._format = form
        self._head, self._tail = head, tail
        self.strays = 0
        """How many of the rows name another course than the one that was asked for."""

    def __call__(self, records: Iterable[_Element]) -> bytes:
        """Return the rows of these records."""
        form, head, tail = self._format, self._head, self._tail
        one, before = form.one, form.strays
        rows = "".join([one(record, head, tail) for record in records])
        self.strays += form.strays - before
        return rows.encode()

    def in_bulk(self, holder: _Element, count: int) -> bytes | None:
        """Return the rows of the first `count` children of a list; None: look at each of them."""
        rows = self._format.all(holder, count, self._head, self._tail)
        return None if rows is None else rows.encode()


class RowFormat:
    """How one method's records become NDJSON; made once per run, as it remembers common values.

    Each row is `{"<parameter>": id, <documented fields>, <other children>, <stamp>}`. A missing
    field is null, an empty string field is "", an empty number is null. White space around a
    required field, an id, is none of it. Should a record name another id than the one asked for,
    that comes along as `_<parameter>`, and is counted in `strays`.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.strays = 0
        self._strings: dict[str, str] = {}
        self._decimals: dict[str, str] = {}
        self._names = tuple(field.name for field in method.fields)
        self._shape = _Shape("", method.path[-1], self._names)
        self._parameter = f"{{{_json(method.parameter)}:"
        known = method is GET_FINAL_STATUSES
        self.one = self._final_status if known else self._any_record
        """Encodes one record, whatever its shape."""

    def encoder(self, value: str | None, stamp: str = "") -> Encoder:
        """Return what encodes the records of the answer to one request.

        `value` is the request's parameter; `stamp` is JSON that ends each row: `"key":value,...`.
        Raises Unreadable for a record that breaks the method's schema.
        """
        head = "{"
        if self.method.parameter:
            head = f"{self._parameter}{_json(value)},"
        tail = f",{stamp}}}\n" if stamp else "}\n"
        return Encoder(self, head, tail)

    def all(self, holder: _Element, count: int, head: str, tail: str) -> str | None:
        """Encode the first `count` records of a list in bulk; None: look at each of them."""
        if self.method is not GET_FINAL_STATUSES or count < _COLUMNS_PAY:
            return None
        columns = self._columns(holder, count)
        return None if columns is None else "".join(self._rows_of(columns, head, tail))

    def _rows_of(self, columns: list[list[str]], head: str, tail: str) -> list[str]:
        users, statuses, progresses = columns
        string, decimal = self._string, self._decimal
        strings, decimals = self._strings, self._decimals
        return [
            f'{head}"userId":"{user}","status":{strings.get(status) or string(status)},'
            f'"progress":{decimals.get(progress) or decimal("progress", progress)}{tail}'
            for user, status, progress in zip(users, statuses, progresses, strict=True)
        ]

    def _columns(self, holder: _Element, count: int) -> list[list[str]] | None:
        """Return the texts of each field if every record is just the three fields; else None.

        XPath gathers them in C and makes no Python object per element, which is three times as
        fast as a loop. They belong together if each record has three children, all leaves of one
        text, and a first userId, status and progress with a text: then it has each of them once.
        One more record, still being read, may follow.
        """
        shape, length = self._shape_in(holder), len(holder)
        if shape.records(holder) != length or length > count + 1:
            return None
        unread: dict[str, bool] = {}
        for unfinished in holder[count:]:
            if len(unfinished) > 3 or any(len(field) for field in unfinished):
                return None  # before XPath makes a list of all that is in it
            for field in unfinished:
                unread.setdefault(str(field.tag), bool(field.text))
        children = _CHILDREN(holder) - len(unread)
        nodes = _NODES(holder) - sum(unread.values())
        if not children == nodes == 3 * count:
            return None
        columns = [column(holder) for column in shape.columns]
        for texts, tag in zip(columns, shape.tags, strict=True):
            if len(texts) != count + unread.get(tag, False):
                return None
            del texts[count:]
        columns[0] = _plain_ids(columns[0])
        return None if "" in columns[0] else columns  # an empty CDATA section is a text too

    def _final_status(self, record: _Element, head: str, tail: str) -> str:
        """Encode one record; unrolled, the documented shape takes 0.4 of the general way."""
        if len(record) == 3:
            user, status, progress = record
            tags = (user.tag, status.tag, progress.tag)
            if (
                (tags == self._shape.tags or tags == self._shape_in(record).tags)
                and not (len(user) or len(status) or len(progress))
                and (user_text := (user.text or "").strip())
                and (status_text := status.text)
                and (progress_text := progress.text)
            ):
                status_json = self._strings.get(status_text) or self._string(status_text)
                number = self._decimals.get(progress_text)
                number = number or self._decimal("progress", progress_text)
                return (
                    f'{head}"userId":{_json(user_text)},"status":{status_json},'
                    f'"progress":{number}{tail}'
                )
        return self._any_record(record, head, tail)

    def _shape_in(self, element: _Element) -> _Shape:
        tag = str(element.tag)
        namespace = tag[: tag.rfind("}") + 1]
        if self._shape.namespace != namespace:
            self._shape = _Shape(namespace, self.method.path[-1], self._names)
        return self._shape

    def _any_record(self, record: _Element, head: str, tail: str) -> str:
        """Encode a record by the names of its children, in any order and any namespace."""
        if record.attrib and refers_elsewhere(record):
            raise foreign("a record refers to another place by href")
        found: dict[str, _Element] = {}
        for child in record:
            name = name_of(child)
            if is_fault(child):
                raise read_fault(child)
            if found.setdefault(name, child) is not child and name in self._names:
                raise Unreadable("doubled-field", f"a record holds {printable(name)} twice")
        parts = [
            f"{_json(field.name)}:{self._value(field, found.get(field.name))}"
            for field in self.method.fields
        ]
        others = [child for child in record if name_of(child) not in self._names]
        extras = _nested(others)
        if self.method.parameter in extras:
            self._rename_own(extras, head)
        parts += [f"{_json(name)}:{_dump_extra(name, value)}" for name, value in extras.items()]
        return f"{head}{','.join(parts)}{tail}"

    def _rename_own(self, extras: dict[str, object], head: str) -> None:
        """Drop a record's own id if it is the one asked for; else carry it along and count it."""
        own = extras.pop(str(self.method.parameter))
        value = own.strip() if isinstance(own, str) else own
        if value and f"{self._parameter}{_dump_extra('its own id', value)}," != head:
            extras[f"_{self.method.parameter}"] = value
            self.strays += 1

    def _value(self, field: Field, element: _Element | None) -> str:
        text = None if element is None else _text_of(element)
        if not text and element is not None:
            if refers_elsewhere(element):
                raise foreign(f"a record's <{field.name}> refers to another place by href")
            if _is_nil(element):
                text = None
        if field.required:
            if not text or not (text := text.strip()):
                raise Unreadable("missing-field", f"a record has no {field.name}")
            return _json(text)  # an id, not a word that repeats
        if text is None:
            return "null"
        if field.type == "string":
            return self._string(text)
        return self._decimal(field.name, text)

    def _string(self, text: str) -> str:
        encoded = _json(text)
        if len(text) <= _SHORT and len(self._strings) < _MAX_REMEMBERED:
            self._strings[text] = encoded
        return encoded

    def _decimal(self, name: str, text: str) -> str:
        if not text.strip(" \t\r\n"):
            return "null"
        if not _DECIMAL.fullmatch(text) or (encoded := _json(float(text))) == "null":
            raise Unreadable("bad-number", f"{name} is '{printable(text, 40)}', not a number")
        if len(text) <= _SHORT and len(self._decimals) < _MAX_REMEMBERED:
            self._decimals[text] = encoded
        return encoded


def _is_nil(element: _Element) -> bool:
    nil = element.get("{http://www.w3.org/2001/XMLSchema-instance}nil")
    return nil is not None and nil.strip() in {"true", "1"}


def _text_of(element: _Element) -> str:
    if len(element):
        name = printable(name_of(element))
        raise Unreadable("nested-field", f"{name} holds elements where a value belongs")
    return element.text or ""


def _json(value: object) -> str:
    # Decoded at once: bytes from orjson keep the 4 KiB in which they were written.
    return orjson.dumps(value).decode()


def _plain_ids(texts: list[str]) -> list[str]:
    """Return ids as they stand between the quotes of JSON, without white space around them."""
    text = "".join(texts)
    if " " in text or not text.isascii():
        texts = [one.strip() for one in texts]
    if '"' in text or "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        texts = [_json(one.strip())[1:-1] for one in texts]
    return texts


def _dump_extra(name: str, value: object) -> str:
    try:
        return _json(value)
    except orjson.JSONEncodeError:  # it writes 254 levels at most
        raise Unreadable("nested-field", f"{printable(name)} is nested too deeply") from None


def _nested(elements: Iterable[_Element]) -> dict[str, object]:
    """Turn children nobody documented into JSON: texts, objects, and lists where names repeat."""
    values: dict[str, object] = {}
    for element in elements:
        name = name_of(element)
        value = _nested(element) if len(element) else element.text or None
        if name not in values:
            values[name] = value
        elif isinstance(earlier := values[name], list):
            earlier.append(value)
        else:
            values[name] = [earlier, value]
    return values
