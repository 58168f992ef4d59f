"""One Prefect server for all tests of the flow, and the command line as a user calls it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest

from flows import cli

os.environ.pop("PREFECT_API_URL", None)  # Prefect reads these when it is imported: a server of one's own stays out
os.environ.pop("PREFECT_PROFILE", None)
os.environ["PREFECT_HOME"] = tempfile.mkdtemp()
os.environ.update(cli.QUIET)

ROOT = str(Path(__file__).parents[2])
JOB = """\
name: demo
source: {path: in}
sink: {path: out}
attention:
  - name: high
    key: x
    score: {kind: threshold, above: 5}
    weight: {kind: step, high: 2.0, low: 1.0}
"""


@pytest.fixture(scope="session")
def server():
    """Prefect's test server; its address."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()


class Folder:
    """A folder with a job file and its source, in which `farol` is called."""

    def __init__(self, path, monkeypatch, capsys):
        self.path, self.monkeypatch, self.capsys = path, monkeypatch, capsys

    def job(self, old="", new="", more=""):
        """Writes the job file, with one thing changed."""
        assert old in JOB
        (self.path / "job.yaml").write_text((JOB.replace(old, new) if old else JOB) + more)

    def data(self, name="a.parquet", **columns):
        path = self.path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(columns).write_parquet(path)

    def farol(self, *arguments):
        """Status, standard output and error of a call within this process."""
        self.monkeypatch.setattr(sys, "argv", ["farol", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self.capsys.readouterr()
        return ended.value.code, said.out, said.err

    def python(self, code, *arguments, **environment):
        """A process of its own that runs this code; still running."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": ROOT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def files(self):
        """What is there, with its bytes."""
        return {f.relative_to(self.path).as_posix(): f.read_bytes() for f in self.path.rglob("*") if f.is_file()}

    def rows(self, name="a.parquet"):
        return pl.read_parquet(self.path / "out" / name)


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A folder whose job doubles what is above 5, with two batches."""
    monkeypatch.chdir(tmp_path)
    it = Folder(tmp_path, monkeypatch, capsys)
    it.job()
    it.data(x=[1, 6, 3, 7, 2, 5, 9])
    it.data("b.parquet", x=[8])
    return it


@pytest.fixture
def refused(folder):
    """What is said where a call is refused, in one line, and nothing is written."""

    def one(status, *arguments):
        before = folder.files()
        ended, out, err = folder.farol(*arguments)
        assert (ended, out) == (status, ""), err
        assert err.startswith("farol: ") and err.count("\n") == 1, err
        assert folder.files() == before
        return err.removeprefix("farol: ").strip()

    return one
