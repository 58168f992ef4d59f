"""The README: its commands run, its job file is the one that is shipped, its Python gives what it says."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from attention_core.run import run
from flows.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("farol ")]
INLINE = [text for text in re.findall(r"`(farol [^`]+)`", README) if "data/" in text]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The shipped data, so that what runs there leaves nothing here."""
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs(copy, monkeypatch, capsys):
    assert {c.split()[1] for c in COMMANDS} >= {"preview", "check", "plan", "run", "report", "kinds", "new", "schema"}
    for command in [*COMMANDS, *INLINE]:
        words = shlex.split(command)
        if words[1] == "run":  # the same work, without Prefect's start
            run(words[2])
            continue
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 0 and said.out, (command, said.err)


def test_the_job_file_is_the_one_that_is_shipped():
    shown = YAML(typ="safe").load(re.findall(r"```yaml\n(.*?)```", README, re.S)[0])
    shipped = YAML(typ="safe").load((ROOT / "data/lighthouse/job.yaml").read_text())
    shipped["attention"][0].pop("apply")  # the default, which the file teaches
    assert shown == shipped


def test_the_python_gives_what_is_said():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(re.sub(r"^attend\(", "got = attend(", block, flags=re.M), "README", "exec"), names)
    assert names["got"]["x_weighted"].to_list() == [1, 12, 3, 14, 2, 5, 18]
    assert "`[1, 12, 3, 14, 2, 5, 18]`" in README


def test_every_file_that_it_names_is_there():
    named = re.findall(r"\]\(([^)]+)\)|`((?:attention_core|flows|data|tests)/[\w/.-]*)`", README)
    assert len(named) > 8
    for path in (a or b for a, b in named):
        assert (ROOT / path).exists(), path
