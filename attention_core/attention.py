"""The middle: fit rules over parts of data, and apply them to a part, chunk by chunk."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from attention_core.answers import Answer, Gathered
from attention_core.apply import POOL_COLUMNS, Pooled, Pools, column_type, inner, pool_columns
from attention_core.columns import ONE, Segments, places, plain, segments
from attention_core.contract import conclude, together
from attention_core.devices import CPU, ahead, cores, give_back, halving, moved, rows_at_once
from attention_core.engine import HERE, Engine
from attention_core.errors import DataError, FarolError, JobError, Stopped
from attention_core.frozen import holds, replaced
from attention_core.head import Ask, Attended, Head, Known, Notice, needs
from attention_core.job import Rule
from attention_core.jobfile import checked
from attention_core.selection import Cut, Position
from attention_core.states import States, name_of
from attention_core.statistics import NOTHING, Statistics, of_sink, scope
from attention_core.stores import Where, located

APPLY_ROWS = 1 << 18
MOST_NUMBERS = 1 << 21  # of a vector column at once
MOST_KEPT = 48 << 20  # bytes
MOST_POOLED = 1 << 22  # where they are no keys: they are used as they were read, some rows at a time
MOST_OF_A_PART = 1 << 40
POSITION_BITS = 40  # for the row; the batch's place in dataset order stands above them
LAST_PLACE = 1 << 22
NO_PLACE = -LAST_PLACE
NOBODY = {"": 0}  # an order in which no part has a place
PARTS = 4  # after which what each leaves in the heap has added up
UNSAFE = re.compile(r"^\.|[/\\\x00-\x1f]")  # in the name of a file
LONGEST_NAME = 200  # in bytes; file systems take 255 with what Farol adds
FIT_ROWS = 1 << 21  # of groups: every chunk's state of all its segments is merged


@dataclass(frozen=True)
class Input:
    """What the kept states of a part depend on: an identity of its content and of how it is read; and its bytes."""

    id: str
    size: int


NO_INPUT = Input("", 0)
Chunks = list[tuple[int, pl.DataFrame]]


class Part(Protocol):
    """Rows that are read in chunks: a batch, or a frame."""

    @property
    def name(self) -> str: ...

    def read(
        self, columns: Sequence[str] | None, rows: int, threads: int = 1
    ) -> Iterator[tuple[int, pl.DataFrame]]: ...


Parts = Callable[[Callable[[Part], Any]], list[Any]]  # does some work for every part


def _never() -> bool:
    return False


def _nothing(part: Part) -> None:
    pass


@dataclass(frozen=True, eq=False)
class FramePart:
    """A frame as a part."""

    frame: pl.DataFrame
    name: str = "frame"

    def read(self, columns: Sequence[str] | None, rows: int, threads: int = 1) -> Iterator[tuple[int, pl.DataFrame]]:
        frame = self.frame if columns is None else self.frame[list(columns) or self.frame.columns[:1]]
        for start in range(0, max(frame.height, 1), rows):
            yield start, frame.slice(start, rows)


@dataclass
class Look:
    """How the parts are read: chunk sizes, the segments that were found before, what was answered, and when to stop."""

    heads: Sequence[Head]
    chunk_rows: int | None = None
    device: torch.device = CPU
    stop: Callable[[], bool] = _never
    watch: Callable[[int], None] = lambda rows: None
    threads: Callable[[Part], int] = lambda part: 1  # that work on the chunks of a part at once
    steady: Callable[[Part], None] = _nothing  # refuses a part that is not as it was
    order: Mapping[str, int] = field(default_factory=dict)  # of the parts that teach, by name
    states: States = field(default_factory=States)
    inputs: Mapping[str, Input] = field(default_factory=dict)  # of the parts whose states are kept, by name
    space: int = 0  # that what a fitting pass read may take, which is kept for the next and for writing the rows
    fitting: bool = False
    read: dict[str, list[Chunks]] = field(default_factory=dict)  # by part
    room: int = MOST_KEPT  # that the next two may take; what does not fit is found again
    engine: Engine = HERE
    lost: Callable[[], bool] = _never  # what stops this where it has travelled to
    found: dict[tuple[str, str], Segments] = field(default_factory=dict)
    kept: dict[tuple[str, str], pl.DataFrame | None] = field(default_factory=dict)
    kept_states: dict[str, set[str]] = field(default_factory=dict)  # their names, by part
    spent: dict[str, float] = field(default_factory=dict)  # seconds of work on each head, by its first weight column
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> Any:
        """How the parts are read, without what this process has found or whom it tells."""
        same = {n: getattr(self, n) for n in ("heads", "chunk_rows", "device", "steady", "order", "states", "inputs")}
        return partial(Look, stop=self.lost, **same), ()

    def width(self, columns: Iterable[str] | None) -> int:
        """The components of the largest vector among these columns; None: among all that heads look at."""
        return max((w for h in self.heads for c, w in h.widths if columns is None or c in columns), default=1)

    def first(self, part: Part, head: Head) -> int:
        """The position of a part's first row in the order of those that teach; negative where it is none of them."""
        alone = head.over == "batch" or not self.order
        return 0 if alone else self.order.get(part.name, NO_PLACE) << POSITION_BITS

    def chunks(self, part: Part, columns: Iterable[str] | None, rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        named = None if columns is None else sorted(columns)
        kept = self.read or (self.fitting and self.space)
        for chunk in self._read(part, named, rows) if named and kept else part.read(named, rows, self.threads(part)):
            if self.stop():
                raise Stopped
            yield chunk
            self.watch(chunk[1].height)

    def _read(self, part: Part, named: Sequence[str], rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """The chunks of a part, as an earlier pass read them, or read for a later one too."""
        before = self.read.get(part.name, []) if self.fitting else self.read.pop(part.name, [])
        there = next((chunks for chunks in before if set(named) <= set(chunks[0][1].columns)), None)
        if there is not None:
            for start, chunk in there:
                for at in range(0, max(chunk.height, 1), rows):
                    yield start + at, chunk.select(named).slice(at, rows)
            return
        read, taken, keeps = Chunks(), 0, self.fitting
        for start, chunk in part.read(named, rows, self.threads(part)):
            if keeps:
                size = int(chunk.estimated_size())
                keeps, taken = self._keeps(size), taken + size
                read.append((start, chunk))
                if not keeps:
                    self._keeps(-taken)
                    read.clear()
            yield start, chunk
        if read:
            with self.lock:
                self.read.setdefault(part.name, []).append(read)

    def _keeps(self, size: int) -> bool:
        """Takes so much of the space; whether it was there."""
        with self.lock:
            self.space -= size
            return self.space >= 0

    def keeps(self, part: Part, names: Iterable[str]) -> None:
        """Remembers what the states of a part are kept as, so that others can be forgotten."""
        self.kept_states.setdefault(part.name, set()).update(names)

    @contextmanager
    def _steadily(self, part: Part) -> Iterator[None]:
        """Refuses the part where it has changed by then, whatever else was wrong: nothing of it is kept."""
        try:
            yield
        finally:
            self.steady(part)

    def keys(self, part: Part, head: Head, statistics: Statistics) -> pl.DataFrame | None:
        """What the segments of a part in a head's scope stand for; kept from run to run."""
        at = (part.name, scope(head))
        if at in self.kept:
            return self.kept[at]
        if not isinstance(head.over, tuple) or at in self.found:
            return self.segments(part, head, statistics).keys
        own, off = self.inputs.get(part.name, NO_INPUT), self.states.folder is None
        name = "" if off else name_of(own.id, "keys", at, self._above(part, head.over, statistics))
        self.keeps(part, [name])
        found = self.states.get(name)
        if found is None:
            with self._steadily(part):
                found = self.segments(part, head, statistics).keys
            self.states.put(name, found, own.size)
        if self._fits(int(found.estimated_size())):
            self.kept[at] = found
        return found  # type: ignore[no-any-return]

    def segments(self, part: Part, head: Head, statistics: Statistics) -> Segments:
        """The segments of a part in a head's scope, with that of each row."""
        if head.over == "batch":
            return Segments(pl.DataFrame({"batch": [part.name]}), None, 1)
        if not isinstance(head.over, tuple):
            return ONE
        at = (part.name, scope(head))
        if at in self.found:
            return self.found[at]
        chunks = [chunk.select(head.over) for _, chunk in self.above(part, head.over, statistics, FIT_ROWS)]
        found = segments(pl.concat(chunks)) if chunks else Segments(None, None, 0)
        if self._fits(found.nbytes()):
            self.found[at] = found
        return found

    def _segments(self, part: Part, heads: Sequence[Head], statistics: Statistics) -> list[Segments]:
        """The segments for each of several heads, found once a scope."""
        scopes = {scope(head): head for head in heads}
        found = {name: self.segments(part, head, statistics) for name, head in scopes.items()}
        return [found[scope(head)] for head in heads]

    def _fits(self, size: int) -> bool:
        with self.lock:
            fits = size <= self.room
            self.room -= size if fits else 0
        return fits

    def above(
        self,
        part: Part,
        columns: Iterable[str],
        statistics: Statistics,
        rows: int = APPLY_ROWS,
        most: int = MOST_NUMBERS,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """The rows with these columns, those that heads make among them; no more is read than they take."""
        before = self._makers(columns)
        made = {c for h in self.heads for c in h.adds()}
        read = set(columns).union(*(h.takes() for h in before)) - made
        return self.attended(part, before, statistics, read, rows, most)

    def _makers(self, columns: Iterable[str]) -> list[Head]:
        """The heads that make any of these columns, and those that they look at."""
        before, named = needs(self.heads), set(columns)
        direct = {h.weights[0] for h in self.heads if named.intersection(h.adds())}
        wanted = direct.union(*(before[name] for name in direct))
        return [h for h in self.heads if h.weights[0] in wanted]

    def _above(self, part: Part, columns: Iterable[str], statistics: Statistics) -> Any:
        """The identity of what these columns depend on beside the part's own."""
        before = self._makers(columns)
        known = (statistics.of(h, self.keys(part, h, statistics)) for h in before)
        return tuple((h.making(), self.seen(part, h, k)) for h, k in zip(before, known, strict=True))

    def seen(self, part: Part, head: Head, known: Any) -> Any:
        """What is known, with positions as a part's rows see them: parts that come before do not move them."""
        first = self.first(part, head)
        return replaced(known, Cut, lambda cut: cut.seen_from(first, MOST_OF_A_PART))

    def attended(
        self,
        part: Part,
        heads: Sequence[Head],
        statistics: Statistics,
        columns: Iterable[str] | None = None,
        rows: int = APPLY_ROWS,
        most: int = MOST_NUMBERS,
        tell: Callable[[Mapping[str, Notice]], None] = lambda noticed: None,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """The rows of a part with what the heads add, chunk by chunk; `tell` hears what they notice."""
        where = list(zip(heads, self._segments(part, heads, statistics), strict=True))
        knows = [(h, s, moved(statistics.of(h, s.keys), self.device)) for h, s in where]

        def attend(item: tuple[int, pl.DataFrame]) -> tuple[int, pl.DataFrame, list[int], Mapping[str, Notice]]:
            (start, chunk), missed, noticed = item, list[int](), dict[str, Notice]()
            for head, whole, known in knows:
                with _of(part, head), self._timed(head):
                    done = self._attended(head, chunk, self.first(part, head), start, whole, known)
                chunk = done.frame
                noticed |= done.noticed
                missed.append(head.missed(chunk))
            return start, chunk, missed, noticed

        rows = min(self.chunk_rows or rows_at_once(self.device, rows), max(1, most // self.width(columns)))
        missed = [0] * len(heads)
        for start, chunk, keys, noticed in ahead(self.chunks(part, columns, rows), attend, self.threads(part)):
            missed = [a + b for a, b in zip(missed, keys, strict=True)]
            tell(noticed)
            yield start, chunk
        for head, many in zip(heads, missed, strict=True):
            with _of(part, head):
                _refuse_missing(many)

    def answers(self, part: Part, asks: Sequence[Ask], statistics: Statistics) -> dict[str, Answer]:
        """What a part answers to the questions of one round, by scope: one pass over the columns that they need.

        What it answered in a run before to the same question, and knowing the same, it is not asked again.
        """
        keys = {scope(ask.head): self.keys(part, ask.head, statistics) for ask in asks}
        local = [_local(ask, keys[scope(ask.head)], statistics) for ask in asks]
        names = [self._name(part, ask, statistics) for ask in local]
        self.keeps(part, names)
        states = [self.states.get(name, ask.question) for name, ask in zip(names, asks, strict=True)]
        new = [i for i, state in enumerate(states) if state is None]
        found: list[Any] = []
        if new:
            with self._steadily(part):
                found = self._answers(part, [local[i] for i in new], statistics)
        for i, state in zip(new, found, strict=True):
            states[i] = moved(state, CPU)
            if state is not None:
                self.states.put(names[i], states[i], self.inputs.get(part.name, NO_INPUT).size)
        return {
            name: Answer(k, tuple(state for ask, state in zip(asks, states, strict=True) if scope(ask.head) == name))
            for name, k in keys.items()
        }

    def told(self, part: Part, asks: Sequence[Ask], statistics: Statistics) -> tuple[dict[str, Answer], set[str]]:
        """What a part answers, and the names of the states that are kept of it."""
        return self.answers(part, asks, statistics), self.kept_states.get(part.name, set())

    def _answers(self, part: Part, asks: Sequence[Ask], statistics: Statistics) -> list[Any]:
        where = self._segments(part, [ask.head for ask in asks], statistics)
        local = [moved(ask, self.device) for ask in asks]
        states: list[Any] = [None] * len(asks)
        columns = set[str]().union(*(ask.head.inside() for ask in asks))
        rows = FIT_ROWS if any(isinstance(ask.head.over, tuple) for ask in asks) else APPLY_ROWS

        def answer(item: tuple[int, pl.DataFrame]) -> list[Any]:
            (start, chunk), found = item, []
            for ask, whole in zip(local, where, strict=True):
                with _of(part, ask.head), self._timed(ask.head):
                    found.append(self._answered(ask, chunk, self.first(part, ask.head), start, whole))
            return found

        for found in ahead(self.above(part, columns, statistics, rows), answer, self.threads(part)):
            states = [b if a is None else a + b for a, b in zip(states, found, strict=True)]
        return states

    def _name(self, part: Part, ask: Ask, statistics: Statistics) -> str:
        """What a part's answer is kept as: the identity of the question, and of all that the answer depends on."""
        if self.states.folder is None:
            return ""
        own, first = self.inputs.get(part.name, NO_INPUT), self.first(part, ask.head)
        concluded = self.seen(part, ask.head, ask.concluded)
        where = first if holds(ask.question, Position) else None
        above = self._above(part, ask.head.columns(), statistics)
        return name_of(own.id, "state", ask.head.teaching(), concluded, ask.question, where, above)

    def pool(
        self, part: Part, heads: Sequence[Head], statistics: Statistics, into: Sequence[Pools], keys: Sequence[Any]
    ) -> None:
        """Adds a part to the pools of these heads: one pass over the columns that they need."""
        where = list(zip(heads, self._segments(part, heads, statistics), strict=True))
        knows = [(h, s, moved(statistics.of(h, s.keys), self.device)) for h, s in where]
        at = [None if k is None or s.keys is None else places(s.keys, k) for k, (_, s) in zip(keys, where, strict=True)]
        keys_of = set[str]().union(*(head.inside() for head in heads))
        columns = keys_of.union(v for head in heads for v, _, _ in head.values)
        most = MOST_NUMBERS if self.width(keys_of) > 1 else MOST_POOLED

        def add(item: tuple[int, pl.DataFrame]) -> None:
            start, chunk = item
            for (head, whole, known), pools, places_of in zip(knows, into, at, strict=True):
                with _of(part, head), self._timed(head):
                    self._pooled(head, chunk, self.first(part, head), start, whole, known, pools, places_of)

        with self._steadily(part):
            for _ in ahead(self.above(part, columns, statistics, FIT_ROWS, most), add, self.threads(part)):
                pass

    def pooled(self, part: Part, statistics: Statistics, schema: Mapping[str, pl.DataType]) -> dict[str, Answer]:
        """The pools of a part alone, by scope."""
        heads = pooling(self.heads)
        where = self._segments(part, heads, statistics)
        pools = [Pools(s.size, _value_types(h, schema)) for h, s in zip(heads, where, strict=True)]
        self.pool(part, heads, statistics, pools, [None] * len(heads))
        by = {scope(h): s.keys for h, s in zip(heads, where, strict=True)}
        return {
            name: Answer(keys, tuple(p.state() for h, p in zip(heads, pools, strict=True) if scope(h) == name))
            for name, keys in by.items()
        }

    def _pooled(
        self,
        head: Head,
        chunk: pl.DataFrame,
        first: int,
        start: int,
        whole: Segments,
        known: Known,
        pools: Pools,
        places_of: Tensor | None,
    ) -> None:
        def work(rows: pl.DataFrame, at: int) -> None:
            head.pooled(rows, whole.slice(at, rows.height), known, pools, places_of, self.device, first + at)

        halving(work, lambda a, b: None, chunk, start)

    def _attended(
        self, head: Head, chunk: pl.DataFrame, first: int, start: int, whole: Segments, known: Known
    ) -> Attended:
        def work(rows: pl.DataFrame, at: int) -> Attended:
            return head.attend(rows, whole.slice(at, rows.height), known, self.device, first + at)

        return halving(work, Attended.__add__, chunk, start)

    def _answered(self, ask: Ask, chunk: pl.DataFrame, first: int, start: int, whole: Segments) -> Any:
        def work(rows: pl.DataFrame, at: int) -> Any:
            return ask.of(rows, whole.slice(at, rows.height), self.device, first + at)

        return halving(work, lambda a, b: a + b, chunk, start)

    @contextmanager
    def _timed(self, head: Head) -> Iterator[None]:
        began = time.perf_counter()
        yield
        column, took = head.weights[0], time.perf_counter() - began
        with self.lock:
            self.spent[column] = self.spent.get(column, 0.0) + took


def fit(look: Look, each: Parts, before: Statistics = NOTHING) -> Statistics:
    """Asks what the heads must know, round by round; `each` gives what a function returns for every part.

    before: what is known already and not asked.
    """
    keys = dict(before.keys)

    def ask(asked: tuple[tuple[Ask, ...], dict[str, Known]]) -> tuple[Any, ...]:
        asks, known = asked
        before, gathered = Statistics(known=known, keys=dict(keys)), Gathered(keys)
        told, parts = look.engine(partial(look.told, asks=asks, statistics=before)), itertools.count(1)

        def gather(part: Part) -> None:
            answers, names = told(part)
            look.keeps(part, names)
            gathered.add(answers)
            if next(parts) % PARTS == 0:
                give_back()

        each(gather)
        states: dict[str, list[Any]] = {}
        for name in dict.fromkeys(scope(ask.head) for ask in asks):
            whole = gathered.whole(name)
            if whole is None:
                raise JobError("the source has no rows, so that nothing can be known of it")
            states[name] = list(whole.states)
            if whole.keys is not None:
                keys[name] = whole.keys
        return tuple(states[scope(ask.head)].pop(0) for ask in asks)

    fits = {head.weights[0]: head.fit() for head in look.heads if head.weights[0] not in before.known}
    look.fitting = True
    known = conclude(together(fits, needs(look.heads), before.known), ask)
    look.fitting = False
    return Statistics(known=known, keys=dict(keys))


def pooling(heads: Sequence[Head]) -> list[Head]:
    """The heads that give a table."""
    return [head for head in heads if head.pool is not None and not head.lists]


def tables(
    look: Look, each: Parts, statistics: Statistics, schema: Mapping[str, pl.DataType]
) -> dict[str, pl.DataFrame]:
    """The tables of the rules that pool, by rule: one row a segment, sorted by it, nulls first."""
    heads, schema = pooling(look.heads), whole_schema(look.heads, schema)
    if not heads:
        return {}
    found: dict[str, pl.DataFrame] = {}
    pools = _pools_there if look.engine.apart else _pools_here
    for head, whole, pool in pools(look, each, statistics, heads, schema):
        assert head.pool is not None
        added = pool_columns(pool, head.pool, [name for _, name, _ in head.values], _value_types(head, schema))
        found[head.rule] = pl.DataFrame(added) if whole is None else whole.hstack(added)
    return found


OfHead = tuple[Head, pl.DataFrame | None, Pools | Pooled]  # with the segments of its pools


def _pools_here(
    look: Look, each: Parts, statistics: Statistics, heads: Sequence[Head], schema: Mapping[str, pl.DataType]
) -> Iterator[OfHead]:
    """All parts are added to the same pools, which must know all segments beforehand."""
    gathered = Gathered({})
    each(lambda p: gathered.add({scope(h): Answer(look.keys(p, h, statistics), ()) for h in heads}))
    answers = [gathered.whole(scope(h)) for h in heads]
    keys = [None if answer is None else answer.keys for answer in answers]
    sizes = [1 if k is None else k.height for k in keys]
    pools = [Pools(n, _value_types(h, schema)) for n, h in zip(sizes, heads, strict=True)]
    each(_at_once(lambda part: look.pool(part, heads, statistics, pools, keys)))
    give_back()
    return zip(heads, keys, pools, strict=True)


def _pools_there(
    look: Look, each: Parts, statistics: Statistics, heads: Sequence[Head], schema: Mapping[str, pl.DataType]
) -> Iterator[OfHead]:
    """Each part is added to pools of its own, which are brought together as they come."""
    gathered, pooled = Gathered({}, most=2), look.engine(partial(look.pooled, statistics=statistics, schema=schema))
    each(lambda part: gathered.add(pooled(part)))
    give_back()
    wholes = {name: gathered.whole(name) for name in dict.fromkeys(map(scope, heads))}
    states = {name: list(whole.states) for name, whole in wholes.items() if whole is not None}
    for head in heads:
        whole = wholes[scope(head)]
        assert whole is not None
        yield head, whole.keys, states[scope(head)].pop(0)


def _value_types(head: Head, schema: Mapping[str, pl.DataType]) -> list[pl.DataType]:
    return [schema[value] for value, _, _ in head.values]


def _at_once(work: Callable[[Part], None]) -> Callable[[Part], None]:
    """Work that must not be tried again, since some of it is added already."""

    def once(part: Part) -> None:
        try:
            work(part)
        except DataError as error:
            error.may_pass = False
            raise

    return once


def passes(heads: Sequence[Head], schema: Mapping[str, pl.DataType], before: Statistics = NOTHING) -> int:
    """How many times the key columns are read before the first row is written, at the least: found by fitting to three
    rows that are made up, or to none where they make no sense to a rule.
    """
    rounds = 0

    def each(part: Part, work: Callable[[Part], Any]) -> list[Any]:
        nonlocal rounds
        rounds += 1
        return [work(part)]

    try:
        groups = {name for head in heads if isinstance(head.over, tuple) for name in head.over}
        fit(Look(heads), partial(each, FramePart(_made_up(schema, groups))), before)
    except (FarolError, pl.exceptions.PolarsError):
        rounds = 0
        fit(Look(heads), partial(each, FramePart(pl.DataFrame(schema=dict(schema)))), before)
    return rounds


def _made_up(schema: Mapping[str, pl.DataType], groups: Collection[str]) -> pl.DataFrame:
    """Three rows of one group, with numbers so far apart that no kind needs a pass more; null where none can be."""

    def column(name: str, dtype: pl.DataType) -> pl.Series:
        try:
            return pl.Series([1, 1, 1] if name in groups else [1, 20, 60]).cast(dtype)
        except pl.exceptions.PolarsError:
            return pl.Series([None] * 3, dtype=dtype)

    return pl.DataFrame({name: column(name, dtype) for name, dtype in schema.items()})


Rules = Sequence[Rule | Mapping[str, Any]]


def attend(
    frame: pl.DataFrame | pl.LazyFrame,
    rules: Rules,
    statistics: str | Path | Where | None = None,
    chunk_rows: int | None = None,
) -> pl.DataFrame | pl.LazyFrame:
    """The frame with the columns that the rules add, of the same sort as it came.

    The frame is one batch. The bits do not depend on `chunk_rows`.

    statistics: the sink of a run, or its work folder: what it knew of scopes that cross batches is used as it is, so
        that the same rows get the same bits as there. Groups and values that it has not seen make a key missing. Of
        rows on the cut of a top-k, among which the earlier were within, none is.

    Raises:
        JobError: for a rule that does not fit the columns, and statistics that are not there or of other rules.
        DataError: for data that a rule cannot work on, as an infinite key of a sum.
    """
    if isinstance(frame, pl.LazyFrame):
        attended = attend(frame.collect(), rules, statistics, chunk_rows)
        assert isinstance(attended, pl.DataFrame)
        return attended.lazy()
    with _fitted(frame, rules, statistics, chunk_rows) as (look, part, known):
        chunks = [kept(look.heads, chunk) for _, chunk in look.attended(part, look.heads, known)]
    return pl.concat(chunks).drop(hidden(look.heads))


def pooled(
    frame: pl.DataFrame | pl.LazyFrame,
    rules: Rules,
    statistics: str | Path | Where | None = None,
    chunk_rows: int | None = None,
) -> dict[str, pl.DataFrame]:
    """The tables of the rules that pool, by the rule's name: one row a segment, sorted by it, nulls first.

    statistics: as of `attend`.

    Raises:
        JobError, DataError: as `attend` does.
    """
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    with _fitted(frame, rules, statistics, chunk_rows) as (look, part, known):
        return tables(look, lambda work: [work(part)], known, frame.schema)


@contextmanager
def _fitted(
    frame: pl.DataFrame, rules: Rules, published: str | Path | Where | None, chunk_rows: int | None
) -> Iterator[tuple[Look, Part, Statistics]]:
    """A frame as the one part, with what the rules know of it, or of what was published."""
    if not isinstance(frame, pl.DataFrame):
        what = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
        raise JobError(f"attend takes a Polars DataFrame or LazyFrame, and this is a {what}")
    if isinstance(rules, str | Mapping | Rule) or not isinstance(rules, Sequence):
        raise JobError("rules are a list, as in [{'key': 'x', 'score': 'zscore'}]")
    if chunk_rows is not None and chunk_rows < 1:
        raise JobError(f"chunk_rows must be at least 1, and is {chunk_rows}")
    heads = resolved([_rule(i, rule) for i, rule in enumerate(rules)], frame.schema)
    before = NOTHING if published is None else of_sink(located(published), heads).statistics
    part, at_once = FramePart(frame), cores() if frame.height > APPLY_ROWS else 1
    order = {} if published is None else {part.name: LAST_PLACE}
    look = Look(heads, chunk_rows, order=order, threads=lambda part: at_once, room=MOST_OF_A_PART)
    with one_thread():
        yield look, part, fit(look, lambda work: [work(part)], before)


def resolved(rules: Sequence[Rule], schema: Mapping[str, pl.DataType]) -> tuple[Head, ...]:
    """The heads of the rules in order; each may look at the columns of those above it.

    Raises:
        JobError: for a column that is not there, or two of the same name.
    """
    schema, heads = dict(schema), list[Head]()
    for i, rule in enumerate(rules):
        try:
            found = rule.heads(schema)
        except JobError as error:
            raise _from_below(error, rules[i + 1 :]).under("attention", i) from None
        for head in found:
            _refuse_table(head, heads, i)
            heads.append(head)
            for name in (n for n in head.adds() if head.adds().count(n) > 1):
                fix = 'rename with {value} or {key} in it, as weighted: "{value}_late", keeps them apart'
                raise JobError(f"two columns would be called {name!r}; {fix}", ("attention", i, "rename"))
            for name, dtype in types(head, schema).items():
                if name in schema:
                    fix = 'rename: {weight: "...", weighted: "{value}_late"} on the rule gives another'
                    where = ("attention", i, "rename") if rule.rename.model_fields_set else ("attention", i)
                    raise JobError(f"there is a column {name!r} already; {fix}", where)
                schema[name] = dtype
    return tuple(heads)


def _from_below(error: JobError, below: Sequence[Rule]) -> JobError:
    """The error, or that a column which is not there is made by a rule below."""
    for rule in below:
        if error.what.startswith(f"no column {rule.weight_column()!r}"):
            called = rule.name or rule.weight_column()
            what = f"no column {rule.weight_column()!r} yet: rule {called!r} makes it, and must stand above this one"
            return JobError(what, error.at)
    return error


def _refuse_table(head: Head, above: Sequence[Head], i: int) -> None:
    """Refuses a table that could not be written: two of its columns, or two tables, would be called the same."""
    if not pooling([head]):
        return
    if head.rule in (other.rule for other in pooling(above)):
        raise JobError(f"a rule above that pools is called {head.rule!r} too; name one of them anew", ("attention", i))
    if UNSAFE.search(head.rule) or len(head.rule.encode()) > LONGEST_NAME:
        what = f"{head.rule!r} cannot be the name of a file, which its table becomes"
        raise JobError(f"{what}; give the rule a name of letters and digits", ("attention", i))
    taken = [*_segment_columns(head), *POOL_COLUMNS]
    for column in (c for c in taken if taken.count(c) > 1):
        what = f"the table has a column {column!r} of its own, and cannot be grouped by one"
        raise JobError(f"{what}; rename the column in the source", ("attention", i, "over"))
    taken += [name for _, name, _ in head.values]
    for name in (n for n in taken if taken.count(n) > 1):
        fix = 'name each value once, or rename: {weighted: "{value}_late"} on the rule'
        raise JobError(f"two columns of the table would be called {name!r}; {fix}", ("attention", i))


def _segment_columns(head: Head) -> tuple[str, ...]:
    """The columns of a table that say which segment a row is of."""
    return head.over if isinstance(head.over, tuple) else ("batch",) if head.over == "batch" else ()


def table_types(head: Head, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns of a head's table, with their types."""
    groups = {name: schema.get(name, pl.String()) for name in _segment_columns(head)}
    counts = dict(zip(POOL_COLUMNS, (pl.Int64(), pl.Float64()), strict=True))
    pools = {name: column_type(schema[value]) for value, name, _ in head.values}
    return dict(plain(pl.DataFrame(schema=groups)).schema) | counts | pools


def types(head: Head, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns that a head adds, with their types."""
    weighted = {name: column_type(schema[value]) for value, name, _ in head.values}
    if head.pool is not None:
        weighted = {n: column_type(inner(schema[v])) for v, n, _ in head.values} if head.lists else {}
    weight = pl.List(pl.Float64()) if head.lists else pl.Float64()
    return {name: weight for name in head.weights} | weighted


def whole_schema(heads: Sequence[Head], schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns and all that the heads add."""
    found = dict(schema)
    for head in heads:
        found |= types(head, found)
    return found


def kept(heads: Sequence[Head], rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that no filter drops: null and NaN drop out."""
    for head in heads:
        if head.least is not None:
            weight = pl.col(head.weights[0])
            rows = rows.filter((weight >= head.least) & weight.is_not_nan())
    return rows


def hidden(heads: Sequence[Head]) -> list[str]:
    """The columns that are there for later rules only."""
    return [name for head in heads if not head.written for name in head.weights]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread here, since torch's threads and Polars' own get in each other's way; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rule(i: int, rule: Rule | Mapping[str, Any]) -> Rule:
    if isinstance(rule, Rule):
        return rule
    return checked(rule, Rule, f"attention[{i}]")


def _local(ask: Ask, segments: pl.DataFrame | None, statistics: Statistics) -> Ask:
    """The question about a part's segments alone; a first round's carries nothing of any."""
    keys = statistics.keys.get(scope(ask.head))
    return ask if keys is None or segments is None else ask.picked(places(segments, keys))


def _refuse_missing(keys: int) -> None:
    if keys:
        advice = "mask or mend them, or say missing: propagate or a number"
        raise DataError(f"missing keys: {keys:,}, and missing: error allows none; {advice}")


@contextmanager
def _of(part: Part, head: Head) -> Iterator[None]:
    """Names the part, the rule and the key in an error about the data."""
    try:
        yield
    except (FarolError, pl.exceptions.PolarsError) as error:
        where, sort = getattr(part, "path", None), type(error) if isinstance(error, FarolError) else DataError
        what = str(error).splitlines()[0]
        raise sort(f"{'' if where is None else f'{where}: '}{head.named()}: {what}") from error
