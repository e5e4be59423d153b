"""What all tests share: how hypothesis looks for counterexamples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "bulkfetch",
    deadline=None,  # no test asserts a time
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bulkfetch")
