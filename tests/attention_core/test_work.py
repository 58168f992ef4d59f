"""Work on batches: what may pass is tried again, what cannot is not."""

import errno
import threading
import time

import polars as pl
import pytest
from test_run import SOFTMAX, Folder, bits, frame

from attention_core import work
from attention_core.batches import Batch, reading
from attention_core.errors import DataError, Unreadable
from attention_core.work import Watch, threads


def each(stop=None):
    return threads(2, Watch(), stop or threading.Event())


def failing(error, times):
    tries = []

    def do(item):
        tries.append(item)
        if tries.count(item) <= times:
            with reading("a.parquet"):
                raise error
        return item * 2

    return do, tries


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        pl.exceptions.ComputeError("Stale file handle (os error 116)"),
        pl.exceptions.ComputeError("object-store error: operation timed out"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
    ],
)
def test_what_may_pass_is_tried_again(monkeypatch, error, caplog):
    monkeypatch.setattr(work, "PAUSES", (0.01, 0.01))
    do, tries = failing(error, 2)
    assert each()("do", do, [1, 2]) == [2, 4] and sorted(tries) == [1, 1, 1, 2, 2, 2]
    assert "trying again in 0.01 s" in caplog.text and "a.parquet: cannot be read" in caplog.text
    do, tries = failing(error, 3)
    with pytest.raises(Unreadable):
        each()("do", do, [1])
    assert len(tries) == 3


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no"), pl.exceptions.ComputeError("bad page"), ValueError("x")]
)
def test_what_cannot_pass_is_not(error):
    do, tries = failing(error, 9)
    with pytest.raises((DataError, ValueError)):
        each()("do", do, [1])
    assert len(tries) == 1


def test_nobody_waits_for_what_is_stopped(monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(work, "PAUSES", (60,))
    do, _ = failing(OSError(errno.EIO, "no"), 9)
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(DataError):
        each(stop)("do", do, [1])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("columns", ["all", "none"])
def test_a_disk_that_hangs_once_does_not_show(tmp_path, monkeypatch, columns):
    """In a pool the first rows are added already, and to add them twice would be a wrong answer."""
    monkeypatch.setattr(work, "PAUSES", (0.01,))
    pool = {"name": "p", "key": "x", "value": "y", "over": {"group": ["g"]}, "weight": "softmax", "apply": "pool"}
    folder = Folder(tmp_path).job(SOFTMAX, pool, sink={"columns": columns}, chunk_rows=10)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(40, i))
    folder.run()
    whole, read, failed = bits(tmp_path / "out.pooled"), Batch.read, set()

    def hangs(self, columns, rows, threads=1):
        for i, chunk in enumerate(read(self, columns, rows, threads)):
            if i == 2 and (self.name, str(columns)) not in failed and len(failed) < most:
                failed.add((self.name, str(columns)))
                with reading(self.path):
                    raise OSError(errno.EIO, "Input/output error")
            yield chunk

    monkeypatch.setattr(Batch, "read", hangs)
    for most in (1, 2, 3, 99):
        failed.clear()
        try:
            folder.run("sink.path=" + str(tmp_path / f"again {most}"))
        except DataError:
            assert failed and not (tmp_path / f"again {most}").exists()
            continue
        assert bits(tmp_path / f"again {most}.pooled") == whole
