"""The simulated LMS's WSDL 1.1: document/literal, as a SOAP library reads it.

All elements stand in the application's namespace, qualified, in one schema: PHP, node-soap, suds,
SOAP::Lite and zeep disagree on anything else.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from bulkfetch._domain.model import GET_CONTENT, GET_FINAL_STATUSES, Method


def wsdl(endpoint: str, application: str) -> bytes:
    """Return the description of both methods at `endpoint`, in this application namespace."""
    names = (GET_FINAL_STATUSES.name, GET_CONTENT.name)
    return _DOCUMENT.format(
        application=application,
        endpoint=escape(endpoint),
        status=_fields(GET_FINAL_STATUSES),
        content_item=_fields(GET_CONTENT),
        operations="".join(_OPERATION.format(name=name) for name in names),
        bound="".join(_BOUND.format(name=name) for name in names),
    ).encode()


def _fields(method: Method) -> str:
    types = {"string": "xsd:string", "decimal": "xsd:float"}
    return "".join(
        f'<xsd:element name="{field.name}" type="{types[field.type]}"/>' for field in method.fields
    )


_OPERATION = """
  <wsdl:operation name="{name}">
    <wsdl:input message="app:{name}Input"/><wsdl:output message="app:{name}Output"/>
  </wsdl:operation>"""

_BOUND = """
  <wsdl:operation name="{name}">
    <soap:operation soapAction="{name}"/>
    <wsdl:input><soap:body use="literal"/></wsdl:input>
    <wsdl:output><soap:body use="literal"/></wsdl:output>
  </wsdl:operation>"""

_DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<wsdl:definitions name="SimulatedLms" targetNamespace="{application}" xmlns:app="{application}"
  xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
  xmlns:xsd="http://www.w3.org/2001/XMLSchema">
<wsdl:types>
<xsd:schema targetNamespace="{application}" elementFormDefault="qualified">
  <xsd:complexType name="Credentials">
    <xsd:sequence><xsd:element name="token" type="xsd:string"/></xsd:sequence>
  </xsd:complexType>
  <xsd:complexType name="Status"><xsd:sequence>{status}</xsd:sequence></xsd:complexType>
  <xsd:complexType name="Statuses">
    <xsd:sequence>
      <xsd:element name="status" type="app:Status" minOccurs="0" maxOccurs="unbounded"/>
    </xsd:sequence>
  </xsd:complexType>
  <xsd:element name="GetContentItemFinalStatusesRequest"><xsd:complexType><xsd:sequence>
    <xsd:element name="credentials" type="app:Credentials"/>
    <xsd:element name="contentItemId" type="xsd:string"/>
  </xsd:sequence></xsd:complexType></xsd:element>
  <xsd:element name="GetContentItemFinalStatusesResult"><xsd:complexType><xsd:sequence>
    <xsd:element name="statuses" type="app:Statuses"/>
  </xsd:sequence></xsd:complexType></xsd:element>
  <xsd:element name="GetContentRequest"><xsd:complexType><xsd:sequence>
    <xsd:element name="credentials" type="app:Credentials"/>
  </xsd:sequence></xsd:complexType></xsd:element>
  <xsd:complexType name="ContentItem"><xsd:sequence>{content_item}</xsd:sequence></xsd:complexType>
  <xsd:element name="GetContentResult"><xsd:complexType><xsd:sequence>
    <xsd:element name="contentItem" type="app:ContentItem" minOccurs="0" maxOccurs="unbounded"/>
  </xsd:sequence></xsd:complexType></xsd:element>
</xsd:schema>
</wsdl:types>
<wsdl:message name="GetContentItemFinalStatusesInput">
  <wsdl:part name="body" element="app:GetContentItemFinalStatusesRequest"/>
</wsdl:message>
<wsdl:message name="GetContentItemFinalStatusesOutput">
  <wsdl:part name="body" element="app:GetContentItemFinalStatusesResult"/>
</wsdl:message>
<wsdl:message name="GetContentInput">
  <wsdl:part name="body" element="app:GetContentRequest"/>
</wsdl:message>
<wsdl:message name="GetContentOutput">
  <wsdl:part name="body" element="app:GetContentResult"/>
</wsdl:message>
<wsdl:portType name="LmsPort">{operations}
</wsdl:portType>
<wsdl:binding name="LmsBinding" type="app:LmsPort">
  <soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>{bound}
</wsdl:binding>
<wsdl:service name="Lms">
  <wsdl:port name="Lms" binding="app:LmsBinding"><soap:address location="{endpoint}"/></wsdl:port>
</wsdl:service>
</wsdl:definitions>
"""
