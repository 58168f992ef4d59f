"""How far a run is: counted while it works, and told at intervals to who wants to know."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context

from attention_core.batches import Batch
from attention_core.work import Watch
from flows.summary import counted

SECONDS_A_LINE = 5.0  # where the output is no terminal
MOST_FOOTERS = 200  # of more batches, each is a step small enough to be seen moving


class Pace(Watch):
    """Counts the batches and rows of each step, and what share of the whole run is done."""

    def __init__(self, batches: Sequence[Batch] = (), passes: int = 0) -> None:
        few = len(batches) <= MOST_FOOTERS
        self.batches, self.rows_of_all = len(batches), sum(b.extent().rows for b in batches) if few else 0
        self.ahead = _worth("hash") + passes * _worth("fit") + _worth("apply")
        self.before = 0.0
        self.what, self.of, self.done, self.read = "", 0, 0, 0
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def begin(self, what: str, batches: int) -> None:
        with self.lock:
            self.before += _worth(self.what)
            self.what, self.of, self.done, self.read = what, batches, 0, 0
            self.began = time.monotonic()

    def rows(self, rows: int) -> None:
        with self.lock:
            self.read += rows

    def batch(self, name: str) -> None:
        with self.lock:
            self.done += 1

    def share(self) -> float:
        """The share of the whole run that is done, from 0 to 1; an estimate, for passes are not equally long."""
        with self.lock:
            worth = _worth(self.what)
            return (self.before + worth * self._step()) / max(self.ahead, self.before + worth)

    def line(self) -> str:
        """`fit, pass 1: 8 of 12 batches, 1,234,567 rows/s`."""
        with self.lock:
            of = f"{self.what}: {self.done:,} of {counted(self.of, 'batch')}"
            return f"{of}, {self.read / (time.monotonic() - self.began):,.0f} rows/s" if self.read else of

    def _step(self) -> float:
        """What is done of this step, by batches or by rows: a single large batch moves as well."""
        rows = self.rows_of_all * self.of / self.batches if self.batches else 0
        return min(max(self.done / self.of if self.of else 1.0, self.read / rows if rows else 0.0), 1.0)


class Each(Watch):
    """Several who are told."""

    def __init__(self, *watches: Watch) -> None:
        self.watches = watches

    def begin(self, what: str, batches: int) -> None:
        for watch in self.watches:
            watch.begin(what, batches)

    def rows(self, rows: int) -> None:
        for watch in self.watches:
            watch.rows(rows)

    def batch(self, name: str) -> None:
        for watch in self.watches:
            watch.batch(name)


@contextmanager
def lines() -> Iterator[Watch]:
    """What stands for the bar where standard error is no terminal: a line at intervals, none of a short run."""
    pace, told = Pace(), (0, 0)

    def tell() -> None:
        nonlocal told
        now = pace.done, pace.read
        if pace.what and now != told:
            told = now
            print(pace.line(), file=sys.stderr, flush=True)

    with every(SECONDS_A_LINE, tell):
        yield pace


@contextmanager
def every(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Calls `tell` at intervals, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(seconds):
            tell()

    thread = threading.Thread(target=copy_context().run, args=(go,), name="farol-tells", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(seconds)


def _worth(what: str) -> float:
    """About how long a step takes beside the others: hashing is quick, writing is most of it."""
    if not what:
        return 0
    return {"hash": 1, "apply": 8}.get(what, 2)
