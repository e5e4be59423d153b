"""The one place that fits aioresponses to aiohttp 3.14.

Its `ClientResponse` wants a `stream_writer`, which aioresponses 0.7 does not hand over; so mocked
answers are of a subclass that fills the gap. Good for small answers and errors only: a mock cannot
tear a body.
"""

from contextlib import contextmanager
from unittest.mock import Mock

import aiohttp
from aioresponses import aioresponses
from yarl import URL


class MockedResponse(aiohttp.ClientResponse):
    """A response for aioresponses' `response_class=`."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("stream_writer", Mock())
        super().__init__(*args, **kwargs)


class Mocked:
    """Answers for one address, in turn; `calls` holds the keyword arguments of the requests."""

    def __init__(self, mock, url):
        self._mock = mock
        self._url = url

    def answer(self, body=b"", *, status=200, content_type="text/xml", repeat=False, **headers):
        self._mock.post(
            self._url,
            status=status,
            body=body,
            content_type=content_type,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            repeat=repeat,
            response_class=MockedResponse,
        )

    def error(self, error, *, repeat=False):
        self._mock.post(self._url, exception=error, repeat=repeat)

    @property
    def calls(self):
        return [call.kwargs for call in self._mock.requests.get(("POST", URL(self._url)), [])]


@contextmanager
def mocked(url):
    """Answer POSTs to `url` without any network."""
    with aioresponses() as mock:
        yield Mocked(mock, url)
