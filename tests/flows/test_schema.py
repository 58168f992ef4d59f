"""`farol schema`: what an editor says of a job file is what Farol says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from attention_core.job import SCORES, WEIGHTS
from flows.schema import explained, schema

ROOT = Path(__file__).parents[2]
SCHEMA = schema()
VALIDATOR = Draft202012Validator(SCHEMA)
RULE = "{key: x, score: zscore}"
JOB = "{name: a, source: {path: in}, sink: {path: out}, attention: [RULE]}"


def wrong(text):
    """What is wrong with this YAML, by where it stands."""
    return [list(e.absolute_path) for e in VALIDATOR.iter_errors(YAML(typ="safe").load(text))]


def test_it_is_a_schema(folder):
    status, out, err = folder.farol("schema")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(SCHEMA))
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(ROOT.glob("data/*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_job_file_of_the_project_is_right(path):
    assert wrong(path.read_text()) == []


@pytest.mark.parametrize("readme", ["README.md", "attention_core/README.md", "flows/README.md"])
def test_every_job_file_that_a_readme_shows_is_right(readme):
    for text in re.findall(r"^```yaml\n(.*?)^```", (ROOT / readme).read_text(), re.MULTILINE | re.DOTALL):
        shown = YAML(typ="safe").load(text)
        if isinstance(shown, dict) and {"name", "source", "sink", "attention"} <= shown.keys():
            assert wrong(text) == []


def test_a_new_job_file_is_right_and_names_the_schema(folder):
    out = folder.farol("new", "in")[1]
    assert out.startswith("# yaml-language-server: $schema=farol.schema.json\n")
    assert "`farol schema > farol.schema.json`" in out
    assert wrong(out) == []


RIGHT = [
    RULE,
    "{key: [x, y]}",
    "{key: {match: '^s', type: float, except: [s1]}, over: {group: [g]}}",
    "{key: x, score: {kind: threshold, above: '${LEVEL}'}}",
    "{key: x, score: '${KIND}', weight: {kind: '${KIND}', at: 2}}",
    "{key: x, weight: {kind: huber, at: '${AT}'}, clip: [0, '${TOP}'], missing: '${MISSING}'}",
    "{key: t, score: {kind: recency, now: '2013-12-31 05:00', unit: days}, apply: '${APPLY}'}",
    "{key: x, score: {kind: top_k, k: '${K}', largest: '${LARGEST}'}, keep: {top_p: '0${P}'}}",
    "{key: v, score: {kind: cosine, query: [1, 2.5]}, apply: {pool: mean}}",
    "{key: v, score: {kind: dot, query: {table: q.parquet, match: [id], column: [a, b]}}, apply: {filter: {min: 0}}}",
    "{name: s, score: {kind: expression, sql: 'a * b'}, scale: {mean: 1}, rename: {weight: w}, apply: weights}",
]


@pytest.mark.parametrize("rule", RIGHT)
def test_what_is_right(rule):
    assert wrong(JOB.replace("RULE", rule)) == []


@pytest.mark.parametrize(
    "rule, at",
    [
        ("{key: x, scor: zscore}", []),
        ("{key: x, score: zscor}", ["score"]),
        ("{key: x, score: {kind: zscor}}", ["score"]),
        ("{key: x, score: {kind: softmax}}", ["score"]),
        ("{key: x, score: {above: 5}}", ["score"]),
        ("{key: x, score: {kind: threshold, abov: 5}}", ["score"]),
        ("{key: x, score: {kind: threshold, above: five}}", ["score"]),
        ("{key: x, score: {kind: threshold, above: [5]}}", ["score"]),
        ("{key: x, score: expression}", ["score"]),
        ("{key: x, weight: exponential}", ["weight"]),
        ("{key: x, weight: {kind: huber, at: -1}}", ["weight"]),
        ("{key: 1}", ["key"]),
        ("{key: x, over: rows}", ["over"]),
        ("{key: x, over: {group: []}}", ["over"]),
        ("{key: x, clip: [0]}", ["clip"]),
        ("{key: x, missing: drop}", ["missing"]),
        ("{key: x, apply: multiplied}", ["apply"]),
    ],
)
def test_what_is_wrong_in_a_rule(rule, at):
    assert wrong(JOB.replace("RULE", rule)) == [["attention", 0, *at]]


@pytest.mark.parametrize(
    "old, new, at",
    [
        ("name: a", "nam: a", [[], []]),
        ("name: a, ", "", [[]]),
        ("name: a", "name: 1", [["name"]]),
        ("name: a", "name: ''", [["name"]]),
        ("{path: in}", "in", [["source"]]),
        ("{path: in}", "{path: in, hive: maybe}", [["source", "hive"]]),
        ("{path: out}", "{path: out, compression: rar}", [["sink", "compression"]]),
        ("[RULE]", "[]", [["attention"]]),
        ("name: a", "name: a, workers: many", [["workers"]]),
        ("name: a", "name: a, expect: {x: {maen: {min: 1}}}", [["expect", "x"]]),
        ("name: a", "name: a, expect: {x: {mean: {mn: 1}}}", [["expect", "x", "mean"]]),
        ("name: a", "name: a, expect: {source: {row: {min: 1}}}", [["expect", "source"]]),
    ],
)
def test_what_is_wrong_elsewhere(old, new, at):
    assert wrong(JOB.replace(old, new).replace("RULE", RULE)) == at


def test_numbers_and_words_from_the_environment():
    text = JOB.replace("name: a", "name: '${A}', workers: '${N}', chunk_rows: '${N}', device: '${D}', "
                       "expect: {source: {rows: {min: '${N}'}}, x: {mean: {max: '${N}'}}}")  # fmt: skip
    text = text.replace("{path: in}", "{path: ['${IN}/a', b], hive: '${HIVE}', where: 'month >= ${M}'}")
    text = text.replace("{path: out}", "{path: '${OUT}', compression: '${C}', columns: {except: ['${C}']}}")
    assert wrong(text.replace("RULE", RULE)) == []


def test_it_teaches():
    """Each entry of a job file, of its source, its sink and its rules is explained, and each kind."""
    defs = SCHEMA["$defs"]
    for form in (SCHEMA, defs["Source"], defs["Sink"], defs["Rule"], defs["Rename"], defs["Match"]):
        assert all(field.get("description") for field in form["properties"].values())
    kinds = [f for f in defs.values() if "kind" in f.get("properties", {})]
    assert sorted(f["title"] for f in kinds) == sorted([*SCORES, *WEIGHTS])
    assert all(f["description"] and f["additionalProperties"] is False for f in kinds)
    assert defs["Huber"]["properties"]["at"]["description"].startswith("where it begins to fall")


def test_what_a_class_says_of_its_fields():
    assert explained(WEIGHTS["step"]) == {
        "high": "the two weights.",
        "low": "the two weights.",
        "at": "where it switches, in the score's unit.",
    }
    assert explained(SCORES["top_k"])["k"] == "how many"
    assert explained(SCORES["identity"]) == {}


def test_only_what_is_needed_is_imported():
    """Help without torch and Polars, the schema without Prefect."""
    code = "import sys; from flows.cli import app; app({}, result_action='return_value'); print(*sys.modules)"
    for tokens, absent in ((["--help"], {"torch", "polars", "pydantic", "prefect"}), (["schema"], {"prefect"})):
        said = subprocess.run([sys.executable, "-c", code.format(tokens)], capture_output=True, text=True, cwd=ROOT)
        assert said.returncode == 0, said.stderr
        assert not absent & set(said.stdout.splitlines()[-1].split())
