"""Inputs that are broken at random: `python -m tests.stress.fuzz [--inputs 10000] [--seed N] [--only I]`.

Seven in ten are job files, which are checked, planned and previewed as `farol` does; the others are Parquet files,
which are planned, previewed and run beside a whole one, or outputs in the sink. What may come out is one line for each
thing that is wrong, in characters that print; nothing may be written but by a run, and by that in its sink and work
folder; nothing may hang or crash. Where the seed is the same, so is every input.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from attention_core.errors import FarolError
from tests.stress import broken_files, broken_jobs

FORK = multiprocessing.get_context("forkserver")
JOBS = 0.7  # of the inputs
HANG = 30.0  # seconds without an end
MOST_LINES = 12
LONGEST = 10_000  # characters of a line
ENDED = "ended: "
NOISE = "on stderr: "  # what libraries print there when they panic, before Farol says its one line
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}


@dataclass
class Guard:
    """Notes what this process writes where it must not, as Python tells its audit hooks."""

    watching: bool = False
    allowed: tuple[str, ...] = ()
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open":
            if not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event not in WRITES:
            return
        if isinstance(given[0], int):
            return  # a file that is open already
        path = os.path.abspath(os.path.join(_base(event, given), os.fsdecode(given[0])))
        if path != os.devnull and not path.startswith(self.allowed or ("\0",)):
            self.found.append(f"{event} {path}")

    @contextlib.contextmanager
    def over(self, *allowed: Path) -> Iterator[None]:
        self.allowed, self.found, self.watching = tuple(str(a) for a in allowed), [], True
        try:
            yield
        finally:
            self.watching = False


def one(folder: Path, seed: int, i: int, guard: Guard) -> Iterator[str]:
    """One input; what must not be of it."""
    dice = random.Random(f"{seed}/{i}")
    do, sink = (broken_jobs.made if dice.random() < JOBS else broken_files.made)(dice, folder)
    before = held(folder)
    out = io.StringIO()
    allowed = (folder / "out",) if sink else ()
    try:
        with contextlib.redirect_stdout(out), guard.over(*allowed):
            do()
        ended = "done"
    except FarolError as error:
        ended = type(error).__name__
        lines = str(error).splitlines()
        odd = sorted({c for line in lines for c in line if not c.isprintable()})
        if not lines or not all(line.strip() for line in lines):
            yield f"{ended} that says nothing: {str(error)!r}"
        if odd:
            yield f"{ended} with {', '.join(map(ascii, odd))}: {str(error)[:300]!r}"
        if len(lines) > MOST_LINES:
            yield f"{ended} of {len(lines)} lines, the first of them {lines[0]}"
        if max(map(len, lines), default=0) > LONGEST:
            yield f"{ended} with a line of {max(map(len, lines))} characters: {str(error)[:300]!r}"
        if "Traceback" in str(error):
            yield f"{ended} with a traceback: {str(error)[:300]!r}"
    except CycloptsError:  # of the command line
        ended = "usage"
    except SystemExit as error:
        ended = "done"
        if error.code:
            yield f"SystemExit: {error.code}"
    except BaseException as error:
        ended = "error"
        yield f"{type(error).__name__}: {_first(error)} ({_where(error)})"
    odd = sorted({c for c in out.getvalue() if not c.isprintable() and c != "\n"})
    if odd:
        yield f"printed {', '.join(map(ascii, odd))}"
    yield ENDED + ended
    for written in dict.fromkeys(guard.found):
        yield f"wrote: {re.sub(re.escape(str(folder)), '.', written)}"
    now = held(folder)
    changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    if sink and ended == "done":
        changed = [n for n in changed if not n.startswith("out")]
    elif sink:  # what a run that failed has staged may stay, and is no output
        changed = [n for n in changed if n.partition("/")[0] != "out.farol"]
    if changed:
        yield f"{ended}, and changed {', '.join(changed)}"


def _base(event: str, given: tuple[Any, ...]) -> str:
    """The folder that a path is relative to: one that is open, or the working directory."""
    within = given[-1] if event in ("os.mkdir", "os.remove", "os.rmdir") else -1
    return os.readlink(f"/proc/self/fd/{within}") if within >= 0 else os.getcwd()


def held(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[path.relative_to(folder).as_posix()] = (stat.st_size * path.is_file(), stat.st_mtime_ns * path.is_file())
    return found


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _where(error: BaseException) -> str:
    """The last place of the project's own in a traceback."""
    own, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "attention_core" in file or "/flows/" in file:
            own = f"{Path(file).name}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return own


def work(seed: int, todo: list[int], at: Any, log: str, keep: str) -> None:
    """Takes inputs in turn, says at which it is, and writes what it finds to a log."""
    folder = Path(keep) / str(os.getpid()) / "a" / "b"
    folder.mkdir(parents=True)
    os.chdir(folder)
    errors = Path(keep) / f"stderr-{os.getpid()}"
    os.dup2(os.open(errors, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 2)
    guard = Guard()
    broken_files.prepare(folder)
    for n, i in enumerate(todo):
        at.value = n
        where = errors.stat().st_size
        with open(log, "a") as file:
            for what in one(folder, seed, i, guard):
                file.write(json.dumps([i, what]) + "\n")
            said = errors.read_bytes()[where:].decode(errors="replace")
            if "Traceback" in said:
                file.write(json.dumps([i, "a traceback on stderr: " + said.strip()[-300:]]) + "\n")
            elif said.strip():
                file.write(json.dumps([i, NOISE + "; ".join(said.strip().splitlines()[:2])]) + "\n")
    at.value = len(todo)


def watched(seed: int, todo: list[int], log: Path, keep: Path) -> None:
    """Works through inputs in processes of their own, another one after each that hangs or crashes."""
    while todo:
        at = FORK.Value("q", 0)
        process = FORK.Process(target=work, args=(seed, todo, at, str(log), str(keep)))
        process.start()
        last, since = -1, time.monotonic()
        while process.is_alive():
            process.join(0.2)
            if at.value != last:
                last, since = at.value, time.monotonic()
            elif time.monotonic() - since > HANG:
                process.kill()
                process.join()
                note(log, todo[at.value], f"hangs for more than {HANG:.0f} s")
                break
        else:
            if process.exitcode and at.value < len(todo):
                note(log, todo[at.value], f"crash: the process ended with {process.exitcode}")
            elif process.exitcode:
                return
        todo = todo[at.value + 1 :]


def note(log: Path, i: int, what: str) -> None:
    with log.open("a") as file:
        file.write(json.dumps([i, what]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--only", type=int, help="this input alone, which is kept")
    given = parser.parse_args()
    print(f"seed {given.seed}; one input: python -m tests.stress.fuzz --seed {given.seed} --only I", flush=True)
    began = time.monotonic()
    keep = Path(tempfile.mkdtemp(prefix="farol-fuzz-found-"))
    log = keep / "log"
    log.touch()
    if given.only is not None:
        folder = keep / "a" / "b" / "c"
        folder.mkdir(parents=True)
        os.chdir(folder)
        broken_files.prepare(folder)
        for what in one(folder, given.seed, given.only, Guard()):
            print(what)
        print(f"the input is in {folder}")
        return 0
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    FORK.set_forkserver_preload(["tests.stress.broken_files", "tests.stress.broken_jobs"])
    watched(given.seed, list(range(given.inputs)), log, keep)
    found, ended, wrong = defaultdict[str, list[tuple[int, str]]](list), Counter[str](), 0
    for i, what in map(json.loads, log.read_text().splitlines()):
        if what.startswith(ENDED):
            ended[what.removeprefix(ENDED)] += 1
        else:
            found[_sort(what)].append((i, what))
    for examples in sorted(found.values(), key=len, reverse=True):
        i, what = examples[0]
        noise = what.startswith(NOISE)
        wrong += not noise
        print(f"{'noise' if noise else 'WRONG'} {len(examples)} times, as input {i}: {what[:300]}")
    shutil.rmtree(keep, ignore_errors=True)
    print("ended: " + ", ".join(f"{how} {n:,}" for how, n in ended.most_common()))
    print(f"{given.inputs:,} inputs, {wrong} sorts of what must not be, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _sort(what: str) -> str:
    """What differs in numbers and names alone is of one sort."""
    place = re.search(r"\((\w+\.py:\d+ \w+)\)$", what)
    return what.partition(":")[0] + place[1] if place else re.sub(r"'[^']*'|\"[^\"]*\"|\d\S*", "#", what)[:40]


if __name__ == "__main__":
    sys.exit(main())
