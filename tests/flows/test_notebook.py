"""The notebook page: every block of it runs, one after another, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import polars as pl

PAGE = Path(__file__).parents[2] / "flows/notebook.md"


def test_every_block_runs_and_prints_what_it_says():
    blocks = re.findall(r"```(python)?\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) > 6
    names, said = {}, ""
    for language, block in blocks:
        if not language:
            assert said == block
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, str(PAGE), "exec"), names)
        said = out.getvalue()
    assert names["frame"].height == 5 and isinstance(names["served"], pl.DataFrame)
