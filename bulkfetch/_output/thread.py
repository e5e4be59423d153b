"""One thread beside the caller's, for what waits for the disk or sums up many bytes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_WAITING: Final = 16
"""Jobs that may wait, each with its block of bytes."""


class OrderedThread:
    """Does one job after the other, in the order given; the thread begins with the first.

    What a job raises comes out of a later call, which may leave its own job undone; those that were
    waiting are done all the same: give none that must not follow a failed one before `finish` has
    returned.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "bulkfetch-ordered")
        self._jobs: deque[Future[object]] = deque()
        self._alone = False

    def do(self, job: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Have it done; waits while too many are before it. Where no thread can be had, do it."""
        while len(self._jobs) >= _WAITING:
            self._jobs.popleft().result()
        if not self._alone:
            try:
                self._jobs.append(self._thread.submit(job, *args, **kwargs))
            except RuntimeError:  # there are too many, or the program is ending
                self._alone = True
        if self._alone:
            self.finish()
            job(*args, **kwargs)

    def finish(self) -> None:
        """Wait until all is done."""
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """End the thread, once it has done what it was given."""
        self._thread.shutdown()
