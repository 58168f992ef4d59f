"""Runs that are disturbed at random: `python -m tests.stress.resume [--kills 200] [--flows 5] [--seed N]`.

Each round is a job and a source of its own, at random. Its source and rules change, a run is disturbed, once or several
times, and another run is left alone. What must then hold: rows, tables and statistics are those of a run into an empty
sink, to the last bit, and nothing else lies about. Where a seed is the same, so is all that happens but the moments of
what happens by time.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from attention_core import statistics
from attention_core.run import Run, opened, run
from tests.stress import jobs
from tests.stress.trouble import BROKE, Trouble, disturbed

TOP = Path(__file__).resolve().parents[2]
WORK = {"published.json", "runs", "states", "statistics"}
MAY_BE = {"lock", "report.html"}
AROUND = {"in", "out", "out.farol", "out.pooled", "job.yaml"}
TROUBLES = {  # how often
    "kill by time": 5,
    "kill at a step": 3,
    "kill as it publishes": 3,
    "SIGTERM": 1,
    "SIGINT": 1,
    "full disk": 2,
    "a file too large": 1,
    "a broken file": 1,
    "a lost file": 1,
    "a broken rule": 2,
}
Bits = tuple[str, str, str]
FORK = multiprocessing.get_context("forkserver")  # its processes have imported all, and no threads of Polars'


class Wrong(Exception):
    """What must not be."""


@dataclass
class Tally:
    """What happened in all rounds."""

    tried: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)  # those that a run did not end well for
    left: Counter[str] = field(default_factory=Counter)  # what a kill left behind
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.left.total()


@dataclass
class Round:
    """A job, its source, and what a run of it took the last time."""

    folder: Path
    fresh: Path
    dice: random.Random
    tally: Tally
    number: int
    small: bool  # whether the folder is on a small file system of its own
    seconds: float = 0.5
    steps: int = 60
    story: list[str] = field(default_factory=list)
    allowed: dict[str, set[Bits]] = field(default_factory=dict)  # what a reader may find, by name

    def go(self) -> None:
        self.source = jobs.Source(self.folder / "in", self.dice)
        self.source.fill(self.dice.randrange(2, 6))
        self.job = jobs.job(self.dice)
        self.path = jobs.write(self.job, self.folder)
        if self.dice.random() < 0.8:
            self.undisturbed(self.expected())
        for _ in range(self.dice.randrange(2, 5)):
            before = dict(self.source.held)
            self.change()
            wanted = self.expected()
            for _ in range(self.dice.choice([1, 1, 2, 3])):
                self.disturb()
                self.reader()
            if self.dice.random() < 0.15:
                self.story.append("all as it was")
                self.source.back_to(before)
                wanted = self.expected()
            self.undisturbed(wanted)

    def change(self) -> None:
        if self.dice.random() < 0.25:
            self.job = jobs.job(self.dice)
            jobs.write(self.job, self.folder)
            self.story.append("other rules")
        for _ in range(self.dice.randrange(1, 3)):
            self.story.append(self.source.change())

    def expected(self) -> dict[str, Bits]:
        """What an undisturbed run into an empty sink gives."""
        shutil.rmtree(self.fresh, ignore_errors=True)
        began = time.monotonic()
        run(self.path, [f"sink.path={self.fresh}/out"])
        self.seconds = time.monotonic() - began
        wanted = bits(self.fresh)
        for name, one in wanted.items():
            self.allowed.setdefault(name, set()).add(one)
        return wanted

    def disturb(self) -> None:
        """One run, and something that happens to it."""
        what = self.dice.choices(list(TROUBLES), weights=list(TROUBLES.values()))[0]
        self.story.append(what)
        at = self.dice.randrange(1, self.steps + 2)
        mend: Callable[[], None] = _nothing
        trouble, after, sent = Trouble(), 0.0, None
        match what:
            case "kill by time" | "SIGTERM" | "SIGINT":
                sent = {"kill by time": signal.SIGKILL}.get(what) or signal.Signals[what]
                late = self.dice.random() < 0.4  # where it publishes
                after = self.seconds * (self.dice.uniform(0.6, 1.1) if late else self.dice.uniform(0, 1))
                trouble = Trouble(polite=self.dice.random() < 0.5)
            case "kill at a step":
                trouble = Trouble(kill=at)
            case "kill as it publishes":
                trouble = Trouble(kill=self.dice.randrange(1, 30), late=True)
            case "full disk" if self.small:
                mend = self.fill(self.dice.choice([0, 4096, self.dice.randrange(1 << 19)]))
            case "full disk" | "a file too large":
                trouble = Trouble(most=self.dice.choice([1, 100, 1000, self.dice.randrange(1, 1 << 16)]))
            case "a broken file":
                mend = self.breaking()
            case "a lost file":
                path = self.folder / "in" / self.dice.choice(sorted(self.source.held))
                trouble, mend = Trouble(vanish=(at, str(path))), restored(path)
            case "a broken rule":
                trouble = Trouble(broken=self.dice.choice([1, 2, self.dice.randrange(1, 60)]))
        try:
            ended, said = self.child(trouble, after, sent)
        finally:
            mend()
        self.judge(what, ended, said)

    def child(self, trouble: Trouble, after: float, sent: signal.Signals | None) -> tuple[int, Any]:
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_begun, args=(str(self.path), trouble, theirs))
        process.start()
        theirs.close()
        ours.recv()  # it is there: from here on time counts
        if sent is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it is done
                os.kill(process.pid or 0, sent)
        process.join(120)
        if process.is_alive():
            process.kill()
            raise Wrong("hangs")
        said = None
        with suppress(EOFError):
            said = ours.recv() if ours.poll() else None
        if said is not None and said[0] == 0:
            self.steps = said[3]
        return process.exitcode or 0, said

    def judge(self, what: str, ended: int, said: Any) -> None:
        """A disturbed run ends well, by the signal, or with an error that says what is the matter."""
        self.tally.tried[what] += 1
        if said is None or said[0]:
            self.tally.struck[what] += 1
        if what.startswith("kill") and ended == -signal.SIGKILL:
            self.tally.left[self.remains()] += 1
        if ended < 0:
            if what.startswith("kill") or (what in ("SIGTERM", "SIGINT") and -ended == signal.Signals[what]):
                return
            raise Wrong(f"{what}: ended by {signal.Signals(-ended).name}")
        status, kind, text, _ = said
        clear = kind in ("DataError", "Unreadable", "JobError")
        if what == "a broken rule":
            clear = text == BROKE
        elif what in ("SIGTERM", "SIGINT"):
            clear = status == 130
        if not status and what in ("a broken file", "a lost file"):  # as a source without it has it
            for name, one in bits(self.folder).items():
                self.allowed.setdefault(name, set()).add(one)
        if status and not clear:
            self.tell(f"{what}: {kind}: {text[:300]}")

    def tell(self, wrong: str) -> None:
        """Notes what must not be, where the round can go on."""
        self.tally.wrong.append(f"round {self.number}: after {', '.join(self.story)}: {wrong}")
        print(f"WRONG {self.tally.wrong[-1]}", flush=True)

    def remains(self) -> str:
        work = self.folder / "out.farol"
        staged = any((work / "staging").rglob("*.staged"))
        return (
            "nothing" if not work.is_dir() else "a journal" if (work / "journal.json").exists()
            else "staged outputs" if staged else "an empty staging folder" if (work / "staging").exists()
            else "no staging"
        )  # fmt: skip

    def reader(self) -> None:
        """Who reads the sink in this moment finds whole files, each as some run would write it."""
        found = bits(self.folder)
        if any(name.startswith("out/") for name in found) and len({one[0] for one in found.values()}) == 1:
            pl.scan_parquet(self.folder / "out", hive_partitioning=True, extra_columns="ignore").collect_schema()
        for name, one in found.items():
            if one not in self.allowed.get(name, ()):
                raise Wrong(f"a reader finds {name} as no run would write it")

    def undisturbed(self, wanted: Mapping[str, Bits]) -> None:
        """A run that nothing happens to leaves what it would have left if nothing had ever happened."""
        run(self.path)
        found = bits(self.folder)
        for table in [n for n in found if n not in wanted and n.startswith("out.pooled/")]:
            (self.folder / table).unlink()  # of a rule that the job had before, which stays
            del found[table]
        if found != wanted:
            odd = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
            raise Wrong(f"not as an undisturbed run writes it: {', '.join(odd)}{_how(found, wanted, odd[0])}")
        now = opened(self.path)
        if not now.plan().nothing:
            raise Wrong(f"the plan after it: {now.plan().counts()}, tables {now.plan().tables}")
        self.work_folder(now)
        self.story.clear()
        self.allowed = {name: {one} for name, one in wanted.items()}

    def work_folder(self, now: Run) -> None:
        """The work folder holds what it should, whole, and nothing else lies about."""
        work = now.place.work
        there = {p.name for p in work.iterdir()} - MAY_BE
        if not (there <= WORK and "published.json" in there):
            self.tell(f"in the work folder: {sorted(there - WORK)}")
        around = {p.name for p in self.folder.iterdir()}
        if not around <= AROUND:
            self.tell(f"beside the sink: {sorted(around - AROUND)}")
        strays = [p for p in work.rglob("*.part") if "staging" not in p.parts]
        strays += [p for o in ("out", "out.pooled") for p in (self.folder / o).rglob("*") if p.is_file()]
        strays = [p for p in strays if p.suffix != ".parquet"]
        if strays:
            self.tell(f"strays: {', '.join(str(p.relative_to(self.folder)) for p in strays)}")
            for path in strays:
                path.unlink()
        for record in (work / "runs").glob("*.json"):
            json.loads(record.read_text())
        fitted = now.place.last()["fitted"]
        kept = [p.name for p in (work / "statistics").iterdir()]
        if kept != [fitted]:
            self.tell(f"{len(kept)} statistics are kept")
        if statistics._id(work / "statistics" / fitted) != fitted:
            self.tell("the statistics are not what they were")
        statistics.of_sink(work, now.heads)
        theirs = json.loads((self.fresh / "out.farol" / "published.json").read_text())
        if theirs["fitted"] != fitted:
            self.tell("the statistics are not those of an undisturbed run")

    def fill(self, free: int) -> Callable[[], None]:
        """Leaves so many bytes of the file system; gives what takes that back."""
        filler = self.folder.parent / "filler"
        there = os.statvfs(self.folder)
        size = max(there.f_bavail * there.f_frsize - free, 1)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return lambda: filler.unlink()

    def breaking(self) -> Callable[[], None]:
        """Breaks a batch; gives what mends it."""
        path = self.folder / "in" / self.dice.choice(sorted(self.source.held))
        mend = restored(path)
        whole = path.read_bytes()
        match self.dice.choice(["cut", "empty", "pages", "folder", "mode"]):
            case "cut":
                path.write_bytes(whole[: self.dice.randrange(len(whole))])
            case "empty":
                path.write_bytes(b"")
            case "pages":
                middle = len(whole) // 3
                path.write_bytes(whole[:4] + bytes(b ^ 0xFF for b in whole[4:middle]) + whole[middle:])
            case "folder":
                path.unlink()
                path.mkdir()
            case _:
                path.chmod(0)  # which does not keep root from it
        return mend


def _begun(job: str, trouble: Trouble, said: Connection) -> None:
    said.send("here")
    disturbed(job, trouble, said)


def _nothing() -> None:
    pass


def restored(path: Path) -> Callable[[], None]:
    """Makes a file what it is now."""
    whole, stat = path.read_bytes(), path.stat()

    def restore() -> None:
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
        path.chmod(stat.st_mode)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return restore


def bits(folder: Path) -> dict[str, Bits]:
    """All outputs and tables: values, schema with metadata, and what Farol says of them, its times apart.

    A reader opens each as a file of its own, so one that is not whole raises.
    """
    found = {}
    for sink in ("out", "out.pooled"):
        for file in sorted((folder / sink).rglob("*")):
            if file.is_file():
                table = pq.ParquetFile(file).read()
                metadata = dict(table.schema.metadata or {})
                said = metadata.pop(b"farol", b"").decode()
                schema = table.schema.with_metadata(metadata or None).to_string(show_schema_metadata=True)
                found[f"{sink}/{file.relative_to(folder / sink).as_posix()}"] = (
                    schema, repr(table.to_pydict()), _timeless(said)
                )  # fmt: skip
    return found


def _timeless(said: str) -> str:
    if not said.startswith("{"):
        return said
    footer = json.loads(said)
    for times in ("mtime_ns", "ctime_ns"):
        footer["input"].pop(times)
    return json.dumps(footer, sort_keys=True)


def _how(found: Mapping[str, Bits], wanted: Mapping[str, Bits], name: str) -> str:
    if name not in found or name not in wanted:
        return f" ({'missing' if name not in found else 'too many'})"
    parts = [p for p, a, b in zip(("schema", "values", "footer"), found[name], wanted[name], strict=True) if a != b]
    return f" ({', '.join(parts)})"


@contextmanager
def place(size: str) -> Iterator[tuple[Path, bool]]:
    """A folder on a file system that is small enough to be filled, where this process may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="farol-stress-"))
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode
    )
    if mounted:
        atexit.register(subprocess.run, ["umount", "-l", folder], capture_output=True)
    yield folder, mounted


def flow(folder: Path, sent: signal.Signals, after: float) -> str:
    """`farol run` with Prefect in a group of its own, which gets a signal; how it ended."""
    home = folder / "prefect"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PYTHONPATH": str(TOP)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", "run", str(folder / "round" / "job.yaml")]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        time.sleep(after)
        process.send_signal(sent)
        process.wait(90)
        orphans = _members(process.pid)
    except subprocess.TimeoutExpired:
        raise Wrong(f"farol run hangs after {sent.name}") from None
    finally:
        _end_group(process.pid)
    errors = (process.stderr.read() if process.stderr else "").strip().splitlines()
    if any("Traceback" in line for line in errors):
        raise Wrong(f"farol run after {sent.name}: {errors[-1]}")
    left = f", {len(orphans)} processes left" if orphans else ""
    return f"{process.returncode}{left}"


def _members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[3]) == group and after[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _end_group(group: int) -> None:
    for member in _members(group):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def flows(folder: Path, fresh: Path, tally: Tally, dice: random.Random, many: int) -> None:
    """The same through the flow: killed, or asked to end, at any moment from its start to its end."""
    one = Round(folder / "round", fresh, dice, tally, -1, False)
    one.folder.mkdir()
    one.source = jobs.Source(one.folder / "in", dice)
    one.source.fill(4)
    one.job = jobs.job(dice)
    one.path = jobs.write(one.job, one.folder)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    for i in range(many):
        one.change()
        wanted = one.expected()
        sent = signals[i % len(signals)]
        what = f"{'kill' if sent == signal.SIGKILL else sent.name} of the flow"
        tally.tried[what] += 1
        ended = flow(folder, sent, dice.uniform(1, 14))
        tally.struck[what] += not ended.startswith("0")
        tally.left[one.remains()] += ended.startswith("-9")
        print(f"  {what}: ended with {ended}; left {one.remains()}", flush=True)
        one.reader()
        one.undisturbed(wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="rounds go on until so many runs were killed")
    parser.add_argument("--flows", type=int, default=5, help="runs through Prefect that are disturbed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--round", type=int, help="this round alone")
    given = parser.parse_args()
    print(f"seed {given.seed}; one round: python -m tests.stress.resume --seed {given.seed} --round N", flush=True)
    FORK.set_forkserver_preload(["tests.stress.trouble"])
    os.environ["PYTHONPATH"] = str(TOP)
    began, tally = time.monotonic(), Tally()
    with place("48m") as (folder, small):
        i = given.round if given.round is not None else 0
        while tally.kills < given.kills and (given.round is None or i == given.round):
            one = Round(folder / "round", folder / "fresh", random.Random(f"{given.seed}/{i}"), tally, i, small)
            attempted(one.go, one, i, tally)
            i += 1
        if given.round is None and given.flows:
            dice = random.Random(f"{given.seed}/flows")
            home = Path(tempfile.mkdtemp(prefix="farol-stress-flows-"))
            with attempting("flows", tally):
                flows(home, home / "fresh", tally, dice, given.flows)
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{i} rounds, {tally.kills} kills, {time.monotonic() - began:.0f} s")
    for what, n in sorted(tally.tried.items()):
        print(f"  {what:<24}{n:>5} runs, {tally.struck[what]:>4} of them cut short")
    print("  runs that were killed left: " + ", ".join(f"{what} {n}" for what, n in tally.left.most_common()))
    for wrong, n in Counter(
        re.sub(r"\d\S*|/\S+", "#", w.rpartition(": after ")[2].partition(": ")[2]) for w in tally.wrong
    ).items():
        print(f"WRONG {n} times: {wrong}")
    return 1 if tally.wrong else 0


def attempted(go: Callable[[], None], one: Round, i: int, tally: Tally) -> None:
    for folder in (one.folder, one.fresh):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    with attempting(f"round {i}", tally, one.story):
        go()


@contextmanager
def attempting(what: str, tally: Tally, story: list[str] | None = None) -> Iterator[None]:
    """A round that goes wrong is told, and the next one goes on."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        tally.wrong.append(f"{what}: after {', '.join(story or ())}: {said[:600]}")
        print(f"WRONG {tally.wrong[-1]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
