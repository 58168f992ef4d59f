"""One writer: who is alive keeps the sink, who died is replaced, and who was replaced publishes nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_run import ROOT, SOFTMAX, Folder, bits, frame

from attention_core import hold
from attention_core.errors import SinkBusy

WRITER = """
import os, signal, sys
from attention_core import hold, outputs, publish, run
from attention_core.errors import FarolError

at, hold.SECONDS = sys.argv[2], float(sys.argv[3])

def stopping(owner, name):
    real = getattr(owner, name)
    def stopped(*args, **how):
        if getattr(owner, name) is not real:
            setattr(owner, name, real)
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(*args, **how)
    setattr(owner, name, stopped)

owner, name = at.split(":")
stopping({"place": publish.Place, "publish": publish, "outputs": outputs.Outputs, "lease": hold.Lease}[owner], name)
try:
    run.run(sys.argv[1])
except FarolError as error:
    print(error)
    sys.exit(error.status)
"""


def stopped_writer(folder, at, seconds):
    """A run of its own process that stands still at a step."""
    command = [sys.executable, "-c", WRITER, str(folder.path / "job.yaml"), at, str(seconds)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return process


def goes_on_and_is_refused(process):
    """Lets a run that stood still go on, and sees that it is told that it was replaced."""
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 4, said
    assert "took this sink over while this one stood still" in said


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path).job(SOFTMAX)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(20, i))
    return folder


STANDS_AT = ["outputs:apply", "place:publish", "publish:write_whole", "publish:_moved", "publish:_sync"]


@pytest.mark.parametrize("at", STANDS_AT)
def test_a_writer_that_was_replaced_while_it_stood_still_publishes_nothing(folder, monkeypatch, at):
    process = stopped_writer(folder, at, 0.6)
    try:
        monkeypatch.setattr(hold, "SECONDS", 0.6)
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        folder.put("2.parquet", frame(20, 9))
        folder.run()
        whole, published = bits(folder.path / "out"), (folder.path / "out.farol/published.json").read_bytes()
        goes_on_and_is_refused(process)
    finally:
        process.kill()
    assert bits(folder.path / "out") == whole
    assert (folder.path / "out.farol/published.json").read_bytes() == published
    assert folder.run().plan.nothing


def test_on_one_machine_who_is_alive_is_not_waited_for(folder):
    process = stopped_writer(folder, "place:publish", hold.SECONDS)
    try:
        began = time.monotonic()
        with pytest.raises(SinkBusy, match="another run holds this sink"):
            folder.run()
        assert time.monotonic() - began < hold.SECONDS / 2
        process.kill()
        process.wait()
        assert folder.run().written == 2  # at once: it is dead
        assert time.monotonic() - began < hold.SECONDS
    finally:
        process.kill()


def test_a_holder_that_gives_signs_of_life_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(hold, "SECONDS", 0.6)
    with hold.held(tmp_path / "lock", tmp_path) as check:
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        with pytest.raises(SinkBusy), hold.held(tmp_path / "lock", tmp_path):
            pass
        check()
        (tmp_path / "lock").unlink()
        with pytest.raises(SinkBusy, match="took this sink over"):
            check()
