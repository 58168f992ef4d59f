"""The flow: plan → fit → apply → publish, as Prefect shows it. The work itself is `attention_core.run`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from attention_core.batches import Batch
from attention_core.errors import FarolError
from attention_core.plan import Plan
from attention_core.run import Run, execute, opened
from attention_core.work import patiently, threads
from flows.artifacts import show
from flows.summary import counted, headline, planned

if TYPE_CHECKING:
    from flows.report import Report

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 150  # Prefect's own cost is 5 ms a task, and its graph stops opening at some hundreds
RECORDED_WITHIN = 15.0  # seconds; the rows are published by then, only the history is not yet whole

OPENED: ContextVar[tuple[Run, Plan] | None] = ContextVar("opened", default=None)  # a job file is read once a run


class Options(BaseModel):
    """What a run is started with; the form in Prefect's UI."""

    model_config = ConfigDict(extra="forbid")

    job: str = Field(title="Job file", description="Path of the YAML file, as the machine that runs it sees it")
    full: bool = Field(default=False, title="Full", description="Do all batches again, also those that are done")
    redo: str = Field(default="", title="Redo", description="Do batches again whose name matches this glob")
    overrides: dict[str, str] = Field(
        default_factory=dict, title="Overrides", description="Entries of the job file by dotted path: sink.path, ..."
    )


@flow(name="farol", flow_run_name="{options.job}", persist_result=False)
def attend(options: Options) -> dict[str, Any]:
    """Puts attention on the batches of a job that are new or changed; returns the run record."""
    log = get_run_logger()
    overrides = [f"{entry}={value}" for entry, value in options.overrides.items()]
    run, plan = OPENED.get() or _opened(options.job, overrides)
    log.info("%s: %s; %s", run.job.name, planned(plan.counts()), counted(plan.passes, "fitting pass"))
    steps = Tasks(run)
    try:
        outcome = execute(run, options.full, options.redo or None, steps, plan)
        record = outcome.plain()
        log.info("%s; %s", headline(record), run.place.sink)
        report = _drawn(run) if outcome.written or not outcome.plan.nothing else None
        if report is not None:
            record["report"] = str(report.path)
        show(record, report)
    finally:
        _wait_until_recorded(steps.started)
    return record


def _opened(job: str, overrides: list[str]) -> tuple[Run, Plan]:
    run = opened(job, overrides)
    return run, run.plan()


def _drawn(run: Run) -> Report | None:
    """Writes the page about what was published; what is published stands, whether or not it can be drawn."""
    try:
        from flows.report import keep, look  # draws, and so takes a second that only such a run needs

        report = look(run)
        keep(report)
        return report
    except (Exception, pl.exceptions.PanicException) as error:
        what = (str(error).splitlines() or [""])[0]
        get_run_logger().warning("the rows are published, but no report of them: %s: %s", type(error).__name__, what)
        return None


def start_server() -> None:
    """Starts Prefect's embedded server, where no other is set, out of reach of Ctrl-C.

    A terminal sends that to the whole group of processes, and a run whose server is gone waits for it for a minute.
    A process inherits which signals are blocked from the thread that starts it.
    """

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with suppress(Exception):  # the flow tries again, and tells what is wrong
            SubprocessASGIServer().start()

    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    from prefect.server.api.server import SubprocessASGIServer  # takes a second

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join()


class Tasks:
    """One task a step, and for applying one a batch or a group of small ones; tasks hand no data to each other."""

    def __init__(self, run: Run) -> None:
        self.run, self.here, self.started = run, threads(run.workers, run.watch, run.stop), 0

    def __call__(self, what: str, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if what == "apply":
            return self._apply(work, items)
        found: list[R] = []
        self._task(what, lambda: found.extend(self.here(what, work, items)))()
        return found

    def _apply(self, work: Callable[[Any], R], items: Sequence[Any]) -> list[R]:
        self.run.watch.begin("apply", len(items))
        found: dict[str, R] = {}
        with ThreadPoolTaskRunner(max_workers=self.run.workers) as runner:
            futures = [
                runner.submit(self._task(_title(group), self._each_of(group, work, found)), parameters={})
                for group in groups(items)
            ]
            try:
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
            try:
                for batch in group:
                    found[batch.name] = patiently(work, self.run.stop)(batch)
                    self.run.watch.batch(batch.name)
                    get_run_logger().info("%s is staged", batch.name)
            except BaseException:
                self.run.stop.set()  # at once: who waits for the tasks may be waiting for another
                raise

        return do

    def _task(self, name: str, work: Callable[[], None]) -> Any:
        """A task whose result Prefect does not get to keep: states of a million groups are no history."""
        self.started += 1

        def do() -> None:
            work()

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


def _title(group: Sequence[Batch]) -> str:
    names = group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name} ({len(group)})"
    return f"apply {names}"


def _first(states: Sequence[Any], error: BaseException) -> BaseException:
    """The error that stopped the rest, rather than that they were stopped."""
    if not isinstance(error, Exception):
        return error
    failed = [s.result(raise_on_failure=False) for s in states if s.is_failed()]
    return next((e for e in failed if isinstance(e, FarolError) and e.status != 130), error)


def _wait_until_recorded(tasks: int) -> None:
    """Waits for Prefect's embedded server, which ends with this process, to write down how the tasks ended."""
    context = FlowRunContext.get()
    if PREFECT_API_URL.value() or context is None or context.flow_run is None:
        return
    this = FlowRunFilter(id=FlowRunFilterId(any_=[context.flow_run.id]))
    until = time.monotonic() + RECORDED_WITHIN
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            states = [t.state for t in client.read_task_runs(flow_run_filter=this, limit=200)]
            if sum(1 for state in states if state is not None and state.is_final()) >= tasks:
                return
            time.sleep(0.1)
