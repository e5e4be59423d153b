"""What the tests of transport share: both ways to a server, and an authority for certificates."""

import pytest
import trustme

from bulkfetch._http import direct


@pytest.fixture(params=["direct", "session"])
def way(request, monkeypatch):
    """The quick way, and the one through a session of ours."""
    if request.param == "session":
        monkeypatch.setattr(direct, "_hindrance", lambda _: "it is tested")
    return request.param


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()
