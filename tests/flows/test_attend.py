"""The flow: its tasks, what it leaves in Prefect's history, what it returns, and how it fails."""

import datetime as dt
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import polars as pl
import pytest
from prefect import flow

import flows.attend
import flows.events
from attention_core.batches import Batch
from attention_core.errors import DataError, ExpectationMissed, FarolError, Stopped
from attention_core.outputs import Outputs
from attention_core.run import opened, run
from attention_core.work import Watch
from flows.attend import MOST_TASKS, OPENED, Options, Tasks, attend, groups
from flows.progress import Pace

pytestmark = pytest.mark.usefixtures("server")
FITTED = "{kind: threshold, above: 5}", "zscore"


def batches(tmp_path, *sizes):
    """Batches of so many bytes."""
    found = []
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}.parquet").write_bytes(b"x" * size)
        found.append(Batch(tmp_path / f"{i}.parquet", f"{i}.parquet"))
    return found


def _waited(stop):
    """Whether that says true within some seconds."""
    until = time.monotonic() + 20
    while not stop() and time.monotonic() < until:
        time.sleep(0.01)
    return stop()


def ran(**options):
    return attend("job.yaml", Options(**options))


def history():
    """The last flow run and its tasks, once the server has written down how they ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            tasks = client.read_task_runs(flow_run_filter=this, limit=200)
            if all(t.state is not None and t.state.is_final() for t in tasks):
                break
            time.sleep(0.1)
        return flow_run, {t.name: t.state.type.value for t in tasks}


def test_few_batches_are_a_task_each(tmp_path):
    found = batches(tmp_path, 5, 5, 5)
    assert groups(found) == [[b] for b in found]
    assert groups([]) == []


@pytest.mark.parametrize("sizes", [[7] * 1000, [1] * 999 + [100_000], [100_000] + [1] * 999, [0] * 500, [3] * 151])
def test_many_batches_are_grouped_in_order_with_about_as_many_bytes(tmp_path, sizes):
    found = batches(tmp_path, *sizes)
    grouped = groups(found)
    assert [b for group in grouped for b in group] == found
    assert all(grouped) and len(grouped) <= MOST_TASKS
    enough = (sum(sizes) + len(sizes)) / MOST_TASKS
    for group in grouped:
        assert sum(b.path.stat().st_size + 1 for b in group[:-1]) < enough


def test_a_run_returns_its_record_and_leaves_its_history(folder):
    folder.job(*FITTED)
    record = ran()
    assert (record["job"], record["batches"], record["rows"]) == ("demo", 2, 8)
    assert record["plan"] == {"new": 2} and record["sink"] == str(folder.path / "out")
    assert record["weights"]["high_weight"]["rows"] == 8
    assert folder.rows().columns == ["x", "high_weight", "x_weighted"]

    flow_run, tasks = history()
    assert flow_run.state.is_completed()
    assert flow_run.name == f"demo {dt.date.today()}"
    expected = ["hash", "fit, pass 1", "apply a.parquet", "apply b.parquet"]
    assert sorted(tasks) == sorted(expected)
    assert set(tasks.values()) == {"COMPLETED"}

    from prefect.artifacts import Artifact

    artifact = Artifact.get("farol-demo")
    assert "| high | 8 | 0 |" in artifact.data and "2 batches, 8 rows" in artifact.data
    assert f"The report is `{record['report']}`" in artifact.data
    assert Artifact.get("farol-demo-progress").data == 100.0


def test_the_flow_gives_what_the_core_gives(folder):
    ran()
    flow = {name: pl.read_parquet(folder.path / "out" / name) for name in ("a.parquet", "b.parquet")}
    run("job.yaml", ["sink.path=other"])
    for name, rows in flow.items():
        assert rows.equals(pl.read_parquet(folder.path / "other" / name))


def test_options(folder):
    other = {"sink.path": "other"}
    assert ran(set=other)["sink"] == str(folder.path / "other")
    assert ran(set=other, full=True)["batches"] == 2
    assert ran(set=other, redo="b*", workers=1, chunk_rows=2, device="cpu")["batches"] == 1


def test_options_stand_for_entries_of_the_job():
    assert Options().overrides() == []
    given = Options(set={"sink.path": "out"}, device="cuda", workers=2, chunk_rows=10)
    assert given.overrides() == ["sink.path=out", "device=cuda", "workers=2", "chunk_rows=10"]


@pytest.mark.parametrize("wrong", [{"ful": True}, {"workers": -1}, {"chunk_rows": "many"}, {"device": "tpu"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)


def test_the_job_file_is_read_afresh_at_each_run(folder):
    ran()
    folder.job("high: 2.0", "high: 3.0")
    assert ran()["weights"]["high_weight"]["max"] == 3.0


@pytest.fixture
def events(monkeypatch):
    """What is told to Prefect's automations: event, resource, payload."""
    told = []
    emit = flows.events.emit_event

    def emitted(event, resource, payload):
        told.append((event, resource["prefect.resource.id"], payload))
        assert emit(event, resource, payload=payload) is not None

    monkeypatch.setattr(flows.events, "emit_event", emitted)
    return told


def test_what_is_published_is_told(folder, events):
    record = ran()
    ran()  # nothing is new
    ((event, resource, payload),) = events
    assert (event, resource) == ("farol.run.published", "farol.job.demo")
    assert payload == {n: record[n] for n in ("job", "sink", "tables", "batches", "rows", "seconds", "report")}


def test_what_is_missed_is_told(folder, events):
    folder.job(more="expect:\n  high: {mean: {max: 1.2}}\n  source: {rows: {min: 100}}\n")
    with pytest.raises(ExpectationMissed):
        ran()
    ((event, resource, payload),) = events
    assert (event, resource) == ("farol.expectation.missed", "farol.job.demo")
    assert payload == {
        "job": "demo",
        "sink": str(folder.path / "out"),
        "missed": [
            "high_weight: mean is 1.5, not at most 1.2 (job.yaml:10:22)",
            "source: rows is 8, not at least 100 (job.yaml:11:24)",
        ],
    }


@pytest.mark.parametrize(("device", "taken"), [("cuda", ["farol-gpu"]), ("cpu", [])])
def test_a_gpu_is_waited_for_once_a_run_and_not_to_hash(monkeypatch, device, taken):
    names = []

    @contextmanager
    def limit(name, **_):
        names.append(name)
        yield

    monkeypatch.setattr(flows.attend, "concurrency", limit)
    run = SimpleNamespace(
        look=SimpleNamespace(device=SimpleNamespace(type=device)), workers=1, watch=Watch(), stop=threading.Event()
    )

    @flow
    def steps():
        tasks = Tasks(run, Pace(), [])
        tasks("hash", str, [1])
        assert names == []
        assert tasks("fit, pass 1", str, [1, 2]) == tasks("fit, pass 2", str, [1, 2]) == ["1", "2"]
        tasks.gpu.close()

    steps()
    assert names == taken


def test_braces_in_names_do_no_harm(folder):
    folder.job("name: demo", "name: 'a {b} {flow_run} 5'")
    folder.data("{x} {c.parquet", x=[1])
    assert ran()["batches"] == 3
    _, tasks = history()
    assert "apply {x} {c.parquet" in tasks


def test_an_error_in_a_batch_is_one_line_and_publishes_nothing(folder):
    run("job.yaml")
    before = folder.files()
    folder.data(x=[1.0, float("inf")])
    folder.data("b.parquet", x=[2.0])
    folder.job(*FITTED)
    with pytest.raises(FarolError) as error:
        ran()
    assert error.value.status == 1 and "a.parquet" in str(error.value) and "\n" not in str(error.value)
    after = folder.files()
    assert {n: b for n, b in after.items() if n.startswith("out/")} == {
        n: b for n, b in before.items() if n.startswith("out/")
    }
    assert after["out.farol/published.json"] == before["out.farol/published.json"]
    flow_run, tasks = history()
    assert flow_run.state.is_failed() and "FAILED" in tasks.values()


def test_the_error_that_stopped_the_rest_is_told_and_the_rest_stops(folder, monkeypatch):
    """A batch fails; the one before it, which is at work, ends at its next chunk instead of going on."""
    folder.job(more="chunk_rows: 1\nworkers: 2\n")
    for name in "cdef":
        folder.data(f"{name}.parquet", x=[1])
    at_work, read = threading.Event(), []
    whole = Outputs.apply

    def apply(outputs, batch, **known):
        if batch.name == "b.parquet":
            assert at_work.wait(10)
            raise DataError(f"{batch.path}: broken")
        return whole(outputs, batch, **known)

    class Slow(Watch):
        def rows(self, rows):
            read.append(rows)
            at_work.set()
            time.sleep(0.3)

    folder.data("a.parquet", x=list(range(100)))
    monkeypatch.setattr(Outputs, "apply", apply)
    opening = opened("job.yaml")
    token = OPENED.set((opening.watched(Slow()), opening.plan()))
    try:
        with pytest.raises(DataError, match="b.parquet: broken$"):
            ran()
    finally:
        OPENED.reset(token)
    assert len(read) < 50
    assert not (folder.path / "out").exists()


def test_an_error_fails_its_own_task_and_cancels_the_rest(folder, monkeypatch):
    """Each failed task has a traceback in the log, and they would bury the one that says why."""
    folder.job(more="workers: 1\nchunk_rows: 1\n")
    for name in "cde":
        folder.data(f"{name}.parquet", x=[1])

    def apply(outputs, batch, **_):
        if outputs.look.stop():
            raise Stopped("stopped")
        raise DataError(f"{batch.path}: broken")

    monkeypatch.setattr(Outputs, "apply", apply)
    with pytest.raises(DataError, match="a.parquet: broken$"):
        ran()
    flow_run, tasks = history()
    assert flow_run.state.is_failed()
    assert {tasks.pop(f"apply {name}.parquet") for name in "bcde"} == {"CANCELLED"}
    assert tasks.pop("apply a.parquet") == "FAILED"


def test_an_interrupt_while_tasks_are_submitted_stops_those_that_were(folder, monkeypatch):
    from prefect.task_runners import ThreadPoolTaskRunner

    stopped, whole = [], ThreadPoolTaskRunner.submit
    submitted = []

    def submit(runner, *arguments, **named):
        submitted.append(1)
        if len(submitted) == 2:
            raise KeyboardInterrupt
        return whole(runner, *arguments, **named)

    def apply(outputs, *_, **known):
        stopped.append(_waited(outputs.look.stop))
        raise Stopped("stopped")

    monkeypatch.setattr(ThreadPoolTaskRunner, "submit", submit)
    monkeypatch.setattr(Outputs, "apply", apply)
    with pytest.raises(KeyboardInterrupt):
        ran()
    assert stopped == [True]
    assert not (folder.path / "out").exists()


def test_prefect_keeps_no_frame(folder, monkeypatch):
    """What a step gives is handed on in plain Python: Prefect would hold a task's result until the flow ends."""
    given = []
    whole = Outputs.apply

    def apply(outputs, batch, **known):
        footer = whole(outputs, batch, **known)
        given.append(footer)
        return footer

    kept = []
    from prefect.task_runners import ThreadPoolTaskRunner

    submit = ThreadPoolTaskRunner.submit

    def submitted(self, task, *arguments, **how):
        future = submit(self, task, *arguments, **how)
        kept.append(future)
        assert how["parameters"] == {}
        return future

    monkeypatch.setattr(Outputs, "apply", apply)
    monkeypatch.setattr(ThreadPoolTaskRunner, "submit", submitted)
    ran()
    assert len(given) == len(kept) == 2
    assert [future.result() for future in kept] == [None, None]
