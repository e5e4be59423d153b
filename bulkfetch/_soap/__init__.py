"""The SOAP call as bytes: requests out, verdicts and rows in; no socket, no clock."""
