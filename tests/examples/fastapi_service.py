"""Exports as background tasks of a FastAPI service: begun by one request, watched by others.

POST /exports/{name} takes a JSON list of course ids and answers at once; GET tells how far it is.
The same POST again goes on where a broken export ended. Run it: uvicorn fastapi_service:app
"""

import os
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, HTTPException, Path

import bulkfetch

Name = Annotated[str, Path(pattern="^[a-z0-9-]{1,40}$")]  # it becomes a file's name
exports: dict[str, bulkfetch.Monitor] = {}
ended: dict[str, str] = {}


@asynccontextmanager
async def lifespan(app):
    endpoint, token = os.environ["BULKFETCH_ENDPOINT"], os.environ["BULKFETCH_TOKEN"]
    app.state.options = bulkfetch.Options(endpoint=endpoint, token=token)
    app.state.limiter = bulkfetch.Limiter(concurrency=8)  # for all exports together
    yield
    for monitor in exports.values():
        monitor.stop()  # what is in flight finishes; the rest is for the next time


app = FastAPI(lifespan=lifespan)


@app.post("/exports/{name}", status_code=202)
async def begin(name: Name, ids: list[str], tasks: BackgroundTasks) -> dict[str, str]:
    if name in exports and name not in ended:
        raise HTTPException(409, f"{name} is under way")
    ended.pop(name, None)
    exports[name] = bulkfetch.Monitor()
    tasks.add_task(export, name, ids, exports[name])
    return {"export": name}


@app.get("/exports/{name}")
async def look(name: Name) -> dict[str, str | int | None]:
    if name not in exports:
        raise HTTPException(404, f"there is no export {name}")
    state = exports[name].state
    return {"courses": state.courses if state else 0, "ended": ended.get(name)}


async def export(name: str, ids: list[str], monitor: bulkfetch.Monitor) -> None:
    output = FilePath(os.environ.get("EXPORTS", ".")) / f"{name}.ndjson"
    try:
        options, limiter = app.state.options, app.state.limiter
        done = await bulkfetch.export(ids, output, options, limiter=limiter, monitor=monitor)
        ended[name] = f"{done.output_rows} rows, {done.failed} courses failed"
    except bulkfetch.RunError as error:
        ended[name] = str(error)
