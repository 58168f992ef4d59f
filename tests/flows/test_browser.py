"""What Prefect's UI shows of a run, looked at in a real browser; skipped where there is no Chromium."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from test_cli import MAIN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Browser:
    """A tab of a headless Chromium, by its DevTools protocol."""

    def __init__(self, width=1280, height=1400):
        from websockets.sync.client import connect

        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={self.home.name}", f"--window-size={width},{height}",
             "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = Path(self.home.name, "DevToolsActivePort")
        until = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().strip()):
            assert time.monotonic() < until and self.process.poll() is None, "Chromium does not start"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(t for t in json.load(answer) if t["type"] == "page")
        self.socket = connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None)
        self.calls = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.home.cleanup()

    def call(self, method, **parameters):
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.calls:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        """What a script gives, as JSON."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address):
        self.call("Page.navigate", url=address)

    def text(self):
        return self.run("document.body ? document.body.innerText : ''")

    def wait(self, *words, seconds=60):
        """The text of the page, once all these words are in it."""
        until = time.monotonic() + seconds
        while not all(word in (text := self.text()) for word in words):
            assert time.monotonic() < until, f"not seen: {[w for w in words if w not in text]}\n{text}"
            time.sleep(0.3)
        return text

    def click(self, word):
        """Clicks what carries this text, the smallest of them."""
        script = f"""(() => {{
            const found = [...document.querySelectorAll('button, a, label, li, [role=tab], [role=option], span, div')]
                .filter(e => e.innerText && e.innerText.trim() === {json.dumps(word)} && e.offsetParent !== null);
            if (!found.length) return false;
            found[found.length - 1].click();
            return true;
        }})()"""
        until = time.monotonic() + 30
        while not self.run(script):
            assert time.monotonic() < until, f"nothing to click: {word}\n{self.text()}"
            time.sleep(0.3)

    def fill(self, nth, value):
        """Writes a number into a field, again until it stays: a form that is still loading sets its own."""
        field = f"[...document.querySelectorAll('input[type=number]')][{nth}]"
        script = f"""(field => {{
            Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, '{value}');
            for (const what of ['input', 'change']) field.dispatchEvent(new Event(what, {{bubbles: true}}));
        }})({field})"""
        until, stayed = time.monotonic() + 30, 0
        while stayed < 4:
            assert time.monotonic() < until
            stayed = stayed + 1 if self.run(f"{field}.value") == value else 0
            if not stayed:
                self.run(script)
            time.sleep(0.5)

    def picture(self, path):
        """Writes what is seen as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture
def ui(tmp_path, monkeypatch):
    """A Prefect server of its own, with its pages; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_UI_API_URL", f"{address}/api")
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env=os.environ)
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/health", timeout=5)
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)
    log.close()


def asked(address, path, **what):
    """What Prefect's API answers."""
    data = json.dumps(what).encode() if what else None
    request = urllib.request.Request(f"{address}/api/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_run_from_the_form_to_its_pages(folder, ui):
    """Fields with what they mean; a wrong one refused; a run seen moving, then done, with all that it leaves."""
    folder.job(more="chunk_rows: 50\nworkers: 1\n")
    folder.data("b.parquet", x=list(range(400_000)))
    served = folder.python(MAIN, "serve", "job.yaml", "--cron", "0 2 * * *", PREFECT_API_URL=f"{ui}/api")
    try:
        for line in served.stdout:
            if line.startswith("watch: "):
                break
        assert line.strip() == f"watch: {ui}/deployments"
        until = time.monotonic() + 60
        while not (found := asked(ui, "deployments/filter", limit=5)):
            assert time.monotonic() < until
            time.sleep(0.5)
        with Browser() as browser:
            browser.open(f"{ui}/deployments/deployment/{found[0]['id']}/run")
            browser.wait("Do batches again whose name matches this glob", "Where the arithmetic runs", "cuda",
                         "Batches at once; 0: as in the job file", "Rows on the device at once",
                         "Other entries of the job file by dotted path")  # fmt: skip
            browser.fill(0, "-1")
            browser.click("Submit")
            browser.wait("'options.workers'", "-1 is less than the minimum of 0")
            browser.fill(0, "1")
            until = time.monotonic() + 60
            while browser.run("location.href").endswith("/run"):  # the button is dead for as long as the refusal shows
                assert time.monotonic() < until, browser.text()
                browser.click("Submit")
                time.sleep(2)

            until = time.monotonic() + 90
            progress, run = [], None
            while not (run and run["state_type"] == "COMPLETED"):
                assert time.monotonic() < until, (run, progress)
                time.sleep(0.3)
                runs = asked(ui, "flow_runs/filter", flow_runs={"start_time": {"is_null_": False}})
                run = runs[0] if runs else None
                for artifact in asked(ui, "artifacts/filter", artifacts={"type": {"any_": ["progress"]}}):
                    progress.append((artifact["data"], artifact["description"]))
            assert len(set(progress)) > 2 and progress == sorted(progress, key=lambda told: told[0])
            assert any("of 2 batches, " in said and said.endswith(" rows/s") for _, said in progress)

            browser.open(f"{ui}/runs/flow-run/{run['id']}")
            browser.wait(f"demo {time.strftime('%Y-')}", "Completed", "3 Task runs", "apply: 2 of 2 batches, ",
                         "b.parquet: 400,000 rows, ", "apply b.parquet")  # fmt: skip
            report = f"The report is {folder.path / 'out.farol/report.html'}."
            for key, *seen in (("farol-demo", "effective"), ("farol-demo-weights", "This is the first run", "mean")):
                browser.open(f"{ui}/runs/flow-run/{run['id']}")
                browser.wait("Subflow Runs")
                browser.click("Artifacts")
                browser.wait("farol-demo-progress")
                browser.click(key)
                browser.wait("2 batches, 400,007 rows", report, *seen)
            script = (
                "[...document.images].filter(i => i.src.startsWith('data:image/svg') && i.naturalWidth > 50).length"
            )
            assert browser.run(script) == 1
    finally:
        served.terminate()
        served.communicate(timeout=30)
