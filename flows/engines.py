"""Where the work runs, beside the threads of this process: on a Dask or a Ray cluster, that is there or made here.

What travels is pickled: what is asked or known, and paths, never rows. So workers need Farol, no Prefect, and to see
the folders, or buckets, of source and sink under the names that they have here. Each works on one batch at a time, and
does it as threads here would, to the last bit.
"""

from __future__ import annotations

import io
import operator
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from importlib.util import find_spec
from logging import CRITICAL
from multiprocessing import resource_tracker
from typing import Any, Literal, TypeVar

import torch

from attention_core.attention import one_thread
from attention_core.devices import chosen, cores, keep_freed_memory
from attention_core.engine import HERE, SHARED, Engine
from attention_core.errors import DataError, JobError, Stopped, briefly
from attention_core.frozen import content, of_content
from attention_core.ledger import versions
from flows.summary import counted

T = TypeVar("T")
R = TypeVar("R")

Submitted = Callable[[bytes, str, threading.Event], bytes]  # an item, what it is called, what ends the waiting
Submit = Callable[[bytes], Submitted]  # some work
Name = Literal["here", "dask", "ray"]
NEEDS = {"dask": "distributed", "ray": "ray"}
SECONDS = 0.5  # after which who waits for a worker sees that the run was stopped
ONE_IN = 10  # of these, whether there is any worker at all
PATIENCE = 60.0  # seconds for a cluster to have a worker


@contextmanager
def engine(name: Name, workers: int, stop: threading.Event) -> Iterator[Engine]:
    """The engine of this name while the block runs.

    workers: of a cluster that is made here, since none is set. stop: the run's, at which nobody waits any longer.

    Raises:
        JobError: where its cluster does not answer.
    """
    if name == "here":
        yield HERE
        return
    with (_dask if name == "dask" else _ray)(workers, stop) as there:
        yield there


def unconnected(name: Name) -> Engine:
    """The engine of this name before there is any work for it: which devices a cluster has is not known yet.

    Raises:
        JobError: where its library is not installed.
    """
    if name == "here":
        return HERE
    if find_spec(NEEDS[name]) is None:
        raise JobError(f"--engine {name} needs the package {NEEDS[name]}; pip install 'farol[{name}]' brings it")
    return _Cluster(f"{name}, not connected", cores(), _nobody, threading.Event())


def _nobody(work: bytes) -> Submitted:
    raise AssertionError("an engine is connected before it works")


@contextmanager
def unreached() -> Iterator[None]:
    """Processes that are started meanwhile, or by threads that are, are out of reach of Ctrl-C.

    A terminal sends that to the whole group of processes. A process inherits which signals are blocked from the thread
    that starts it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Cluster:
    """What both have in common: work is packed once, and each item by itself."""

    apart = True

    def __init__(self, where: str, workers: int, submit: Submit, stop: threading.Event) -> None:
        self.workers, self._submit, self._stop = workers, submit, stop
        self.name = f"{where}, {counted(workers, 'worker')}"

    def device(self, name: str) -> torch.device:
        return self(chosen)(name)

    def __call__(self, work: Callable[[T], R]) -> Callable[[T], R]:
        submitted = self._submit(_packed((versions(), _packed(work))))

        def there(item: T) -> R:
            try:
                found: R = pickle.loads(submitted(_packed(item), str(getattr(item, "name", item)), self._stop))
            except Stopped:
                if self._stop.is_set():
                    raise
                what = "a worker stopped, since it does not see the lock in the work folder"
                raise DataError(f"{what}; {SHARED}") from None
            except ImportError as error:
                raise JobError(f"the workers have no Farol ({error}); install it there as here") from None
            return found

        return there


def done(work: bytes, item: bytes) -> bytes:
    """Does some work on an item, in a worker's process."""
    with one_thread():
        return _packed(_work(work)(pickle.loads(item)))


@lru_cache(maxsize=2)  # what is known may be large, and many items are asked with it
def _work(packed: bytes) -> Callable[[Any], Any]:
    theirs, work = pickle.loads(packed)
    if theirs != versions():
        what = f"a worker has {versions()}, and who asks has {theirs}: results would differ"
        raise DataError(f"{what}; install the same versions on all")
    try:
        found: Callable[[Any], Any] = pickle.loads(work)
    except Exception as error:
        what = f"a worker has another Farol, which does not know this work ({briefly(error)})"
        raise DataError(f"{what}; install the same versions on all") from None
    return found


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """A tensor as its own numbers: a part of one would take the whole with it."""
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        return of_content, (content(value), value.dtype, tuple(value.shape))


def _packed(value: Any) -> bytes:
    into = io.BytesIO()
    _Packer(into, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return into.getvalue()


def _where(what: str, address: str | None) -> str:
    return f"{what} at {address}" if address else f"{what}, made here"


def _awaited(ended: Callable[[float], object], cancel: Callable[[], object], stop: threading.Event) -> None:
    """Waits for what a worker does. ended: whether it has within so many seconds.

    Raises:
        Stopped: as soon as the run is, after `cancel`.
    """
    while not ended(SECONDS):
        if stop.is_set():
            cancel()
            raise Stopped


def _worker_lost(what: str, error: BaseException) -> DataError:
    return DataError(f"{what}: its worker was lost, again and again, perhaps out of memory ({briefly(error)})")


def _cluster_lost(error: BaseException) -> DataError:
    return DataError(f"the cluster was lost, and the sink is as it was; run again ({briefly(error)})")


@contextmanager
def _dask(workers: int, stop: threading.Event) -> Iterator[_Cluster]:
    """The cluster whose scheduler Dask is configured for, as by DASK_SCHEDULER_ADDRESS; else one of processes here."""
    import dask
    from distributed import Client, LocalCluster

    warnings.filterwarnings("ignore", "Sending large graph")
    address = dask.config.get("scheduler-address", None) or None
    with ExitStack() as opened:
        try:
            if address is None:
                resource_tracker.ensure_running()  # which would let Ctrl-C through again
                alone = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": CRITICAL}
                with unreached():
                    cluster = opened.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, **alone))
                client = opened.enter_context(Client(cluster, set_as_default=False))
                client.run(keep_freed_memory)
            else:
                client = opened.enter_context(Client(address, set_as_default=False, timeout=PATIENCE))
                client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            what = f"the Dask cluster {address or 'here'} does not answer, or has no worker"
            raise JobError(f"{what} ({briefly(error)})") from None
        yield _Cluster(_where("Dask", address), sum(client.nthreads().values()), _by_dask(client), stop)


def _by_dask(client: Any) -> Submit:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    # both are made again where they are lost; the scheduler, which may have no Farol, sees bytes alone
    do = client.submit(pickle.loads, pickle.dumps(done), pure=False)

    def submit(work: bytes) -> Submitted:
        held = client.submit(bytes, work, pure=False)

        def submitted(item: bytes, what: str, stop: threading.Event) -> bytes:
            ended = threading.Event()
            try:
                future = client.submit(operator.call, do, held, item, pure=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise _cluster_lost(error) from None
            future.add_done_callback(lambda _: ended.set())
            there = _Workers(client)
            try:
                _awaited(lambda seconds: ended.wait(seconds) or there.missed(), future.cancel, stop)
                return bytes(future.result())
            except KilledWorker as error:
                raise _worker_lost(what, error) from None
            except (FutureCancelledError, CommClosedError) as error:
                raise _cluster_lost(error) from None

        return submitted

    return submit


class _Workers:
    """Whether a Dask cluster still has workers: it waits for some without an end."""

    def __init__(self, client: Any) -> None:
        self.client, self.looks, self.seen = client, 0, time.monotonic()

    def missed(self) -> None:
        """Looks for them now and then.

        Raises:
            DataError: where there was none for longer than anybody waits.
        """
        self.looks += 1
        if self.looks % ONE_IN == 0:
            with suppress(OSError):
                self.seen = time.monotonic() if self.client.nthreads() else self.seen
        if time.monotonic() - self.seen > PATIENCE:
            what = f"no worker was left for {PATIENCE:g} s, and the sink is as it was"
            raise DataError(f"{what}; start workers and run again")


@contextmanager
def _ray(workers: int, stop: threading.Event) -> Iterator[_Cluster]:
    """The cluster at RAY_ADDRESS, else one of processes here."""
    import ray

    address = os.environ.get("RAY_ADDRESS")
    made = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        _answers(address)
        ray.init(address or "local", log_to_driver=False, logging_level="error", **made)
    except (OSError, RuntimeError, ValueError) as error:
        raise JobError(f"the Ray cluster {address or 'here'} does not answer ({briefly(error)})") from None
    try:
        workers = int(ray.cluster_resources().get("CPU", 1))
        yield _Cluster(_where("Ray", address), workers, _by_ray(), stop)
    finally:
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Whether somebody listens at host:port: Ray itself asks for minutes, and logs that each time."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE / 6).close()


def _by_ray() -> Submit:
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    remote = ray.remote(done)

    def submit(work: bytes) -> Submitted:
        held = ray.put(work)

        def submitted(item: bytes, what: str, stop: threading.Event) -> bytes:
            future = remote.remote(held, item)
            _awaited(lambda seconds: ray.wait([future], timeout=seconds)[0], lambda: ray.cancel(future), stop)
            try:
                return bytes(ray.get(future))
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
                raise _worker_lost(what, error) from None
            except RayError as error:
                raise _cluster_lost(error) from None

        return submitted

    return submit
