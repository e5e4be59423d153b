"""A web service that hands out final statuses while they come in: one pace for all its callers.

POST /statuses takes a JSON list of course ids and answers with NDJSON, course by course; a caller
who reads slowly slows down only his own stream. Run it: python aiohttp_service.py
"""

import json
import os

import aiohttp
from aiohttp import web

import bulkfetch

OPTIONS = web.AppKey("options", bulkfetch.Options)
LIMITER = web.AppKey("limiter", bulkfetch.Limiter)
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def statuses(request):
    app, ids = request.app, await request.json()
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    async with bulkfetch.stream(
        ids, app[OPTIONS], session=app[SESSION], limiter=app[LIMITER]
    ) as outcomes:
        await response.prepare(request)
        # A RunError in here cuts the answer off, so that no caller takes it for a whole one.
        async for outcome in outcomes:
            match outcome:
                case bulkfetch.Fetched(rows=rows):
                    for lines in rows.ndjson():
                        await response.write(lines)
                case bulkfetch.Failed(course_id=course_id, error=error):
                    line = {"contentItemId": course_id, "error": error.kind}
                    await response.write(json.dumps(line).encode() + b"\n")
    await response.write_eof()
    return response


async def one_session(app):
    """Connections are shared by all streams; they are the service's, so it closes them."""
    async with aiohttp.ClientSession() as app[SESSION]:
        yield


def make_app(options):
    app = web.Application()
    app[OPTIONS] = options
    app[LIMITER] = bulkfetch.Limiter(options.concurrency, options.rate)
    app.cleanup_ctx.append(one_session)
    app.router.add_post("/statuses", statuses)
    return app


if __name__ == "__main__":
    endpoint, token = os.environ["BULKFETCH_ENDPOINT"], os.environ["BULKFETCH_TOKEN"]
    web.run_app(make_app(bulkfetch.Options(endpoint=endpoint, token=token)), host="127.0.0.1")
