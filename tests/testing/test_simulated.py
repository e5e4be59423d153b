"""The simulated LMS is what other tests are measured with, so it is checked on its own terms."""

import asyncio
import gzip
import json
import signal
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import aiohttp
import pytest

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch.testing import (
    RawServer,
    SimulatedServer,
    Simulation,
    expected_rows,
    http_answer,
    serve,
)
from bulkfetch.testing._simulation import PERIOD, catalogue, course, delay_of, fault_of
from bulkfetch.testing._soap import Stream, statuses_body

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
APP = "http://ispringlearn.com/go/services/api/soap"
HTML = "text/html"


def envelope(inner, *, soap=SOAP, app=APP):
    return (
        f'<?xml version="1.0" encoding="utf-8"?><e:Envelope xmlns:e="{soap}" xmlns="{app}">'
        f"<e:Body>{inner}</e:Body></e:Envelope>"
    )


def credentials(token):
    return f"<credentials><token>{token}</token></credentials>"


def statuses_request(course_id, *, token="simulated-token", **spelling):
    inner = (
        f"<GetContentItemFinalStatusesRequest>{credentials(token)}"
        f"<contentItemId>{course_id}</contentItemId></GetContentItemFinalStatusesRequest>"
    )
    return envelope(inner, **spelling)


async def post(session, server, body, **options):
    async with session.post(server.endpoint, data=body.encode(), **options) as response:
        return response, await response.read()


async def ask(server, body, **options):
    async with aiohttp.ClientSession() as session:
        return await post(session, server, body, **options)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - another task or the network makes it true
        await asyncio.sleep(0.01)


def read_rows(body, course_id):
    space = f"{{{APP}}}"
    [statuses] = ET.fromstring(body).iter(f"{space}statuses")
    return [
        {
            "contentItemId": course_id,
            "userId": record.findtext(f"{space}userId"),
            "status": record.findtext(f"{space}status"),
            "progress": float(record.findtext(f"{space}progress")),
        }
        for record in statuses
    ]


def read_fault(body):
    [fault] = ET.fromstring(body).iter(f"{{{SOAP}}}Fault")
    return fault.findtext("faultcode"), fault.findtext("faultstring")


# Rows


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1000])
@pytest.mark.parametrize("rows", [0, 1, 37, PERIOD, PERIOD + 1, 3 * PERIOD])
async def test_rows_on_the_wire(rows, chunk_size, compressed):
    """Every row arrives as expected_rows says, whatever the size and the framing."""
    simulation = Simulation(
        seed=rows, courses=3, rows=(rows, rows), gzip=compressed, chunk_size=chunk_size
    )
    async with SimulatedServer(simulation) as server:
        for course_id in server.course_ids:
            response, body = await ask(server, statuses_request(course_id))
            assert response.status == 200
            assert response.content_type == "text/xml"
            assert read_rows(body, course_id) == server.expected_rows(course_id)
            assert len(server.expected_rows(course_id)) == rows
            assert response.headers.get("Content-Encoding") == ("gzip" if compressed else None)
            streamed = chunk_size is not None or (compressed and rows > PERIOD)
            assert ("Content-Length" in response.headers) is not streamed


async def test_no_gzip_unasked():
    """A client that does not accept gzip never gets it."""
    async with SimulatedServer(Simulation(gzip=True)) as server:
        request = statuses_request(server.course_ids[0])
        response, _body = await ask(server, request, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in response.headers


async def test_zero_rows_shape():
    """A course without rows is one empty element, as real stacks write it."""
    async with SimulatedServer(Simulation(zero_share=1.0)) as server:
        _response, body = await ask(server, statuses_request(server.course_ids[0]))
        assert b"<ns1:GetContentItemFinalStatusesResult><ns1:statuses/></ns1:" in body


def test_rows_are_the_same_in_another_process():
    """Rows follow from the settings alone: another process, with another hash seed, agrees."""
    simulation = Simulation(seed=7, courses=4, unknown=1, denied=1)
    program = (
        "import json; from bulkfetch.testing import *;"
        "s = Simulation(seed=7, courses=4, unknown=1, denied=1); server = SimulatedServer(s);"
        "print(json.dumps([[i, expected_rows(s, i)] for i in server.course_ids]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=300
    )
    ids = catalogue(simulation).ids
    assert json.loads(done.stdout) == [[name, expected_rows(simulation, name)] for name in ids]


def test_seeds_differ():
    """Another seed is another account: no id in common."""
    assert not set(catalogue(Simulation(seed=1)).ids) & set(catalogue(Simulation(seed=2)).ids)


def test_users_are_unique_within_a_course_and_shared_between_courses():
    """(contentItemId, userId) is a key, userId alone is not."""
    simulation = Simulation(courses=20, rows=(2000, 2000))
    users = [
        {row["userId"] for row in expected_rows(simulation, name)}
        for name in catalogue(simulation).ids
    ]
    assert all(len(of_course) == 2000 for of_course in users)
    assert len(set().union(*users)) < 20 * 2000


def test_values_are_lifelike():
    """Rows hold all known statuses, decimals, and now and then text that needs escaping."""
    simulation = Simulation(courses=1, rows=(PERIOD, PERIOD))
    rows = expected_rows(simulation, catalogue(simulation).ids[0])
    statuses = Counter(row["status"] for row in rows)
    assert {"Passed", "In progress", "Failed", "Not started", "Complete"} < set(statuses)
    odd = [status for status in statuses if not status.isascii()]
    assert odd
    assert {"&", "<", '"'} <= set("".join(odd))
    assert sum(statuses[status] for status in odd) < PERIOD / 20
    assert {0.0, 100.0} < {row["progress"] for row in rows}
    assert all(0 <= row["progress"] <= 100 for row in rows)


def test_sizes_follow_their_shares():
    """Zero, huge and ordinary courses come in about the shares asked for."""
    simulation = Simulation(courses=4000, rows=(5, 9), zero_share=0.3, huge_share=0.1, huge_rows=77)
    sizes = Counter(course(simulation, name).rows for name in catalogue(simulation).ids)
    assert set(sizes) == {0, 5, 6, 7, 8, 9, 77}
    assert sizes[0] / 4000 == pytest.approx(0.3, abs=0.03)
    assert sizes[77] / 4000 == pytest.approx(0.1, abs=0.03)


def test_huge_courses_are_streamed_in_small_pieces():
    """Memory for a course of any size is that of one block, and its length is known ahead."""
    simulation = Simulation(courses=1, huge_share=1.0, huge_rows=100_003)
    stream = statuses_body(simulation, catalogue(simulation).ids[0])
    assert isinstance(stream, Stream)
    sizes = [len(piece) for piece in stream.pieces]
    assert max(sizes) < 200 * PERIOD
    assert sum(sizes) == stream.length


# Ids


async def test_ids_that_cannot_be_fetched_are_mixed_in():
    """Unknown and denied ids come on top of the courses, and no rows are expected of them."""
    simulation = Simulation(courses=50, unknown=4, denied=3)
    async with SimulatedServer(simulation) as server:
        assert len(set(server.course_ids)) == len(server.course_ids) == 57
        assert (len(server.unknown_ids), len(server.denied_ids)) == (4, 3)
        bad = {*server.unknown_ids, *server.denied_ids}
        assert list(server.expected()) == [name for name in server.course_ids if name not in bad]
        assert all(server.expected_rows(name) == [] for name in bad)


# Strictness


UNSENDABLE = "<GetContentItemFinalStatusesRequest>"
STRICT_CASES = {
    "https envelope": (
        statuses_request("COURSE", soap=SOAP.replace("http:", "https:")),
        ("SOAP-ENV:VersionMismatch", "Wrong Version"),
    ),
    "https application": (
        statuses_request("COURSE", app=APP.replace("http:", "https:")),
        ("SOAP-ENV:Server", "Procedure 'GetContentItemFinalStatusesRequest' not present"),
    ),
    "no application namespace": (
        statuses_request("COURSE", app=""),
        ("SOAP-ENV:Server", "Procedure 'GetContentItemFinalStatusesRequest' not present"),
    ),
    "other method": (
        envelope("<EnrollRequest/>"),
        ("SOAP-ENV:Server", "Procedure 'EnrollRequest' not present"),
    ),
    "malformed": (envelope(UNSENDABLE), ("SOAP-ENV:Client", "Bad Request")),
    "empty": ("", ("SOAP-ENV:Client", "Bad Request")),
    "unknown encoding": (
        '<?xml version="1.0" encoding="no-such"?><a/>',
        ("SOAP-ENV:Client", "Bad Request"),
    ),
    "doctype": (
        "<!DOCTYPE a>" + statuses_request("COURSE").partition("?>")[2],
        ("SOAP-ENV:Server", "DTD are not supported by SOAP"),
    ),
    "no envelope": (
        "<a/>",
        ("SOAP-ENV:Client", 'looks like we got XML without "Envelope" element'),
    ),
    "no body": (
        f'<e:Envelope xmlns:e="{SOAP}"/>',
        ("SOAP-ENV:Client", "Body must be present in a SOAP envelope"),
    ),
    "wrong token": (
        statuses_request("COURSE", token="guess"),
        ("SOAP-ENV:Server", "Authorization failed"),
    ),
    "empty token": (
        statuses_request("COURSE", token=""),
        ("SOAP-ENV:Server", "Authorization failed"),
    ),
    "no credentials": (
        envelope("<GetContentRequest/>"),
        ("SOAP-ENV:Server", "Authorization failed"),
    ),
    "no course id": (
        envelope(
            "<GetContentItemFinalStatusesRequest>"
            + credentials("simulated-token")
            + "</GetContentItemFinalStatusesRequest>"
        ),
        ("SOAP-ENV:Server", "Wrong parameters"),
    ),
    "strange course id": (
        statuses_request("no-such"),
        ("SOAP-ENV:Server", "Unknown content item"),
    ),
    "unknown course id": (statuses_request("UNKNOWN"), ("SOAP-ENV:Server", "Unknown content item")),
    "denied course id": (statuses_request("DENIED"), ("SOAP-ENV:Server", "Permission denied")),
}


@pytest.mark.parametrize(("request_body", "fault"), STRICT_CASES.values(), ids=STRICT_CASES.keys())
async def test_refusals(request_body, fault):
    """Every refusal is HTTP 500, text/xml, with the fault a real stack sends."""
    async with SimulatedServer(Simulation(courses=2, unknown=1, denied=1)) as server:
        good = next(iter(server.expected()))
        for word, name in (
            ("COURSE", good),
            ("UNKNOWN", server.unknown_ids[0]),
            ("DENIED", server.denied_ids[0]),
        ):
            request_body = request_body.replace(word, name)
        response, body = await ask(server, request_body)
        assert (response.status, response.content_type) == (500, "text/xml")
        assert read_fault(body) == fault
        assert server.counters.by_status == {500: 1}


async def test_https_spelling():
    """A server of the other spelling refuses http, takes https, and answers in it."""
    async with SimulatedServer(Simulation(namespaces="https", courses=1)) as server:
        [name] = server.course_ids
        response, _body = await ask(server, statuses_request(name))
        assert response.status == 500
        https = {"soap": SOAP.replace("http:", "https:"), "app": APP.replace("http:", "https:")}
        response, body = await ask(server, statuses_request(name, **https))
        assert response.status == 200
        assert ET.fromstring(body).tag == f"{{{https['soap']}}}Envelope"


@pytest.mark.parametrize(
    ("method", "path", "status", "content_type"),
    [
        ("GET", "/api/v2/soap/2.0", 405, HTML),
        ("PUT", "/api/v2/soap/2.0", 405, HTML),
        ("GET", "/api/v2/soap/2.0?wsdl", 200, "text/xml"),
        ("GET", "/api/v2/soap/2.0?WSDL", 200, "text/xml"),
        ("GET", "/", 404, HTML),
        ("POST", "/api/v2/soap/2.1", 404, HTML),
        ("GET", "/api/v3/token", 405, HTML),
    ],
)
async def test_paths(method, path, status, content_type):
    """Only the two endpoints exist, each for its own methods."""
    async with SimulatedServer() as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{path}"
        async with session.request(method, url) as response:
            assert (response.status, response.content_type) == (status, content_type)


# GetContent and the WSDL


def read_content(body):
    [result] = [one for one in ET.fromstring(body).iter() if one.tag.endswith("ContentResult")]
    local = len(result.tag) - len("GetContentResult")
    return [{field.tag[local:]: field.text or "" for field in item} for item in result]


@pytest.mark.parametrize("courses", [0, 3, PERIOD, PERIOD + 5])
async def test_content(courses):
    """GetContent lists courses and denied ids, not unknown ones, unprefixed."""
    simulation = Simulation(courses=courses, unknown=2, denied=2, track_share=0.5)
    async with SimulatedServer(simulation) as server:
        request = f"<GetContentRequest>{credentials(server.token)}</GetContentRequest>"
        response, body = await ask(server, envelope(request))
        assert response.status == 200
        items = read_content(body)
        assert items == server.expected_content()
        listed = [item["contentItemId"] for item in items]
        assert listed == [name for name in server.course_ids if name not in server.unknown_ids]


async def test_content_is_lifelike():
    """Titles include characters that need escaping, and types follow track_share."""
    server = SimulatedServer(Simulation(courses=400, track_share=0.25))
    items = server.expected_content()
    assert {"&", "<", '"', "ü", "Р"} <= set("".join(item["title"] for item in items))  # noqa: RUF001
    types = Counter(item["type"] for item in items)
    assert set(types) == {"course", "track"}
    assert types["track"] / 400 == pytest.approx(0.25, abs=0.08)


def ask_by_zeep(endpoint, token, course_ids):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="zeep")
        import zeep
    transport = zeep.Transport(timeout=10, operation_timeout=10)
    transport.session.trust_env = False
    with zeep.Settings(strict=True)(), transport.session:
        service = zeep.Client(f"{endpoint}?wsdl", transport=transport).service
        rows = {
            name: service.GetContentItemFinalStatuses({"token": token}, name) for name in course_ids
        }
        return rows, service.GetContent({"token": token})


async def test_wsdl_is_understood_by_zeep():
    """A SOAP library that knows only the WSDL gets the same rows and the same list."""
    simulation = Simulation(courses=5, rows=(1, 40), zero_share=0.3, seed=3)
    async with SimulatedServer(simulation) as server:
        rows, content = await asyncio.to_thread(
            ask_by_zeep, server.endpoint, server.token, server.course_ids
        )
        found = {
            name: [
                {
                    "contentItemId": name,
                    "userId": row.userId,
                    "status": row.status,
                    "progress": row.progress,
                }
                for row in statuses or []
            ]
            for name, statuses in rows.items()
        }
        assert found == server.expected()
        assert [] in found.values()
        listed = [
            {name: item[name] or "" for name in expected}
            for item, expected in zip(content, server.expected_content(), strict=True)
        ]
        assert listed == server.expected_content()


# Tokens


GOOD = {
    "client_id": "simulated-client",
    "client_secret": "simulated-secret",
    "grant_type": "client_credentials",
}


@pytest.mark.parametrize(
    ("form", "settings", "status"),
    [
        (GOOD, {}, 200),
        (GOOD | {"client_secret": "guess"}, {}, 401),
        (GOOD | {"client_id": "guess"}, {}, 401),
        (GOOD | {"grant_type": "password"}, {}, 400),
        ({"grant_type": "client_credentials"}, {}, 400),
        ({}, {}, 400),
        (GOOD, {"client_id": None}, 403),
    ],
)
async def test_token_endpoint(form, settings, status):
    """Good credentials get a bearer token, all others an error with code and message."""
    async with (
        SimulatedServer(Simulation(**settings)) as server,
        aiohttp.ClientSession() as session,
        session.post(server.token_url, data=form) as response,
    ):
        answer = await response.json()
        assert response.status == status
        assert server.counters.tokens_issued == (status == 200)
        if status == 200:
            assert (answer["expires_in"], answer["token_type"]) == (1800, "bearer")
        else:
            assert answer["code"] == status
            assert isinstance(answer["message"], str)


async def fetch_token(session, server):
    async with session.post(server.token_url, data=GOOD) as response:
        return (await response.json())["access_token"]


async def test_token_expires():
    """An issued token is accepted until its lifetime is over or it is revoked."""
    simulation = Simulation(token=None, token_lifetime=0.3, courses=1)
    async with SimulatedServer(simulation) as server, aiohttp.ClientSession() as session:
        [name] = server.course_ids
        token = await fetch_token(session, server)
        request = statuses_request(name, token=token)
        assert (await post(session, server, request))[0].status == 200
        await asyncio.sleep(0.35)
        _response, body = await post(session, server, request)
        assert read_fault(body) == ("SOAP-ENV:Server", "Authorization failed")
        request = statuses_request(name, token=await fetch_token(session, server))
        server.revoke_tokens()
        assert (await post(session, server, request))[0].status == 500
        assert (await post(session, server, statuses_request(name, token="")))[0].status == 500
        assert server.counters.tokens_issued == 2


# Faults, pace


def test_faults_follow_their_shares():
    """Faults are drawn per request in about the shares asked for, every kind among them."""
    simulation = Simulation(share_503=0.1, share_429=0.2, share_reset=0.1, share_cut=0.2)
    drawn = Counter(fault_of(simulation, number) for number in range(8000))
    assert drawn[None] / 8000 == pytest.approx(0.4, abs=0.03)
    assert drawn["503"] / 8000 == pytest.approx(0.1, abs=0.03)
    assert drawn["429"] / 8000 == pytest.approx(0.2, abs=0.03)
    assert {kind.partition("-")[0] for kind in drawn if kind} == {"503", "429", "reset", "cut"}
    for kind in ("reset-before-headers", "reset-inside-body"):
        assert drawn[kind] / 8000 == pytest.approx(0.05, abs=0.02)
    cuts = [count for kind, count in drawn.items() if kind and kind.startswith("cut")]
    assert len(cuts) == 5
    assert all(count / 8000 == pytest.approx(0.04, abs=0.02) for count in cuts)


@pytest.mark.parametrize(
    ("settings", "status", "retry_after"),
    [
        ({"share_503": 1.0}, 503, None),
        ({"share_429": 1.0}, 429, "1"),
        ({"share_429": 1.0, "retry_after": 7}, 429, "7"),
        ({"share_429": 1.0, "retry_after": None}, 429, None),
    ],
)
async def test_overload_answers(settings, status, retry_after):
    """Injected 503 and 429 are pages of a front server, with Retry-After where it is set."""
    async with SimulatedServer(Simulation(**settings)) as server:
        response, _body = await ask(server, statuses_request(server.course_ids[0]))
        assert (response.status, response.content_type) == (status, HTML)
        assert response.headers.get("Retry-After") == retry_after
        assert server.counters.injected == {str(status): 1}


async def outcome_of(session, server, name):
    try:
        response, body = await post(session, server, statuses_request(name))
    except aiohttp.ClientError as error:
        return type(error)
    try:
        return response.status if body.endswith(b"</SOAP-ENV:Envelope>\n") else "no end"
    finally:
        response.close()


@pytest.mark.parametrize("rows", [20, 3 * PERIOD])
@pytest.mark.parametrize("settings", [{"share_reset": 1.0}, {"share_cut": 1.0}])
async def test_torn_bodies_never_look_whole(settings, rows, caplog):
    """A reset or cut answer is an error to the client or lacks its end; the server stays calm."""
    simulation = Simulation(courses=1, rows=(rows, rows), **settings)
    async with SimulatedServer(simulation) as server, aiohttp.ClientSession() as session:
        [name] = server.course_ids
        seen = {await outcome_of(session, server, name) for _try in range(40)}
        injected = server.counters.injected
    assert 200 not in seen
    assert injected.total() == 40
    if "share_cut" in settings:
        assert {aiohttp.ClientPayloadError, "no end"} <= seen
        assert len(injected) == 5
    else:
        assert set(injected) == {"reset-before-headers", "reset-inside-body"}
    assert server.counters.by_status == {}
    assert not caplog.records


async def test_gzip_cut_without_gzip():
    """A client that takes no gzip is cut by closing instead: never a whole body."""
    simulation = Simulation(courses=1, share_cut=1.0)
    async with SimulatedServer(simulation) as server:
        headers = {"Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(headers=headers) as session:
            [name] = server.course_ids
            seen = [await outcome_of(session, server, name) for _try in range(40)]
    assert server.counters.injected["cut-gzip"]
    assert 200 not in seen


async def test_a_retried_course_succeeds():
    """Faults belong to requests, not to courses: repeated often enough, every course comes."""
    simulation = Simulation(courses=10, share_503=0.2, share_reset=0.2, share_cut=0.2)
    async with SimulatedServer(simulation) as server, aiohttp.ClientSession() as session:
        for name in server.course_ids:
            outcomes = [await outcome_of(session, server, name) for _try in range(15)]
            assert 200 in outcomes
        assert server.counters.requests == 150
        assert set(server.counters.by_course) == set(server.course_ids)
        assert len(server.counters.started_at) == server.counters.requests


@pytest.mark.parametrize(
    ("rate", "arrivals", "waits"),
    [
        (None, [0.0, 0.0, 0.0], [None, None, None]),
        (2.0, [0.0, 0.25, 0.5, 1.0, 1.125, 1.25], [None, None, 0.5, None, 0.125, None]),
        (0.5, [0.0, 1.0, 2.0], [None, 1.0, None]),
        (2.5, [0.0, 0.1, 0.2, 0.81], [None, None, pytest.approx(0.6), None]),
    ],
)
def test_rate_limit(rate, arrivals, waits):
    """No more requests than the rate pass in any window; refused ones do not count."""
    server = SimulatedServer(Simulation(rate_limit=rate))
    assert [server._over_rate(now) for now in arrivals] == waits


async def test_rate_limit_on_the_wire():
    """A request above the rate is answered 429 with the seconds to wait."""
    async with SimulatedServer(Simulation(rate_limit=0.1)) as server:
        request = statuses_request(server.course_ids[0])
        assert (await ask(server, request))[0].status == 200
        response, _body = await ask(server, request)
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 10
        assert server.counters.injected == {"rate-limit": 1}


def test_delays():
    """Delays have the mean and the spread of their shape, and grow past the capacity."""
    fixed = Simulation(latency=0.5)
    assert {delay_of(fixed, number, 9) for number in range(9)} == {0.5}
    uniform = Simulation(latency=2.0, latency_shape="uniform")
    drawn = [delay_of(uniform, number, 1) for number in range(4000)]
    assert 1.0 <= min(drawn) < 1.1
    assert 2.9 < max(drawn) <= 3.0
    exponential = Simulation(latency=2.0, latency_shape="exponential")
    drawn = [delay_of(exponential, number, 1) for number in range(4000)]
    assert sum(drawn) / 4000 == pytest.approx(2.0, rel=0.1)
    assert max(drawn) > 8.0
    narrow = Simulation(latency=0.5, capacity=4)
    assert [delay_of(narrow, 1, busy) for busy in (1, 4, 8, 16)] == [0.5, 0.5, 1.0, 2.0]


async def test_max_in_flight():
    """The server counts how many requests it held at once."""
    async with SimulatedServer(Simulation(latency=0.2)) as server:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            for name in server.course_ids[:5]:
                tasks.create_task(post(session, server, statuses_request(name)))
        counters = server.counters
        assert (counters.max_in_flight, counters.in_flight, counters.requests) == (5, 0, 5)
        assert counters.by_status == {200: 5}


# Coming and going


async def test_leaving_ends_requests_in_flight(caplog):
    """Leaving does not wait for slow answers, and says nothing about it."""
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(300), SimulatedServer(Simulation(latency=600)) as server:
            request = statuses_request(server.course_ids[0])
            asking = asyncio.ensure_future(post(session, server, request))
            await until(lambda: server.counters.in_flight)
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert server.counters.in_flight == 0
    assert not caplog.records


async def test_clients_that_leave_cause_no_noise(caplog):
    """A client that goes away inside a body, or inside its own request, is nothing to report."""
    simulation = Simulation(courses=1, huge_share=1.0, huge_rows=400_000)
    async with SimulatedServer(simulation) as server:
        async with aiohttp.ClientSession() as session:
            request = statuses_request(server.course_ids[0]).encode()
            async with session.post(server.endpoint, data=request) as response:
                await response.content.read(1000)
                response.close()
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /api/v2/soap/2.0 HTTP/1.1\r\nHost: lms\r\nContent-Length: 999\r\n\r\n<half"
        )
        await until(lambda: server.counters.requests == 2)
        writer.close()
        await until(lambda: not server.counters.in_flight)
    assert not caplog.records


async def test_taken_port():
    """A port that is taken is an OSError, and nothing is left open."""
    async with SimulatedServer() as first:
        with pytest.raises(OSError, match="address already in use"):
            await SimulatedServer(port=first.port).__aenter__()
        with (
            pytest.raises(OSError, match="address already in use"),
            SimulatedServer(port=first.port),
        ):
            pytest.fail("the port was taken")


def test_in_a_thread():
    """Blocking callers use a plain `with`; the thread ends with it."""
    before = threading.active_count()
    with SimulatedServer(Simulation(courses=1)) as server:
        [name] = server.course_ids
        request = urllib.request.Request(server.endpoint, statuses_request(name).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            assert read_rows(response.read(), name) == server.expected_rows(name)
    assert threading.active_count() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_on_signals(number):
    """A server process says when it is ready and leaves in good order on either signal."""
    program = (
        "from bulkfetch.testing import *;"
        "serve(Simulation(), on_ready=lambda server: print(server.endpoint, flush=True));"
        "print('over')"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}?wsdl", timeout=10) as response:
            assert url.encode() in response.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "over\n", "")


def test_serve_restores_signal_handlers():
    """After `serve` the process has the signal handlers it had before."""

    def mine(*_arguments):
        pass

    previous = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve(Simulation(), on_ready=lambda _server: signal.raise_signal(signal.SIGTERM))
        assert {signal.getsignal(number) for number in previous} == {mine}
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rows": (5, 2)}, r"rows is \(5, 2\)"),
        ({"rows": (-1, 2)}, r"rows is \(-1, 2\)"),
        ({"courses": -1}, "courses is -1"),
        ({"latency": -0.5}, "latency is -0.5"),
        ({"capacity": 0}, "capacity is 0"),
        ({"rate_limit": 0.0}, "rate_limit is 0.0"),
        ({"share_503": 1.5}, "share_503 is 1.5"),
        ({"share_503": 0.6, "share_cut": 0.6}, r"share_503 \+ .* is 1.2"),
        ({"zero_share": 0.6, "huge_share": 0.6}, r"zero_share \+ huge_share is 1.2"),
        ({"latency_shape": "normal"}, "latency_shape is 'normal'"),
        ({"namespaces": "auto"}, "namespaces is 'auto'"),
    ],
)
def test_impossible_settings(settings, words):
    """Settings that make no sense are refused by name and value."""
    with pytest.raises(ConfigurationError, match=words):
        Simulation(**settings)


# The raw server


async def get(session, server):
    async with session.post(server.url, data=b"hello") as response:
        return await response.read()


async def test_raw_script():
    """Answers follow the script in order, the last one again, on one kept connection."""
    script = [http_answer(b"one"), lambda _exchange: http_answer(b"two")]
    async with RawServer(script) as server, aiohttp.ClientSession() as session:
        assert [await get(session, server) for _try in range(3)] == [b"one", b"two", b"two"]
    assert [request.body for request in server.requests] == [b"hello"] * 3
    assert {request.connection for request in server.requests} == {server.connections} == {1}
    assert server.requests[0].head.startswith(b"POST / HTTP/1.1\r\n")
    assert server.requests[0].header("content-length") == "5"
    assert server.requests[0].header("x-absent") is None


WHOLE = http_answer(b"x" * 100)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda exchange: exchange.reset(), aiohttp.ClientOSError),
        (lambda exchange: exchange.reset(WHOLE[:-10]), aiohttp.ClientPayloadError),
        (lambda exchange: exchange.cut(b""), aiohttp.ServerDisconnectedError),
        (lambda exchange: exchange.cut(WHOLE[:-10]), aiohttp.ClientPayloadError),
        (lambda exchange: exchange.stall(), TimeoutError),
        (lambda exchange: exchange.stall(WHOLE[:-10]), TimeoutError),
        (lambda exchange: exchange.dribble(WHOLE, seconds=30), TimeoutError),
    ],
)
async def test_raw_faults(answer, error):
    """Each helper does to the client what its name says, and leaving never hangs."""
    timeout = aiohttp.ClientTimeout(total=0.3)
    async with asyncio.timeout(300), RawServer(answer) as server:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with pytest.raises(error):
                await get(session, server)
        assert len(server.requests) == 1


async def test_raw_dribble_completes():
    """A dribbled answer is whole in the end."""
    answer = http_answer(gzip.compress(b"slow"), headers=["Content-Encoding: gzip"])
    script = [lambda exchange: exchange.dribble(answer, seconds=0)]
    async with RawServer(script) as server, aiohttp.ClientSession() as session:
        assert await get(session, server) == b"slow"


async def test_raw_script_errors_come_out():
    """What an answer raises comes out where the server is left, over the client's own error."""

    def answer(exchange):
        raise AssertionError(f"unexpected {exchange.request.body!r}")

    with pytest.raises(AssertionError, match="unexpected b'hello'"):
        async with RawServer(answer) as server, aiohttp.ClientSession() as session:
            await get(session, server)


async def test_raw_server_is_left_with_clients_connected():
    """Leaving closes connections that are open in every state."""
    async with asyncio.timeout(300), RawServer(lambda exchange: exchange.stall()) as server:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: server.requests)
    for stream, end in ((idle_reader, idle_writer), (reader, writer)):
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(stream.read(), 300) == b""
        end.close()


def test_the_package_needs_no_lxml():
    """Importing the servers pulls in neither lxml nor the engine."""
    program = (
        "import sys, bulkfetch.testing;"
        "print(sorted({'lxml', 'tenacity', 'bulkfetch._engine.run'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=300, cwd=Path("/")
    )
    assert done.stdout.strip() == b"[]"
