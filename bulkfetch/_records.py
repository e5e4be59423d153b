"""One definition of a row: a finished XML record becomes one line of NDJSON.

The documented shape goes through an unrolled fast path, anything unusual (other order, missing or
unknown children) through the general one; both are checked against each other by tests. Values
that repeat, such as statuses and percentages, are encoded once and remembered.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from bulkfetch._errors import Unreadable
from bulkfetch._model import GET_FINAL_STATUSES
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lxml.etree import _Element

    from bulkfetch._model import Field, Method

    Encode: TypeAlias = Callable[[list[_Element]], bytes]

_MAX_REMEMBERED: Final = 20_000
"""Distinct values whose JSON is remembered: percentages with two decimals fit."""

# The finite lexical form of xsd:float; float() alone also takes "nan", "1_0" and other digits.
_DECIMAL = re.compile(r"[ \t\r\n]*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\r\n]*")


class RowFormat:
    """How one method's records become NDJSON; made once per run, as it remembers common values.

    Each row is `{"<parameter>": id, <documented fields>, <other children>, <stamp>}`. A missing
    field is null, an empty string field is "", an empty number is null.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._strings: dict[str, bytes] = {}
        self._decimals: dict[str, bytes] = {}
        self._names = tuple(field.name for field in method.fields)

    def encoder(self, value: str | None, stamp: str = "") -> Encode:
        """Return the function that encodes the records of the answer to one request.

        `value` is the request's parameter; `stamp` is JSON that ends each row: `"key":value,...`.
        Raises Unreadable for a record that breaks the method's schema.
        """
        head = b"{"
        if self.method.parameter:
            head = b"{%b:%b," % (orjson.dumps(self.method.parameter), orjson.dumps(value))
        tail = b"%b}\n" % (f",{stamp}".encode() if stamp else b"")
        known = self.method is GET_FINAL_STATUSES
        return partial(self._final_statuses if known else self._any_records, head, tail)

    def _any_records(self, head: bytes, tail: bytes, records: list[_Element]) -> bytes:
        return b"".join([self._any_record(record, head, tail) for record in records])

    def _final_statuses(self, head: bytes, tail: bytes, records: list[_Element]) -> bytes:
        # The documented shape, unrolled: 2.5 times as fast as the general way below.
        rows: list[bytes] = []
        dumps, string, decimal = orjson.dumps, self._string, self._decimal
        known_strings, known_decimals = self._strings, self._decimals
        user_tag = status_tag = progress_tag = ""
        for record in records:
            if len(record) == 3:
                user, status, progress = record
                if user.tag != user_tag:
                    user_tag, status_tag, progress_tag = self._tags_like(record)
                if (
                    user.tag == user_tag
                    and status.tag == status_tag
                    and progress.tag == progress_tag
                    and not (len(user) or len(status) or len(progress))
                    and (user_text := user.text)
                    and (status_text := status.text)
                    and (progress_text := progress.text)
                ):
                    rows.append(
                        b'%b"userId":%b,"status":%b,"progress":%b%b'
                        % (
                            head,
                            dumps(user_text),
                            known_strings.get(status_text) or string(status_text),
                            known_decimals.get(progress_text) or decimal("progress", progress_text),
                            tail,
                        )
                    )
                    continue
            rows.append(self._any_record(record, head, tail))
        return b"".join(rows)

    def _tags_like(self, record: _Element) -> tuple[str, str, str]:
        namespace = str(record.tag).rpartition("}")
        user, status, progress = (f"{namespace[0]}{namespace[1]}{name}" for name in self._names)
        return user, status, progress

    def _any_record(self, record: _Element, head: bytes, tail: bytes) -> bytes:
        """Encode a record by the names of its children, in any order and any namespace."""
        found: dict[str, _Element] = {}
        for child in record:
            name = _name(child)
            if found.setdefault(name, child) is not child and name in self._names:
                raise Unreadable("doubled-field", f"a record holds {printable(name)} twice")
        parts = [
            b"%b:%b" % (orjson.dumps(field.name), self._value(field, found.get(field.name)))
            for field in self.method.fields
        ]
        others = [child for child in record if _name(child) not in self._names]
        parts += [
            b"%b:%b" % (orjson.dumps(name), _dump_extra(name, value))
            for name, value in _nested(others).items()
            if name != self.method.parameter
        ]
        return head + b",".join(parts) + tail

    def _value(self, field: Field, element: _Element | None) -> bytes:
        text = None if element is None else _text_of(element)
        if not text and element is not None and _is_nil(element):
            text = None
        if field.required and not text:
            raise Unreadable("missing-field", f"a record has no {field.name}")
        if text is None:
            return b"null"
        if field.type == "string":
            return self._string(text)
        return self._decimal(field.name, text)

    def _string(self, text: str) -> bytes:
        encoded = orjson.dumps(text)
        if len(self._strings) < _MAX_REMEMBERED:
            self._strings[text] = encoded
        return encoded

    def _decimal(self, name: str, text: str) -> bytes:
        if not text.strip(" \t\r\n"):
            return b"null"
        if not _DECIMAL.fullmatch(text) or (encoded := orjson.dumps(float(text))) == b"null":
            raise Unreadable("bad-number", f"{name} is '{printable(text, 40)}', not a number")
        if len(self._decimals) < _MAX_REMEMBERED:
            self._decimals[text] = encoded
        return encoded


def _name(element: _Element) -> str:
    # Not by etree.QName: it refuses names whose prefix is undefined.
    return str(element.tag).rpartition("}")[2]


def _is_nil(element: _Element) -> bool:
    nil = element.get("{http://www.w3.org/2001/XMLSchema-instance}nil")
    return nil is not None and nil.strip() in {"true", "1"}


def _text_of(element: _Element) -> str:
    if len(element):
        name = printable(_name(element))
        raise Unreadable("nested-field", f"{name} holds elements where a value belongs")
    return element.text or ""


def _dump_extra(name: str, value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # it writes 254 levels at most
        raise Unreadable("nested-field", f"{printable(name)} is nested too deeply") from None


def _nested(elements: Iterable[_Element]) -> dict[str, object]:
    """Turn children nobody documented into JSON: texts, objects, and lists where names repeat."""
    values: dict[str, object] = {}
    for element in elements:
        name = _name(element)
        value = _nested(element) if len(element) else element.text or None
        if name not in values:
            values[name] = value
        elif isinstance(earlier := values[name], list):
            earlier.append(value)
        else:
            values[name] = [earlier, value]
    return values
