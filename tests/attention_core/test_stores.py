"""Object stores: a source or a sink in a bucket gives what folders give, to the bit, and is never half-done.

They run against moto, or against the server that FAROL_TEST_S3_ENDPOINT names, as who AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY say; who that is must have the right to make buckets. Each test has its own, and removes it.
"""

import json
import os
import pickle
import secrets
import socket
import subprocess
import sys
import time
import traceback

import boto3
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from test_hold import goes_on_and_is_refused, stopped_writer
from test_run import DOUBLE, EVERY, ROOT, SOFTMAX, Folder, bits, frame, table_bits

from attention_core import batches, devices, hold, search, stores
from attention_core.attention import attend
from attention_core.delta import Table
from attention_core.errors import DataError, FarolError, JobError, SinkBusy
from attention_core.run import execute, opened
from attention_core.stores import Remote
from tests.flows.test_engines import wired

REAL = os.environ.get("FAROL_TEST_S3_ENDPOINT")
KEY = os.environ["AWS_ACCESS_KEY_ID"] if REAL else "AKIDOFTHETESTS"
SECRET = os.environ["AWS_SECRET_ACCESS_KEY"] if REAL else "the-secret-of-the-tests"
REGION = os.environ.get("AWS_REGION", "us-east-1") if REAL else "us-east-1"


def server(**environment):
    """A server of its own process, and where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **environment}, **quiet)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError("the server does not start")


@pytest.fixture(scope="module")
def endpoint():
    process, url = (None, REAL) if REAL else server()
    names = {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": url, "ALLOW_HTTP": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "REGION": REGION}.items():
            patch.setenv(f"AWS_{name}", value)
        yield url
    if process:
        process.terminate()
        process.wait(10)


@pytest.fixture
def bucket(endpoint):
    name = f"farol-test-{secrets.token_hex(8)}"
    who = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": REGION}
    made = boto3.resource("s3", endpoint_url=endpoint, **who).create_bucket(Bucket=name)
    yield Remote(f"s3://{name}", "")
    if REAL:
        made.objects.delete()
        made.delete()


class Bucket(Folder):
    """A job file whose source and sink are in a bucket."""

    def __init__(self, path, bucket):
        super().__init__(path)
        self.bucket = bucket

    def job(self, *rules, **entries):
        source = {"path": f"{self.bucket}/in", **entries.pop("source", {})}
        sink = {"path": f"{self.bucket}/out", **entries.pop("sink", {})}
        return super().job(*rules, source=source, sink=sink, **entries)

    def put(self, name, rows, **how):
        path = self.put_here(name, rows, **how)
        (self.bucket / "in" / name).write_bytes(path.read_bytes())
        return path

    def local(self, *overrides):
        """The same run over the same batches in folders, and what it writes."""
        super().run(f"source.path={self.path}/in", f"sink.path={self.path}/out", *overrides)
        return bits(self.path / "out")

    def put_here(self, name, rows, **how):
        return super().put(name, rows, **how)

    def rows_of(self, name):
        return pl.read_parquet(self.objects()[name])

    def objects(self, under="out"):
        place = self.bucket / under if under else self.bucket
        return {f.relative_to(place).as_posix(): f.read_bytes() for f, _ in place.found()}

    def bits(self):
        """What `bits` says of a local sink."""
        return {name: table_bits(pq.read_table(pa.BufferReader(held))) for name, held in self.objects().items()}

    def published(self):
        return json.loads((self.bucket / "out.farol/published.json").read_text())

    def lease(self):
        return json.loads((self.bucket / "out.farol/lock").read_text())


@pytest.fixture
def folder(tmp_path, bucket):
    return Bucket(tmp_path, bucket)


def table_of(folder):
    """The outputs of a Delta table in the bucket, by batch, and its version."""
    objects, live = folder.objects(), Table(folder.bucket / "out").live()
    rows = {name: table_bits(pq.read_table(pa.BufferReader(objects[path]))) for name, path in live.items()}
    return rows, DeltaTable(f"{folder.bucket}/out").version()


def test_a_delta_table_in_a_bucket_is_one_version_a_run_also_where_one_was_cut_short(folder, monkeypatch):
    folder.job(*EVERY, sink={"format": "delta"})
    for i in range(2):
        folder.put(f"m={i}/a b.parquet", frame(50, i))
    commit = Table.commit
    for after in (False, True):  # killed right before a commit, and right after one

        def cut_short(*given, after=after):
            if after:
                commit(*given)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Table, "commit", cut_short)
            folder.run()
        folder.run()
        assert table_of(folder) == (folder.local("sink.format=parquet"), int(after)) and folder.run().plan.nothing
        folder.put("m=1/a b.parquet", frame(30, 7))
    assert sorted(DeltaTable(f"{folder.bucket}/out").to_pyarrow_table()["m"].unique().to_pylist()) == [0, 1]
    with pytest.raises(JobError, match="is a Delta table, or lies in one"):
        folder.run("sink.format=parquet")


def test_a_run_again_nothing_a_new_batch_a_changed_batch_and_the_bits_of_a_local_run(folder):
    folder.job(*EVERY)
    for i in range(3):
        folder.put(f"m={i}/a b.parquet", frame(50, i))
    assert folder.run().written == 3
    assert folder.bits() == folder.local()
    was = {name: seen for name, seen in (folder.bucket / "out").found()}
    assert folder.run().plan.nothing
    assert {name: seen for name, seen in (folder.bucket / "out").found()} == was
    folder.put("m=3/a b.parquet", frame(20, 7))
    folder.put("m=1/a b.parquet", frame(30, 9))
    outcome = folder.run()
    assert outcome.plan.counts()["new"] == 1
    assert folder.bits() == folder.local() and len(folder.bits()) == 4
    assert not folder.objects("out.farol/staging") and folder.lease()["free"]
    assert pl.scan_parquet(f"{folder.bucket}/out/", credential_provider=None).collect().height == 50 + 50 + 30 + 20


@pytest.mark.parametrize(("free", "fetched"), [(1 << 30, 2), (4 * 3000, 5), (0, 8)])
def test_what_a_pass_fetched_is_kept_for_the_next_while_memory_is_free(folder, monkeypatch, free, fetched):
    """Two batches, three passes, and a fourth to write the rows; a key column of 300 rows takes 2,400 bytes."""
    folder.job({"key": "x", "score": "robust_zscore", "apply": "weights"}, workers=1)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(300, i))
    here, reads, real = folder.local(), [], batches.Batch.read
    monkeypatch.setattr(devices, "free_memory", lambda: free)
    monkeypatch.setattr(batches.Batch, "read", lambda self, *how: reads.append(self.name) or real(self, *how))
    folder.run()
    assert len(reads) == fetched and folder.bits() == here


def test_what_is_kept_beside_the_sink_is_used_again(folder, monkeypatch):
    folder.job(SOFTMAX)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(50, i))
    folder.run()
    reads, real = [], batches.Batch.read
    monkeypatch.setattr(batches.Batch, "read", lambda self, *how: reads.append(self.name) or real(self, *how))
    folder.run(full=True)
    assert sorted(reads) == ["0.parquet", "1.parquet"]  # to apply: the batches are not asked again


def test_a_source_is_a_key_a_folder_a_glob_or_several(bucket):
    for name in (
        "a.parquet",
        "in/m=1/a.parquet",
        "in/m=2/b c.parquet",
        "in/x.txt",
        "in/o.farol/p.parquet",
        "into/d.parquet",
    ):
        (bucket / name).write_bytes(b"")

    def found(*paths):
        return [(b.name, str(b.path.relative_to(bucket)), dict(b.partitions)) for b in search.find([*paths])]

    one, two = ("m=1/a.parquet", "in/m=1/a.parquet", {"m": 1}), ("m=2/b c.parquet", "in/m=2/b c.parquet", {"m": 2})
    assert found(f"{bucket}/in") == found(f"{bucket}//in/") == found(f"{bucket}/in/**/*.parquet") == [one, two]
    assert found(f"{bucket}/in/*/[ab].parquet") == [one]
    assert found(f"{bucket}/in/m=?/b*") == [two]
    assert found(f"{bucket}/in/m=1/a.parquet") == [("a.parquet", "in/m=1/a.parquet", {})]
    assert [name for name, _, _ in found(f"{bucket}/in/m=1", f"{bucket}/into")] == ["a.parquet", "d.parquet"]
    assert len(found(str(bucket))) == 4
    for path, said in (
        ("in/*.csv", "no file matches"),
        ("no", "there is no file or folder"),
        ("in/x.txt/y", "there is"),
    ):
        with pytest.raises(JobError, match=said):
            found(f"{bucket}/{path}")


@pytest.mark.parametrize("name", ["m=1/a b+c.parquet", "x[1]#?.parquet", "g=a%2Fb c/ä ö.parquet", "%41/{b}'&.parquet"])
def test_names_that_mean_something_elsewhere(folder, name):
    folder.job().put(name, [1, 6])
    folder.run()
    assert list(folder.objects()) == [name] and folder.run().plan.nothing


def test_the_source_here_and_the_sink_there_and_the_other_way_round(folder):
    folder.job(SOFTMAX)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(30, i))
    folder.run(f"source.path={folder.path}/in")
    assert folder.bits() == folder.local()
    folder.run(f"sink.path={folder.path}/other")
    assert bits(folder.path / "other") == folder.bits()
    assert folder.run().written == 0  # the content has the same hash


def test_what_is_too_large_for_one_copy_goes_through_this_machine(bucket, monkeypatch):
    (bucket / "a").write_bytes(bytes(range(256)) * 100)
    monkeypatch.setattr(stores, "ONE_COPY", 100)
    (bucket / "a").copy(bucket / "b")
    assert (bucket / "b").read_bytes() == bytes(range(256)) * 100


def test_tables_and_outputs_whose_input_is_gone(folder):
    pool = {"name": "pools", "key": "x", "value": "y", "over": {"group": ["g"]}, "weight": "softmax", "apply": "pool"}
    folder.job(SOFTMAX, pool)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(30, i))
    folder.run()
    there = pl.read_parquet(folder.objects("out.pooled")["pools.parquet"])
    folder.local()
    assert there.equals(pl.read_parquet(folder.path / "out.pooled/pools.parquet"), null_equal=True)
    (folder.bucket / "in/1.parquet").unlink()
    with pytest.raises(JobError, match="1 output has no input any more"):
        folder.run()
    folder.run("sink.gone=keep")
    assert list(folder.objects()) == ["0.parquet", "1.parquet"]
    folder.run("sink.gone=remove")
    assert list(folder.objects()) == ["0.parquet"]
    assert len(pl.read_parquet(folder.objects("out.pooled")["pools.parquet"])) == 3


def test_frozen_statistics_and_those_of_another_sink(folder):
    folder.job(SOFTMAX).put("a.parquet", frame(30))
    folder.run()
    folder.put("b.parquet", frame(20, 1))
    before = folder.objects()
    assert folder.run("statistics=frozen").written == 1
    assert folder.objects()["a.parquet"] == before["a.parquet"]
    there = {"from": f"{folder.bucket}/out"}
    folder.run(f"sink.path={folder.bucket}/other", f"statistics={json.dumps(there)}")
    folder.run(f"sink.path={folder.path}/here", f"statistics={json.dumps(there)}")
    rows = attend(frame(20, 1), [SOFTMAX], statistics=f"{folder.bucket}/out")
    for held in (folder.objects("other")["b.parquet"], folder.objects()["b.parquet"], folder.path / "here/b.parquet"):
        assert pl.read_parquet(held).equals(rows, null_equal=True)


def test_a_plan_reads_no_content_and_writes_nothing(folder, monkeypatch):
    folder.job(SOFTMAX).put("a.parquet", frame(30))

    def refused(*_):
        raise AssertionError

    for name in ("blocks", "write_bytes", "copy", "unlink"):
        monkeypatch.setattr(Remote, name, refused, raising=True)
    assert opened(folder.path / "job.yaml").plan().counts() == {"new": 1}


def test_rows_that_fail_leave_what_is_there_as_it_was(folder):
    folder.job({"key": "x", "weight": {"kind": "power", "exponent": 0.5}}, chunk_rows=1000)
    folder.put("a.parquet", [1.0] * 50_000)
    folder.run()
    before = folder.objects()
    folder.put("a.parquet", [4.0] * 49_999 + [-1.0])
    with pytest.raises(DataError, match="power"):
        folder.run()
    time.sleep(1)  # Polars ends the upload of what it has, even so
    assert folder.objects() == before and not folder.objects("out.farol/staging")
    folder.put("a.parquet", [4.0] * 50_000)
    folder.run()
    assert folder.rows_of("a.parquet")["x_weight"].unique().to_list() == [2.0]


# One writer, killed at any moment


def test_killed_while_it_publishes_the_next_run_ends_as_if_nothing_had_happened(folder):
    first = before_the_kill(folder, "0", DOUBLE)
    copies = [copy_of(first, str(i)) for i in range(1, 15)]
    first.run()
    whole = first.bits()
    ended = killed("publish", 1, copies)
    assert len(ended) >= 8 and ended[:-1] == [-9] * (len(ended) - 1) and ended[-1] == 0
    for copy in copies[: len(ended)]:
        copy.run()
        assert copy.bits() == whole and not copy.objects("out.farol/staging")
        assert copy.published()["fitted"] == first.published()["fitted"]
        assert len(list((copy.bucket / "out.farol/statistics").iterdir())) == 1


def test_killed_again_and_again_it_ends_all_the_same(folder):
    first = before_the_kill(folder, "0", SOFTMAX)
    second = copy_of(first, "1")
    first.run()
    assert len(killed("run", 6, [second])) > 3
    assert second.bits() == first.bits() and second.run().plan.nothing


def before_the_kill(folder, name, rule):
    """A folder of a bucket where one run has published, and the next has to add a batch, redo one, and remove one."""
    one = Bucket(folder.path / name, folder.bucket / name)
    one.job(rule, sink={"gone": "remove"})
    for i in range(2):
        one.put(f"{i}.parquet", frame(20, i))
    one.run()
    (one.bucket / "in/0.parquet").unlink()
    one.put("1.parquet", frame(20, 5))
    one.put("2.parquet", frame(20, 6))
    return one


def copy_of(one, name):
    other = Bucket(one.path.parent / name, one.bucket.parent / name)
    text = (one.path / "job.yaml").read_text()
    (other.path / "job.yaml").write_text(text.replace(str(one.bucket), str(other.bucket)))
    for held, _ in one.bucket.found():
        held.copy(other.bucket / held.relative_to(one.bucket).as_posix())
    return other


KILLED = """
import gc, json, os, signal, sys
from attention_core import publish, run, stores

steps, last, begun = 0, None, sys.argv[1] == "run"

def counted(owner, name):
    whole = getattr(owner, name)
    def one(*given, **named):
        global steps
        swept = name == "unlink" and "/staging/" in str(given[0]) and given[0].name != "journal.json"
        steps += begun and not swept
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)
    setattr(owner, name, one)

def publishing(*given):
    global begun
    begun = True
    whole(*given)
    begun = sys.argv[1] == "run"

whole, publish.Place.publish = publish.Place.publish, publishing

def killed(job, at):
    global last
    last = at
    child = os.fork()
    if not child:
        for name in ("write_bytes", "copy", "unlink"):
            counted(stores.Remote, name)
        run.run(job)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

gc.freeze()  # else each child looks at all that its parent holds, and so copies it
at, every, jobs = 0, int(sys.argv[2]), sys.argv[3:]
ended = []
while not ended or ended[-1] != 0:
    at += every
    ended.append(killed(jobs[min(len(ended), len(jobs) - 1)], at))
print(json.dumps(ended))
"""


def killed(what, every, folders):
    """How runs ended that were killed at their every-th, 2·every-th, ... change, until one has no so many."""
    command = [sys.executable, "-c", KILLED, what, str(every), *(str(f.path / "job.yaml") for f in folders)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("at", ["lease:say", "publish:_replaced"])
def test_a_writer_that_was_replaced_while_it_stood_still_publishes_nothing(folder, monkeypatch, at):
    folder.job(SOFTMAX)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(20, i))
    process = stopped_writer(folder, at, 0.6)
    try:
        with pytest.raises(SinkBusy, match="another run holds this sink"):
            folder.run()
        monkeypatch.setattr(hold, "SECONDS", 0.6)
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        folder.put("2.parquet", frame(20, 9))
        folder.run()
        whole, published = folder.bits(), folder.published()
        goes_on_and_is_refused(process)
    finally:
        process.kill()
    assert folder.bits() == whole and folder.published() == published and len(whole) == 3
    assert folder.run().plan.nothing


def test_a_holder_that_gives_signs_of_life_is_not_replaced(bucket, monkeypatch):
    monkeypatch.setattr(hold, "SECONDS", 0.6)
    with hold.held(bucket / "lock", bucket) as check:
        with pytest.raises(SinkBusy), hold.held(bucket / "lock", bucket):
            pass
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        with pytest.raises(SinkBusy), hold.held(bucket / "lock", bucket):
            pass
        check()
        check.renew()
        (bucket / "lock").write_text("{}")
        with pytest.raises(SinkBusy, match="lock is no lease"):
            check.renew()


def test_who_works_for_a_holder_elsewhere_sees_that_it_is_over(bucket):
    with hold.held(bucket / "lock", bucket) as check:
        lost = pickle.loads(pickle.dumps(hold.Lost(check)))
        assert isinstance(lost.check, hold.OfObject)
        lost.seen -= 1
        assert not lost()
    lost.seen -= 1
    assert lost()
    with hold.held(bucket / "lock", bucket), pytest.raises(SinkBusy):
        lost.check()


def test_a_cluster_gives_the_bits_of_a_local_run(folder):
    folder.job(*EVERY)
    for i in range(3):
        folder.put(f"m={i}/a b.parquet", frame(50, i))
    execute(opened(folder.path / "job.yaml").by(wired()))
    assert folder.bits() == folder.local() and len(folder.bits()) == 3
    assert not folder.objects("out.farol/staging") and folder.lease()["free"]


def test_a_store_that_knows_etags_only_without_their_quotes(bucket, monkeypatch):
    real, asked = obstore.put, []

    def put(store, key, data, *, mode):
        if isinstance(mode, dict) and '"' in mode["e_tag"]:
            raise obstore.exceptions.PreconditionError("412")
        asked.append(mode)
        return real(store, key, data, mode=mode)

    monkeypatch.setattr(obstore, "put", put)
    first = (bucket / "a").write_bytes(b"1", "create")
    second = (bucket / "a").write_bytes(b"2", first)
    with pytest.raises(stores.Moved):
        (bucket / "a").write_bytes(b"3", first)
    with pytest.raises(stores.Moved):
        (bucket / "b").write_bytes(b"3", first)
    assert (bucket / "a").read() == (b"2", second)
    assert asked == ["create", {**first, "e_tag": first["e_tag"].strip('"')}]
    with hold.held(bucket / "lock", bucket) as check:
        check.renew()


@pytest.mark.parametrize("kind, said", [("ignores", "ignores If-None-Match"), ("refuses", "refuses If-Match")])
def test_a_store_that_does_not_know_conditional_writes_is_refused_before_any_work(folder, monkeypatch, kind, said):
    real = Remote.write_bytes

    def write_bytes(self, data, over="overwrite"):
        if kind == "refuses" and isinstance(over, dict):
            raise stores.Moved(str(self))
        return real(self, data, "overwrite" if kind == "ignores" else over)

    folder.job().put("a.parquet", [1])
    monkeypatch.setattr(Remote, "write_bytes", write_bytes)
    for _ in range(2):
        with pytest.raises(DataError, match=said):
            folder.run()
        assert not folder.objects() and list(folder.objects("out.farol")) == ["lock"]


# What is said, and what is not


def test_credentials_are_written_nowhere(folder, caplog, capfd):
    folder.job(SOFTMAX, sink={"gone": "remove"}).put("a.parquet", frame(30))
    folder.run()
    folder.put("b.parquet", [1])
    with pytest.raises(FarolError) as drift:
        folder.run()
    (folder.bucket / "in/b.parquet").unlink()
    held = b"\0".join(folder.objects("").values()) + repr(opened(folder.path / "job.yaml")).encode()
    said = caplog.text + "".join(capfd.readouterr()) + "".join(traceback.format_exception(drift.value))
    for hidden in (SECRET, KEY):
        assert hidden.encode() not in held and hidden not in said


@pytest.fixture
def elsewhere(monkeypatch):
    """Sets the environment of the clients, which keep what they found there."""

    def set(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        stores._store.cache_clear()

    yield set
    stores._store.cache_clear()


def test_a_bucket_that_is_not_there(folder):
    folder.job().put("a.parquet", [1])
    with pytest.raises(JobError, match="source.path: there is no bucket s3://nobody$"):
        folder.run("source.path=s3://nobody/in")
    with pytest.raises(JobError, match="sink.path: s3://nobody/out: there is no bucket s3://nobody$"):
        folder.run("sink.path=s3://nobody/out")


def test_a_store_that_does_not_answer_or_must_not_be_asked(folder, elsewhere):
    folder.job()
    elsewhere(ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(DataError, match="s3://.*: no answer from http://127.0.0.1:9$"):
        folder.run()
    elsewhere(ALLOW_HTTP="false")
    with pytest.raises(DataError, match="http://127.0.0.1:9 is asked without TLS only where AWS_ALLOW_HTTP=true$"):
        folder.run()


def test_wrong_credentials(folder, elsewhere):
    process, url = (None, REAL) if REAL else server(INITIAL_NO_AUTH_ACTION_COUNT="0")
    try:
        elsewhere(ENDPOINT_URL=url, SECRET_ACCESS_KEY=f"not-{SECRET}")
        for path in ("source.path", "sink.path"):
            with pytest.raises(DataError, match="s3://.*: access is denied; who asks is said by AWS") as error:
                folder.job().put_here("a.parquet", [1])
                folder.run(f"source.path={folder.path}/in", f"{path}=s3://closed/in")
            told = "".join(traceback.format_exception(error.value))
            assert "\n" not in str(error.value) and KEY not in told and SECRET not in told
    finally:
        if process:
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize("url", ["ftp://a/b", "http://a/b", "s3://", "s3:///b", "s3://a/../b", f"s3://k:{SECRET}@a/b"])
def test_urls_that_name_no_place(folder, url):
    folder.job()
    for entry in ("source.path", "sink.path", "sink.work"):
        with pytest.raises(JobError, match=entry) as error:
            folder.run(f"{entry}={url}")
        assert SECRET not in str(error.value)


def test_where_a_sink_and_its_work_folder_lie(folder):
    folder.job().put("a.parquet", [1])
    for overrides, said in (
        (["sink.work=s3://other/w"], "sink.work: s3://other/w is not in one bucket with the sink"),
        ([f"sink.work={folder.path}/w"], "is not in one bucket with the sink"),
        ([f"sink.path={folder.bucket}/in/out"], "lies inside the source"),
        ([f"sink.path={folder.bucket}"], "the root of all folders"),
    ):
        with pytest.raises(JobError, match=said):
            folder.run(*overrides)
    folder.run(f"sink.work={folder.bucket}/elsewhere/w")
    assert list(folder.objects()) == ["a.parquet"] and folder.objects("elsewhere/w")
