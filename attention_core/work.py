"""Work on batches: several at once, and somebody who is told how far it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from attention_core.errors import DataError, Stopped

PAUSES = (1, 5, 20)  # seconds before each further try
logger = logging.getLogger("farol")

T = TypeVar("T")
R = TypeVar("R")


class Each(Protocol):
    """Does some work for every item, several at once; `what` names it for people. The first error stops the rest."""

    def __call__(self, what: str, work: Callable[[T], R], items: Sequence[T]) -> list[R]: ...


class Watch:
    """Whom a run tells how far it is; this one says nothing. Called from several threads."""

    def begin(self, what: str, batches: int) -> None:
        """A step over so many batches begins."""

    def rows(self, rows: int) -> None:
        """So many rows more have been read."""

    def batch(self, name: str) -> None:
        """A batch of the step is done."""


def threads(workers: int, watch: Watch, stop: threading.Event) -> Each:
    """Work on so many batches at once; `stop` is set by the first error."""

    def each(what: str, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        watch.begin(what, len(items))
        with ThreadPoolExecutor(workers, thread_name_prefix="farol") as pool:
            futures: list[Future[R]] = []
            try:  # also while they are submitted: the pool waits for those that were
                for item in items:
                    futures.append(pool.submit(_told(watch, stop, patiently(work, stop)), item))
                wait(futures, return_when=FIRST_EXCEPTION)
                return [future.result() for future in futures]
            except BaseException as error:
                stop.set()
                for future in futures:
                    future.cancel()
                wait(futures)
                raise (_first(futures) if isinstance(error, Exception) else error) from None

    return each


def patiently(work: Callable[[T], R], stop: threading.Event) -> Callable[[T], R]:
    """The same work, tried again after what may pass: a disk that hung, a connection that broke."""

    def tried(item: T) -> R:
        for seconds in PAUSES:
            try:
                return work(item)
            except DataError as error:
                if not error.may_pass or stop.is_set():
                    raise
                logger.warning("%s; trying again in %s s", error, seconds)
                stop.wait(seconds)
        return work(item)

    return tried


def _told(watch: Watch, stop: threading.Event, work: Callable[[T], R]) -> Callable[[T], R]:
    def with_word(item: T) -> R:
        try:
            result = work(item)
        except BaseException:
            stop.set()  # the others need not go on
            raise
        watch.batch(str(getattr(item, "name", item)))
        return result

    return with_word


def _first(futures: Sequence[Any]) -> BaseException:
    """The error that came first, rather than that others were stopped for it."""
    errors = [e for f in futures if f.done() and not f.cancelled() and (e := f.exception()) is not None]
    return next((e for e in errors if not isinstance(e, Stopped)), errors[0] if errors else Stopped("interrupted"))
