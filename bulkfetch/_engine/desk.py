"""Between a run and its output: outcomes in batches, written and committed in a thread.

Outcomes are gathered up to 1 MiB and written in a thread, while the workers go on. After 200 ms or
8 MiB what was written is committed, which syncs two files.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from bulkfetch._config.options import Options
from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import OutputError, Refused, RunError
from bulkfetch._domain.hooks import Commit
from bulkfetch._domain.model import Failed
from bulkfetch._output.frames import Pause, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from bulkfetch._domain.model import Outcome
    from bulkfetch._engine.run import Run
    from bulkfetch._engine.setup import Setup
    from bulkfetch._engine.tally import Summary
    from bulkfetch._output.batch import Batch
    from bulkfetch._output.ledger import Ledger

_WRITE_BYTES: Final = 1 << 20
_COMMIT_BYTES: Final = 8 << 20
_COMMIT_SECONDS: Final = 0.2
_NOTE_SECONDS: Final = 1.0

_T = TypeVar("_T")


class Sink(Protocol):
    """Where committed courses go; one call at a time, and all but `prepare` block."""

    def open(self) -> Ledger: ...
    def prepare(self, outcomes: Sequence[Outcome]) -> Batch: ...
    def write(self, batch: Batch) -> None: ...
    def commit(self) -> None: ...
    def note(self, state: Mapping[str, object]) -> None: ...
    def paused(self, pause: Pause) -> None: ...
    def stopped(self, stop: Stop) -> None: ...
    def finish(
        self, totals: Mapping[str, object], options: Mapping[str, object] | None = None
    ) -> object: ...
    def close(self) -> None: ...


class Desk:
    """Gathers outcomes and has them written and committed, call by call, in its own thread."""

    def __init__(self, sink: Sink, thread: ThreadPoolExecutor, setup: Setup) -> None:
        self._sink = sink
        self._thread = thread
        self._hooks = setup.hooks
        self._each = setup.options.durability == "course"
        self._noted = self._due = 0.0
        self._pending = _Pending()
        self._kept = _Pending()
        """What was committed."""
        self._doubted: dict[str, Failed] = {}

    async def write_all(self, run: Run) -> None:
        """Commit every outcome of the run; those before the run's own error too."""
        end: BaseException | None = None
        while end is None:
            end = await self._write_until_due(run)
            await self._write_confirmed(run)
            await self._commit(run)
        if not isinstance(end, StopAsyncIteration):
            raise end

    async def _write_until_due(self, run: Run) -> BaseException | None:
        """Write outcomes until a commit is due, or to the run's end, which is returned."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _COMMIT_SECONDS
        while loop.time() < self._due and self._pending.nbytes < _COMMIT_BYTES:
            outcomes, end = await self._gather(run)
            await self._write(outcomes, run)
            if end is not None:
                return end
        return None

    async def _gather(self, run: Run) -> tuple[list[Outcome], BaseException | None]:
        """Collect outcomes until there is 1 MiB or a commit is due; the run's end comes along."""
        loop = asyncio.get_running_loop()
        gathered: list[Outcome] = []
        room = _WRITE_BYTES
        while room > 0 and loop.time() < self._due:
            try:
                outcomes, nbytes = await run.take(self._due, room)
            except Exception as end:  # noqa: BLE001 - raised by write_all
                return gathered, end
            gathered += outcomes
            room -= nbytes
            self._pending.nbytes += nbytes
        return gathered, None

    async def _write(self, outcomes: list[Outcome], run: Run) -> None:
        if run.refused:
            outcomes = [self._doubting(outcome, run) for outcome in outcomes]
        if self._each:
            for outcome in outcomes:
                await self._write_together([outcome])
                await self._commit(run)
        elif outcomes:
            await self._write_together(outcomes)

    async def _write_confirmed(self, run: Run) -> None:
        """Write those refusals again, as settled, that turned out to be the courses' own."""
        confirmed = [course_id for course_id in self._doubted if not run.doubts(course_id)]
        if confirmed:
            await self._write_together([self._doubted.pop(course_id) for course_id in confirmed])

    def _doubting(self, outcome: Outcome, run: Run) -> Outcome:
        """Leave a refusal unsettled while it may be the account that is refused."""
        if not isinstance(outcome, Failed) or not run.doubts(outcome.course_id):
            return outcome
        self._doubted[outcome.course_id] = outcome
        error = Refused(outcome.error.kind, outcome.error.message, settled=False)
        return replace(outcome, error=error)

    async def _write_together(self, outcomes: Sequence[Outcome]) -> None:
        began = time.monotonic()
        batch = self._sink.prepare(outcomes)
        await self.call(self._sink.write, batch)
        self._pending.add(batch, time.monotonic() - began)

    async def _commit(self, run: Run) -> None:
        now = time.monotonic()
        state = None
        if now - self._noted >= _NOTE_SECONDS:
            self._noted, state = now, asdict(run.state)
        elif not self._pending.outcomes:
            return
        await self.call(self._commit_and_note, run.pauses(), state)
        pending, self._pending = self._pending, _Pending()
        self._kept.courses += pending.courses
        self._kept.rows += pending.rows
        if self._hooks.commit and pending.outcomes:
            seconds = pending.seconds + time.monotonic() - now
            self._hooks.commit(Commit(pending.courses, pending.rows, seconds))

    def _commit_and_note(
        self, pauses: Iterable[tuple[float, float, str]], state: Mapping[str, object] | None
    ) -> None:
        self._sink.commit()
        for pause in pauses:
            self._sink.paused(Pause(*pause))
        if state is not None:
            self._sink.note(state)

    def tell_stop(self, run: Run, error: RunError) -> None:
        """Journal why the run ends early; where it cannot be, claim no more than is committed."""
        kind, failure = type(error).__name__, run.last_failure
        try:
            if isinstance(error, OutputError):
                raise error  # the journal's own trouble
            self._tell_last(run)
            self._sink.stopped(Stop(time.time(), error.exit_code, kind, str(error), failure))
        except OutputError:
            run.claim_only(self._kept.courses, self._kept.rows)
            raise

    def finish(
        self, run: Run, summary: Summary, options: Options, lacking: Mapping[str, object]
    ) -> None:
        """Publish; `lacking` are totals of an earlier finish that stand: what it left out."""
        if summary.courses:
            self._tell_last(run)
        way = {"way": run.way} if run.way else {}
        self._sink.finish({**asdict(summary), **lacking}, {**public_options(options), **way})

    def _tell_last(self, run: Run) -> None:
        for pause in run.pauses(last=True):
            self._sink.paused(Pause(*pause))
        self._sink.note({**asdict(run.state), "latencies": run.latencies})

    async def call(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a blocking call in the thread; it is waited for even when this task is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


@dataclass(slots=True)
class _Pending:
    """What was written, or is about to be, since the last commit."""

    nbytes: int = 0
    outcomes: int = 0
    courses: int = 0
    rows: int = 0
    seconds: float = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count what has been written, and let go of it."""
        self.outcomes += len(batch.courses) + len(batch.failed)
        self.courses += len(batch.courses)
        self.rows += sum([course[1] for course in batch.courses])
        self.seconds += seconds
        for course in batch.fetched:
            course.rows.close()


def public_options(options: Options) -> dict[str, object]:
    """Return the settings as JSON values, without secrets."""
    values = {field.name: getattr(options, field.name) for field in fields(Options)}
    return {
        name: value if isinstance(value, str | int | float | tuple | None) else str(value)
        for name, value in values.items()
        if not isinstance(value, Secret) and name != "token_command"
    }
