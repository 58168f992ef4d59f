"""Which device, how many rows at once, and what to do when its memory runs out."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import polars as pl
import pyarrow as pa
import torch

from attention_core.errors import DataError, JobError
from attention_core.frozen import mapped

T = TypeVar("T")
R = TypeVar("R")

CPU = torch.device("cpu")
BYTES_A_ROW = 512  # of a rule's tensors at their most, by far; what it misses, halving finds
MOST_ROWS = 1 << 22
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Lets the C library keep what chunks give back, Arrow's among it: to fetch each page from the system anew takes
    longer than the arithmetic on it. For processes that run jobs; nothing where the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_ARENA_MAX, 1)  # threads that come later share what is kept
        pa.set_memory_pool(pa.system_memory_pool())


def give_back() -> None:
    """Lets go of what the C library keeps: another step of the work asks for other sizes, and would fetch them anew."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def chosen(device: str) -> torch.device:
    """The device that `auto`, cpu, cuda or cuda:N means here.

    Raises:
        JobError: for a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        what = f"{device} is not there: torch finds {there or 'no'} GPUs; device: auto takes what there is"
        raise JobError(what, ("device",))
    return found


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """How many bytes of memory nobody uses, caches among the users; 0 where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else 0


def rows_at_once(device: torch.device, on_cpu: int) -> int:
    """How many rows a chunk has: what stays in the processor's caches, or what fits in the free memory of a GPU."""
    if device.type != "cuda":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(device)
    return max(on_cpu, min(MOST_ROWS, int(free / 4 / BYTES_A_ROW)))


def moved(value: T, device: torch.device) -> T:
    """Plain data with all its tensors on a device: what kinds know, and states."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return mapped(value, lambda tensor: tensor.to(device))  # type: ignore[no-any-return]


def halving(
    work: Callable[[pl.DataFrame, int], R], join: Callable[[R, R], R], frame: pl.DataFrame, start: int = 0
) -> R:
    """Does the work on a chunk, by halves where memory runs out; no kind can tell, since it works row by row.

    work: takes rows, and where they begin in the chunk.

    Raises:
        DataError: where one row is too much.
    """
    try:
        return work(frame, start)
    except torch.OutOfMemoryError:
        if frame.height <= 1:
            raise DataError("the device has no memory left for a single row; stop what else runs on it") from None
    torch.cuda.empty_cache()  # outside of `except`, which would hold on to the tensors of the failed try
    half = frame.height // 2
    first = halving(work, join, frame.slice(0, half), start)
    return join(first, halving(work, join, frame.slice(half), start + half))


def ahead(items: Iterable[T], work: Callable[[T], R], threads: int) -> Iterator[R]:
    """What the work makes of each item, in order, while so many threads work on those that follow."""
    if threads < 2:
        yield from map(work, items)
        return
    waiting = deque[Future[R]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="farol-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
