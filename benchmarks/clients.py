"""The clients: bulkfetch, and what its user would pick or write instead, for the same job.

Each is a function of (job, begin): it imports and sets up, calls `begin`, fetches every id with at
most 32 requests at once and writes one NDJSON row a status to the job's output. All share a session
and an open file; beyond that the peers are written as people write them first, by the libraries'
documentation, and one, "aiohttp tuned", is as quick as such a script gets. None of them retries,
paces, journals or syncs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

from lxml import etree

from benchmarks.endpoint import request
from benchmarks.generator import NAMESPACE, course_ids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

CONNECTIONS = 32
_HEADERS = {
    "Content-Type": "text/xml; charset=utf-8",
    "SOAPAction": '"GetContentItemFinalStatuses"',
}
_RECORD, _USER, _STATUS, _PROGRESS = (
    f"{{{NAMESPACE}}}{name}" for name in ("status", "userId", "status", "progress")
)


@dataclass(frozen=True, slots=True)
class Client:
    """A variant: what it needs, and roughly its CPU time in us, to choose how many requests."""

    name: str
    function: str
    per_request: float
    per_row: float
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def expected(self, rows: int) -> float:
        """Seconds a request."""
        return (self.per_request + self.per_row * rows) / 1e6


CLIENTS = (
    Client("export", "export", 90, 2.6),
    Client("stream", "stream", 80, 2.4),
    Client("bare loop", "bare_loop", 65, 2.5),
    Client("aiohttp tuned", "aiohttp_tuned", 150, 3),
    Client("aiohttp iterparse", "aiohttp_iterparse", 180, 11),
    Client("aiohttp xpath", "aiohttp_xpath", 180, 20),
    Client("requests", "requests_threads", 700, 11, ("requests",)),
    Client("httpx", "httpx_lxml", 3800, 11, ("httpx",)),
    Client("zeep", "zeep_threads", 1000, 36, ("zeep",)),
    Client("scrapy", "scrapy_lxml", 1900, 110, ("scrapy",)),
)


# bulkfetch


def options(job, **others):
    from bulkfetch import Options

    settings = {
        "endpoint": job["url"],
        "token": "benchmark",
        "concurrency": job["connections"],
    }
    return Options(**settings, **others)


def export(job, begin) -> None:
    import bulkfetch

    setup = options(job)
    ids = course_ids(job["count"])
    work, output = bulkfetch.export, job["output"]
    begin()
    summary = asyncio.run(work(ids, output, setup))
    assert summary.fetched == len(ids), summary


def stream(job, begin) -> None:
    import bulkfetch

    setup = options(job)
    ids = course_ids(job["count"])
    work = bulkfetch.stream

    async def main(output) -> None:
        async with work(ids, setup) as outcomes:
            async for outcome in outcomes:
                output.writelines(outcome.rows.ndjson())

    begin()
    with _open(job, "wb") as output:
        asyncio.run(main(output))


def bare_loop(job, begin) -> None:
    """Fetch, parse and write with bulkfetch's transport and parser, and nothing around them.

    A small course is one write. The rows of a large one are written as they are parsed, among those
    of others: export, which keeps a course's rows together, spools them, and this needs neither
    that file nor the memory.
    """
    from bulkfetch._domain.model import GET_FINAL_STATUSES
    from bulkfetch._http.direct import open_transport
    from bulkfetch._soap.parser import ResponseParser
    from bulkfetch._soap.protocol import request_headers
    from bulkfetch._soap.records import RowFormat

    setup = options(job)
    ids = course_ids(job["count"])
    headers = request_headers(GET_FINAL_STATUSES)
    form = RowFormat(GET_FINAL_STATUSES)

    async def main(output) -> None:
        async with open_transport(setup) as transport:

            async def fetch(course_id: str) -> None:
                async with transport.post(job["url"], request(course_id), headers) as reply:
                    parser = ResponseParser(GET_FINAL_STATUSES, form.encoder(course_id))
                    while data := await reply.read():
                        if rows := parser.feed(data):
                            output.write(rows)
                    output.write(parser.close())

            await _all(ids, fetch, job["connections"])

    begin()
    with _open(job, "wb") as output:
        asyncio.run(main(output))


# Scripts with aiohttp


def _open(job, mode: str = "w") -> IO:
    return Path(job["output"]).open(mode, encoding=None if "b" in mode else "utf-8")


async def _all(ids: list[str], fetch: Callable[[str], Awaitable[None]], connections: int) -> None:
    left = iter(ids)

    async def work() -> None:
        for course_id in left:
            await fetch(course_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())


def _with_aiohttp(job, begin, write: Callable[..., None], mode: str = "w") -> None:
    import aiohttp

    ids = course_ids(job["count"])

    async def main(output) -> None:
        connector = aiohttp.TCPConnector(limit=job["connections"])
        async with aiohttp.ClientSession(connector=connector, headers=_HEADERS) as session:

            async def fetch(course_id: str) -> None:
                async with session.post(job["url"], data=request(course_id)) as response:
                    response.raise_for_status()
                    write(await response.read(), course_id, output)

            await _all(ids, fetch, job["connections"])

    begin()
    with _open(job, mode) as output:
        asyncio.run(main(output))


def aiohttp_tuned(job, begin) -> None:
    """Rely on the order of the elements, make bytes by orjson, write a course at once."""
    from orjson import OPT_APPEND_NEWLINE, dumps

    def write(body: bytes, course_id: str, output) -> None:
        statuses = etree.fromstring(body)[0][0][0]  # envelope, body, result
        rows = [
            dumps(
                {
                    "contentItemId": course_id,
                    "userId": user.text,
                    "status": status.text,
                    "progress": float(progress.text),
                },
                option=OPT_APPEND_NEWLINE,
            )
            for user, status, progress in statuses
        ]
        output.write(b"".join(rows))

    _with_aiohttp(job, begin, write, "wb")


def aiohttp_iterparse(job, begin) -> None:
    def write(body: bytes, course_id: str, output) -> None:
        for _event, element in etree.iterparse(BytesIO(body), tag=_RECORD):
            if len(element):  # its field of the same name has no children
                row = {
                    "contentItemId": course_id,
                    "userId": element.findtext(_USER),
                    "status": element.findtext(_STATUS),
                    "progress": float(element.findtext(_PROGRESS)),
                }
                output.write(json.dumps(row) + "\n")
                element.clear()

    _with_aiohttp(job, begin, write)


def aiohttp_xpath(job, begin) -> None:
    names = {"ns1": NAMESPACE}

    def write(body: bytes, course_id: str, output) -> None:
        for record in etree.fromstring(body).xpath("//ns1:statuses/ns1:status", namespaces=names):
            row = {
                "contentItemId": course_id,
                "userId": record.xpath("string(ns1:userId)", namespaces=names),
                "status": record.xpath("string(ns1:status)", namespaces=names),
                "progress": float(record.xpath("string(ns1:progress)", namespaces=names)),
            }
            output.write(json.dumps(row) + "\n")

    _with_aiohttp(job, begin, write)


# Other HTTP clients


def _lines(body: bytes, course_id: str) -> Iterator[str]:
    """Make rows by lxml's fromstring and findtext, the short way."""
    for record in etree.fromstring(body).iterfind(f".//{{{NAMESPACE}}}statuses/{_RECORD}"):
        row = {
            "contentItemId": course_id,
            "userId": record.findtext(_USER),
            "status": record.findtext(_STATUS),
            "progress": float(record.findtext(_PROGRESS)),
        }
        yield json.dumps(row) + "\n"


def _in_threads(job, begin, make_fetch: Callable[[], Callable[[str], list[str]]]) -> None:
    """Run one fetch function a thread; each course's lines are written together."""
    ids: SimpleQueue[str | None] = SimpleQueue()
    for course_id in course_ids(job["count"]):
        ids.put(course_id)
    failures: list[Exception] = []
    fetches = [make_fetch() for _ in range(job["connections"])]
    for _ in fetches:
        ids.put(None)

    writing = threading.Lock()  # text files lose lines when two threads write at once

    with _open(job) as output:

        def work(fetch: Callable[[str], list[str]]) -> None:
            try:
                while (course_id := ids.get()) is not None:
                    lines = fetch(course_id)
                    with writing:
                        output.writelines(lines)
            except Exception as error:  # noqa: BLE001 - raised below
                failures.append(error)

        begin()
        threads = [threading.Thread(target=work, args=(fetch,)) for fetch in fetches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def requests_threads(job, begin) -> None:
    import requests

    def make_fetch():
        session = requests.Session()
        session.headers.update(_HEADERS)

        def fetch(course_id: str) -> list[str]:
            response = session.post(job["url"], data=request(course_id))
            response.raise_for_status()
            return list(_lines(response.content, course_id))

        return fetch

    _in_threads(job, begin, make_fetch)


def httpx_lxml(job, begin) -> None:
    import httpx

    for late in ("h11", "httpcore", "anyio._backends._asyncio"):  # else at the first request
        importlib.import_module(late)
    ids = course_ids(job["count"])
    settings = {
        "headers": _HEADERS,
        "limits": httpx.Limits(max_connections=job["connections"]),
        "timeout": 60,
        "verify": httpx.create_ssl_context(),  # takes its time, though unused here
    }

    async def main(output) -> None:
        async with httpx.AsyncClient(**settings) as client:

            async def fetch(course_id: str) -> None:
                response = await client.post(job["url"], content=request(course_id))
                response.raise_for_status()
                output.writelines(_lines(response.content, course_id))

            await _all(ids, fetch, job["connections"])

    begin()
    with _open(job) as output:
        asyncio.run(main(output))


# Frameworks


def zeep_threads(job, begin) -> None:
    """Let zeep read the WSDL and do the rest; one client a thread, as sessions are not shared."""
    import zeep

    def make_fetch():
        settings = zeep.Settings(strict=True, xml_huge_tree=True)
        service = zeep.Client(job["wsdl"], settings=settings).service

        def fetch(course_id: str) -> list[str]:
            statuses = service.GetContentItemFinalStatuses(
                credentials={"token": "benchmark"}, contentItemId=course_id
            )
            return [
                json.dumps(
                    {
                        "contentItemId": course_id,
                        "userId": record.userId,
                        "status": record.status,
                        "progress": float(record.progress),
                    }
                )
                + "\n"
                for record in statuses or []
            ]

        return fetch

    _in_threads(job, begin, make_fetch)


def scrapy_lxml(job, begin) -> None:
    """Yield items from a spider into the feed export, as Scrapy's tutorial has it."""
    import scrapy
    from scrapy.crawler import CrawlerProcess

    ids = course_ids(job["count"])

    class Statuses(scrapy.Spider):
        name = "statuses"

        async def start(self):
            begin()
            for course_id in ids:
                yield scrapy.Request(
                    job["url"],
                    method="POST",
                    headers=_HEADERS,
                    body=request(course_id),
                    dont_filter=True,
                    cb_kwargs={"course_id": course_id},
                )

        def parse(self, response, course_id):
            records = etree.fromstring(response.body).iterfind(
                f".//{{{NAMESPACE}}}statuses/{_RECORD}"
            )
            for record in records:
                yield {
                    "contentItemId": course_id,
                    "userId": record.findtext(_USER),
                    "status": record.findtext(_STATUS),
                    "progress": float(record.findtext(_PROGRESS)),
                }

    process = CrawlerProcess(_scrapy_settings(job))
    process.crawl(Statuses)
    process.start()


def _scrapy_settings(job) -> dict[str, object]:
    return {
        "CONCURRENT_REQUESTS": job["connections"],
        "CONCURRENT_REQUESTS_PER_DOMAIN": job["connections"],
        "COOKIES_ENABLED": False,
        "DOWNLOAD_DELAY": 0,
        "FEEDS": {job["output"]: {"format": "jsonlines", "encoding": "utf8"}},
        "LOG_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "RETRY_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
    }
