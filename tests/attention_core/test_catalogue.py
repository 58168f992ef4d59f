"""The catalogue of the README: every kind is in its tables, and its worked examples come out as they stand there."""

import re
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from attention_core.attention import attend
from attention_core.job import SCORES, WEIGHTS

README = (Path(__file__).parents[2] / "attention_core" / "README.md").read_text()
EXAMPLES = re.findall(r"^\| `(\{.*\})` \| (.*) \| (.*) \|$", README, re.M)
TABLES = re.findall(r"^\| `(\w+)` \| ", README, re.M)


@pytest.mark.parametrize(("rule", "keys", "weights"), EXAMPLES)
def test_a_worked_example(rule, keys, weights):
    said = YAML(typ="safe").load(f"{{rule: {rule}, keys: [{keys}], weights: [{weights}]}}")
    keys = pl.Series("x", said["keys"], dtype=pl.List(pl.Float64) if "[" in keys else pl.Float64)
    got = attend(keys.to_frame(), [{"key": "x", "apply": "weights", **said["rule"]}])["x_weight"]
    assert got.to_list() == pytest.approx(said["weights"], abs=5e-5)


def test_every_kind_is_in_the_tables_and_has_an_example():
    assert set(SCORES) | set(WEIGHTS) <= set(TABLES)
    shown = " ".join(rule for rule, _, _ in EXAMPLES)
    for kind in (set(SCORES) | set(WEIGHTS)) - {"additive", "expression"}:
        assert re.search(rf"\b{kind}\b", shown), kind
    for kind in (*SCORES.values(), *WEIGHTS.values()):
        assert (kind.__doc__ or "").strip()
