"""The job file: what is taken, and what is refused, with the words and the place of every refusal."""

import datetime as dt
import json
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_core.errors import JobError
from attention_core.job import SCORES as CATALOGUE
from attention_core.job import Job
from attention_core.jobfile import load

GOOD = """\
name: flights
source:
  path: batches
sink:
  path: out/flights
attention:
  - name: late
    key: dep_delay
    value: [dep_delay, arr_delay]
    score: {kind: threshold, above: 15}
    weight: step
  - key: arr_delay
    over: {group: [carrier]}
    score: zscore
    clip: [0.0, 0.2]
expect:
  late: {mean: {min: 1}}
"""
HEAD = "name: a\nsource: {path: b}\nsink: {path: c}\n"
ONLY = "a job file holds `name:`, `source:`, `sink:` and `attention:`; this one does not"
TOP = "name, source, sink, attention, expect, statistics, chunk_rows, workers, device"
INDENT = "look at the indentation of this line and of those above: spaces, as many for each entry of a mapping"
SCORES = ", ".join(CATALOGUE)


@pytest.fixture
def job(tmp_path):
    """Loads a text as job.yaml."""

    def one(text, *overrides):
        path = tmp_path / "job.yaml"
        path.write_bytes(text.encode())
        return load(path, Job, overrides).value

    return one


@pytest.fixture
def said(job):
    """What is said of a text that is refused."""

    def one(text, *overrides):
        with pytest.raises(JobError) as error:
            job(text, *overrides)
        return str(error.value)

    return one


def changed(old, new):
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_one(job, tmp_path):
    it = job(GOOD)
    assert it.source.path == (str(tmp_path / "batches"),)
    assert it.sink.path == tmp_path / "out/flights"
    assert it.work() == tmp_path / "out/flights.farol"
    assert [rule.title() for rule in it.attention] == ["late", "arr_delay"]
    assert it.attention[0].score.above == 15 and it.attention[0].weight.kind == "step"
    assert it.attention[1].over.group == ("carrier",) and it.attention[1].clip == (0.0, 0.2)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "data").rglob("*.yaml")), ids=str)
def test_the_job_files_of_the_sample_data(path):
    assert load(path, Job).value.attention


REFUSED = [
    # a kind
    ("score: zscore", "score: zscor", "14:12: attention[1].score.kind: 'zscor' is not a score; did you mean 'zscore'?"),
    ("score: zscore", "score: {kind: zscor}",
     "14:19: attention[1].score.kind: 'zscor' is not a score; did you mean 'zscore'?"),
    ("score: zscore", "score: softmax",
     "14:12: attention[1].score.kind: 'softmax' is not a score; it is a weight, as in weight: softmax"),
    ("score: zscore", "score: {kind: 5}", f"14:19: attention[1].score.kind: 5 is not a score; there are {SCORES}"),
    ("score: zscore", "score: {kind: null}",
     f"14:19: attention[1].score.kind: null is not a score; there are {SCORES}"),
    ("score: zscore", "score: {absolute: true}", "14:12: attention[1].score: needs a kind, as in {kind: ...}"),
    ("score: zscore", "score: 5", "14:12: attention[1].score: 5 is not a word or a mapping"),
    ("weight: step", "weight: stp", "11:13: attention[0].weight.kind: 'stp' is not a weight; did you mean 'step'?"),
    # a missing entry
    ("name: flights\n", "", "1:1: name: is missing"),
    ("  path: batches", "  hive: auto", "3:3: source.path: is missing"),
    ("clip: [0.0, 0.2]", "clip: [1]", "15:11: attention[1].clip[1]: is missing"),
    (", above: 15", "", "10:12: attention[0].score: needs at least one of above, at_least, below, at_most"),
    # what only looks like a URL
    ("path: out/flights", "path: {\"s3://\": 1}", "5:9: sink.path: {'s3://': 1} is not a path"),
    ("path: out/flights", "path: [\"s3://a\"]", "5:9: sink.path: ['s3://a'] is not a path"),
    # a bound
    ("clip: [0.0, 0.2]", "keep: {top_p: 1.5}", "15:19: attention[1].keep.top_p: 1.5 is not at most 1"),
    ("clip: [0.0, 0.2]", "keep: {top_k: 0}", "15:19: attention[1].keep.top_k: 0 is not at least 1"),
    ("weight: step", "weight: {kind: exponential, half_life: 0}",
     "11:44: attention[0].weight.half_life: 0 is not above 0"),
    # an entry that is not known
    ("clip: [0.0, 0.2]", "clipp: [0.0, 0.2]", "15:5: attention[1].clipp: not known here; did you mean 'clip'?"),
    ("above: 15", "above: 15, abov: 1", "10:41: attention[0].score.abov: not known here; did you mean 'above'?"),
    ("{group: [carrier]}", "{group: [a], groups: [b]}",
     "13:24: attention[1].over.groups: not known here; did you mean 'group'?"),
    ("expect:", "format: delta\nexpect:", f"16:1: format: not known here, but under sink; there are {TOP}"),
    ("expect:", "path: x\nexpect:", f"16:1: path: not known here, but under source or under sink; there are {TOP}"),
    ("clip: [0.0, 0.2]", "statistics: frozen",
     "15:5: attention[1].statistics: not known here, but at the top; there are name, key, value, over, score, weight, "
     "mask, fit, missing, keep, clip, scale, apply, rename"),
    ("above: 15", "above: 15, keep: {top_k: 1}",
     "10:41: attention[0].score.keep: not known here, but under attention[]; there are kind, above, at_least, below, "
     "at_most, absolute"),
    ("expect:", "colour: red\nexpect:", f"16:1: colour: not known here; there are {TOP}"),
    ("{mean: {min: 1}}", "{mean: {mni: 1}}", "17:17: expect.late.mean.mni: not known here; did you mean 'min'?"),
    ("{mean: {min: 1}}", "{meen: {min: 1}}", "17:10: expect.late.meen: 'meen' is not measured; did you mean 'mean'?"),
    ("late: {mean", "lat: {mean", "17:3: expect.lat: no rule 'lat'; did you mean 'late'?"),
    # a wrong type
    ("name: flights", "name: 5", "1:7: name: 5 is not a text; put it in quotes"),
    ("name: flights", "name: true", "1:7: name: true is not a text; put it in quotes"),
    ("name: flights", "name: [a]", "1:7: name: ['a'] is not a text"),
    ("name: flights", "name:", "1:1: name: null is not a text"),
    ("name: flights", "name: ''", "1:7: name: must not be empty"),
    ("above: 15", "above: x", "10:37: attention[0].score.above: 'x' is not a number"),
    ("above: 15", f"above: {'x' * 80}", f"10:37: attention[0].score.above: '{'x' * 56}... is not a number"),
    ("clip: [0.0, 0.2]", "clip: 5", "15:11: attention[1].clip: 5 is not a list"),
    ("clip: [0.0, 0.2]", "clip: [1, 2, 3]", "15:11: attention[1].clip: holds 3 entries, and 2 is the most"),
    ("clip: [0.0, 0.2]", "clip: [2, 1]",
     "15:11: attention[1].clip: the first of clip must not be above the second, and 2 > 1"),
    ("{mean: {min: 1}}", "5", "17:9: expect.late: 5 is not a mapping"),
    ("{mean: {min: 1}}", "{mean: 1}", "17:16: expect.late.mean: 1 is not a mapping; write {min: 1}"),
    ("expect:", "workers: 1.5\nexpect:", "16:10: workers: 1.5 is not auto or a whole number"),
    ("expect:", "workers: 0\nexpect:", "16:10: workers: must be auto or at least 1, not 0"),
    ("expect:", "device: gpu\nexpect:", "16:9: device: 'gpu' is not auto, cpu, cuda or cuda:N"),
    ("{group: [carrier]}", "{group: []}", "13:19: attention[1].over.group: must not be empty"),
    # one of several forms
    ("{group: [carrier]}", "datase",
     "13:11: attention[1].over: 'datase' is not dataset or batch or row or a mapping; did you mean 'dataset'?"),
    ("{group: [carrier]}", "{group: carrier}",
     "13:19: attention[1].over.group: 'carrier' is not a list; write [carrier]"),
    ("{group: [carrier]}", "carrier",
     "13:11: attention[1].over: 'carrier' is not dataset or batch or row or a mapping; write {group: [carrier]}"),
    ("{group: [carrier]}", "{groups: [carrier]}",
     "13:12: attention[1].over.groups: not known here; did you mean 'group'?"),
    ("key: dep_delay", "key: 5", "8:10: attention[0].key: 5 is not a text or a list or a mapping; put it in quotes"),
    ("key: dep_delay", "key: [a, 5]", "8:14: attention[0].key[1]: 5 is not a text; put it in quotes"),
    ("key: dep_delay", "key: {match: a, type: flot}",
     "8:27: attention[0].key.type: 'flot' is not float or integer or temporal or text or boolean or vector; "
     "did you mean 'float'?"),
    ("path: batches", "path: {a: 5}", "3:9: source.path: {'a': 5} is not a text or a list"),
    ("score: zscore", "score: {kind: recency, now: lates}",
     "14:33: attention[1].score.now: 'lates' is not latest or a number or a timestamp; did you mean 'latest'?"),
    # what cannot be used later
    ("key: dep_delay", "key: {match: '('}",
     "8:18: attention[0].key.match: '(' is not a pattern: missing ), unterminated subpattern at position 0"),
    ("clip: [0.0, 0.2]", "rename: {weight: '{v}'}",
     "15:22: attention[1].rename.weight: '{v}': only {key} and {value} may stand in braces"),
    ("path: out/flights", "path: /", "5:9: sink.path: / is the root of all folders; name one in it"),
    ("path: out/flights", "path: s3://a", "5:9: sink.path: s3://a is the root of all folders; name one in it"),
    ("path: out/flights", "path: ftp://a", "5:9: sink.path: ftp://a: there are s3://, gs://, az:// and local paths"),
    ("path: out/flights", "path: s3:/a/b", "5:9: sink.path: s3:/a/b: a URL has two slashes, as in s3://bucket/key"),
    ("key: arr_delay\n", "key: b\n    name: late\n",
     "12:5: attention[1]: a rule above is called 'late' too; name one of them anew"),
    ("key: arr_delay\n", "key: source\n", "12:5: attention[1]: no rule can be called 'source'"),
    ("above: 15", "above: true", "10:37: attention[0].score.above: true is not a number"),
    # YAML
    ("sink:\n", "name: again\nsink:\n", "4:1: 'name' is here twice; the first is at job.yaml:1:1"),
    ("above: 15", "above: 15, above: 16", "10:41: 'above' is here twice; the first is at job.yaml:10:30"),
    ("expect:", "? [a]\n: 1\nexpect:", "16:3: a key must be a word"),
    ("expect:", ": 1\nexpect:", "16:1: a key must be a word"),
    ("name: flights", "name: a: b", "1:8: not YAML: mapping values are not allowed here"),
    ("  - name: late", "   - name: late",
     "8:5: not YAML: while parsing a block collection, expected <block end>, but found '<block mapping start>'; "
     f"{INDENT}"),
    ("  - name: late", "\t- name: late", "7:1: not YAML: while scanning for the next token, found character '\\t' that "
     f"cannot start any token; {INDENT}"),
    ("{mean: {min: 1}}", "mean", "17:9: expect.late: 'mean' is not a mapping"),
    ("name: flights", "name: *a", "1:7: not YAML: found undefined alias 'a'"),
    ("name: flights", "name: [a", "2:7: not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"),
    ("name: flights", "name: a\x07", "1:8: not YAML: the character '\\x07' has no place in it"),
    ("expect:", "---\nname: b\n---\nexpect:",
     "16:1: not YAML: expected a single document in the stream, but found another document"),
    ("name: flights", "name: !!python/name:os.system x", "1:7: the tag !!python/name:os.system has no meaning here; "
     "leave it out"),
    ("name: flights", "name: !mine x", "1:7: the tag !mine has no meaning here; leave it out"),
    ("{min: 1}", "!!omap [min: 1]", "17:16: the tag !!omap has no meaning here; leave it out"),
    ("above: 15", "above: !!int x", "10:37: 'x' cannot be read as int"),
    ("above: 15", "above: !!float ''", "10:37: '' cannot be read as float"),
    ("above: 15", "above: !!bool x", "10:37: 'x' cannot be read as bool"),
    ("above: 15", "above: " + "1" * 5000, f"10:37: '{'1' * 56}... cannot be read as int"),
    ("name: flights", 'name: "a\\ud800"', "1:7: 'a\\ud800' holds '\\ud800', which is no character"),
    ("path: batches", 'path: "a\\0"', "3:9: 'a\\x00' holds '\\x00', which is no character"),
]  # fmt: skip


@pytest.mark.parametrize("old, new, message", REFUSED, ids=[f"{new[:30]}" for _, new, _ in REFUSED])
def test_what_is_refused(said, old, new, message):
    assert said(changed(old, new)) == f"job.yaml:{message}"


def test_an_endless_word_is_shortened():
    said, name = str(JobError(f"no column {'x' * 100_000!r}; there are a, b", ("attention", 0))), "/" + "y" * 4_000
    assert said.startswith("attention[0]: no column 'xxx") and said.endswith("xxx'; there are a, b") and len(said) < 600
    assert name in str(JobError(f"{name}: cannot be read"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "5", "- a\n", "word"])
def test_no_mapping_is_no_job(said, text):
    assert said(text) == f"job.yaml:1:1: {ONLY}"


def test_a_character_beyond_unicode(said):
    assert said('a: "\\U99999999"').startswith("job.yaml:1:1: not YAML: ")


def test_not_utf_8(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"name: \xe9")
    with pytest.raises(JobError) as error:
        load(path, Job)
    assert str(error.value) == f"{path}: not a job file: byte 6 is not UTF-8 text"


def test_a_folder_and_nothing(tmp_path):
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no.yaml", "No such file or directory")):
        with pytest.raises(JobError) as error:
            load(path, Job)
        assert str(error.value) == f"{path}: cannot be read: {why}"


def test_several_errors_in_the_order_of_the_file(said):
    assert said("zz: 1\nsink: 5\nattention: [5]\nsource: {}\n").split("\n") == [
        "job.yaml:1:1: name: is missing",
        f"job.yaml:1:1: zz: not known here; there are {TOP}",
        "job.yaml:2:7: sink: 5 is not a mapping; write {path: 5}",
        "job.yaml:3:13: attention[0]: 5 is not a mapping",
        "job.yaml:4:9: source.path: is missing",
    ]


@pytest.mark.parametrize("n, more", [(10, []), (11, ["and 1 more"]), (30, ["and 20 more"])])
def test_ten_lines_at_most(said, n, more):
    lines = said(GOOD + "".join(f"zz{i}: 1\n" for i in range(n))).split("\n")
    assert [line.split(" ")[1] for line in lines[:10]] == [f"zz{i}:" for i in range(10)]
    assert lines[10:] == more


def test_no_control_character_reaches_the_terminal(said, tmp_path):
    assert said(changed("name: flights", '"\\e[31m\\n": 1\nname: a')).startswith(
        "job.yaml:1:1: \\x1b[31m\\n: not known"
    )
    assert said(changed("score: zscore", 'score: "\\e\\n"')).startswith(
        "job.yaml:14:12: attention[1].score.kind: '\\x1b"
    )
    assert said(changed("path: batches", 'path: b\n  where: "\\e("')).isprintable()
    assert said(GOOD, "na\n\x1bme=1").startswith("--set na\\n\\x1bme: na\\n\\x1bme: not known here")
    assert said(GOOD, "\x1b") == "--set \\x1b: write it as path=value, as in --set sink.path=out"
    path = tmp_path / "a\n\x1b.yaml"
    for content in (None, b"", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(JobError) as error:
            load(path, Job)
        assert str(error.value).isprintable()


def test_words_that_yaml_1_1_took_for_others(job):
    rule = job(HEAD + "attention: [{key: on, name: no, value: [yes, off, y], score: {kind: zscore}}]").attention[0]
    assert (rule.key, rule.name, rule.value) == ("on", "no", ("yes", "off", "y"))
    assert job(changed("name: flights", "name: 12:30:45")).name == "12:30:45"
    assert job(changed("name: flights", "name: 2020-01-02")).name == "2020-01-02"
    assert job(changed("name: flights", "name: !!str 5")).name == "5"


@pytest.mark.parametrize(
    "text, now",
    [
        ("latest", "latest"),
        ("2020-01-02", dt.datetime(2020, 1, 2)),
        ("2020-01-02 03:04:05", dt.datetime(2020, 1, 2, 3, 4, 5)),
        ("2020-01-02T03:04:05Z", dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        ("2020-01-02T03:04:05+02:00", dt.datetime(2020, 1, 2, 1, 4, 5, tzinfo=dt.UTC)),
        ("1.5", 1.5),
    ],
)
def test_moments(job, text, now):
    found = job(changed("score: zscore", f"score: {{kind: recency, now: {text}}}")).attention[1].score.now
    moment = dt.datetime(found.year, found.month, found.day) if type(found) is dt.date else found
    assert moment == now
    assert getattr(moment, "tzinfo", None) is None or moment.utcoffset() == dt.datetime.fromisoformat(text).utcoffset()


def test_infinite_is_a_number(job):
    assert job(changed("[0.0, 0.2]", "[-.inf, .inf]")).attention[1].clip == (-math.inf, math.inf)


def test_a_fair_alias(job):
    text = HEAD + "attention:\n  - {key: a, weight: &w {kind: softmax, temperature: 2}}\n  - {key: b, weight: *w}\n"
    assert [rule.weight.temperature for rule in job(text).attention] == [2, 2]
    assert [r.weight.temperature for r in job(text, "attention[1].weight.temperature=3").attention] == [2, 3]


@pytest.mark.filterwarnings("error")
def test_an_anchor_may_be_used_again(job):
    text = HEAD + "attention: [{key: &k a}, {key: &k b}, {key: c, value: *k}]"
    assert job(text).attention[2].value == "b"


def test_an_alias_that_stands_in_itself(said):
    assert said("a: &a\n  - *a\n") == "job.yaml:1:4: an alias stands inside what it repeats; write it out"
    assert said("&a {b: {c: *a}}") == "job.yaml:1:1: an alias stands inside what it repeats; write it out"


def test_an_alias_bomb_is_refused_at_once(said):
    lines = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    start = time.perf_counter()
    message = said("\n".join(["a0: &a0 [x]", *lines]))
    assert message.endswith(": more than 100,000 entries, with those that aliases repeat")
    assert time.perf_counter() - start < 5


def test_nested_too_deep(said):
    assert said(f"a: {'[' * 101}{']' * 101}") == "job.yaml:1:104: nested more than 100 deep"
    assert said("- " * 2000) == "job.yaml:1:1: nested more than 100 deep"
    assert "nested" not in said(f"a: {'[' * 98}{']' * 98}")


def test_the_environment(job, said, monkeypatch):
    monkeypatch.setenv("FAROL_DAY", "may: ${FAROL_NO}")
    monkeypatch.delenv("FAROL_NO", raising=False)
    for text, name in {
        "a${FAROL_DAY}b": "amay: ${FAROL_NO}b",
        "$${FAROL_DAY}": "${FAROL_DAY}",
        "$$${FAROL_DAY}": "$may: ${FAROL_NO}",
        "a$$b $c$": "a$$b $c$",
    }.items():
        assert job(changed("name: flights", f"name: '{text}'")).name == name
    unset = "job.yaml:1:7: the environment variable 'FAROL_NO' is not set; set it, as in `export FAROL_NO=...`"
    assert said(changed("name: flights", "name: a${FAROL_NO}")) == unset
    assert said(changed("name: flights", "name: '${a b}'")) == (
        "job.yaml:1:7: the environment variable 'a b' is not set; write ${NAME}"
    )
    assert said(changed("name: flights", "name: '${a'")) == (
        "job.yaml:1:7: ${ without an end; write ${NAME}, or $${ for the text itself"
    )
    assert job(GOOD, "name=${FAROL_DAY}").name == "may: ${FAROL_NO}"


def test_where_paths_start(job, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert job(GOOD).source.path == (str(tmp_path / "batches"),)
    it = job(GOOD, "sink.path=../x")
    assert (it.sink.path, it.source.path) == (tmp_path / "x", (str(tmp_path / "batches"),))
    assert job(GOOD, "sink={path: x, work: w}").sink.work == here / "w"
    assert job(GOOD, "sink.work=w").sink.path == tmp_path / "out/flights"
    several = job(changed("path: batches", "path: [a, /b, 's3://c/d', ../e]"), "source.path[0]=f")
    assert several.source.path == (str(here / "f"), "/b", "s3://c/d", str(tmp_path.parent / "e"))
    assert job(GOOD, "source.path=[a, b]").source.path == (str(here / "a"), str(here / "b"))


def test_overrides(job):
    assert job(GOOD, "name=x=y", "name=z").name == "z"
    assert job(GOOD, "attention[1].score=identity").attention[1].score.kind == "identity"
    assert job(GOOD, "attention[1].score.absolute=false").attention[1].score.absolute is False  # a bare word before
    it = job(GOOD, "attention[1].score=threshold", "attention[1].score.above=7")
    assert it.attention[1].score.above == 7 and it.attention[0].score.above == 15
    assert job(GOOD, "expect.arr_delay.mean.max=2").expect["arr_delay"]["mean"].max == 2
    assert job(GOOD, "expect={}").expect == {}


@pytest.mark.parametrize(
    "override, message",
    [
        *((bad, "write it as path=value, as in --set sink.path=out")
          for bad in ("name", "=x", "", "a..b=x", ".a=x", "a.=x", "a[00]=x", "a[-1]=x", "a[0]b=x",
                      f"a[{'1' * 5000}]=x")),
        ("name=", "null is not a text"),
        ("sink.pth=x", "not known here; did you mean 'path'?"),
        ("attention[1].score.kind=zscor", "'zscor' is not a score; did you mean 'zscore'?"),
        ("attention[2].key=x", "the job file has no entry 2 there"),
        ("sink[0]=x", "the job file has no entry 0 there"),
        ("attention.name=x", "there is a list there; say which entry, as in [0].name"),
    ],
)  # fmt: skip
def test_overrides_that_are_refused(said, override, message):
    place = override if message.startswith("write it") else override.partition("=")[0]
    assert said(GOOD, override) == f"--set {place}: {message}"


def test_an_override_that_is_not_yaml(said):
    assert said(GOOD, "name=a: b: c") == "--set name:1:5: not YAML: mapping values are not allowed here"


def test_an_override_below_a_word_that_is_no_kind(said):
    match = "job.yaml:8:10: attention[0].key.kind: not known here; there are match, type, except"
    assert said(GOOD, "attention[0].key.match=x") == match


@pytest.mark.parametrize(
    "at, place",
    [
        (("attention", 1, "key"), "job.yaml:12:10: attention[1].key: no"),
        (("attention", 1, "over", "group"), "job.yaml:13:19: attention[1].over.group: no"),
        (("attention", 1, "mask"), "job.yaml:12:5: attention[1].mask: no"),
        (("sink", "columns"), "job.yaml:5:3: sink.columns: no"),
        (("device",), "job.yaml:1:1: device: no"),
        (("name",), "--set name: no"),
        ((), "no"),
    ],
)
def test_a_later_error_is_located(tmp_path, at, place):
    (tmp_path / "job.yaml").write_text(GOOD)
    loaded = load(tmp_path / "job.yaml", Job, ["name=x"])
    error = loaded.located(JobError("no", at))
    assert str(error) == place and error.status == 2
    assert str(loaded.located(JobError("\x1b", ("name",)))) == "--set name: \\x1b"


PLACED = re.compile(r"job\.yaml:[1-9][0-9]*:[1-9][0-9]*: .+")
WHOLE = {
    "name": "flights",
    "source": {"path": ["a", "b"], "hive": "auto", "where": "month >= 1", "drift": "strict"},
    "sink": {"path": "out", "columns": {"except": ["x"]}, "compression": "zstd", "gone": "keep", "work": "w"},
    "attention": [
        {"name": "late", "key": "a", "value": ["a", "b"], "score": {"kind": "threshold", "above": 15}, "over": "batch",
         "weight": {"kind": "step", "high": 2.0, "low": 1.0, "at": 0}, "missing": 0.5, "rename": {"weight": "{key}_w"}},
        {"name": "m", "key": {"match": "^a", "type": "float", "except": ["b"]}, "over": {"group": ["g"]},
         "score": "zscore", "mask": "a < 1", "fit": "b > 1", "clip": [0, 1], "scale": {"mean": 1}},
        {"key": "t", "score": {"kind": "recency", "now": "2020-01-01", "unit": "days"}, "apply": "weights"},
        {"name": "e", "score": {"kind": "expression", "sql": "a * b"}, "apply": "none"},
    ],
    "expect": {"late": {"mean": {"min": 1, "max": 2}}, "source": {"rows": {"min": 1}}},
    "statistics": "fresh", "chunk_rows": 5, "workers": "auto", "device": "cuda:0",
}  # fmt: skip
WORDS = ["kind", "zscore", "threshold", "Match", "Group", "except", "above", "auto", "${", "$", "on", "{", "(", "s3://"]
words = st.sampled_from(WORDS) | st.text(max_size=8)
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def places(value, above=()):
    """The path of every value in it."""
    yield above
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in entries:
        yield from places(inner, (*above, step))


def put(value, at, new):
    """The same with another value at a place."""
    if not at:
        return new
    inside = dict(value) if isinstance(value, dict) else list(value)
    inside[at[0]] = put(value[at[0]], at[1:], new) if len(at) > 1 else new
    return inside


@pytest.fixture(scope="module")
def refusal(tmp_path_factory):
    """The lines that refuse a text, none where it is taken."""
    path = tmp_path_factory.mktemp("any") / "job.yaml"

    def one(text, *overrides):
        path.write_bytes(text.encode())
        try:
            load(path, Job, overrides)
        except JobError as error:
            return str(error).split("\n")
        return []

    return one


def placed(lines):
    if len(lines) == 11:
        assert re.fullmatch("and [1-9][0-9]* more", lines.pop())
    assert len(lines) <= 10
    for line in lines:
        assert PLACED.fullmatch(line) and line.isprintable()


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>%@#'\"\\\n\t ?,.<~$0x_"))
def test_any_text_is_taken_or_refused(refusal, text):
    placed(refusal(text))
    placed(refusal(HEAD + text))
    refusal(GOOD, text)
    refusal(GOOD, f"attention[0].key={text}")


@pytest.mark.parametrize("at", [*places(WHOLE)], ids=lambda at: ".".join(map(str, at)))
def test_every_value_is_looked_at(refusal, at):
    assert refusal(json.dumps(WHOLE)) == []
    lines = refusal(json.dumps(put(WHOLE, at, {"zz": [None]})))
    placed(lines)
    assert lines


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*places(WHOLE)]), data), min_size=1, max_size=3))
def test_any_value_is_taken_or_refused_with_its_place(refusal, changes):
    job = WHOLE
    for at, new in changes:
        if at in places(job):
            job = put(job, at, new)
    placed(refusal(json.dumps(job, ensure_ascii=False)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([at for at in places(WHOLE) if at]), words, data)
def test_any_new_entry_is_taken_or_refused_with_its_place(refusal, at, key, new):
    entry = WHOLE
    for step in at[:-1]:
        entry = entry[step]
    more = {**entry, key: new} if isinstance(entry, dict) else [*entry, new]
    placed(refusal(json.dumps(put(WHOLE, at[:-1], more), ensure_ascii=False)))
