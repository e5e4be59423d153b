"""Requests to bytes, and the headers around them: against the specification's own samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from bulkfetch._config.setting import Secret
from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES
from bulkfetch._ids.check import check_id
from bulkfetch._soap.protocol import (
    Spelling,
    encode_request,
    request_headers,
)

SAMPLE = Path(__file__).parent.parent / "data" / "sample_request.xml"
SAMPLE_TOKEN = Secret("p-1sJDjmULL5DdpXPJTcbm4jVIaWVHvNmrjAxATRbNE")
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
    ("action", "header"),
    [
        (None, '"GetContentItemFinalStatuses"'),
        ("", '""'),
        ("urn:x#{method}", '"urn:x#GetContentItemFinalStatuses"'),
        ('"quoted"', '"quoted"'),
    ],
)
def test_the_soap_action_can_be_set(action, header):
    """An own SOAPAction, with or without quotes or the method's name; "" is an empty one."""
    assert request_headers(GET_FINAL_STATUSES, action)["SOAPAction"] == header


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
