"""What was measured, as text: Markdown that can be read as it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import Measured, Peaks, Results

# Seconds of the first over those of the second, at most.
TIME_TARGETS = [
    ("elementwise/farol", "elementwise/polars", 1.15),
    ("elementwise/farol", "elementwise/duckdb", 0.65),
    ("elementwise/farol", "elementwise/pandas-torch", 0.5),
    ("zscore-softmax/farol", "one-column/farol", 1.6),
    ("zscore-softmax/farol", "one-column/farol", 1.35),
    ("zscore-softmax/farol-encoding", "one-column/farol-encoding", 1.35),
    ("group-softmax/farol", "group-softmax/polars", 1.3),
    ("group-softmax/farol", "group-softmax/polars", 0.55),
    ("group-softmax/farol", "group-softmax/duckdb", 0.65),
    ("group-softmax/farol", "group-softmax/polars-joins", 1.0),
    ("group-softmax/farol", "group-softmax/polars-narrow", 1.0),
    ("pool/farol", "pool/polars", 1.0),
    ("pool/farol", "pool/duckdb", 1.0),
    ("median/farol", "median/polars", 3.0),
]
# Peak memory of the first over that of the second, at most.
PEAK_TARGETS = [
    ("group-softmax/farol", "group-softmax/polars", 1.0),
    ("group-softmax/farol", "group-softmax/duckdb", 1.0),
    ("group-softmax/farol", "group-softmax/polars-narrow", 1.0),
    ("pool/farol", "pool/polars", 1.0),
    ("pool/farol", "pool/duckdb", 1.0),
]
# The same of what stands above the peak of the imports.
BEYOND_TARGETS = [("median/farol", "median/polars", 0.1)]
MEMORY_TARGET = 1.15  # peak memory for four times the rows, over that for the rows
BEGIN, END = "<!-- last measured -->", "<!-- end of last measured -->"


@dataclass(frozen=True)
class Ratio:
    """Of pairs, round by round, then the median: a round in which all were slow does not say who is slower."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[Measured], theirs: Sequence[Measured]) -> Ratio:
        ratios = [mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def environment(rows: int, rounds: int) -> dict[str, str]:
    """What the numbers hold for."""

    def installed(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    processor = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    models = [line for line in cpus.read_text().splitlines() if "model name" in line] if cpus.exists() else []
    packages = ("polars", "torch", "pyarrow", "duckdb", "pandas", "prefect")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "rows": f"{rows:,}",
        "rounds": str(rounds),
        "cores": f"{os.cpu_count()} ({models[0].partition(':')[2].strip() if models else processor})",
        "versions": ", ".join([f"Python {platform.python_version()}", *map(installed, packages)]),
    }


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def largest(runs: Sequence[Measured], which: str) -> float:
    return max(float(getattr(run, which)) for run in runs)


def peers_table(results: Results) -> str:
    lines = []
    for name, runs in results.items():
        job, _, peer = name.partition("/")
        seconds = [run.seconds for run in runs]
        farol = results.get(f"{job}/farol")
        lines.append(
            [
                job,
                peer,
                f"{median(seconds):.2f}",
                f"{min(seconds):.2f}–{max(seconds):.2f}",
                str(Ratio.of(farol, runs)) if farol and peer != "farol" else "",
                f"{largest(runs, 'megabytes'):.0f}",
                f"{largest(runs, 'beyond'):.0f}",
            ]
        )
    return table(["job", "peer", "median s", "min–max s", "Farol / peer (min–max)", "peak MB", "beyond imports"], lines)


def targets_table(results: Results, peaks: Peaks | None) -> str:
    def line(what: str, target: float, value: float | None, shown: str) -> list[str]:
        met = "" if value is None else "yes" if value <= target else "no"
        return [what, f"≤ {target:.2f}", shown, met]

    lines = []
    for ours, theirs, target in TIME_TARGETS:
        what = f"{ours} / {theirs}"
        if ours in results and theirs in results:
            ratio = Ratio.of(results[ours], results[theirs])
            lines.append(line(what, target, ratio.median, str(ratio)))
        else:
            lines.append(line(what, target, None, "not measured"))
    for which, targets in (("megabytes", PEAK_TARGETS), ("beyond", BEYOND_TARGETS)):
        for ours, theirs, target in targets:
            what = f"{ours} / {theirs}: peak memory{' beyond imports' if which == 'beyond' else ''}"
            if ours in results and theirs in results:
                mine, other = largest(results[ours], which), largest(results[theirs], which)
                lines.append(line(what, target, mine / other, f"{mine / other:.2f} ({mine:.0f} MB / {other:.0f} MB)"))
            else:
                lines.append(line(what, target, None, "not measured"))
    for name, (few, many) in (peaks or {}).items():
        what = f"{name}: peak memory, four times the rows / the rows"
        lines.append(line(what, MEMORY_TARGET, many / few, f"{many / few:.2f} ({many:.0f} MB / {few:.0f} MB)"))
    if not peaks:
        lines.append(line("peak memory, four times the rows / the rows", MEMORY_TARGET, None, "not measured"))
    return table(["target", "at most", "measured", "met"], lines)


def prefect_table(cost: dict[str, float]) -> str:
    def line(what: str, key: str, unit: float) -> list[str]:
        farol, core = cost[f"farol_{key}"], cost[f"core_{key}"]
        return [what, *(f"{seconds * unit:.2f}" for seconds in (farol, core, farol - core))]

    return table(
        ["Prefect's own cost", "farol run", "the core alone", "difference"],
        [
            line("one tiny batch, the whole process, s", "whole", 1),
            line("each further batch, a task of its own, ms", "further_batch", 1000),
        ],
    )


def report(
    where: dict[str, str],
    results: Results,
    failures: dict[str, str],
    peaks: Peaks | None,
    cost: dict[str, float] | None,
) -> str:
    parts = ["\n".join(f"- {key}: {value}" for key, value in where.items())]
    parts += [peers_table(results)] if results else []
    parts += [targets_table(results, peaks)]
    parts += [prefect_table(cost)] if cost else []
    parts += [f"{name} FAILED: {reason}" for name, reason in failures.items()]
    return "\n\n".join(parts)


def write(text: str) -> None:
    """Into the README's block, whole."""
    readme = Path(__file__).with_name("README.md")
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
