"""From staging to its place: the staging folder, the journal, and the renames."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from attention_core.delta import LOG, Commit, Outdated, Table, placed, refuse_table
from attention_core.errors import DataError, FarolError, JobError
from attention_core.hold import Check, Lease, held, unfinished
from attention_core.stores import Moved, Remote, Where, at_once, remove

P = TypeVar("P", Path, Remote)
SAID = {"rules", "batches", "statistics", "fitted", "fresh"}  # in what was published


@dataclass(frozen=True)
class Place(Generic[P]):
    """Where a job's outputs live: the sink, and the work folder beside it."""

    sink: P
    work: P
    run: str = "0"  # the name of this run's own folder in staging, so that one that was replaced finds nothing to move
    delta: Table | None = None  # that the sink is, where it is no plain folder of files

    @property
    def staging(self) -> P:
        """What this run has made and not published yet."""
        return self.work / "staging" / self.run

    def staged(self, name: str) -> P:
        """A finished output that is not published yet; its name does not end in .parquet, so nobody reads it."""
        return self.staging / f"{name}.staged"

    def unfinished(self, name: str) -> P:
        """Where an output is written, another place each time, for two may write it where a worker was thought lost.

        An object is not there before it is whole, so it needs no other name.
        """
        if isinstance(self.work, Remote):
            return self.staged(name)
        return self.staging / ".parts" / f"{name[-40:].replace('/', '_')}.{secrets.token_hex(8)}.part"

    def output(self, name: str) -> P:
        """Where an output lies."""
        return self.sink / name if self.delta is None else cast(P, self.delta.path(name))

    @property
    def pooled(self) -> P:
        """The folder of the tables of rules that pool."""
        return self.sink.with_name(f"{self.sink.name}.pooled")

    def table(self, rule: str) -> P:
        """The table of a rule that pools."""
        return self.pooled / f"{rule}.parquet"

    def staged_table(self, rule: str) -> P:
        return self.staging / ".pooled" / f"{rule}.staged"

    def statistics(self, id: str) -> P:
        """The folder of what was known in a run: one that is published never changes."""
        return self.work / "statistics" / id

    @property
    def staged_statistics(self) -> P:
        return self.staging / ".statistics"

    def keep_statistics(self, id: str) -> None:
        """Gives staged statistics their place; until `published.json` names them, nobody looks at them."""
        there, staged = self.statistics(id), self.staged_statistics
        if isinstance(there, Remote) and isinstance(staged, Remote):
            for file in staged.iterdir():  # if they are there already, they have the same bytes
                file.copy(there / file.name)
        elif isinstance(there, Path) and isinstance(staged, Path) and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, there)
            _sync(there.parent)

    @property
    def journal(self) -> P:
        """What a publish does, while it does it. In a store each run has its own, and the lease says which counts."""
        return (self.staging if isinstance(self.work, Remote) else self.work) / "journal.json"

    @property
    def lock(self) -> P:
        return self.work / "lock"

    def interrupted(self) -> bool:
        """Whether a publish was begun and is not finished."""
        return bool(unfinished(self.lock)) if isinstance(self.lock, Remote) else self.journal.is_file()

    @property
    def published(self) -> P:
        return self.work / "published.json"

    @property
    def runs(self) -> P:
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

    def said(self) -> str:
        """What was published last, word for word; empty where nothing was."""
        try:
            return self.published.read_text()
        except (OSError, ValueError):
            return ""

    def last(self) -> dict[str, Any]:
        """What the last run published; empty where none did."""
        try:
            told = json.loads(self.said())
            return told if isinstance(told, dict) and SAID <= told.keys() else {}
        except ValueError:
            return {}

    def outputs(self) -> list[str]:
        """The names of all files in the sink."""
        if self.delta is not None:
            return sorted(self.delta.live())
        if not self.sink.is_dir():
            return []
        if isinstance(self.sink, Remote):
            return sorted(f.relative_to(self.sink).as_posix() for f in self.sink.rglob("*.parquet"))
        return sorted(f.relative_to(self.sink).as_posix() for f in self.sink.rglob("*.parquet") if f.is_file())

    def suits(self) -> None:
        """Refuses a sink that is a table where files are wanted, or holds files where a table is.

        Raises:
            JobError: saying which.
        """
        if self.delta is None:
            refuse_table(self.sink)
        else:
            self.delta.checked()

    def checked(self) -> Place[P]:
        """This place, if staged files can be renamed into it, or objects copied.

        Raises:
            JobError: where they cannot.
        """
        if isinstance(self.sink, Remote) or isinstance(self.work, Remote):
            _checked(self.sink, self.work)
            return self
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
        with held(self.lock, self.sink) as check:
            if self.delta is not None:
                self.delta.forget()
            with writing(self.sink):
                if isinstance(self.work, Remote):
                    self._finish(check)
                else:
                    self._adopt()
                    self.recover(check)
                self.staging.mkdir(parents=True, exist_ok=True)
            yield check

    def _adopt(self: Place[Path]) -> None:
        """Takes over what an interrupted run had finished, and nothing that it may still have open."""
        for part in self.staging.parent.rglob("*.part"):
            part.unlink(missing_ok=True)
        for part in self.runs.glob("*.part"):
            part.unlink(missing_ok=True)
        publishing = _told(self.journal)["run"] if self.journal.is_file() else None
        left = sorted(self.staging.parent.glob("*"), key=lambda f: (f.name == publishing, f.stat().st_mtime_ns))
        for other in left[:-1]:
            shutil.rmtree(other)
        for last in left[-1:]:
            os.replace(last, self.staging)

    @contextmanager
    def stages(self, name: str) -> Iterator[P]:
        """Where an output is written while the block runs; then it is marked as whole, or nothing is left of it."""
        target, staged = self.unfinished(name), self.staged(name)
        with writing(staged):
            staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield target
        except BaseException:
            if isinstance(target, Path):
                with suppress(OSError):
                    target.unlink()
            raise
        if isinstance(target, Path):
            with writing(target):  # who was replaced finds it gone
                os.replace(target, staged)
                _sync(staged.parent)

    def publish(
        self,
        check: Check,
        moves: Sequence[str],
        removes: Sequence[str],
        published: Mapping[str, Any],
        tables: Sequence[str] = (),
        commit: Commit | None = None,
    ) -> None:
        """Renames staged outputs into their places, or copies them; if interrupted, the next run finishes it.

        check: that this run still holds the sink. commit: what they become in a table.
        """
        with writing(self.sink):
            if moves:
                self.sink.mkdir(parents=True, exist_ok=True)
            told: dict[str, Any] = {"moves": list(moves), "removes": list(removes), "tables": list(tables)}
            told |= {"run": self.run, "commit": None if commit is None else asdict(commit)}
            check()
            if isinstance(self.work, Remote):
                assert isinstance(check, Lease)
                write_whole(self.journal, json.dumps(told | {"published": published}))
                check.say(self.run)  # from here on, who holds the lease finishes it
                self._finish(check)
                return
            # from among what it moves: who took that away, took the journal with it
            write_whole(self.journal, json.dumps(told | {"published": published}), self.staging)
            self.recover(check)

    def recover(self: Place[Path], check: Check) -> None:
        """Finishes a publish that the journal tells of."""
        if not self.journal.is_file():
            return
        told, folders = _told(self.journal), {self.sink}
        commit = _commit_of(told)
        for name in told["moves"]:
            check()
            to = self._target(name, told["run"], commit)
            _moved(self.staged(name), to)
            folders |= {p for p in to.parents if p.is_relative_to(self.sink)}
        _sync_all(folders)
        if commit is not None:
            check()
            try:
                self._committed(commit, told)
            except Outdated as error:
                for name in told["moves"]:
                    self._target(name, told["run"], commit).unlink(missing_ok=True)
                self.journal.unlink()
                raise self._given_up(error) from None
        folders.clear()
        for rule in told["tables"]:
            check()
            _moved(self.staged_table(rule), self.table(rule))
            folders.add(self.table(rule).parent)
        for name in told["removes"] if commit is None else ():  # older versions of a table keep their files
            check()
            (self.sink / name).unlink(missing_ok=True)
            folders.add(_without_empty((self.sink / name).parent, self.sink))
        _sync_all(folders)
        check()
        write_whole(self.published, json.dumps(told["published"], indent=1, sort_keys=True))
        self.sweep()
        self.journal.unlink()  # last: until then the next run does all this again

    def _target(self, name: str, run: str, commit: Commit | None) -> P:
        """Where a run's output of a batch goes."""
        return self.sink / (name if commit is None else placed(name, run, commit.by))

    def _committed(self, commit: Commit, told: Mapping[str, Any]) -> None:
        """Makes what was moved the table's newest version."""
        (self.delta or Table(self.sink)).commit(told["run"], told["moves"], told["removes"], commit)
        if isinstance(self.sink, Path):  # the library leaves that to the system
            log: Path = self.sink / LOG
            for path in (*sorted(log.glob("*.json"))[-2:], log):
                _sync(path)

    def _given_up(self, error: Outdated) -> DataError:
        """What is said of a publish that will never be finished; what it had ready is made again."""
        return DataError(f"{self.sink} {error}; nothing was published, run again")

    def left(self) -> bool:
        """Whether a run left something behind that nothing new would sweep away."""
        return isinstance(self.work, Path) and (self.staging.parent.exists() or any(self.runs.glob("*.part")))

    def sweep(self: Place[Path]) -> None:
        """Removes what runs before left that is of no use any more."""
        fitted = self.last().get("fitted")
        for other in (self.work / "statistics").glob("*"):
            if other.name != fitted:
                shutil.rmtree(other, ignore_errors=True)
        shutil.rmtree(self.staging.parent, ignore_errors=True)

    def _finish(self: Place[Remote], lease: Check) -> None:
        """In a store: finishes what the lease says is being published, or else takes over what a run had staged.

        What a run staged lies where it alone looks, and is removed before anything else is published: so it finds
        nothing to copy, should it still be alive.
        """
        assert isinstance(lease, Lease)
        if lease.unfinished:
            self._copy_out(lease, replace(self, run=lease.unfinished))
            return
        folder = self.staging.parent
        left = [(f, f.relative_to(folder).parts[0], seen.st_mtime_ns) for f, seen in folder.found()]
        newest = max(left, key=lambda one: one[2])[1] if left else ""
        outputs = [f for f, run, _ in left if run == newest and f.name.endswith(".staged")]
        at_once(lambda f: f.copy(self.staging / f.relative_to(folder / newest).as_posix()), outputs, folder)
        remove(*(f for f, _, _ in left))

    def _copy_out(self: Place[Remote], lease: Lease, by: Place[Remote]) -> None:
        """Does what a journal tells of. by: this place, as the run that wrote it has it."""
        try:
            told = json.loads(by.journal.read_text())
        except FileNotFoundError:  # all is done but to say so
            lease.say("")
            return

        def copy(pair: tuple[Remote, Remote]) -> None:
            lease()
            try:
                pair[0].copy(pair[1])
            except FileNotFoundError:  # removed by who holds the lease now; or else by hand
                lease.renew()
                if by.run == self.run:
                    raise DataError(f"{pair[0]} was removed while this run published it; run again") from None

        def unlink(name: str) -> None:
            lease()
            (self.sink / name).unlink(missing_ok=True)

        commit = _commit_of(told)
        outputs = [(by.staged(name), self._target(name, told["run"], commit)) for name in told["moves"]]
        tables = [(by.staged_table(rule), self.table(rule)) for rule in told["tables"]]
        at_once(copy, outputs, self.sink)
        if commit is not None:
            lease.renew()
            try:
                self._committed(commit, told)
            except Outdated as error:
                remove(*(to for _, to in outputs))
                remove(by.journal, *(f for f, _ in by.staging.found()))
                lease.say("")
                raise self._given_up(error) from None
        at_once(copy, tables, self.sink)
        at_once(unlink, told["removes"] if commit is None else [], self.sink)
        _replaced(self.published, json.dumps(told["published"], indent=1, sort_keys=True), lease)
        for other in (self.work / "statistics").iterdir():
            if other.name != told["published"].get("fitted"):
                lease()
                remove(*(f for f, _ in other.found()))
        remove(*(f for f, _ in by.staging.found() if f != by.journal))
        remove(by.journal)
        lease.say("")  # last: until then the next run does again what is left to do


def _checked(sink: Where, work: Where) -> None:
    if not (isinstance(sink, Remote) and isinstance(work, Remote) and sink.bucket == work.bucket):
        raise JobError(f"{work} is not in one bucket with the sink; sink.work: names a key there", ("sink", "work"))
    try:
        next(work.found(), None)
    except FileNotFoundError as error:
        raise JobError(f"{sink}: {error}", ("sink", "path")) from None
    if sink.is_file():
        raise JobError(f"{sink} is an object; name a key that none has", ("sink", "path"))


def _replaced(published: Remote, text: str, lease: Lease) -> None:
    """Writes what is published, unless another run does so after this one was last seen to hold the lease."""
    try:
        _, was = published.read()
    except FileNotFoundError:
        was = "create"
    lease.renew()
    try:
        published.write_bytes(text.encode(), was)
    except Moved:
        lease.renew()
        if published.read_text() != text:
            raise DataError(f"{published}: somebody else writes it; run again") from None


def _told(journal: Path) -> dict[str, Any]:
    """What the journal tells.

    Raises:
        DataError: where it is none of Farol's, or would reach out of the sink.
    """
    try:
        told = dict(json.loads(journal.read_text()))
        names = [*told["moves"], *told["removes"], *(f"{rule}.parquet" for rule in told["tables"])]
        if not (isinstance(told["published"], dict) and isinstance(told["run"], str)) or any(map(_outside, names)):
            raise ValueError
        _commit_of(told)
    except (ValueError, KeyError, TypeError):
        what = "is damaged; move it away: the outputs themselves say what is done"
        raise DataError(f"{journal}: {what}") from None
    return told


def _commit_of(told: Mapping[str, Any]) -> Commit | None:
    """What a journal tells of a table; one of before there were tables tells nothing."""
    return Commit(**told["commit"]) if told.get("commit") else None


def _outside(name: Any) -> bool:
    """Whether this is no name of a file inside a folder."""
    return not isinstance(name, str) or name.startswith("/") or ".." in name.split("/")


def _without_empty(folder: Path, top: Path) -> Path:
    """Removes folders that are empty, up to the top one; gives the first that stays."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
    return folder


def _moved(staged: Path, to: Path) -> None:
    """Renames what is staged; nothing where a run before did."""
    if staged.is_file():
        to.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, to)


def write_whole(path: Where, text: str, by: Where | None = None) -> None:
    """Writes a small file so that it is there whole or not at all; both folders are there. by: where it is written."""
    if isinstance(path, Remote):
        path.write_text(text)
        return
    part = cast(Path, by or path.parent) / f"{path.name}.part"
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync(path.parent)


@contextmanager
def writing(path: Where) -> Iterator[None]:
    """Turns what the file system refuses into one line."""
    try:
        yield
    except FarolError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _sync_all(folders: Collection[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
