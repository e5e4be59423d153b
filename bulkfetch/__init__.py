"""Bulk export of learners' final statuses from a SOAP API."""
