"""Exports as tasks of a FastAPI service, with metrics and, where OpenTelemetry is set up, spans.

POST /exports/{name} takes a JSON list of course ids and answers at once; GET tells how far it is.
The same POST again goes on where a broken export ended. Run it: uvicorn fastapi_service:app
"""

import asyncio
import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path
from prometheus_client import CollectorRegistry, make_asgi_app

import bulkfetch

Name = Annotated[str, Path(pattern="^[a-z0-9-]{1,40}$")]  # it becomes a file's name
exports: dict[str, bulkfetch.Monitor] = {}
ended: dict[str, str] = {}
registry = CollectorRegistry()
limiter = bulkfetch.Limiter(concurrency=8)  # for all exports together, as is:
counting = bulkfetch.prometheus_hooks(registry, limiter=limiter)


@asynccontextmanager
async def lifespan(app):
    endpoint, token = os.environ["BULKFETCH_ENDPOINT"], os.environ["BULKFETCH_TOKEN"]
    app.state.options = bulkfetch.Options(endpoint=endpoint, token=token, grace=5)
    async with asyncio.TaskGroup() as app.state.group:  # BackgroundTasks could not be stopped
        yield
        for monitor in exports.values():
            monitor.stop()  # what is in flight finishes; the rest is for the next time


app = FastAPI(lifespan=lifespan)
app.mount("/metrics", make_asgi_app(registry))


@app.post("/exports/{name}", status_code=202)
async def begin(name: Name, ids: list[str]) -> dict[str, str]:
    if name in exports and name not in ended:
        raise HTTPException(409, f"{name} is under way")
    ended.pop(name, None)
    exports[name] = bulkfetch.Monitor()
    app.state.group.create_task(export(name, ids, exports[name]))
    return {"export": name}


@app.get("/exports/{name}")
async def look(name: Name) -> dict[str, str | int | None]:
    if name not in exports:
        raise HTTPException(404, f"there is no export {name}")
    state = exports[name].state
    return {"courses": state.courses if state else 0, "ended": ended.get(name)}


async def export(name: str, ids: list[str], monitor: bulkfetch.Monitor) -> None:
    output = f"{os.environ.get('EXPORTS', '.')}/{name}.ndjson"
    watching = {"hooks": counting | bulkfetch.tracing_hooks(), "monitor": monitor}
    try:
        done = await bulkfetch.export(ids, output, app.state.options, limiter=limiter, **watching)
        ended[name] = f"{done.output_rows} rows, {done.failed} courses without rows"
    except bulkfetch.BulkfetchError as error:
        ended[name] = str(error)
