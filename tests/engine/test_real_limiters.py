"""Limiters as they stand in front of real services: nginx's and haproxy's own, at work.

An export meets them with its defaults. By value: every row comes, the run ends well, and the
limiter's own log says how many requests it refused. Nothing is said of seconds, which a busy
machine stretches.
"""

import asyncio
import json
import time
from operator import itemgetter
from urllib.parse import urlsplit

import pytest
from real_servers import ENOUGH, haproxy, nginx, statuses_of

from bulkfetch import Options, export
from bulkfetch.testing import SimulatedServer, Simulation

LMS = Simulation(courses=100, rows=(1, 3), latency=0.04, seed=14)
CONTROLS = 5
WHOSE = itemgetter("contentItemId", "userId")


@pytest.fixture(scope="module")
def lms():
    """The service behind the limiters, which itself refuses nothing."""
    with SimulatedServer(LMS) as server:
        yield server


async def fetched_through(port, lms, folder, courses):
    """Fetch so many courses with the defaults; all their rows come, each once."""
    ids = lms.course_ids[:courses]
    endpoint = lms.endpoint.replace(urlsplit(lms.endpoint).netloc, f"127.0.0.1:{port}")
    summary = await export(ids, folder / "out", Options(endpoint=endpoint, token=LMS.token))
    assert (summary.fetched, summary.failed) == (courses, 0)
    rows = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    wanted = [row for course in ids for row in lms.expected_rows(course)]
    assert sorted(rows, key=WHOSE) == sorted(wanted, key=WHOSE)
    deadline = time.monotonic() + ENOUGH
    while statuses_of(folder)[200] < courses and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # the last answer is logged after it was sent


def expect(answers, courses, most_refused):
    """Each course was answered once, a control perhaps too, and the rest are bounded refusals."""
    assert courses <= answers[200] <= courses + CONTROLS
    assert set(answers) <= {200, 429, 503}
    assert answers[429] + answers[503] <= most_refused


@pytest.mark.parametrize(
    ("limit", "courses", "most_refused"),
    [
        ("limit_req zone=r50;", 50, 60),
        ("limit_req zone=r50 burst=20;", 80, 8),
        ("limit_req zone=r50 burst=20 nodelay; limit_req_status 429;", 80, 80),
        ("limit_req zone=r10; limit_req_status 429; add_header Retry-After 1 always;", 8, 24),
        ("limit_req zone=r2;", 4, 30),
        ("limit_conn c 5;", 100, 80),
        ("limit_conn c 2; limit_conn_status 429;", 60, 90),
    ],
)
async def test_f99_nginx_limits(limit, courses, most_refused, lms, tmp_path):
    """By rate with and without a burst, and by connections: all rows, few refusals."""
    zones = "".join(
        f"limit_req_zone $server_name zone=r{rate}:1m rate={rate}r/s;\n" for rate in (2, 10, 50)
    )
    pool = f"upstream lms {{ server 127.0.0.1:{urlsplit(lms.endpoint).port}; }}\n"
    with nginx(
        tmp_path,
        f"listen PORT;\nlocation / {{ {limit} proxy_pass http://lms; }}",
        http=f"{zones}limit_conn_zone $server_name zone=c:1m;\n{pool}",
    ) as port:
        await fetched_through(port, lms, tmp_path, courses)
    expect(statuses_of(tmp_path), courses, most_refused)


@pytest.mark.parametrize(
    ("beyond", "backend", "courses", "most_refused"),
    [
        ("deny deny_status 429", "", 30, 60),
        ("return status 429 hdr Retry-After 1", "", 30, 60),
        ("", "server one HOST maxconn 2", 80, 0),  # the others wait in its queue
        ("", "timeout queue 50ms\nserver one HOST maxconn 2", 60, 90),
    ],
)
async def test_f99_haproxy_limits(beyond, backend, courses, most_refused, lms, tmp_path):
    """By a counter that refused requests fill too, and by a queue, patient or not."""
    host = f"127.0.0.1:{urlsplit(lms.endpoint).port}"
    with haproxy(
        tmp_path,
        "frontend soap\nbind PORT\noption dontlognull\n"
        "stick-table type integer size 10 expire 10s store http_req_rate(1s)\n"
        "http-request track-sc0 int(1)\n"
        + (f"http-request {beyond} if {{ sc_http_req_rate(0) gt 20 }}\n" if beyond else "")
        + "default_backend lms\nbackend lms\n"
        + (backend or "server one HOST").replace("HOST", host),
    ) as port:
        await fetched_through(port, lms, tmp_path, courses)
    expect(statuses_of(tmp_path), courses, most_refused)
