"""Object stores: a source or a sink in a bucket gives what folders give, to the bit, and is never half-done."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_run import EVERY, ROOT, SOFTMAX, Folder, bits, frame, table_bits

from attention_core import batches, hold, stores
from attention_core.errors import DataError, FarolError, JobError, SinkBusy
from attention_core.stores import Remote

KEY, SECRET = "AKIDOFTHETESTS", "the-secret-of-the-tests"


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
    process, url = server()
    names = {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": url, "ALLOW_HTTP": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def bucket(endpoint, request):
    name = f"b{abs(hash(request.node.name)):x}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"))
    return Remote(f"s3://{name}", "")


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
        path = super().put(name, rows, **how)
        (self.bucket / "in" / name).write_bytes(path.read_bytes())
        return path

    def local(self, *overrides):
        """The same run over the same batches in folders, and what it writes."""
        super().run(f"source.path={self.path}/in", f"sink.path={self.path}/out", *overrides)
        return bits(self.path / "out")

    def objects(self, under="out"):
        return {f.relative_to(self.bucket / under).as_posix(): f.read_bytes() for f, _ in (self.bucket / under).found()}

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
