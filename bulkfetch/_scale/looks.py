"""The looks at a Dask cluster before the first request: all that a run would lack, in words.

A scheduler that is there, of this version, with workers; on each worker the same bulkfetch, a
token, and the output's folder with locks that reach it.
"""

from __future__ import annotations

import os
import re
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from fcntl import LOCK_EX, flock
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from warnings import catch_warnings

from distributed import Client, LocalCluster

from bulkfetch._domain.errors import ConfigurationError, TemporarilyUnavailable
from bulkfetch._output.layout import Layout, failures
from bulkfetch._scale.shards import SECRETS, cut
from bulkfetch._scale.worker import look_at_folder, look_at_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from bulkfetch._config.options import Options

_DASK: Final = version("distributed")
_CONNECT_SECONDS: Final = 5


@asynccontextmanager
async def connected(scheduler: str, shards: int | None, options: Options) -> AsyncIterator[Any]:
    """Connect to a scheduler that is there, of this version and with workers."""
    async with AsyncExitStack() as stack:
        address = scheduler
        if scheduler == "local":
            address = await stack.enter_async_context(_local(shards, options))
        connecting: Any = Client
        client = connecting(address, asynchronous=True, timeout=f"{_CONNECT_SECONDS}s")
        stack.push_async_callback(client.close)
        try:
            with catch_warnings(action="ignore"):  # of versions: those that matter are looked at
                await client
        except (OSError, TimeoutError) as error:
            raise TemporarilyUnavailable(
                f"no Dask scheduler answers at {scheduler}: start one (dask scheduler), or name "
                "the address that it prints"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"{scheduler} is no scheduler that this Dask ({_DASK}) can talk "
                f"to ({error}): write it like tcp://HOST:8786, or local"
            ) from error
        await _check_versions(client, scheduler)
        yield client


@asynccontextmanager
async def _local(shards: int | None, options: Options) -> AsyncIterator[Any]:
    """Start a cluster on this machine, whose workers find this process's secrets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    secrets = {name: getattr(options, name) for name in SECRETS}
    with _in_environment({name: value for name, value in secrets.items() if value is not None}):
        make: Any = LocalCluster
        async with make(
            n_workers=min(shards or cores or 1, cores or 1),
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            asynchronous=True,
        ) as cluster:
            yield cluster


@contextmanager
def _in_environment(secrets: dict[str, Any]) -> Iterator[None]:
    """Let the processes that are started inside inherit what was set elsewhere."""
    names = {f"BULKFETCH_{name.upper()}": value for name, value in secrets.items()}
    new = {name: value for name, value in names.items() if name not in os.environ}
    for name, value in new.items():
        os.environ[name] = value if isinstance(value, str) else value.reveal()
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


async def _check_versions(client: Any, scheduler: str) -> None:
    """See that there is a scheduler of this Dask, with workers of it."""
    try:
        await client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError:
        raise TemporarilyUnavailable(
            f"the scheduler at {scheduler} has no worker: start some (dask worker {scheduler})"
        ) from None
    info: dict[str, Any] = await client.get_versions(check=False)
    there = {f"the scheduler at {scheduler}": info["scheduler"]}
    there |= {f"the worker {worker}": said for worker, said in info["workers"].items()}
    for name, said in there.items():
        if (found := said["packages"].get("distributed")) != _DASK:
            raise ConfigurationError(
                f"{name} runs Dask {found}, here is {_DASK}: install the same version on both"
            )


async def check_workers(client: Any, options: Options) -> int:
    """Look at each worker; returns how many shards they can run at once."""
    layout = Layout.of("x")
    settings = cut("x", layout, options, 1, id_column=None)[0].settings
    found = await _on_each(client, look_at_worker, dict(settings))
    for worker, said in found.items():
        if said["version"] != version("bulkfetch"):
            raise ConfigurationError(
                f"the worker {worker} has bulkfetch {said['version']}, here is "
                f"{version('bulkfetch')}: install the same version on both"
            )
        if said["wrong"]:
            raise ConfigurationError(f"the worker {worker} cannot run a shard: {said['wrong']}")
    threads: dict[str, int] = await client.nthreads()  # what the client remembers comes late
    return sum(threads.values())


async def check_folder(client: Any, layout: Layout) -> None:
    nonce = uuid.uuid4().hex
    with failures(f"write {layout.sharing}"), open(layout.sharing, "w") as file:  # noqa: ASYNC230, PTH123
        file.write(nonce)
        file.flush()
        flock(file, LOCK_EX)
        found = await _on_each(client, look_at_folder, layout.sharing, nonce)
        for worker, wrong in found.items():
            if wrong:
                raise ConfigurationError(f"the worker {worker}: {wrong}")


async def _on_each(client: Any, function: Callable[..., Any], *args: object) -> dict[str, Any]:
    """Call a function on every worker; raises ConfigurationError where it cannot be called."""
    answers: dict[str, Any] = await client.run(function, *args, on_error="return")
    for worker, answer in answers.items():
        if not isinstance(answer, BaseException):
            continue
        if package := lacking(answer):
            raise ConfigurationError(f"the worker {worker} {remedy(package)}")
        raise ConfigurationError(
            f"the worker {worker} fails before the run: {type(answer).__name__}: {answer}"
        )
    return answers


def lacking(error: BaseException) -> str | None:
    """Return the package that was not found, if that is it; Dask may pass on the words alone."""
    found = re.search(r"No module named '(\w+)", str(error))
    return found[1] if found else None


def remedy(package: str) -> str:
    """Say that somebody lacks a package, and what to do."""
    return f"lacks {package}: pip install 'bulkfetch[dask]=={version('bulkfetch')}' there"
