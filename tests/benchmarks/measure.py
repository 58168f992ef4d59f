"""Starting one process after another, and what each took.

Who starts them imports nothing large: a child's peak memory, as the kernel counts it, begins at its parent's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import TOP
from tests.benchmarks.job_files import TABLES, write_job

PREFECT_ROUNDS = 3
PREFECT_BATCHES = 100  # a flow has at most some 150 tasks: below that, a batch is a task


class Failed(Exception):
    """A process that did not do what it was started for; what it said last."""


@dataclass(frozen=True)
class Measured:
    seconds: float
    megabytes: float  # at the peak
    beyond: float  # the peak less the one that the imports came to


Results = dict[str, list[Measured]]
Peaks = dict[str, tuple[float, float]]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def in_megabytes(peak: int) -> float:
    """A peak as the kernel counts it, in a unit that is its own."""
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def child(command: Sequence[str], env: dict[str, str] | None = None) -> tuple[str, float, float]:
    """What a process printed last, its wall time in seconds, and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=TOP, env=env, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        printed, complaint = last_line(out.read()), last_line(err.read())
    if process.returncode:
        raise Failed(complaint or f"exit status {process.returncode}")
    return printed, seconds, in_megabytes(usage.ru_maxrss)


def script(module: str, *arguments: object) -> tuple[str, float, float]:
    return child([sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)])


def made(bench: Path, rows: int, files: int | None = None, kind: str = "rows") -> Path:
    """The folder that holds so many rows."""
    extra = () if files is None else ("--files", files)
    return Path(script("make_data", "--folder", bench, "--rows", rows, "--kind", kind, *extra)[0])


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure(name: str, source: Path, place: Path) -> Measured:
    """One run into a folder that is fresh, after all that was written before is on the disk and out of the way."""
    out = emptied(place) / "rows"
    os.sync()
    printed, _, megabytes = script("peers", name, source, out)
    said = json.loads(printed)
    done = Measured(said["seconds"], megabytes, megabytes - said["imports"])
    print(f"  {name}: {done.seconds:.2f} s, {done.megabytes:.0f} MB", file=sys.stderr)
    return done


def warm_up(names: Iterable[str], source: Path, bench: Path) -> dict[str, str]:
    """Each once, its outputs held against those of the first of its job. Gives who failed, and why."""
    print("warm-up", file=sys.stderr)
    failures: dict[str, str] = {}
    references: dict[str, Path] = {}
    for name in names:
        place = bench / "warm-up" / name.replace("/", "-")
        try:
            measure(name, source, place)
            job = name.partition("/")[0]
            reference = references.setdefault(job, place)
            table = [TABLES[job]] if job in TABLES else []
            script("check", source, reference / "rows", place / "rows", *table)
        except Failed as failed:
            failures[name] = str(failed)
            print(f"  {name} FAILED: {failed}", file=sys.stderr)
        if place not in references.values():
            shutil.rmtree(place)
    shutil.rmtree(bench / "warm-up")
    return failures


def rounds(names: Sequence[str], source: Path, bench: Path, count: int) -> Results:
    """A B C, A B C, ...: never one peer's runs in a row: what slows the machine for a while slows all."""
    results: Results = {name: [] for name in names}
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr)
        for name in names:
            results[name].append(measure(name, source, bench / "measured"))
    shutil.rmtree(bench / "measured", ignore_errors=True)
    return results


def memory(rows: int, bench: Path) -> Peaks:
    """Farol's peak memory in MB for the rows and for four times as many, each once."""
    print("memory", file=sys.stderr)
    few, many = made(bench, rows), made(bench, 4 * rows)
    place = bench / "measured"
    names = ("elementwise/farol", "zscore-softmax/farol", "group-softmax/farol")
    peaks = {name: (measure(name, few, place).megabytes, measure(name, many, place).megabytes) for name in names}
    shutil.rmtree(place)
    return peaks


def prefect(bench: Path) -> dict[str, float]:
    """Seconds of whole processes, from start to end: the command, and the same work without Prefect."""
    print("prefect", file=sys.stderr)
    command = Path(sys.executable).with_name("farol")
    if not command.exists():
        raise Failed("the farol command is not installed beside this Python")
    starts = {
        "farol": [str(command), "run"],
        "core": [sys.executable, "-c", "import sys; from attention_core.run import run; run(sys.argv[1])"],
    }
    # No server is set, and the database is the benchmark's own: made by the first run, which is not counted.
    env = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    env["PREFECT_HOME"] = str(bench / "prefect")
    sources = {1: made(bench, 1_000, 1), PREFECT_BATCHES: made(bench, 1_000 * PREFECT_BATCHES, PREFECT_BATCHES)}

    def wall(start: str, batches: int) -> float:
        job = write_job("one-column", sources[batches], emptied(bench / "measured") / "rows")
        seconds = child([*starts[start], str(job)], env)[1]
        print(f"  {start}, {batches} batches: {seconds:.2f} s", file=sys.stderr)
        return seconds

    wall("farol", 1)
    walls: dict[tuple[str, int], list[float]] = {(start, batches): [] for batches in sources for start in starts}
    for _ in range(PREFECT_ROUNDS):
        for (start, batches), seconds in walls.items():
            seconds.append(wall(start, batches))
    shutil.rmtree(bench / "measured")
    whole = {key: median(seconds) for key, seconds in walls.items()}
    further = {start: (whole[start, PREFECT_BATCHES] - whole[start, 1]) / (PREFECT_BATCHES - 1) for start in starts}
    return {
        "farol_whole": whole["farol", 1],
        "core_whole": whole["core", 1],
        "farol_further_batch": further["farol"],
        "core_further_batch": further["core"],
    }
