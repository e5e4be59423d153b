"""Metrics for an embedding program, as the command makes them.

The extra `metrics` is looked for when they are asked for, not with `import bulkfetch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from bulkfetch._domain.hooks import Hooks
    from bulkfetch._pace.limiter import Limiter


def prometheus_hooks(registry: CollectorRegistry, *, limiter: Limiter | None = None) -> Hooks:
    """Return hooks that count what runs do in metrics of `registry`.

    Call it once and give the hooks to every run. With the `limiter` that the runs share, requests
    under way, their limit and the seconds waited can be read, too. Names and labels are those of
    `fetch --metrics-addr`. Raises ConfigurationError without the extra `metrics`, and when the
    registry has these metrics already.
    """
    from bulkfetch._watch.metrics import counting_hooks  # noqa: PLC0415 - an extra

    return counting_hooks(registry, limiter)
