"""From staging to its place: the staging folder, the journal, and the renames."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_core.errors import DataError, FarolError, JobError
from attention_core.hold import Check, held


@dataclass(frozen=True)
class Place:
    """Where a job's outputs live: the sink, and the work folder beside it."""

    sink: Path
    work: Path
    run: str = "0"  # the name of this run's own folder in staging, so that one that was replaced finds nothing to move

    @property
    def staging(self) -> Path:
        """What this run has made and not published yet."""
        return self.work / "staging" / self.run

    def staged(self, name: str) -> Path:
        """A finished output that is not published yet; its name does not end in .parquet, so nobody reads it."""
        return self.staging / f"{name}.staged"

    def unfinished(self, name: str) -> Path:
        return self.staging / f"{name}.part"

    def output(self, name: str) -> Path:
        return self.sink / name

    @property
    def pooled(self) -> Path:
        """The folder of the tables of rules that pool."""
        return self.sink.with_name(f"{self.sink.name}.pooled")

    def table(self, rule: str) -> Path:
        """The table of a rule that pools."""
        return self.pooled / f"{rule}.parquet"

    def staged_table(self, rule: str) -> Path:
        return self.staging / ".pooled" / f"{rule}.staged"

    def statistics(self, id: str) -> Path:
        """The folder of what was known in a run: one that is published never changes."""
        return self.work / "statistics" / id

    @property
    def staged_statistics(self) -> Path:
        return self.staging / ".statistics"

    def keep_statistics(self, id: str) -> None:
        """Gives staged statistics their place; until `published.json` names them, nobody looks at them."""
        if not self.statistics(id).exists():
            self.statistics(id).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staged_statistics, self.statistics(id))
            _sync(self.statistics(id).parent)

    @property
    def journal(self) -> Path:
        """What a publish does, while it does it."""
        return self.work / "journal.json"

    @property
    def published(self) -> Path:
        return self.work / "published.json"

    @property
    def runs(self) -> Path:
        """The records of runs, by the time when they began."""
        return self.work / "runs"

    def record(self) -> dict[str, Any]:
        """The record of the last run that wrote rows; empty where there is none."""
        for path in sorted(self.runs.glob("*.json"), reverse=True):
            with suppress(OSError, ValueError):
                said = dict(json.loads(path.read_text()))
                if said.get("rows"):
                    return said
        return {}

    def last(self) -> dict[str, Any]:
        """What the last run published; empty where none did."""
        try:
            return dict(json.loads(self.published.read_text()))
        except (OSError, ValueError):
            return {}

    def outputs(self) -> list[str]:
        """The names of all files in the sink."""
        if not self.sink.is_dir():
            return []
        return sorted(f.relative_to(self.sink).as_posix() for f in self.sink.rglob("*.parquet") if f.is_file())

    def checked(self) -> Place:
        """This place, if staged files can be renamed into it.

        Raises:
            JobError: where they cannot.
        """
        sink, work = _existing(self.sink), _existing(self.work)
        if self.sink.exists() and not self.sink.is_dir():
            raise JobError(f"{self.sink} is a file; name a folder", ("sink", "path"))
        if sink.stat().st_dev != work.stat().st_dev:
            what = f"{self.work} is on another file system than the sink; sink.work: names a folder on the same"
            raise JobError(what, ("sink", "work"))
        if not os.access(sink, os.W_OK):
            raise DataError(f"{sink}: cannot be written to; change its permissions or sink.path")
        return self

    @contextmanager
    def held(self) -> Iterator[Check]:
        """Holds the sink while it is written to, after finishing what an interrupted run left.

        Gives the check that `publish` wants.

        Raises:
            SinkBusy: while another run holds it.
        """
        with writing(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        with held(self.work / "lock", self.sink) as check:
            with writing(self.sink):
                self._adopt()
                self.recover(check)
                self.staging.mkdir(parents=True, exist_ok=True)
            yield check

    def _adopt(self) -> None:
        """Takes over what an interrupted run had finished, and nothing that it may still have open."""
        for part in self.staging.parent.rglob("*.part"):
            part.unlink(missing_ok=True)
        publishing = json.loads(self.journal.read_text())["run"] if self.journal.is_file() else None
        left = sorted(self.staging.parent.glob("*"), key=lambda f: (f.name == publishing, f.stat().st_mtime_ns))
        for other in left[:-1]:
            shutil.rmtree(other)
        for last in left[-1:]:
            os.replace(last, self.staging)

    def keep_finished(self, unfinished: Path, name: str) -> None:
        """Marks an output as whole."""
        os.replace(unfinished, self.staged(name))
        _sync(self.staged(name).parent)

    def publish(
        self,
        check: Check,
        moves: Sequence[str],
        removes: Sequence[str],
        published: Mapping[str, Any],
        tables: Sequence[str] = (),
    ) -> None:
        """Renames staged outputs into their places; if interrupted, the next run finishes it.

        check: that this run still holds the sink.
        """
        with writing(self.sink):
            if moves:
                self.sink.mkdir(parents=True, exist_ok=True)
            told = {"moves": list(moves), "removes": list(removes), "tables": list(tables), "run": self.run}
            check()
            # from among what it moves: who took that away, took the journal with it
            write_whole(self.journal, json.dumps(told | {"published": published}), self.staging)
            self.recover(check)

    def recover(self, check: Check) -> None:
        """Finishes a publish that the journal tells of."""
        if not self.journal.is_file():
            return
        told = json.loads(self.journal.read_text())
        folders = {self.sink}
        for name in told["moves"]:
            check()
            _moved(self.staged(name), self.output(name))
            folders |= {p for p in self.output(name).parents if p.is_relative_to(self.sink)}
        for rule in told["tables"]:
            check()
            _moved(self.staged_table(rule), self.table(rule))
            folders.add(self.table(rule).parent)
        for name in told["removes"]:
            check()
            self.output(name).unlink(missing_ok=True)
            folders.add(self.output(name).parent)
        for folder in folders:
            if folder.is_dir():
                _sync(folder)
        check()
        write_whole(self.published, json.dumps(told["published"], indent=1, sort_keys=True))
        for other in (self.work / "statistics").glob("*"):
            if other.name != told["published"].get("fitted"):
                shutil.rmtree(other, ignore_errors=True)
        shutil.rmtree(self.staging.parent, ignore_errors=True)
        self.journal.unlink()  # last: until then the next run does all this again


def _moved(staged: Path, to: Path) -> None:
    """Renames what is staged; nothing where a run before did."""
    if staged.is_file():
        to.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, to)


def write_whole(path: Path, text: str, by: Path | None = None) -> None:
    """Writes a small file so that it is there whole or not at all; both folders are there. by: where it is written."""
    part = (by or path.parent) / f"{path.name}.part"
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line."""
    try:
        yield
    except FarolError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
