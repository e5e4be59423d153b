"""From raw runs to tables: rates, CPU, memory, ratios with the goal beside them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.machine import MIB

if TYPE_CHECKING:
    from benchmarks.endpoint import Ceiling
    from benchmarks.machine import Cores

SUBJECT = "export"
GOALS = {
    "zeep": {3: 12, 30: 12, 300: 12, 3000: 11, 100_000: 11},
    "aiohttp iterparse": {3: 2.0, 30: 2.4, 300: 2.8, 3000: 2.5, 100_000: 2.6},
    "scrapy": {3: 25, 30: 28, 300: 34, 3000: 32, 100_000: 25},
}
"""How many times as fast `export` is to be, by peer and rows."""
GUARANTEES = {30: 10, 3000: 5}
"""Most CPU in percent that retry, limiter, journal and sync may add to the bare loop, by rows."""
CEILING_SHARE = 0.5
"""A client that takes more than this of what the endpoint can do is measured with the endpoint."""

_HEAD = (
    f"{'client':<18}{'requests/s':>11}{'spread':>8}{'rows/s':>11}{'CPU us/req':>12}"
    f"{'MiB peak':>10}{'over idle':>10}{'export is':>11}{'goal':>7}"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked for: rows a course, compressed or not, seconds until the answer."""

    rows: int
    gzip: bool = False
    latency: float = 0.0

    def __str__(self) -> str:
        encoding = ", gzip" if self.gzip else ""
        latency = f", {self.latency * 1000:g} ms" if self.latency else ""
        return f"{self.rows:,} rows{encoding}{latency}"


@dataclass(frozen=True, slots=True)
class Run:
    """One client once; seconds, CPU seconds and bytes; `idle` is None where it is not known."""

    client: str
    cell: Cell
    round: int
    count: int
    seconds: float = 0.0
    cpu: float = 0.0
    idle: int | None = None
    peak: int = 0
    error: str | None = None
    way: str | None = None
    """Which way the requests of export went."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.count / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """Microseconds."""
        return self.cpu / self.count * 1e6

    @property
    def over(self) -> float | None:
        """MiB at most on top of the idle process."""
        return None if self.idle is None else (self.peak - self.idle) / MIB


def of(runs: list[Run], client: str, cell: Cell) -> dict[int, Run]:
    """Return the good runs of a client in a cell, by round."""
    return {
        run.round: run
        for run in runs
        if run.client == client and run.cell == cell and run.error is None
    }


def ratio(runs: list[Run], client: str, cell: Cell) -> float | None:
    """Return how many times as fast the subject is: the median of the rounds' ratios."""
    subject, peer = of(runs, SUBJECT, cell), of(runs, client, cell)
    ratios = [subject[number].rate / peer[number].rate for number in subject if number in peer]
    return median(ratios) if ratios else None


def verdict(*, met: bool) -> str:
    return "met" if met else "missed"


def heading(facts: dict, cores: Cores, unpinned: str = "only one core, or not Linux") -> list[str]:
    known = {name: version for name, version in facts["versions"].items() if version}
    tools = [facts[name] for name in ("nginx", "wrk") if facts[name]]
    pinned = f"server on core {cores.server}, client on core {cores.client}"
    return [
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, {facts['date']}",
        ", ".join([*(f"{name} {version}" for name, version in known.items()), *tools]),
        f"revision: {facts['revision'] or 'unknown'}",
        f"endpoint: {facts['endpoint']}; "
        + (pinned if cores.server is not None else f"not pinned: {unpinned}"),
        f"load before the start: {facts['load']:.1f}"
        + (" (others are busy here: mind the spread)" if facts["load"] > 0.5 else ""),
    ]


def table(cell: Cell, runs: list[Run], ceiling: Ceiling) -> list[str]:
    more = " or more" if ceiling.tool == "raw" else ""
    here = [run for run in runs if run.cell == cell]
    able = f"{ceiling.server} can do {ceiling.requests:,.0f} requests/s{more} ({ceiling.tool})"
    lines = ["", f"{cell}, rounds: {len({run.round for run in here})}; {able}", _HEAD]
    for client in dict.fromkeys(run.client for run in here):
        good = list(of(runs, client, cell).values())
        lines += [_line(client, cell, runs, good) + _flag(cell, good, ceiling)] if good else []
        wrong = [run.error for run in here if run.client == client]
        lines += [f"{client:<18} FAILED: {error}" for error in dict.fromkeys(wrong) if error]
    return lines


def _line(client: str, cell: Cell, runs: list[Run], good: list[Run]) -> str:
    rates = [run.rate for run in good]
    rate = median(rates)
    peak = median(run.peak for run in good) / MIB
    overs = [run.over for run in good if run.over is not None]
    times = ratio(runs, client, cell)
    goal = None if cell.gzip or cell.latency else GOALS.get(client, {}).get(cell.rows)
    return (
        f"{client:<18}{rate:>11,.1f}{(max(rates) - min(rates)) / rate:>8.0%}"
        f"{rate * cell.rows:>11,.0f}{median(run.cpu_per_request for run in good):>12,.0f}"
        f"{peak:>10,.0f}"
        + (f"{median(overs):>+10,.1f}" if overs else f"{'n/a':>10}")
        + (f"{times:>10.2f}x" if times and client != SUBJECT else f"{'':>11}")
        + (f"{goal:>7g}" if goal else "")
        + (f" {verdict(met=times >= goal)}" if goal and times else "")
    )


def _flag(cell: Cell, good: list[Run], ceiling: Ceiling) -> str:
    """Say so where the endpoint may have been measured with the client."""
    near = median(run.rate for run in good) > ceiling.requests * CEILING_SHARE
    return " NEAR THE CEILING" if near and not cell.latency else ""


def guarantees(runs: list[Run]) -> list[str]:
    """Say what retry, limiter, journal and sync cost, in CPU against the bare loop."""
    lines = []
    for cell in dict.fromkeys(run.cell for run in runs):
        subject, bare = of(runs, SUBJECT, cell), of(runs, "bare loop", cell)
        shares = [
            subject[number].cpu_per_request / bare[number].cpu_per_request - 1
            for number in subject
            if number in bare
        ]
        if shares:
            goal = None if cell.gzip or cell.latency else GUARANTEES.get(cell.rows)
            met = goal is not None and median(shares) * 100 <= goal
            said = f" (goal: at most {goal} %) {verdict(met=met)}" if goal else ""
            lines.append(f"  {cell}: {median(shares):+.1%}{said}")
    head = ["", "CPU of export over the bare loop, the price of its guarantees:"] if lines else []
    return [*head, *lines]
