"""What all tests share: signals as at a terminal, and how hypothesis looks for counterexamples."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Under nohup, or in the background of a script, some are ignored, and processes inherit that.
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)

settings.register_profile(
    "bulkfetch",
    deadline=None,  # no test asserts a time
    max_examples=60,
    derandomize=True,  # a suite that was green is green again; `hunt` looks for what is new
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "hunt", settings.get_profile("bulkfetch"), derandomize=False, max_examples=2000
)
settings.load_profile("bulkfetch")
