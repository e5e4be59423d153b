"""How the namespaces are written in this run: what the server refuses is turned once, then kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bulkfetch._soap.protocol import Spelling

if TYPE_CHECKING:
    from bulkfetch._config.options import Options
    from bulkfetch._domain.errors import NamespaceRefused

_log = logging.getLogger("bulkfetch")


class Spellings:
    """The spelling of the namespaces: each part turned at most once, until one works."""

    def __init__(self, options: Options) -> None:
        fixed = options.namespaces
        self.current = Spelling() if fixed == "auto" else Spelling(fixed, fixed)
        self._open = fixed == "auto"
        self._turned: set[str] = set()

    def worked(self) -> None:
        self._open = False

    def turn(self, error: NamespaceRefused, used: Spelling) -> bool:
        """Return whether another spelling than `used` is there to be tried."""
        if used != self.current:
            return True  # another course has turned it meanwhile
        if not self._open or error.part in self._turned:
            return False
        self._turned.add(error.part)
        self.current = used.other(error.part)
        _log.warning(
            "%s; from now on the %s namespace is written with %s://",
            error.message,
            error.part,
            getattr(self.current, error.part),
        )
        return True
