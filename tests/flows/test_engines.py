"""A Dask or a Ray cluster gives the bits that threads here give, whatever becomes of its workers."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dask
import polars as pl
import pytest
import torch
from distributed import Client, LocalCluster

from attention_core import work
from attention_core.batches import Batch
from attention_core.errors import DataError, ExpectationMissed, JobError, SinkBusy, Stopped
from attention_core.hold import Lost, OfFile, held
from attention_core.outputs import Outputs
from attention_core.run import execute, opened
from flows import engines
from flows.engines import _Cluster, _packed, engine, unconnected
from tests.stress import jobs

ALONE = ["unshare", "-rn"]  # Ray listens on the address of the host
CAN_BE_ALONE = shutil.which("unshare") and not subprocess.run([*ALONE, "true"], capture_output=True).returncode
RULES = [jobs.FAR, jobs.IN_GROUP, jobs.BOTH, *(rule for rule in jobs.MORE if rule is not jobs.HIGH)]


def by_wire(work):
    """As a cluster would do it, in this process: all that travels is packed and unpacked."""
    return lambda item, what, stop: engines.done(work, item)


def wired(submit=by_wire):
    return _Cluster("in a test", 2, submit, threading.Event())


@pytest.fixture
def source(tmp_path):
    """A job with rules of all sorts over some batches; its path."""
    for i in range(5):
        path = tmp_path / "in" / f"p={i % 2}" / f"{i}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.frame([200, 0, 30, 500, 1][i], i).write_parquet(path)
    said = {"name": "stress", "source": {"path": "in"}, "sink": {"path": "out"}, "attention": RULES, "device": "cpu"}
    return jobs.write(said, tmp_path)


def bits(sink):
    """All that a sink holds, and what was published beside it: what runs at the same input must have in common."""
    folders = (sink, sink.with_name(f"{sink.name}.pooled"), sink.with_name(f"{sink.name}.farol") / "statistics")
    return {
        f.relative_to(sink.parent).as_posix().replace(sink.name, "", 1): f.read_bytes()
        for folder in folders
        for f in folder.rglob("*")
        if f.is_file()
    }


def states(sink):
    """The names of what is kept beside a sink of what batches answered."""
    return {f.name for f in (sink.with_name(f"{sink.name}.farol") / "states").iterdir()}


def ran(path, sink, by=None, full=False):
    """A run of a job into a sink, by an engine."""
    run = opened(path, [f"sink.path={path.parent / sink}"])
    return execute(run if by is None else run.by(by), full)


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two processes, that Dask is configured for."""
    made = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**made, silence_logs=50) as there, dask.config.set(scheduler_address=there.scheduler_address):
        yield there


@pytest.mark.parametrize("columns", ["all", "none"])
def test_what_travels_gives_the_same_bits(source, columns):
    said = source.read_text().replace('"path": "out"', f'"path": "out", "columns": "{columns}"')
    source.write_text(said)
    ran(source, "here")
    ran(source, "there", wired())
    here, there = bits(source.parent / "here"), bits(source.parent / "there")
    assert here == there and len(here) > 5


def test_rows_that_a_filter_drops_and_lists_and_vectors_travel_too(source):
    rule = {"name": "pooled", "key": "v", "score": {"kind": "dot", "query": "centroid"}, "weight": "softmax"}
    rules = [jobs.HIGH, {**rule, "value": "v", "over": {"group": ["h"]}, "apply": {"pool": "mean"}}]
    rules.append({"name": "row", "key": "l", "over": "row", "weight": "softmax", "apply": "pool"})
    for i, path in enumerate(sorted((source.parent / "in").rglob("*.parquet"))):
        frame = jobs.frame(60, i)
        vectors = pl.Series("v", frame["id"].to_numpy()[:, None] % 7 + [1.0, 2.0], dtype=pl.Array(pl.Float32, 2))
        frame.with_columns(vectors, l=pl.concat_list("y", "y")).write_parquet(path)
    jobs.write({"name": "j", "source": {"path": "in"}, "sink": {"path": "out"}, "attention": rules}, source.parent)
    ran(source, "here")
    ran(source, "there", wired())
    assert bits(source.parent / "here") == bits(source.parent / "there")


def test_a_cluster_gives_the_same_bits_and_its_answers_are_kept(source, cluster):
    with engine("dask", 2, threading.Event()) as there:
        assert there.apart and there.workers == 2 and there.device("cpu") == torch.device("cpu")
        ran(source, "out", there)
        jobs.frame(70, 9).write_parquet(source.parent / "in/p=0/9.parquet")
        ran(source, "out", there)
    ran(source, "here")
    assert bits(source.parent / "out") == bits(source.parent / "here")
    assert states(source.parent / "out") == states(source.parent / "here")
    assert opened(source).plan().nothing


def test_an_answer_that_was_kept_is_not_forgotten_where_it_is_asked_again(source, monkeypatch):
    """A worker that asks again after what may pass has read some of it already."""
    monkeypatch.setattr(work, "PAUSES", (0, 0, 0))
    broken, read = [], Batch.read

    def once(self, columns, rows, threads=1):
        if columns == ["y"] and self.name not in broken:
            broken.append(self.name)
            error = DataError("a disk that hung")
            error.may_pass = True
            raise error
        return read(self, columns, rows, threads)

    for sink, by in (("here", None), ("there", wired())):
        for rules in ([jobs.FAR], [jobs.FAR, {"name": "new", "key": "y", "weight": "softmax", "apply": "weights"}]):
            source.write_text(json.dumps({**json.loads(source.read_text()), "attention": rules}))
            if by is not None and len(rules) == 2:
                monkeypatch.setattr(Batch, "read", once)
            ran(source, sink, by)
    assert broken and len(states(source.parent / "here")) >= 10
    assert states(source.parent / "there") == states(source.parent / "here")


def test_on_the_command_line(folder, cluster):
    folder.job(more="chunk_rows: 1\n")
    connected, by = [], engines._by_dask
    folder.monkeypatch.setattr(engines, "_by_dask", lambda client: connected.append(client) or by(client))
    status, out, err = folder.farol("run", "job.yaml", "--engine", "dask")
    assert status == 0 and "demo: 2 batches" in out and len(connected) == 1, (out, err)
    assert f"by: Dask at {cluster.scheduler_address}, 2 workers\n" in out
    assert pl.read_parquet(folder.path / "out/a.parquet").columns[-2:] == ["high_weight", "x_weighted"]
    folder.monkeypatch.setattr(engines, "_dask", None)  # which is not asked where nothing is new
    assert "nothing is new" in folder.farol("run", "job.yaml", "--engine", "dask")[1]


def test_an_error_travels_as_it_is(source, cluster):
    (source.parent / "in/p=1/1.parquet").write_bytes((source.parent / "in/p=1/3.parquet").read_bytes()[:-100] + b"PAR1")
    with engine("dask", 2, threading.Event()) as there, pytest.raises(DataError, match="1.parquet: cannot be read"):
        ran(source, "there", there)


def test_what_is_not_there_is_said_in_one_line(folder, monkeypatch):
    folder.job()
    status, _, err = folder.farol("run", "job.yaml", "--engine", "spark")
    assert status == 2 and "spark" in err and len(err.splitlines()) == 1
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    status, _, err = folder.farol("run", "job.yaml", "--engine", "ray")
    assert status == 2
    assert err == "farol: --engine ray needs the package ray; pip install 'farol[ray]' brings it\n"


def test_which_devices_there_are_is_for_the_workers_to_say(source, cluster):
    """The machine that runs the flow of a cluster of GPUs may have none."""
    source.write_text(source.read_text().replace('"device": "cpu"', '"device": "cuda:77"'))
    run = opened(source, engine=unconnected("dask"))
    assert run.plan().passes and run.workers >= 1
    with pytest.raises(JobError, match=r"job.yaml:\d+:\d+: device: cuda:77 is not there"):
        execute(run.by(wired()))


def test_a_ray_cluster_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(JobError, match="the Ray cluster 127.0.0.1:1 does not answer .*refused"):
        with engine("ray", 2, threading.Event()):
            pass


def unheard(_):
    """Whether this process does not hear Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_where_no_cluster_is_set_one_is_made_here():
    with dask.config.set(scheduler_address=None), engine("dask", 1, threading.Event()) as there:
        assert there.workers == 1
        assert there(unheard)(0), "it would answer with a traceback"
    assert not unheard(0)


def test_a_cluster_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE", 0.5)
    with dask.config.set(scheduler_address="tcp://127.0.0.1:1"):
        with pytest.raises(JobError, match="the Dask cluster tcp://127.0.0.1:1 does not answer"):
            with engine("dask", 2, threading.Event()):
                pass


# Workers that are lost


def dies(path):
    """Kills its process as often as there are files, and then gives how many times."""
    for i in range(9):
        if (path / f"{i}").exists():
            (path / f"{i}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_work_of_a_worker_that_dies_is_done_by_another(tmp_path, cluster):
    (tmp_path / "0").touch()
    with engine("dask", 2, threading.Event()) as there:
        assert there(dies)(tmp_path) == "done"


def test_work_that_kills_every_worker_fails_in_one_line(tmp_path, cluster):
    for i in range(9):
        (tmp_path / f"{i}").touch()
    with engine("dask", 2, threading.Event()) as there:
        cluster.scheduler.allowed_failures = 0
        try:
            with pytest.raises(DataError, match=f"{tmp_path.name}: its worker was lost, again and again"):
                there(dies)(tmp_path)
        finally:
            cluster.scheduler.allowed_failures = 3


def test_a_run_whose_workers_are_killed_ends_with_the_same_bits(source, cluster):
    """One after another, while it works."""
    over, killed = threading.Event(), []

    def kill():
        with Client(cluster, set_as_default=False) as client:
            while not over.wait(0.02):
                for worker, tasks in client.processing().items():
                    if tasks and len(killed) < 3:
                        killed.append(worker)
                        client.run(os._exit, 1, workers=[worker], on_error="ignore")
                        over.wait(1)
                        break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with engine("dask", 2, threading.Event()) as there:
            while len(killed) < 2:
                ran(source, "there", there, full=True)
    finally:
        over.set()
        killer.join()
    ran(source, "here")
    assert bits(source.parent / "there") == bits(source.parent / "here")


def test_an_output_that_several_workers_write_at_once_is_whole(source, monkeypatch):
    """All but one were thought lost, and went on: they move what they wrote over what another did."""

    together, wrong, frames = threading.Barrier(4), [], Outputs._frames

    def at_once(*given):
        yield from frames(*given)
        with suppress(threading.BrokenBarrierError):
            together.wait(1)

    def four_times(work):
        def submitted(item, what, stop):
            with ThreadPoolExecutor(4) as pool:
                futures = [pool.submit(engines.done, work, item) for _ in range(4)]
            wrong.extend(error for f in futures if (error := f.exception()) is not None)
            return futures[0].result()

        return submitted

    ran(source, "here")
    monkeypatch.setattr(Outputs, "_frames", at_once)
    ran(source, "there", wired(four_times))
    assert not wrong
    assert bits(source.parent / "here") == bits(source.parent / "there")


def test_workers_that_do_not_see_the_folders_are_noticed(source):
    def away(work):
        def submitted(item, what, stop):
            found = engines.done(work, item)
            for staged in (source.parent / "there.farol" / "staging").rglob("*.staged"):
                staged.unlink(missing_ok=True)  # two workers look
            return found

        return submitted

    with pytest.raises(DataError, match="staged: a worker wrote it, and it is not there; workers must share the fold"):
        ran(source, "there", wired(away))
    assert not (source.parent / "there").exists()


def test_what_lies_in_staging_from_a_run_before_is_not_taken_for_what_a_worker_wrote(source):
    def stale(work):
        def submitted(item, what, stop):
            before = {f: f.read_bytes() for f in (source.parent / "there.farol/staging").rglob("*.staged")}
            found = engines.done(work, item)
            for path, whole in before.items():
                path.write_bytes(whole)
            return found

        return submitted

    said = json.loads(source.read_text())
    source.write_text(json.dumps(said | {"expect": {"source": {"rows": {"max": 1}}}}))
    with pytest.raises(ExpectationMissed):
        ran(source, "there")
    source.write_text(json.dumps(said | {"attention": RULES[:-1]}))
    with pytest.raises(DataError, match="a worker wrote it, and it is not there"):
        ran(source, "there", wired(stale))
    assert not (source.parent / "there").exists()


def test_workers_that_do_not_see_the_work_folder_are_noticed_before_any_work(source):
    def away(work):
        def submitted(item, what, stop):
            lock = source.parent / "there.farol" / "lock"
            lock.rename(lock.with_name("hidden"))
            try:
                return engines.done(work, item)
            finally:
                lock.with_name("hidden").rename(lock)

        return submitted

    with pytest.raises(DataError, match="a worker does not see the lock in .*there.farol; workers must share"):
        ran(source, "there", wired(away))


def test_workers_without_farol_or_with_another():
    def none(work):
        raise ModuleNotFoundError("No module named 'flows'")

    with pytest.raises(JobError, match="the workers have no Farol .*; install it there as here"):
        wired(lambda work: lambda item, what, stop: none(work))(str)(1)
    with pytest.raises(DataError, match="a worker has another Farol.*no_such.*; install the same versions on all"):
        engines.done(_packed((engines.versions(), b"cos\nno_such\n.")), _packed(1))


@pytest.mark.parametrize("lost", ["scheduler", "worker"])
def test_a_cluster_that_goes_away_while_it_works(tmp_path, monkeypatch, lost):
    file = tmp_path / "scheduler.json"

    def started(name, *more):
        module = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--scheduler-file", str(file), *more]
        command = [*module, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    processes = {"scheduler": started("scheduler", "--port", "0"), "worker": started("worker", "--no-nanny")}
    try:
        while not file.exists() or not file.read_text().strip():
            time.sleep(0.05)
        with dask.config.set(scheduler_address=json.loads(file.read_text())["address"]):
            with engine("dask", 2, threading.Event()) as there:
                assert there(abs)(-1) == 1
                monkeypatch.setattr(engines, "SECONDS", 0.1)
                monkeypatch.setattr(engines, "PATIENCE", 1)
                threading.Timer(0.3, processes[lost].kill).start()
                said = {"scheduler": "the cluster was lost", "worker": "no worker was left for 1 s"}[lost]
                with pytest.raises(DataError, match=f"{said}, and the sink is as it was; .*run again"):
                    there(time.sleep)(9)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


# Runs that end


def test_who_waits_for_a_worker_stops_with_the_run(cluster):
    stop = threading.Event()
    with engine("dask", 2, stop) as there:
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            there(time.sleep)(8)
        assert time.monotonic() - began < 5


def test_a_worker_stops_when_its_run_has_given_the_sink_up(tmp_path):
    with held(tmp_path / "lock", tmp_path) as check:
        lost = pickle.loads(pickle.dumps(Lost(check)))
        assert isinstance(check, OfFile)
        lost.seen -= 1
        assert not lost()
    assert not lost()  # it looks once a second
    lost.seen -= 1
    assert lost()
    with pytest.raises(SinkBusy):
        lost.check()


def test_a_chunk_is_the_last_of_a_run_that_is_over(source):
    run = opened(source)
    run.look.lost = over
    look = pickle.loads(_packed(run.look))
    with pytest.raises(Stopped):
        list(look.chunks(run.batches[0], ["x"], 10))


def over():
    return True


# What travels


def test_a_part_of_a_tensor_travels_alone():
    whole = torch.arange(1_000_000.0)
    packed = _packed((whole[10:13], whole[:0], torch.tensor(2), whole[:4].reshape(2, 2).T))
    assert len(packed) < 2000
    part, none, one, turned = pickle.loads(packed)
    assert part.tolist() == [10, 11, 12] and none.shape == (0,) and one == 2 and turned.tolist() == [[0, 2], [1, 3]]


def test_a_worker_of_another_version_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engines, "versions", lambda: {"numerics": "0", "torch": "1"})
        work = wired(lambda packed: packed)._submit(_packed((engines.versions(), _packed(str))))
    with pytest.raises(DataError, match="results would differ; install the same versions on all"):
        engines.done(work, _packed(1))


@pytest.mark.skipif(not CAN_BE_ALONE, reason="Ray listens on more than loopback, and no network of its own can be had")
def test_ray_gives_the_same_bits(source):
    farol = [*ALONE, "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-c", BY_RAY, str(source)]
    done = subprocess.run(farol, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "1 cpu\n: cannot be read\n", (done.stdout, done.stderr)
    ran(source, "here")
    assert bits(source.parent / "out") == bits(source.parent / "here")
    assert Path(source.parent, "out.pooled/pooled.parquet").exists()


BY_RAY = """
import sys, threading
from pathlib import Path

from attention_core.batches import Batch
from attention_core.errors import DataError
from attention_core.run import execute, opened
from flows.engines import engine

with engine("ray", 1, threading.Event()) as there:
    print(there.workers, there.device("cpu"))
    run = opened(sys.argv[1])
    execute(run.by(there))
    broken = Path(sys.argv[1]).with_name("broken.parquet")
    broken.write_bytes(b"PAR1")
    try:
        there(Batch.rows)(Batch(broken, "broken"))
    except DataError as error:
        print(str(error).partition(broken.name)[2][:16])
"""
