"""The flow: plan → fit → apply → publish, as Prefect shows it. The work itself is `attention_core.run`."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from attention_core.batches import Batch
from attention_core.errors import ExpectationMissed, Stopped, briefly
from attention_core.plan import Plan
from attention_core.run import Run, execute, opened
from attention_core.work import patiently, threads
from flows.artifacts import Progress, show
from flows.engines import Name, engine, unconnected, unreached
from flows.events import missed, published
from flows.progress import Each, Pace, every
from flows.summary import counted, headline, planned

if TYPE_CHECKING:
    from uuid import UUID

    from flows.report import Report

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 150  # Prefect's own cost is 5 ms a task, and its graph stops opening at some hundreds
RECORDED_WITHIN = 15.0  # seconds; the rows are published by then, only the history is not yet whole
SECONDS_A_LOG = 10.0
HELD: list[int] = []  # ends of pipes, open as long as this process lives
GPU = "farol-gpu"  # a global concurrency limit: how many runs may use a GPU at once

OPENED: ContextVar[tuple[Run, Plan] | None] = ContextVar("opened", default=None)  # a job file is read once a run


class Options(BaseModel):
    """What a run may do otherwise than its job file says; the form of a custom run in Prefect's UI."""

    model_config = ConfigDict(extra="forbid")

    full: bool = Field(default=False, title="Full", description="Do all batches again, also those that are done")
    redo: str = Field(
        default="", title="Redo", description="Do batches again whose name matches this glob, as in month=03/*"
    )
    device: Literal["as in the job file", "auto", "cpu", "cuda"] = Field(
        default="as in the job file", title="Device", description="Where the arithmetic runs"
    )
    workers: int = Field(
        default=0,
        ge=0,
        title="Workers",
        description="Batches at once; 0: as in the job file. The results do not change",
    )
    chunk_rows: int = Field(
        default=0,
        ge=0,
        title="Chunk rows",
        description="Rows on the device at once; 0: as in the job file. The results do not change",
    )
    engine: Name = Field(
        default="here",
        title="Engine",
        description="Where the work runs: in this process, or on a Dask or Ray cluster. The results do not change",
    )
    set: dict[str, str] = Field(
        default_factory=dict,
        title="Set",
        description='Other entries of the job file by dotted path, as in {"sink.path": "/data/out"}',
    )

    def overrides(self) -> list[str]:
        """The entries of the job file that are another."""
        own = self.model_dump(include={"device", "workers", "chunk_rows"}, exclude_defaults=True)
        return [f"{entry}={value}" for entry, value in {**self.set, **own}.items()]


AS_IN_THE_JOB = Options()


@flow(name="farol", flow_run_name="{job}", persist_result=False)
def attend(job: str, options: Options = AS_IN_THE_JOB) -> dict[str, Any] | State[Any]:
    """Puts attention on the batches of a job that are new or changed; returns the run record.

    Args:
        job: Path of the YAML file, as the machine that runs it sees it. It is read afresh at each run
        options: What this run does otherwise than the job file says
    """
    log = get_run_logger()
    run, plan = OPENED.get() or _opened(job, options)
    _name(run.job.name)
    log.info("%s: %s; %s", run.job.name, planned(plan.counts()), counted(plan.passes, "fitting pass"))
    pace = Pace(run.batches, plan.passes)
    run = run.watched(Each(run.watch, pace))
    cancelled, started = threading.Event(), list[str]()
    idle = plan.nothing and not options.full and not options.redo
    try:
        by = nullcontext(run.engine) if idle else engine(options.engine, run.workers, run.stop)
        with _told(run, pace, cancelled), by as there:
            run = run.by(there)
            if there.apart and not idle:
                log.info("by %s", there.name)
            steps = Tasks(run, pace, started)
            with steps.gpu:
                outcome = execute(run, options.full, options.redo or None, steps, plan)
        record = outcome.plain()
        log.info("%s; %s", headline(record), run.place.sink)
        if outcome.written or not outcome.plan.nothing:
            report = _drawn(run)
            if report is not None:
                record["report"] = str(report.path)
            published(record)
        else:
            report = None
        show(record, report)
    except ExpectationMissed as error:
        missed(run.job.name, None if run.outputs.rowless else str(run.place.sink), error)
        raise
    except Stopped:
        if not cancelled.is_set():
            raise
        return Cancelled(message="the sink is as it was, and the next run goes on from here")
    finally:
        _wait_until_recorded(len(started))
    return record


def _name(job: str) -> None:
    """Names the run after the job and the day that it was due."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    due = context.flow_run.expected_start_time
    day = (due or dt.datetime.now(dt.UTC)).astimezone().date()
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(context.flow_run.id, f"{job} {day}")


@contextmanager
def _told(run: Run, pace: Pace, cancelled: threading.Event) -> Iterator[None]:
    """Tells Prefect how far the run is, and the run whether somebody cancelled it.

    A runner or worker ends the process of a run that is cancelled; where there is none, as with `farol run`, or where
    it is gone and its run goes on, nobody would tell it.
    """
    context, log = FlowRunContext.get(), get_run_logger()
    flow_run = None if context is None else context.flow_run
    seen = bool(PREFECT_API_URL.value())  # by others: they can cancel it
    progress = Progress(run.job.name, pace)
    told = time.monotonic()

    def tell() -> None:
        nonlocal told
        with suppress(Exception, SystemExit):  # the server is away, or who reads the log: the work goes on
            progress.update()
            if time.monotonic() - told >= SECONDS_A_LOG:
                told = time.monotonic()
                log.info(pace.line())
            if seen and flow_run is not None and _is_cancelled(flow_run.id):
                cancelled.set()
                run.stop.set()

    with every(1.0, tell):
        yield
    progress.end()


def _is_cancelled(flow_run: UUID) -> bool:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _opened(job: str, options: Options) -> tuple[Run, Plan]:
    run = opened(job, options.overrides(), engine=unconnected(options.engine))
    return run, run.plan()


def _drawn(run: Run) -> Report | None:
    """Writes the page about what was published; what is published stands, whether or not it can be drawn."""
    try:
        from flows.report import keep, look  # draws, and so takes a second that only such a run needs

        report = look(run)
        keep(report)
        return report
    except (Exception, pl.exceptions.PanicException) as error:
        get_run_logger().warning("the rows are published, but no report of them: %s", briefly(error))
        return None


def start_server() -> None:
    """Starts Prefect's embedded server, where no other is set: a run whose server is gone waits for it for a minute."""

    def start() -> None:
        with unreached(), suppress(Exception):  # the flow tries again, and tells what is wrong
            server.start()

    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    from prefect.server.api.server import SubprocessASGIServer  # takes a second

    server = SubprocessASGIServer()
    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    while thread.is_alive() and server.server_process is None:
        time.sleep(0.01)
    if server.server_process is not None:
        _end_with_this(server.server_process.pid)
    thread.join()


def _end_with_this(pid: int) -> None:
    """Ends a process when this one is gone, however it went: a pipe is closed with the last that holds its end."""
    here, there = os.pipe()
    watching = ["sh", "-c", f"read _; sleep 5; kill {pid} 2>/dev/null"]
    subprocess.Popen(watching, stdin=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(here)
    HELD.append(there)


class Tasks:
    """One task a step, and for applying one a batch or a group of small ones; tasks hand no data to each other."""

    def __init__(self, run: Run, pace: Pace, started: list[str]) -> None:
        self.run, self.pace, self.here, self.started = run, pace, threads(run.workers, run.watch, run.stop), started
        self.gpu, self.waited = ExitStack(), False

    def __call__(self, what: str, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if what != "hash":
            self._wait_for_the_gpu()
        found: list[R] = []
        try:
            if what == "apply":
                found = self._apply(work, items)
            else:
                self._task(what, lambda: found.extend(self.here(what, work, items)))()
        except CancelledRun as error:
            raise Stopped(str(error)) from None
        get_run_logger().info(self.pace.line())
        return found

    def _wait_for_the_gpu(self) -> None:
        """Takes a slot of the limit, if there is one, until the work ends: GPU memory that is freed stays its own."""
        if self.run.look.device.type == "cuda" and not self.waited:
            self.waited = True
            self.gpu.enter_context(concurrency(GPU, raise_on_lease_renewal_failure=False))

    def _apply(self, work: Callable[[Any], R], items: Sequence[Any]) -> list[R]:
        self.run.watch.begin("apply", len(items))
        found: dict[str, R] = {}
        runner: ThreadPoolTaskRunner[None]
        futures: list[Any] = []
        with ThreadPoolTaskRunner(max_workers=self.run.workers) as runner:
            try:  # also while they are submitted: the runner waits for those that were
                for group in groups(items):
                    step = self._task(f"apply {_names(group)}", self._each_of(group, work, found))
                    futures.append(runner.submit(step, parameters={}))
                for future in futures:
                    future.result()
            except BaseException as error:
                self.run.stop.set()
                for future in futures:
                    future.wait()
                raise _first([f.state for f in futures], error) from None
        return [found[batch.name] for batch in items]

    def _each_of(self, group: Sequence[Batch], work: Callable[[Any], R], found: dict[str, R]) -> Callable[[], None]:
        def do() -> None:
            began, rows = time.monotonic(), 0
            try:
                for batch in group:
                    found[batch.name] = patiently(work, self.run.stop)(batch)
                    self.run.watch.batch(batch.name)
                    rows += getattr(found[batch.name], "rows", 0)
                seconds = time.monotonic() - began
                get_run_logger().info("%s: %s rows, %s rows/s", _names(group), f"{rows:,}", f"{rows / seconds:,.0f}")
            except BaseException:
                self.run.stop.set()  # at once: who waits for the tasks may be waiting for another
                raise

        return do

    def _task(self, name: str, work: Callable[[], None]) -> Any:
        """A task whose result Prefect does not get to keep: states of a million groups are no history.

        One that was stopped is cancelled: had it failed, each would put a traceback into the log, above the one that
        says why.
        """

        def do() -> State[Any] | None:
            self.started.append(name)  # after an interrupt Prefect drops what has not begun, and records no end of it
            try:
                work()
            except Stopped as error:
                return Cancelled(message=str(error))
            return None

        return task(do, name=name, task_run_name=name.replace("{", "{{").replace("}", "}}"), cache_policy=NO_CACHE)


def groups(batches: Sequence[Batch], most: int = MOST_TASKS) -> list[list[Batch]]:
    """A batch each where there are few; else neighbours together, about as many bytes in each."""
    if len(batches) <= most:
        return [[b] for b in batches]
    sizes = [b.path.stat().st_size + 1 for b in batches]
    enough = sum(sizes) / most
    found: list[list[Batch]] = [[]]
    held = 0
    for batch, size in zip(batches, sizes, strict=True):
        if held >= enough:
            found.append([])
            held = 0
        found[-1].append(batch)
        held += size
    return found


def _names(group: Sequence[Batch]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name} ({len(group)})"


def _first(states: Sequence[Any], error: BaseException) -> BaseException:
    """The error that stopped the rest, rather than that they were stopped."""
    if not isinstance(error, Exception):
        return error
    return next((s.result(raise_on_failure=False) for s in states if s.is_failed()), error)


def _wait_until_recorded(tasks: int) -> None:
    """Waits for Prefect's embedded server, which ends with this process, to write down how the tasks ended."""
    context = FlowRunContext.get()
    if PREFECT_API_URL.value() or context is None or context.flow_run is None:
        return
    this = FlowRunFilter(id=FlowRunFilterId(any_=[context.flow_run.id]))
    until = time.monotonic() + RECORDED_WITHIN
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            pages = (client.read_task_runs(flow_run_filter=this, limit=200, offset=n) for n in range(0, tasks, 200))
            states = [task.state for page in pages for task in page]
            if sum(1 for state in states if state is not None and state.is_final()) >= tasks:
                return
            time.sleep(0.1)
