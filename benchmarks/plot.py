"""Draw a full run's raw results: `python -m benchmarks.plot RESULTS.json`.

Writes RESULTS-throughput.svg (rows a second by rows a course) and RESULTS-memory.svg (peak memory
over the idle process) beside the file; both axes logarithmic, medians of the rounds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import SUBJECT, Cell, Run

if TYPE_CHECKING:
    from collections.abc import Callable

_STYLES = {
    "export": ("bulkfetch export", "#0b6e4f", "o"),
    "aiohttp tuned": ("aiohttp, tuned", "#1d3557", "*"),
    "aiohttp iterparse": ("aiohttp, iterparse", "#3a6ea5", "s"),
    "aiohttp xpath": ("aiohttp, xpath", "#7fa7d1", "v"),
    "requests": ("requests, threads", "#8a5a9e", "D"),
    "httpx": ("httpx", "#c08cc9", "^"),
    "zeep": ("zeep", "#d08c2f", "P"),
    "scrapy": ("Scrapy", "#b33c3c", "X"),
}
"""Those worth a line, best first."""
_LEAST_SHOWN = 0.25


def read_runs(raw: dict) -> list[Run]:
    """Return the good runs of plain, immediate answers."""
    known = {field.name for field in fields(Run)}  # older files have more
    runs = [
        Run(**{name: run[name] for name in known & run.keys()} | {"cell": Cell(**run["cell"])})
        for run in raw["runs"]
    ]
    return [run for run in runs if not (run.error or run.cell.gzip or run.cell.latency)]


def series(runs: list[Run], client: str, value: Callable[[Run], float | None]) -> dict[int, float]:
    """Return the median value by rows a course, where there is one."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if run.client == client and (measured := value(run)) is not None:
            found.setdefault(run.cell.rows, []).append(measured)
    return {rows: median(found[rows]) for rows in sorted(found)}


def draw(runs: list[Run], label: str, value: Callable[[Run], float | None], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bulkfetch"  # the same figures give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for client, (name, color, marker) in _STYLES.items():
        points = series(runs, client, value)
        if points:
            width = 2.6 if client == SUBJECT else 1.3
            axes.plot(
                list(points), list(points.values()),
                label=name, color=color, marker=marker, linewidth=width,
            )  # fmt: skip
    sizes = sorted({run.cell.rows for run in runs})
    axes.set(xscale="log", yscale="log", xlabel="rows a course", ylabel=label)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda amount, _: f"{amount:,.10g}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.plot RESULTS.json")
    source = Path(sys.argv[1])
    runs = read_runs(json.loads(source.read_text()))
    if not runs:
        sys.exit(f"{source} holds no good runs to draw")
    draw(
        runs,
        "rows a second, one core",
        lambda run: run.rate * run.cell.rows,
        source.with_name(f"{source.stem}-throughput.svg"),
    )
    draw(
        runs,
        "peak memory over idle, MiB",
        lambda run: None if run.over is None else max(_LEAST_SHOWN, run.over),
        source.with_name(f"{source.stem}-memory.svg"),
    )


if __name__ == "__main__":
    main()
