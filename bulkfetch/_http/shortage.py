"""Shortages of this machine, told from failures of the server, which is not to blame for them."""

from __future__ import annotations

import errno
import socket
from typing import Final

from bulkfetch._domain.errors import LocalFault

_SHORT_OF: Final = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL),
    socket.EAI_MEMORY,
}


def local_fault(error: BaseException) -> LocalFault | None:
    """Return what a shortage of this machine is, if the exception tells of one."""
    if isinstance(error, OSError) and error.errno in _SHORT_OF:
        name = errno.errorcode.get(error.errno or 0, "ENOMEM")
        what = "memory" if name == "ENOMEM" else "sockets or files"
        return LocalFault("local", f"this machine is short of {what} ({name})")
    if isinstance(error, RuntimeError) and "new thread" in str(error):  # CPython has no type for it
        return LocalFault("local", "this machine is short of threads")
    return None
