"""A whole run: plan → fit → apply → publish. It needs no Prefect; the flow wraps these steps in tasks."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import operator
import resource
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import polars as pl

from attention_core import batches, devices
from attention_core.attention import (
    APPLY_ROWS,
    NOBODY,
    Input,
    Look,
    fit,
    one_thread,
    passes,
    pooling,
    resolved,
    tables,
)
from attention_core.batches import Batch
from attention_core.delta import Commit, Table
from attention_core.engine import HERE, SHARED, Engine
from attention_core.errors import DataError, ExpectationMissed, JobError, SinkBusy, Unreadable
from attention_core.frozen import digest
from attention_core.head import Head
from attention_core.health import NO_WEIGHTS, Health
from attention_core.hold import Check, Lost
from attention_core.job import Job
from attention_core.jobfile import load
from attention_core.ledger import Entry, Fingerprint, Footer, compare, pooled_of, versions
from attention_core.outputs import Outputs, steady
from attention_core.plan import Estimate, Plan, estimated
from attention_core.publish import Place, write_whole, writing
from attention_core.search import find
from attention_core.source import agreed, apart, chosen
from attention_core.states import States
from attention_core.statistics import NOTHING, Published, Statistics, of_sink, publish
from attention_core.stores import Remote, Where, at_once
from attention_core.work import Each, Watch, threads

SPLIT_ROWS = 1 << 20
FREE_SHARE = 4  # this part of the free memory may hold what a pass read, for the next
KEPT = 128 << 20  # bytes of it, at most, where they were read from files
FOREIGN = "was not written by Farol, and would be lost; name a folder of its own, or move the file away"


@dataclass
class Run:
    """One run of a job over its source as it was found."""

    job: Job
    batches: tuple[Batch, ...]
    left_out: tuple[str, ...]
    heads: tuple[Head, ...]
    own: Mapping[str, pl.DataType]  # the columns of the files
    columns: Mapping[str, pl.DataType]  # what rules look at: these, and the folders' instead where both have one
    place: Place[Any]
    given: Published | None = None  # the statistics that are applied, where they are not asked for
    seen: str = ""  # what was published when this was opened
    where: Callable[[tuple[str, ...]], str] = ".".join  # where an entry of the job stands, for people
    located: Callable[[JobError], JobError] = lambda error: error  # the error with that
    engine: Engine = HERE
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Watch = field(default_factory=Watch)
    began: float = field(default_factory=time.time)
    states: States = field(init=False)
    look: Look = field(init=False)
    outputs: Outputs = field(init=False)

    def watched(self, watch: Watch) -> Run:
        """This run, telling another how far it is."""
        return replace(self, watch=watch)

    def by(self, engine: Engine) -> Run:
        """This run, its work done elsewhere."""
        return replace(self, engine=engine)

    def current(self) -> Run:
        """This run, or one over what there is by now, where another has published since it was opened."""
        if self.place.said() == self.seen:
            return self
        how = {name: getattr(self, name) for name in ("engine", "stop", "watch", "began", "where", "located")}
        return replace(Run.of(self.job, **how), place=self.place)

    def __post_init__(self) -> None:
        self.states = States(self.place.work / "states")
        chunk_rows = None if self.job.chunk_rows == "auto" else int(self.job.chunk_rows)
        taught = [b.name for b in self.batches] if self.given is None else self.given.taught
        order = {name: i for i, name in enumerate(taught)} or NOBODY
        self.look = Look(
            self.heads,
            chunk_rows,
            devices.CPU if self.engine.apart else self.engine.device(self.job.device),
            self.stop.is_set,
            self.watch.rows,
            order=order,
            engine=self.engine,
        )
        self.outputs = Outputs(
            self.job.sink,
            self.job.source.drift,
            self.heads,
            self.own,
            self.columns,
            self.batches[0],
            self.place,
            self.look,
        )

    @staticmethod
    def of(job: Job, **how: Any) -> Run:
        """Finds the batches of a job and holds its rules against their columns; nothing is read but footers.

        Raises:
            JobError: where the source, the sink and the rules do not fit each other.
        """
        table = Table(job.sink.path) if job.sink.format == "delta" and job.sink.columns != "none" else None
        place = Place[Any](job.sink.path, job.work(), secrets.token_hex(8), table)
        if job.sink.columns != "none":
            place.suits()
        seen = place.said()
        found = find(job.source.paths(), job.source.hive)
        picked = chosen(found, job.source.where)
        apart(job, place)
        own, picked = agreed(picked, job.source.drift)
        columns = own | dict(picked[0].types)
        heads = resolved(job.attention, columns)
        names = {b.name for b in picked}
        left_out = tuple(b.name for b in found if b.name not in names)
        run = Run(job, picked, left_out, heads, own, columns, place, _given(job, place, heads), seen, **how)
        run.outputs.names()
        return run

    @cached_property
    def asks(self) -> bool:
        """Whether any rule must know its scope before the first row is written."""
        return any(head.asks() for head in self.heads)

    @cached_property
    def rounds(self) -> int:
        """How many times the key columns are looked at before the first row is written; more where the rows need it."""
        return passes(self.heads, self.columns, self.before)

    def _space(self) -> int:
        """How much of what a fitting pass read may be kept.

        Files are in the system's own cache, if not unpacked: what is read twice at most, as by groups, is faster so.
        """
        share = devices.free_memory() // FREE_SHARE
        if any(isinstance(b.path, Remote) for b in self.batches):
            return share
        groups = any(isinstance(head.over, tuple) for head in self.heads if head.asks())
        return min(share, KEPT) if self.rounds > 1 or not groups else 0

    @property
    def workers(self) -> int:
        return self.engine.workers if self.job.workers == "auto" else int(self.job.workers)

    def _split(self, batches: int) -> None:
        """Has large batches worked on by several threads, where there are fewer of them than workers, or as is said."""
        split, idle = self.job.source.split_rows, self.workers // max(1, min(batches, self.workers))
        least, threads = (SPLIT_ROWS, idle) if split == "auto" else (int(split), self.workers)
        self.look.threads = lambda part: threads if threads > 1 and cast(Batch, part).rows() > least else 1

    def plan(self, hashed: Mapping[str, Fingerprint] | None = None) -> Plan:
        """Compares the batches with the outputs; footers are read, and inputs hashed only if `hashed` has them."""
        last, rules, options = self.place.last(), self.outputs.rules, self.outputs.options
        seen = _inputs(last)

        def looked_at(batch: Batch) -> tuple[Entry, Footer | None]:
            now = (hashed or {}).get(batch.name) or Fingerprint.of(batch.path)
            footer = self._written(batch.name, last)
            return compare(batch.name, now, footer, seen.get(batch.name), rules, options), footer

        looks = at_once(looked_at, self.batches, self.batches[0].path, self.place.sink)
        entries, footers = [entry for entry, _ in looks], [footer for _, footer in looks]
        gone = self._gone()
        entries = self._renamed(entries, gone, seen)
        if self.asks:
            told = last.get("statistics", {})
            same = [f is not None and told.get(f.name) == f.statistics for f in footers]
            if self.given is None:
                whole = all(same) and all(e.status == "done" for e in entries) and not gone
                known = whole and last.get("rules") == rules and last.get("fresh", False)
                known = known and set(seen) == {b.name for b in self.batches}
            else:
                known = last.get("fitted") == self.given.id
            pairs = zip(entries, same, strict=True)
            why = "of " + ", ".join(dict.fromkeys(head.rule for head in self.heads if head.asks()))
            entries = [
                Entry(e.name, "depends on the fit", why) if e.status == "done" and not (known and one) else e
                for e, one in pairs
            ]
        other = sum(1 for f in footers if f is not None and dict(f.versions) != versions())
        return Plan(
            tuple(entries),
            gone,
            self.rounds,
            self.outputs.schema(),
            other,
            self.place.interrupted(),
            self._strange([b.name for b, f in zip(self.batches, footers, strict=True) if f is None], gone, seen),
            self._stale_tables(entries, footers),
            None if hashed else self._estimate(entries),
        )

    def _renamed(self, entries: Sequence[Entry], gone: Sequence[str], seen: Mapping[str, Fingerprint]) -> list[Entry]:
        """The entries, with a word on new ones that look like one that is gone."""
        lost = {(seen[n].size, seen[n].mtime_ns): n for n in gone if n in seen}
        if not lost:
            return list(entries)
        now = {b.name: Fingerprint.of(b.path) for b, e in zip(self.batches, entries, strict=True) if e.status == "new"}
        was = {name: lost.get((f.size, f.mtime_ns)) for name, f in now.items()}
        return [replace(e, why=f"perhaps {was[e.name]}, renamed") if was.get(e.name) else e for e in entries]

    def _estimate(self, entries: Sequence[Entry]) -> Estimate:
        """About what it takes; what depends on the fit is taken to be written."""
        some = self.batches if any(e.status != "done" for e in entries) else ()
        extents = at_once(Batch.extent, some, self.batches[0].path)
        todo = [x for x, e in zip(extents, entries, strict=False) if e.status != "done"]
        asked = {c for head in self.heads if head.asks() for c in head.reads()}
        added = 0 if self.outputs.rowless else self.outputs.added_bytes
        decoded = set(self.own) - (self.outputs.carried(self.batches[0]) if todo else set())
        decoded |= {c for head in self.heads for c in head.takes()}
        return estimated(todo, extents, sorted(asked), decoded, self.rounds, added, self.workers, self.place.record())

    def _stale_tables(self, entries: Sequence[Entry], footers: Sequence[Footer | None]) -> tuple[str, ...]:
        """The rules whose table is not there, or of other rows: any change reads all batches again."""
        rules = [head.rule for head in pooling(self.heads)]
        if not all(entry.status == "done" for entry in entries):
            return tuple(rules)
        wanted = self.pools({f.name: f.input for f in footers if f is not None}) if rules else ""
        return tuple(rule for rule in rules if pooled_of(self.place.table(rule)) != wanted)

    def old_tables(self) -> list[str]:
        """The tables that were made for a rule that is none any more, or does not pool; they stay."""
        made = {self.place.table(head.rule) for head in pooling(self.heads)}
        return sorted(str(t) for t in self.place.pooled.glob("*.parquet") if t not in made and pooled_of(t))

    def pools(self, inputs: Mapping[str, Fingerprint]) -> str:
        """The identity of what the pooled tables are made of."""
        return digest(
            (self.outputs.rules, self.outputs.options, tuple((b.name, inputs[b.name].hash) for b in self.batches))
        )

    def pool(self, each: Each, statistics: Statistics, inputs: Mapping[str, Fingerprint], stale: bool) -> list[str]:
        """Stages the tables of the rules that pool, if any is to be made again."""
        if not (stale and pooling(self.heads)):
            return []
        steps = itertools.count(1)
        self._split(len(self.batches))
        made = tables(
            self.look, lambda work: each(f"pool, step {next(steps)}", work, self.batches), statistics, self.columns
        )
        for rule, table in made.items():
            batches.write_table(table, self.place.staged_table(rule), self.pools(inputs), self.job.sink.compression)
        return list(made)

    def hash(self, each: Each) -> dict[str, Fingerprint]:
        """The fingerprints of all batches; those that the last run saw as they are now are not read again."""
        last = _inputs(self.place.last())
        found = each("hash", self.engine(partial(_hashed, last=last)), self.batches)
        return {b.name: f for b, f in zip(self.batches, found, strict=True)}

    @property
    def before(self) -> Statistics:
        """What is known before anything is read."""
        return NOTHING if self.given is None else self.given.statistics

    def fit(self, each: Each, inputs: Mapping[str, Fingerprint]) -> Statistics:
        """Asks all batches what the rules must know and nobody knows yet."""
        if self.given is not None:  # a batch that is not as it was has no place among those that taught
            as_they_were = {n for n, hash in self.given.taught.items() if n in inputs and inputs[n].hash == hash}
            self.look.order = {n: i for n, i in self.look.order.items() if n in as_they_were} or NOBODY
        else:
            self.look.states = self.states
            own = {b.name: self._identity(b, inputs[b.name].hash) for b in self.batches}
            self.look.inputs = {name: Input(id, inputs[name].size) for name, id in own.items()}
        steps = itertools.count(1)
        self._split(len(self.batches))
        self.look.space = self._space()
        self.look.steady = cast(Any, partial(steady, inputs))
        return fit(self.look, lambda work: each(f"fit, pass {next(steps)}", work, self.batches), self.before)

    def _identity(self, batch: Batch, hash: str) -> str:
        """What a batch's answers depend on beside the questions: its content, and how it is read."""
        types = tuple((name, str(dtype)) for name, dtype in self.columns.items())
        return digest((batch.name, hash, types, tuple(batch.types), versions(), self.look.device.type))

    def again(self, full: bool, redo: str | None) -> set[str]:
        """The batches that are done in any case."""
        return {b.name for b in self.batches if full or (redo is not None and fnmatch(b.name, redo))}

    def todo(self, plan: Plan, statistics: Statistics, full: bool, redo: str | None = None) -> list[Batch]:
        """The batches whose output is not there, or not of these rules, this input and these statistics."""
        status = {e.name: e.status for e in plan.entries}
        again = self.again(full, redo)
        last = self.place.last()
        return [b for b in self.batches if b.name in again or not self._stands(b, status[b.name], statistics, last)]

    def done(self, check: Check, plan: Plan, full: bool, redo: str | None, each: Each, began: float) -> Outcome:
        """Does what is planned, and publishes it."""
        self._begin(check)
        inputs = self.hash(each)
        statistics = self.fit(each, inputs)
        devices.give_back()
        planned = self.plan(inputs)
        refuse_plan(self, planned, full, redo)
        todo = self.todo(planned, statistics, full, redo)
        self._split(len(todo))
        apply = partial(self.outputs.apply, statistics=statistics, inputs=inputs)
        done = each("apply", self.engine(apply), todo)
        self._refuse_lost(done)
        pooled = self.pool(each, statistics, inputs, bool(todo or planned.tables))
        footers = self.footers(done)
        health = self.health(footers)
        self.expect(health, sum(f.rows for f in footers))
        self.publish(check, done, footers, statistics, inputs, pooled, planned.gone)
        outcome = Outcome(self, plan, len(done), sum(f.rows for f in done), time.monotonic() - began, health)
        with suppress(OSError):  # the rows are published; a history that cannot be written is none
            self.record(outcome.plain())
        return outcome

    def _begin(self, check: Check) -> None:
        """Finds out about where the work will be done.

        Raises:
            JobError: where the device is not there.
            DataError: where the work folder is not seen there.
        """
        self.look.lost = Lost(check)
        try:
            self.look.device = self.engine.device(self.job.device)
        except JobError as error:
            raise self.located(error) from None
        if self.engine.apart:
            try:
                self.engine(operator.call)(check)
            except SinkBusy:
                check()
                what = f"a worker does not see the lock in {self.place.work}"
                raise DataError(f"{what}; {SHARED}") from None

    def _refuse_lost(self, done: Sequence[Footer]) -> None:
        """Stops a run whose workers do not see the work folder as it is seen here."""
        if self.engine.apart and not self.outputs.rowless:
            seen = at_once(lambda f: Footer.read(self.place.staged(f.name)), done, self.place.sink)
            lost = (f for f, s in zip(done, seen, strict=True) if s is None or s.metadata() != f.metadata())
            if (first := next(lost, None)) is not None:
                raise DataError(f"{self.place.staged(first.name)}: a worker wrote it, and it is not there; {SHARED}")

    def unreadable(self) -> list[str]:
        """What is wrong with each file that cannot be read, found by reading all of them."""

        def wrong(batch: Batch) -> str:
            try:
                rows = self.outputs.reads_for(self.outputs.stored(batch, self.outputs.carried(batch)), batch)
                columns = None if rows is None else sorted(rows.union(*(head.reads() for head in self.heads)) - made)
                for _ in batch.read(columns, APPLY_ROWS):
                    pass
            except DataError as error:
                return str(error)
            return ""

        made = {name for head in self.heads for name in head.adds()}
        self.stop.clear()
        found = threads(devices.cores(), self.watch, self.stop)("look for other such files", wrong, self.batches)
        return [text for text in found if text]

    def footers(self, done: Sequence[Footer] = ()) -> list[Footer]:
        """The footers of all outputs of the source: of those that are done now, and of the others as published."""
        now, last = {f.name: f for f in done}, self.place.last()
        found = at_once(lambda b: now.get(b.name) or self._written(b.name, last), self.batches, self.place.sink)
        return [f for f in found if f is not None]

    def health(self, footers: Sequence[Footer]) -> dict[str, Health]:
        """The health of each weight column over these outputs."""
        total = {w: NO_WEIGHTS for h in self.heads for w in h.weights}
        for footer in footers:
            for column, plain in footer.health.items():
                total[column] += Health.from_plain(plain)
        return total

    def expect(self, health: Mapping[str, Health], rows: int) -> None:
        """Holds the job's expectations against what is about to be published.

        Raises:
            ExpectationMissed: naming every one that does not hold.
        """
        missed = []
        for rule, bounds in self.job.expect.items():
            for column in ["source"] if rule == "source" else self._weights_of(rule):
                found = {"batches": len(self.batches), "rows": rows} if rule == "source" else health[column].summary()
                for measure, bound in bounds.items():
                    value = found.get(measure)
                    low, high = bound.min, bound.max
                    below = low is not None and (value is None or value < low)
                    if below or value is None or (high is not None and value > high):
                        stands = self.where(("expect", rule, measure, "min" if below else "max"))
                        missed.append(f"{column}: {measure} is {_short(value)}, not {_wanted(low, high)} ({stands})")
        if missed:
            raise ExpectationMissed("nothing was published: " + "; ".join(missed))

    def publish(
        self,
        check: Check,
        done: Sequence[Footer],
        footers: Sequence[Footer],
        statistics: Statistics,
        inputs: Mapping[str, Fingerprint],
        tables: Sequence[str] = (),
        gone: Sequence[str] = (),
    ) -> None:
        """Moves what is staged into its place, all of it, and writes down what the sink now holds.

        done: what is moved; footers: of all outputs, when that is done.
        """
        told = {
            "job": self.job.name,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "rules": self.outputs.rules,
            "versions": versions(),
            "batches": {name: asdict(f) for name, f in inputs.items()},
            "statistics": {f.name: f.statistics for f in footers},
            "fitted": self._keep(statistics, inputs),
            "fresh": self.given is None,
        }
        removes = gone if self.job.sink.gone == "remove" else ()
        self._refuse_foreign([*(f.name for f in done if not self.outputs.rowless), *removes])
        if self.outputs.rowless:
            told["unwritten"] = {f.name: asdict(f) for f in footers}
        moves = [] if self.outputs.rowless else [f.name for f in done]
        self.place.publish(check, moves, removes, told, tables, self._becomes(done, removes))
        if self.given is None:
            self.states.forget(set().union(*self.look.kept_states.values()))

    def takes(self, plan: Plan, again: Collection[str]) -> None:
        """Refuses what the Delta table that the sink is could not become. again: the batches that are done in any case.

        Raises:
            JobError: saying why.
        """
        if self.place.delta is None or (plan.nothing and not again):
            return
        leave = {e.name for e in plan.entries if e.status != "done"}.union(again)
        leave |= set(plan.gone if self.job.sink.gone == "remove" else ())
        self.place.delta.takes(self.outputs.table_schema, self.outputs.folders(), [b.name for b in self.batches], leave)

    def _becomes(self, moves: Sequence[Footer], removes: Sequence[str]) -> Commit | None:
        """What publishing this makes of the table, if the sink is one."""
        if self.place.delta is None or not (moves or removes):
            return None
        by, live, leave = self.outputs.folders(), self.place.delta.live(), {*(f.name for f in moves), *removes}
        of = {b.name: b.partitions for b in self.batches}
        return Commit(
            number=self.place.delta.done() + 1,
            schema=self.outputs.table_schema,
            by=by,
            replaces={name: path for name, path in live.items() if name in leave},
            values={f.name: {n: None if (v := of[f.name].get(n)) is None else str(v) for n in by} for f in moves},
            rows={f.name: f.rows for f in moves},
            job=self.job.name,
        )

    def _keep(self, statistics: Statistics, inputs: Mapping[str, Fingerprint]) -> str:
        """Keeps the statistics beside the sink, and gives their id."""
        staged = self.place.staged_statistics
        with writing(staged):
            if isinstance(staged, Path):
                shutil.rmtree(staged, ignore_errors=True)
            if self.given is None or self.given.folder is None:
                taught = {b.name: inputs[b.name].hash for b in self.batches}
                id = publish(self.heads, statistics, taught, staged)
            else:
                id = self.given.id
                there = self.place.statistics(id)
                if there != self.given.folder and (isinstance(there, Remote) or not there.exists()):  # or half of it
                    _copied(self.given.folder, staged)
            self.place.keep_statistics(id)
        return id

    def _refuse_foreign(self, names: Sequence[str]) -> None:
        """Stops a publish that would replace or remove what somebody else has put there in the meantime."""
        known = _inputs(self.place.last())  # what is damaged there is to be made again
        for path in (self.place.output(name) for name in names if name not in known):
            if path.exists() and Footer.read(path) is None:
                raise self.located(JobError(f"{path} {FOREIGN}", ("sink", "path")))

    def record(self, outcome: Mapping[str, Any]) -> None:
        """Writes what happened to the work folder's history of runs."""
        at = dt.datetime.fromtimestamp(self.began, dt.UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
        self.place.runs.mkdir(exist_ok=True)
        write_whole(self.place.runs / f"{at}.json", as_json(outcome))

    def _written(self, name: str, last: Mapping[str, Any]) -> Footer | None:
        """What is known of an output as it lies in the sink; of rows that are not written, from the last run."""
        if not self.outputs.rowless:
            return Footer.read(self.place.output(name))
        return Footer.of(last.get("unwritten", {}).get(name))

    def _stands(self, batch: Batch, status: str, statistics: Statistics, last: Mapping[str, Any]) -> bool:
        if status != "depends on the fit":
            return status == "done"
        footer = self._written(batch.name, last)
        return footer is not None and footer.statistics == self.outputs.digest(batch, statistics)

    def _gone(self) -> tuple[str, ...]:
        here = set(self.left_out) | (set() if self.outputs.rowless else {b.name for b in self.batches})
        gone = tuple(n for n in self.place.outputs() if n not in here)
        return () if self.job.sink.gone == "keep" else gone

    def _strange(self, new: Sequence[str], gone: Sequence[str], seen: Mapping[str, Any]) -> tuple[str, ...]:
        there = [n for n in new if not self.outputs.rowless and self.place.output(n).exists()]
        if self.job.sink.gone == "remove":
            there += [n for n in gone if Footer.read(self.place.output(n)) is None]
        tables = [self.place.table(head.rule) for head in pooling(self.heads)]
        foreign = tuple(str(t) for t in tables if t.exists() and not pooled_of(t))
        return tuple(n for n in there if n not in seen) + foreign

    def _weights_of(self, rule: str) -> list[str]:
        return [w for h in self.heads if h.rule == rule for w in h.weights]


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a run came to."""

    run: Run
    plan: Plan
    written: int
    rows: int
    seconds: float
    health: Mapping[str, Health]

    def __repr__(self) -> str:
        return f"<{self.run.job.name}: {self.written} batches, {self.rows:,} rows, in {self.run.place.sink}>"

    def plain(self) -> dict[str, Any]:
        """The run record: what `--json` prints and the history keeps."""
        return {
            "job": self.run.job.name,
            "sink": None if self.run.outputs.rowless else str(self.run.place.sink),
            "tables": [str(self.run.place.table(head.rule)) for head in pooling(self.run.heads)],
            "plan": self.plan.counts(),
            "batches": self.written,
            "rows": self.rows,
            "seconds": self.seconds,
            "engine": self.run.engine.name,
            "peak_memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "weights": {
                column: {"rule": head.rule, "seconds": self.run.look.spent.get(head.weights[0])}
                | self.health[column].summary()
                | {"histogram": self.health[column].histogram()}
                for head in self.run.heads
                for column in head.weights
                if column in self.health
            },
        }


def run(path: str | Path, overrides: Sequence[str] = (), full: bool = False, **how: Any) -> Outcome:
    """Runs a job file from plan to publish with threads here.

    Raises:
        FarolError: one line that says what and where; the sink is then as it was.
    """
    return execute(opened(path, overrides, **how), full)


def opened(path: str | Path, overrides: Sequence[str] = (), **how: Any) -> Run:
    """The run that a job file means; its errors say the line and the column.

    Raises:
        JobError: where the file is wrong, or asks for what the source cannot give.
    """
    loaded = load(Path(path), Job, overrides)
    try:
        return Run.of(loaded.value, where=loaded.where, located=loaded.located, **how)
    except JobError as error:
        raise loaded.located(error) from None


def execute(
    run: Run, full: bool = False, redo: str | None = None, each: Each | None = None, plan: Plan | None = None
) -> Outcome:
    """Runs what is planned: fit, apply to what is not done, check what is expected, publish.

    full: all batches are done again; redo: those whose name matches this glob. each: where the work runs. plan: if it
    is known.
    """
    began = time.monotonic()
    devices.keep_freed_memory()
    if redo is not None and not run.again(False, redo):
        raise JobError(f"--redo {redo}: no batch has such a name; the first is {run.batches[0].name}")
    plan = plan or run.plan()
    refuse_plan(run, plan, full, redo)
    if plan.nothing and not full and redo is None:
        if run.place.left():
            with suppress(SinkBusy), run.place.held():
                run.place.sweep()
        footers = run.footers()
        health = run.health(footers)
        run.expect(health, sum(f.rows for f in footers))
        return Outcome(run, plan, 0, 0, time.monotonic() - began, health)
    run.place.checked()
    run.outputs.writable()
    with run.place.held() as check, one_thread():
        try:
            run = run.current()
            return run.done(check, plan, full, redo, each or threads(run.workers, run.watch, run.stop), began)
        except Unreadable as error:
            said: dict[str, str] = {}
            for line in (str(error), *run.unreadable()):
                said.setdefault(line.partition(batches.READ)[0], line)  # each file once, who ever read it
            raise Unreadable("\n".join(said.values())) from error


def as_json(value: Any) -> str:
    """Plain data as JSON, which has no infinity and no NaN: they are written as texts."""

    def plain(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {k: plain(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        return str(v) if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(plain(value), indent=2, allow_nan=False, default=str)


def refuse_plan(run: Run, plan: Plan, full: bool = False, redo: str | None = None) -> None:
    """Stops a run before it reads, where outputs have lost their input, are none of Farol's, or fit no table.

    Raises:
        JobError: unless `sink.gone` says what becomes of them; always for what Farol did not write.
    """
    try:
        if run.place.delta is not None and (foreign := run.place.delta.foreign()):
            raise JobError(f"{run.place.sink} {foreign}", ("sink", "format"))
        if plan.gone and run.job.sink.gone == "refuse":
            what = (
                f"{len(plan.gone):,} {'output has' if len(plan.gone) == 1 else 'outputs have'} no input any more, the "
                f"first of them {plan.gone[0]}; if the source is whole, sink.gone: remove takes them out of the sink, "
                "and keep leaves them there"
            )
            raise JobError(what, ("sink", "gone"))
        if plan.strange:
            raise JobError(f"{run.place.output(plan.strange[0])} {FOREIGN}", ("sink", "path"))
        run.takes(plan, run.again(full, redo))
    except JobError as error:
        raise run.located(error) from None


def _short(value: float | None) -> str:
    return "not there" if value is None else f"{value:.6g}"


def _wanted(low: float | None, high: float | None) -> str:
    bounds = ((low, "at least"), (high, "at most"))
    return " and ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)


def _inputs(published: Mapping[str, Any]) -> dict[str, Fingerprint]:
    """The inputs as the last run saw them."""
    return {name: Fingerprint(**f) for name, f in published.get("batches", {}).items()}


def _hashed(batch: Batch, last: Mapping[str, Fingerprint]) -> Fingerprint:
    now, before = Fingerprint.of(batch.path), last.get(batch.name)
    return before if before is not None and before.untouched(now) else now.hashed(batch.path)


def _copied(folder: Where, to: Where) -> None:
    """Copies the files of a folder, of which there are few."""
    to.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())


def _given(job: Job, place: Place[Any], heads: Sequence[Head]) -> Published | None:
    """The statistics that a job names rather than to ask for them."""
    if job.statistics == "fresh":
        return None
    return of_sink(place.work if job.statistics == "frozen" else job.statistics.path, heads)
