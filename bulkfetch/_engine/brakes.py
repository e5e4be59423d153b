"""The brakes that a person sets: `fail_fast` and `max_errors`. Pure.

Both count courses without rows, failed or refused; the rules that judge the server are elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import StoppedEarly

if TYPE_CHECKING:
    from bulkfetch._config.options import Options

_LEAST_FOR_A_SHARE: Final = 20
"""Courses done before `max_errors` in percent is judged."""


def braked(options: Options, *, courses: int, failed: int, last: str) -> StoppedEarly | None:
    """Return why to stop after `failed` of `courses` have no rows; `last` tells of the last one."""
    if options.fail_fast:
        return StoppedEarly(
            f"stopped at the first course that failed or was refused, as fail_fast says: {last}"
        )
    if (text := options.max_errors) is None:
        return None
    number, share = float(str(text).rstrip("%")), str(text).endswith("%")
    if share and courses < _LEAST_FOR_A_SHARE:
        return None
    if failed <= (number * courses / 100 if share else number):
        return None
    return StoppedEarly(
        f"{failed} of {courses} courses failed or were refused, more than max_errors {text} "
        "allows: see the failed courses, then run again"
    )
