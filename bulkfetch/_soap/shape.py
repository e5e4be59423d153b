"""The shape of an answer: where its rows stand, what must not stand beside them, and faults.

Strict about shape, since whatever nobody documented (a second page, an error in the list, an array
spelled another way) would pass for "no learners"; lenient about dress: namespaces, prefixes,
attributes, headers, comments and white space mean nothing. An answer is looked at as a tree, whole
or with the records already taken out, so that small and large ones are judged alike.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from bulkfetch._domain.errors import CourseError, SoapFault, Transient, Unreadable
from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxml.etree import _Element

    from bulkfetch._domain.model import Method

_MORE: Final = re.compile(
    "(has|is)?_?(more|next|partial|incomplete|truncated)|(next|more)_?(page|pages|token|cursor|link)"
    "(_?token)?|cursor|offset|position",
    re.IGNORECASE,
)
"""Attributes of a list that is one page, or a piece, of several; SOAP encoding has the last two."""
_NONE: Final = {"", "0", "[0]", "false", "no", "none", "null"}
FEW: Final = 12
"""Below so many children a loop is faster than a query."""
_WORDS: Callable[[_Element], Any] = etree.XPath("text()[normalize-space()]", smart_strings=False)


def name_of(element: _Element) -> str:
    """Return the local name; not by etree.QName, which refuses undefined prefixes."""
    return str(element.tag).rpartition("}")[2]


def foreign(what: str) -> Unreadable:
    """Return the verdict on an answer of another shape, naming what stands in the way."""
    return Unreadable("foreign", f"the answer has another shape: {what}")


def sole_list(root: _Element, method: Method) -> _Element | None:
    """Return the list if nothing else stands in the envelope: the usual case, and cheap to see."""
    element = root
    for name in ("Body", *method.path[:-1]):
        text = element.text
        if len(element) != 1 or (text and not text.isspace()):
            return None
        element = element[0]
        text = element.tail
        if name_of(element) != name or (text and not text.isspace()):
            return None
    return element


def find_lists(root: _Element, method: Method) -> list[_Element]:
    """Return all elements at the place of the list: `Envelope/Body/<path without its end>`."""
    level = [root]
    for name in ("Body", *method.path[:-1]):
        level = [child for element in level for child in element if name_of(child) == name]
    return level


def is_list(element: _Element, method: Method) -> bool:
    """Whether the element stands at the place of the list, by its ancestors' names."""
    for name in reversed(("Envelope", "Body", *method.path[:-1])):
        if element is None or name_of(element) != name:
            return False
        element = element.getparent()  # type: ignore[assignment]
    return element is None


def around_the_list(root: _Element, method: Method) -> CourseError | None:
    """Return the fault, or else the first thing that must not stand around the list, if any.

    The document may be unfinished, and what stands in the list is not looked at.
    """
    lists = find_lists(root, method)
    bodies = [child for child in root if name_of(child) == "Body"]
    for place in [*bodies, *(child for body in bodies for child in body if child not in lists)]:
        for child in place:
            if name_of(child) == "Fault":
                return read_fault(child)
    element = root
    for name in ("Body", *method.path[:-1]):
        children = [child for child in element if element is not root or name_of(child) != "Header"]
        for number, child in enumerate(children):
            if number or name_of(child) != name:
                return stranger(child, element, name)
        if _WORDS(element):
            return _words_in(element, name)
        if not children:
            return None
        element = children[0]
    return None


def nothing_there(root: _Element, method: Method) -> CourseError | None:
    """Return what a finished document lacks whose shape is right as far as it goes."""
    element = root
    for name in ("Body", *method.path[:-1]):
        found = next((child for child in element if name_of(child) == name), None)
        if found is None:
            if element is root:
                return foreign("the envelope has no <Body>")
            if refers_elsewhere(element):
                return _elsewhere(element)
            return Transient("empty-result", f"<{_shown(element)}> is empty, without <{name}>")
        element = found
    return None


def _words_in(element: _Element, name: str) -> Unreadable:
    return foreign(f"text stands in <{_shown(element)}>, where only <{name}> belongs")


def stranger(child: _Element, holder: _Element, name: str) -> Unreadable:
    """Return the verdict on a child of another name, or one too many of the right one."""
    only = "only one" if name_of(child) == name else "only"
    return foreign(f"<{_shown(child)}> stands in <{_shown(holder)}>, where {only} <{name}> belongs")


def check_children(holder: _Element, children: list[_Element], record: str) -> None:
    """Raise a fault that stands in a list beside records, else whatever else stands there.

    Normally all are records, at the price of a comparison.
    """
    tag = str(holder.tag)
    usual = f"{tag[: tag.find('}') + 1]}{record}"
    if all([child.tag == usual for child in children]):  # noqa: C419 - twice as fast as lazily
        return
    odd = [child for child in children if name_of(child) != record]
    for child in odd:
        if name_of(child) == "Fault":
            raise read_fault(child)
    for child in odd:
        raise stranger(child, holder, record)


def check_list(holder: _Element, records: list[_Element] | None, record: str) -> None:
    """Raise Unreadable if a list holds text, or says that it stands in another place.

    Of a few `records` the text behind each is looked at, else a query looks at all of the list.
    """
    if records is None:
        words = _WORDS(holder)
    else:
        text = holder.text
        words = (text and not text.isspace()) or [
            tail for child in records if (tail := child.tail) and not tail.isspace()
        ]
    if words:
        raise _words_in(holder, record)
    if holder.keys():
        _check_attributes(holder)


def _check_attributes(element: _Element) -> None:
    """Raise Unreadable if attributes say that the rows, or more of them, are in another place."""
    if refers_elsewhere(element):
        raise _elsewhere(element)
    for key, value in element.items():
        if _MORE.fullmatch(name := str(key).rpartition("}")[2]) and value.strip() not in _NONE:
            raise foreign(f"<{_shown(element)}> says {printable(name)}, so there is more elsewhere")


def refers_elsewhere(element: _Element) -> bool:
    """Whether the content is said to stand in another place, as SOAP encoding and MTOM do."""
    return _reference(element) is not None


def _reference(element: _Element) -> str | None:
    for key in map(str, element.keys()):
        namespace, _, name = key.rpartition("}")
        if name == "href" or (name == "ref" and "soap-encoding" in namespace):
            return name
    return None


def _elsewhere(element: _Element) -> Unreadable:
    return foreign(f"<{_shown(element)}> refers to another place by {_reference(element)}")


def _shown(element: _Element) -> str:
    return printable(name_of(element), 60)


def fault_in_list(holder: _Element, count: int) -> SoapFault | None:
    """Return the first fault that stands beside or inside the first `count` records."""
    for record in holder[:count]:
        if name_of(record) == "Fault":
            return read_fault(record)
        for child in record:
            if is_fault(child):
                return read_fault(child)
    return None


def is_fault(element: _Element) -> bool:
    """Whether a record's child is a fault, not a field of that name."""
    parts = {"faultcode", "faultstring", "Code", "Reason"}
    return name_of(element) == "Fault" and any(name_of(child) in parts for child in element)


def read_fault(fault: _Element) -> SoapFault:
    """Read a fault in SOAP 1.1 shape, or in 1.2 shape, which some stacks send in a 1.1 envelope."""

    def text(*names: str) -> str:
        level = [fault]
        for name in names:
            level = [child for item in level for child in item if name_of(child) == name]
        return _said(level[0]) if level else ""

    reasons = [child for child in fault if name_of(child) == "Reason"]
    texts = [said for reason in reasons for one in reason if (said := _said(one))]
    return SoapFault(
        text("faultcode") or text("Code", "Value"), text("faultstring") or " / ".join(texts)
    )


def _said(element: _Element) -> str:
    return "".join(element.itertext()).strip()
