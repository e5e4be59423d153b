"""A token from this machine: a private file, a pipe, or what a command prints."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import shutil
import stat
from typing import TYPE_CHECKING, Final

from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import ConfigurationError, LocalFault, RunRefused, Transient
from bulkfetch._http.shortage import local_fault
from bulkfetch._http.transport import Sealed

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

_SECONDS: Final = 60.0
"""A file or a command may take for it."""
_MOST: Final = 64 << 10
"""Bytes of a token."""
_SHELL_SIGNS: Final = re.compile(r"[|;&<>$`*~]")
_SHELLS: Final = ("sh", "bash", "/bin/sh", "/bin/bash")


async def read_file(path: Path) -> tuple[Secret, float]:
    """Return what the file holds; it lives for ever. Raises ConfigurationError, LocalFault."""
    try:
        async with asyncio.timeout(_SECONDS):
            text = await _private_text(path)
    except TimeoutError:
        raise ConfigurationError(
            f"the token file {path} is a pipe that nobody wrote to its end within "
            f"{_SECONDS:g} s: start what writes the token into it, or name a file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise local_fault(error) or ConfigurationError(
            f"the token file {path} cannot be read: {reason}"
        ) from None
    return _checked(text, f"the token file {path}"), float("inf")


async def _private_text(path: Path) -> Secret:
    # Not blocking: whoever writes into a pipe may come later, and the event loop waits better.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        mode = os.fstat(fd).st_mode
        if mode & 0o077:
            raise ConfigurationError(
                f"the token file {path} can be read by others (mode {mode & 0o777:04o}): "
                f"run chmod 600 {shlex.quote(str(path))}"
            )
        data = await _read_pipe(file) if stat.S_ISFIFO(mode) else Sealed(file.read(_MOST + 1))
    return Secret(data.decode("utf-8-sig").strip())


async def run_command(command: str) -> tuple[Secret, float]:
    """Return what the command prints; it lives for ever.

    Raises ConfigurationError, and Transient, LocalFault or RunRefused where it does not end well.
    """
    process = await _start(command)
    try:
        async with asyncio.timeout(_SECONDS):
            said = await _read_output(process)
            await process.wait()
    except TimeoutError:
        raise Transient(
            "token",
            f"the token command did not end within {_SECONDS:g} s; it has no terminal and "
            "no input: should it ask for something, it must not",
        ) from None
    finally:
        if process.returncode is None:
            # Kills, and lets go of the pipe, which nothing else does while there is more to read.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
            await process.wait()
    if process.returncode:
        raise RunRefused(
            "token",
            f"the token command failed with exit code {process.returncode}; what it said stands "
            f"above{_shell_advice(command)}",
        )
    if said.reveal() in shlex.split(command):  # as `echo $TOKEN` does without a shell
        said = Secret("")
    return _checked(said, "the token command", _shell_advice(command)), float("inf")


def check_command(command: str) -> None:
    """Raise ConfigurationError for a command that cannot be started, without starting it."""
    try:
        program = (shlex.split(command) or [""])[0]
    except ValueError as error:
        raise _not_run(command, error) from None
    if shutil.which(program) is None:
        code = errno.EACCES if os.access(program, os.F_OK) else errno.ENOENT
        raise _not_run(command, os.strerror(code))


def _not_run(command: str, reason: object) -> ConfigurationError:
    return ConfigurationError(f"the token command cannot be run: {reason}{_shell_advice(command)}")


async def _start(command: str) -> asyncio.subprocess.Process:
    """Start the command. Raises ConfigurationError, LocalFault."""
    try:
        words = shlex.split(command)
        return await asyncio.create_subprocess_exec(
            *(words or [""]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BlockingIOError):  # fork: as many processes as the user may have
            raise LocalFault("local", "this machine is short of processes (EAGAIN)") from None
        if short := local_fault(error):
            raise short from None
        reason = getattr(error, "strerror", None) or error
        raise _not_run(command, reason) from None


def _shell_advice(command: str) -> str:
    """Say what is missing where a command was written for a shell."""
    if not _SHELL_SIGNS.search(command) or command.split()[:1] in ([name] for name in _SHELLS):
        return ""
    return "; no shell runs it: for pipes, variables and && write  sh -c '...'"


async def _read_output(process: asyncio.subprocess.Process) -> Secret:
    assert process.stdout is not None
    return Secret((await _read_all(process.stdout)).decode("utf-8", "replace").strip())


async def _read_pipe(pipe: FileIO) -> Sealed:
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    try:
        return await _read_all(stream)
    finally:
        transport.close()


async def _read_all(stream: asyncio.StreamReader) -> Sealed:
    """Read what comes; more than any token has is read and dropped."""
    said = Sealed()
    while piece := Sealed(await stream.read(_MOST)):
        said = Sealed((said + piece)[: _MOST + 1])
    return said


def _checked(token: Secret, source: str, advice: str = "") -> Secret:
    if not token or not token.is_one_word or len(token.reveal()) > _MOST:
        raise ConfigurationError(
            f"{source} gave no token: it must hold one line, the token itself{advice}"
        )
    return token
