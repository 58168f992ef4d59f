"""The laws of a kind, over every kind that the package defines: a new one needs an example here, and all laws run over
it. Kinds that break a law on purpose must be caught."""

import importlib
import inspect
import math
import pickle
import pkgutil
import random
import re
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import jsonschema
import numpy as np
import polars as pl
import pytest
import safetensors.torch
import scipy.special
import torch
from pydantic import PlainSerializer
from ruamel.yaml import YAML

import attention_core
from attention_core import scores, weights
from attention_core.adjust import Clip, Keep, Scale, Share
from attention_core.attention import attend
from attention_core.contract import Kind, Question, Rows, conclude
from attention_core.errors import DataError
from attention_core.frozen import digest
from attention_core.job import Job
from attention_core.jobfile import load
from attention_core.kinds import Score, Weight, catalogue
from attention_core.questions import Extent, Largest, Sum, Term
from attention_core.run import run as run_job
from attention_core.selection import Cut

README = (Path(__file__).parents[2] / "attention_core" / "README.md").read_text()
SCORES = catalogue(scores.FAMILIES, Score)
WEIGHTS = catalogue(weights.FAMILIES, Weight)
WORDS = {kind: word for table in (SCORES, WEIGHTS) for word, kind in table.items()}

FILES = tempfile.TemporaryDirectory()  # of what kinds name
TRAINED = Path(FILES.name, "trained.safetensors")
safetensors.torch.save_file(
    {"W_k": torch.arange(12.0).sin().reshape(4, 3), "W_q": torch.eye(4)[:, :2].clone(), "v": torch.ones(4)}, TRAINED
)
QUERY = [1.0, -0.3, 2.0]
SCORED = {
    "identity": [{}],
    "threshold": [{"above": 0.3, "at_most": 0.9}, {"at_least": 0.2, "below": 0.7, "absolute": True}],
    "quantile": [{"q": 0.3}, {"q": 0.9, "side": "below"}],
    "top_k": [{"k": 40}, {"fraction": 0.1, "largest": False}],
    "zscore": [{}, {"absolute": False}],
    "robust_zscore": [{}, {"absolute": False}],
    "rarity": [{}, {"form": "inverse"}, {"form": "effective", "beta": 0.9}],
    "recency": [{}, {"now": 0.8, "offset": 0.1}, {"unit": "hours"}],
    "dot": [{"query": QUERY}, {"query": QUERY, "standardise": True}],
    "scaled_dot": [{"query": "centroid"}, {"query": QUERY, "standardise": True}],
    "cosine": [{"query": QUERY}, {"query": QUERY, "standardise": True}],
    "euclidean": [{"query": QUERY}, {"query": "centroid", "standardise": True}],
    "additive": [
        {"query": [0.5, -0.7], "parameters": str(TRAINED)},
        {"query": [0.5, -0.7], "parameters": str(TRAINED), "standardise": False},
    ],
    "expression": [{"sql": "a + 1"}],
}
WEIGHED = {
    "identity": [{}],
    "step": [{}, {"high": 3.0, "low": 0.1, "at": 0.5}],
    "linear": [{}, {"low": 1.0, "high": -3.0}],
    "proportional": [{}],
    "softmax": [{}, {"temperature": 0.1}],
    "entmax": [{}, {"alpha": 2.0}, {"alpha": 1.2, "temperature": 0.3}],
    "sigmoid": [{}, {"midpoint": 0.5, "temperature": 0.1}],
    "exponential": [{"half_life": 2.0}],
    "gaussian": [{}, {"width": 0.3}],
    "huber": [{}, {"at": 0.3}],
    "bisquare": [{}, {"at": 0.7}],
    "power": [{"exponent": 2.3}, {"exponent": -2.0}],
}
ADJUSTED = [Keep(top_k=40), Keep(top_p=0.6), Keep(min=0.5), Share(), Clip(low=0.1, high=0.5)]
ADJUSTED += [Scale(**{f: 2.0}) for f in ("mean", "sum", "min", "max", "sum_at_most")]


def examples():
    both = ((SCORES, SCORED), (WEIGHTS, WEIGHED))
    named = [kinds[word](**given) for kinds, table in both for word, many in table.items() for given in many]
    return [*named, *ADJUSTED]


def spoken(kind):
    """What tells an example from the others: its family, its class, and what it says."""
    said = ",".join(f"{name}={value}" for name, value in parameters(kind).items())
    return f"{type(kind).__module__.rsplit('.')[-1]}.{type(kind).__name__}({said.replace(FILES.name, '')})"


def parameters(kind):
    """What a job file says of it, its word aside."""
    return kind.model_dump(exclude_unset=True, exclude={"kind"})


def ready(kind):
    """The kind with what its key's type settles, and with the files that it names."""
    return kind.bound(dtype_of(kind)) if isinstance(kind, Score) else kind


def dtype_of(kind):
    if getattr(kind, "vector", False):
        return pl.Array(pl.Float64, 3)
    return pl.Datetime("us") if getattr(kind, "unit", None) else pl.Float64


KINDS = examples()
NAMES = [spoken(k) for k in KINDS]
every_kind = pytest.mark.parametrize("kind", [ready(k) for k in KINDS], ids=NAMES)
every_entry = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


# Which kinds there are


def defined():
    """Every kind of the package, wherever it stands: a class that none is derived from."""
    for module in pkgutil.walk_packages(attention_core.__path__, "attention_core."):
        importlib.import_module(module.name)

    def below(kind):
        for sub in kind.__subclasses__():
            yield from (sub, *below(sub))

    own = {k for k in below(Kind) if k.__module__.startswith("attention_core.")}
    plain = {k for k in own if k.__pydantic_generic_metadata__["origin"] is None}  # no Score[Spread] and its like
    return {k for k in plain if not any(other is not k and issubclass(other, k) for other in plain)}


@every_kind
def test_a_kind_travels(kind):
    """To where the rows are, which may be another process."""
    there = pickle.loads(pickle.dumps(kind))
    assert type(there) is type(kind) and there == kind and digest(there) == digest(kind)


def test_every_kind_has_an_example():
    assert {type(k) for k in KINDS} == defined()


def test_every_score_and_weight_is_in_its_catalogue():
    assert {k for k in defined() if issubclass(k, Score | Weight)} == set(WORDS)


def test_every_parameter_is_in_an_example():
    said = {(type(k), name) for k in KINDS for name in parameters(k)}
    assert said == {(k, name) for k in defined() for name in k.model_fields if name != "kind"}


def test_names_of_examples_are_apart():
    assert len(set(NAMES)) == len(NAMES)


# What a kind is given here


def tensor(xs):
    return torch.tensor(xs, dtype=torch.float64)


def rows(n=3000, size=7, seed=0):
    """Awkward but positive numbers, some of them missing."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, dtype=torch.float64, generator=g) + 0.01
    return Rows(x, torch.rand(n, generator=g) > 0.1, torch.randint(0, size, (n,), generator=g), size)


def seen(kind, r):
    """The rows as the kind takes them: numbers, vectors, or values of any type."""
    if getattr(kind, "vector", False):
        return replace(r, x=torch.stack([r.x, r.x.sin() - 0.3, 1 - r.x * r.x], 1))
    if getattr(kind, "counts", False):
        return replace(r, column=pl.Series((r.x * 30).nan_to_num(0, 99, -99).long().tolist(), dtype=pl.Int64))
    return r


def take(r, i):
    ok, ids, column = (None if v is None else v[i] for v in (r.ok, r.ids, r.column))
    return Rows(r.x[i], ok, ids, r.size, r.start + (i.start or 0), column)


def only(r, here):
    """The rows where `here` is true, as a table of their own."""
    column = None if r.column is None else r.column.filter(here.numpy())
    return Rows(r.x[here], None if r.ok is None else r.ok[here], column=column)


def fitted(kind, pieces, asked=None):
    """What the kind knows after asking pieces of rows, merged in the order given; `asked` takes its questions."""

    def ask(question):
        if asked is not None:
            asked.append(question)
        states = [question.of(p) for p in pieces]
        whole = states[0]
        for s in states[1:]:
            whole = whole + s
        return whole

    return conclude(kind.fit(), ask)


def weighed(kind, r):
    return kind(r, fitted(kind, [r]))


def run(kind, xs):
    return weighed(kind, Rows(tensor(xs)))


def simple(question):
    """The questions of which a question is made."""
    inside = [value for _, value in question if isinstance(value, Question)]
    return [q for one in inside for q in simple(one)] or [question]


# The laws


@every_kind
def test_no_cut_and_no_order_shows(kind):
    r = seen(kind, rows())
    want = fitted(kind, [r])
    rnd = random.Random(1)
    for k in (2, 5, 17):
        cuts = [0, *sorted(rnd.sample(range(len(r.x)), k)), len(r.x)]
        pieces = [take(r, slice(a, b)) for a, b in zip(cuts, cuts[1:], strict=False)] + [take(r, slice(0, 0))]
        rnd.shuffle(pieces)
        assert digest(fitted(kind, pieces)) == digest(want)


@every_kind
def test_it_asks_the_same_again(kind):
    r = seen(kind, rows())
    first, again = [], []
    fitted(kind, [r], first)
    fitted(kind, [take(r, slice(2000, 3000)), take(r, slice(0, 2000))], again)
    assert first == again


@every_kind
@pytest.mark.parametrize("step", [1, 7, 997])
def test_a_row_is_the_same_wherever_it_stands(kind, step):
    r = seen(kind, rows(500 if step == 1 else 3000))
    known = fitted(kind, [r])
    whole = kind(r, known)
    parts = torch.cat([kind(take(r, slice(i, i + step)), known) for i in range(0, len(r.x), step)])
    assert torch.equal(whole[r.ok], parts[r.ok])


@every_kind
def test_a_group_equals_a_table_of_its_own(kind):
    """Also a group of one row, one that is all missing, and one without rows."""
    r = rows(600)
    r = replace(r, ids=torch.where(r.ids == 5, torch.arange(600) % 50 + 9, r.ids), size=60)
    r = seen(kind, replace(r, ok=r.ok & (r.ids != 4)))
    assert {0, 1} <= set(torch.bincount(r.ids[r.ok], minlength=r.size).tolist())
    whole = weighed(kind, r)
    for g in r.ids.unique().tolist():
        own = only(r, r.ids == g)
        assert torch.equal(weighed(kind, own)[own.ok], whole[r.ids == g][own.ok])


@every_kind
def test_what_is_missing_takes_no_part(kind):
    """Whatever stands where `ok` is false."""
    r = rows()
    want = weighed(kind, seen(kind, r))[r.ok]
    for other in (0.0, -1.0, 1e300, math.inf, math.nan):
        junk = seen(kind, replace(r, x=torch.where(r.ok, r.x, other)))
        assert torch.equal(weighed(kind, junk)[r.ok], want)


@every_kind
def test_threads_do_not_show(kind):
    before = torch.get_num_threads()
    r = seen(kind, rows(40_000))  # torch takes one thread for less than 32 768
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            known = fitted(kind, [r])
            found.append((digest(known), kind(r, known)[r.ok]))
    finally:
        torch.set_num_threads(before)
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


@every_kind
@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_one_row(kind, n):
    out = weighed(kind, seen(kind, Rows(torch.full((n,), 0.7, dtype=torch.float64))))
    assert out.shape == (n,) and out.dtype == torch.float64 and bool(torch.isfinite(out).all())


@every_kind
@pytest.mark.parametrize("value", [0.1, 0.7, 3.0])
def test_equal_keys_are_weighed_alike(kind, value):
    """Unless they are ranked: then the earlier come first."""
    r = seen(kind, Rows(torch.full((100,), value, dtype=torch.float64)))
    known = fitted(kind, [r])
    out = kind(r, known)
    assert bool(torch.isfinite(out).all())
    assert bool((out.diff() <= 0).all()) if isinstance(known, Cut) else len(out.unique()) == 1


@every_kind
@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_an_infinite_key_is_refused_or_compared_as_itself(kind, infinite):
    """Refused where a sum or an extent is asked, and +inf where weights are shared out; never a NaN."""
    x = tensor([0.2, infinite, 0.5, 0.3, 0.4])
    r = seen(kind, Rows(x))
    if r.x.ndim > 1:  # one component is infinite, and none is NaN
        r = replace(r, x=torch.stack([x, x.clamp(0, 1), torch.ones_like(x)], 1))
    asked = []
    try:
        out = kind(r, fitted(kind, [r], asked))
    except DataError as error:
        assert re.search(r"infinite|\+inf|negative", str(error))
        return
    assert not bool(out.isnan().any())
    questions = [q for one in asked for q in simple(one)]
    if infinite > 0:
        assert not any(isinstance(q, Sum | Extent | Largest) for q in questions)
    assert not any(isinstance(q, Sum | Extent) for q in questions)


INFINITE = {
    "identity": [-math.inf, 1, 2, math.inf],
    "threshold": [0, 0, 1, 1],
    "quantile": [0, 0, 1, 1],
    "top_k": [0, 0, 1, 1],
    "rarity": [math.log(4)] * 4,
    "recency": [-math.inf, -2, -1, 0],
    "step": [1, 1, 2, 2],
    "sigmoid": [0, 0.5, pytest.approx(1 / (1 + math.exp(-1))), 1],
    "exponential": [0, 2, 4, math.inf],
    "gaussian": [0, pytest.approx(math.exp(-0.5)), pytest.approx(math.exp(-2)), 0],
    "huber": [0, 1, 0.5, 0],
    "bisquare": [0, pytest.approx((8 / 9) ** 2), pytest.approx((5 / 9) ** 2), 0],
    "power": [-math.inf, 1, 8, math.inf],
}
AT_INFINITE = {
    "threshold": {"above": 1},
    "quantile": {"q": 0.5},
    "top_k": {"k": 2},
    "recency": {"now": 3.0},
    "step": {"at": 1.0},
    "sigmoid": {"midpoint": 1.0},
    "exponential": {"half_life": 1.0},
    "huber": {"at": 1.0},
    "bisquare": {"at": 3.0},
    "power": {"exponent": 3},
}


@pytest.mark.parametrize("word", INFINITE)
def test_an_infinite_key_as_itself(word):
    kind = {**SCORES, **WEIGHTS}[word](**AT_INFINITE.get(word, {}))
    column = pl.Series([-math.inf, 1.0, 2.0, math.inf])
    assert weighed(kind, Rows(tensor(column), column=column)).tolist() == INFINITE[word]


def test_an_infinite_key_beside_a_median():
    assert run(SCORES["robust_zscore"](), [1.0, 2.0, 3.0, math.inf]).tolist()[3] == math.inf
    assert run(SCORES["robust_zscore"](), [1.0, 1.0, 1.0, math.inf]).tolist() == [0] * 4
    with pytest.raises(DataError, match="half of the keys are infinite"):
        run(SCORES["robust_zscore"](), [1.0, math.inf, -math.inf, math.inf])


def test_an_infinite_weight_is_held_and_kept_as_itself():
    xs = [-math.inf, 1.0, 2.0, math.inf]
    assert run(Clip(low=0, high=1.5), xs).tolist() == [0, 1, 1.5, 1.5]
    assert run(Keep(top_k=2), xs).tolist() == [0, 0, 2, math.inf]
    assert run(Keep(min=2), xs).tolist() == [0, 0, 2, math.inf]
    for kind in (Keep(top_p=0.5), Share(), Scale(mean=1.0), Scale(sum=1.0), Scale(max=1.0), Scale(sum_at_most=1.0)):
        with pytest.raises(DataError, match="infinite"):
            run(kind, xs[1:])


CONSTANT = {
    "quantile": 0, "zscore": 0, "robust_zscore": 0, "rarity": 0, "recency": 0, "linear": 0, "identity": 3,
    "proportional": 0.25, "softmax": 0.25, "entmax": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("word", CONSTANT)
def test_a_constant_key(word):
    for xs in ([3.0] * 4, [3.0]):
        column = pl.Series(xs)
        want = CONSTANT[word] if len(xs) == 4 or CONSTANT[word] != 0.25 else 1
        kind = {**WEIGHTS, **SCORES}[word](**AT_INFINITE.get(word, {}))
        assert weighed(kind, Rows(tensor(xs), column=column)).tolist() == [want] * len(xs)


# The laws over frames: whole rules, of all kinds at once


def rule(kind, name):
    """The rule of a job file that does no more than this kind."""
    said = parameters(kind)
    match kind:
        case Score() | Weight():
            said = {"kind": WORDS[type(kind)], **said}
            entry = {"score" if isinstance(kind, Score) else "weight": said}
        case Clip():
            entry = {"clip": [kind.low, kind.high]}
        case Share():
            entry = {"weight": {"kind": "proportional"}, "keep": {"min": 1e-3}}
        case Keep() | Scale():
            entry = {type(kind).__name__.lower(): said}
        case _:
            raise AssertionError(f"{name}: no entry of a rule is known for this sort of kind")
    if not getattr(kind, "keyless", False):
        entry["key"] = {pl.Float64: "x", pl.Datetime("us"): "t"}.get(dtype_of(kind), "v")
    return {"name": name, "apply": "weights", **entry}


RULES = [rule(k, name) for k, name in zip(KINDS, NAMES, strict=True)]


def frame(n=300, dtype=pl.Float64, seed=0):
    """x, and the same as vectors v, as moments t and as the column a of the expression; and groups g."""
    r = np.random.default_rng(seed)
    x = pl.Series("x", r.integers(1, 100, n))
    vectors = pl.concat_arr(pl.col("x").cast(dtype), (101 - pl.col("x")).cast(dtype), (pl.col("x") % 7).cast(dtype))
    moments = (pl.col("x") * 3_600_000_000).cast(pl.Datetime("us"))
    groups = pl.Series("g", r.integers(0, 4, n))
    return pl.DataFrame([x, groups]).with_columns(
        pl.col("x").cast(dtype), v=vectors, t=moments, a=pl.col("x").cast(dtype)
    )


def with_missing(f, null, nan):
    """With null where `null` is true, and NaN where `nan` is."""
    x = pl.when(null).then(None).when(nan).then(math.nan)
    parts = [x.otherwise(pl.col("v").arr.get(i)) for i in range(3)]
    return f.with_columns(
        x=x.otherwise("x"),
        a=x.otherwise("a"),
        v=pl.when(null).then(None).otherwise(pl.concat_arr(parts)),
        t=pl.when(null | nan).then(None).otherwise("t"),
    )


def bits(f, over="dataset", **how):
    """The weights of all rules, to the last bit."""
    out = attend(f, [{**entry, "over": over} for entry in RULES], **how)
    return {name: hexed(out[f"{name}_weight"]) for name in NAMES}


def hexed(column):
    return [None if w is None else w.hex() for w in column]


@pytest.mark.parametrize("dtype", [pl.Float32, pl.UInt8, pl.Int16, pl.Int64, pl.Decimal(20, 2)], ids=str)
def test_a_key_of_any_type_is_weighed_as_its_float64(dtype):
    assert bits(frame(dtype=dtype)) == bits(frame())


def test_null_and_nan_take_no_part_and_stay_apart():
    i = pl.int_range(pl.len())
    f = with_missing(frame(), i % 7 == 2, i % 5 == 1)
    whole, there = bits(f), f["x"].is_not_null() & f["x"].is_not_nan()
    alone = bits(f.filter(there))
    for name, entry in zip(NAMES, RULES, strict=True):
        got = pl.Series(name, whole[name])
        assert got.filter(there).to_list() == alone[name], name
        nan = None if entry.get("key") == "t" else "nan"  # a moment is never NaN
        assert got.filter(~there).to_list() == [nan if v is not None else None for v in f["x"].filter(~there)], name


def test_groups_are_tables_of_their_own():
    """Among them one without a key, one that is null, and groups of one row."""
    f = with_missing(frame(), pl.col("g") == 2, pl.int_range(pl.len()) % 29 == 4)
    f = f.with_columns(g=pl.when(pl.int_range(pl.len()) < 3).then(pl.int_range(pl.len()) + 10).otherwise("g"))
    f = f.with_columns(g=pl.when(pl.col("g") == 3).then(None).otherwise("g")).with_row_index("i")
    whole = bits(f, {"group": ["g"]})
    for _, part in f.group_by("g"):
        alone = bits(part)
        assert {name: [whole[name][i] for i in part["i"]] for name in NAMES} == alone
        if part["g"][0] == 2:
            assert all(set(ws) == {None} for ws in alone.values())


@pytest.mark.parametrize("n", [0, 1, 5])
def test_where_every_key_is_missing_there_is_no_weight(n):
    f = with_missing(frame(n), pl.lit(True), pl.lit(False))
    assert bits(f) == bits(f, {"group": ["g"]}) == {name: [None] * n for name in NAMES}


def test_cut_into_files_in_chunks_and_with_workers(tmp_path):
    """One job of every kind, over the dataset and over groups, as a YAML file."""
    i = pl.int_range(pl.len())
    f = with_missing(frame(), i % 11 == 2, i % 13 == 1)
    grouped = [{**entry, "name": f"g.{entry['name']}", "over": {"group": ["g"]}} for entry in RULES]
    job = {"name": "every", "source": {"path": "in"}, "sink": {"path": "out"}, "attention": [*RULES, *grouped]}
    one, many = bits(f), bits(f, {"group": ["g"]})
    want = one | {f"g.{name}": ws for name, ws in many.items()}
    cuts = [0, 1, 130, 130, 300]
    (tmp_path / "in").mkdir()
    YAML(typ="safe").dump(job, tmp_path / "job.yaml")
    for k, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False)):
        f[a:b].write_parquet(tmp_path / "in" / f"{k}.parquet")
    run_job(tmp_path / "job.yaml", ["chunk_rows=80", "workers=2"])
    out = pl.concat([pl.read_parquet(p) for p in sorted((tmp_path / "out").glob("*.parquet"))])
    assert {name: hexed(out[f"{name}_weight"]) for name in want} == want


# Its entry in a job file, and what it says of itself


@every_entry
def test_its_entry_survives_yaml(kind, tmp_path):
    job = {"name": "j", "source": {"path": "in"}, "sink": {"path": "out"}, "attention": [rule(kind, "r")]}
    YAML(typ="safe").dump(job, tmp_path / "job.yaml")
    read = load(tmp_path / "job.yaml", Job).value.attention[0]
    assert kind in read.kinds(read.score)


@every_entry
def test_its_entry_survives_json(kind):
    assert type(kind).model_validate_json(kind.model_dump_json(exclude_unset=True)) == kind


@every_entry
def test_its_entry_is_what_its_json_schema_allows(kind):
    schema = jsonschema.Draft202012Validator(type(kind).model_json_schema())
    said = {**parameters(kind)} | ({"kind": WORDS[type(kind)]} if type(kind) in WORDS else {})
    assert schema.is_valid(plain(said))
    assert not schema.is_valid(plain({**said, "nonsense": 1}))
    for name, value in plain(said).items():
        assert not schema.is_valid(plain({**said, name: {"no": [value]}})), name


def test_a_job_of_all_of_them_is_what_its_json_schema_allows():
    schema = jsonschema.Draft202012Validator(Job.model_json_schema())
    job = {"name": "j", "source": {"path": "in"}, "sink": {"path": "out"}, "attention": RULES}
    schema.validate(plain(job))
    for entry in RULES:
        for where in {"score", "weight", "keep", "scale"} & entry.keys():
            wrong = {**entry, where: {**entry[where], "nonsense": 1}}
            assert not schema.is_valid(plain({**job, "attention": [wrong]}))


def plain(value):
    """Tuples as lists, which is what a file has."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def said_of(kind):
    """Its own docstring, with that of the kind whose parameters it shares."""
    own = inspect.cleandoc(vars(kind).get("__doc__") or "")
    of = re.search(r"those\s+of\s+(\w+)", own)
    return own + (f"\n{said_of(SCORES[of[1]])}" if of and of[1] in SCORES else "")


def catalogued():
    """Formula and source of each kind in the catalogue, by class."""
    found = {}
    for sort, kinds in (("Scores", SCORES), ("Weights", WEIGHTS)):
        table = README.split(f"\n{sort} (step")[1].split("\n\n")[1]
        for line in table.splitlines()[2:]:
            word, *_, formula, _, source = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
            found[kinds[word.strip("`")]] = (formula, source)
    return found


@pytest.mark.parametrize("kind", sorted(defined(), key=str), ids=lambda k: f"{k.__module__}.{k.__name__}")
def test_its_docstring_says_formula_parameters_and_source(kind):
    doc = said_of(kind)
    assert re.match(r"\S.{15,}", doc)
    for name in kind.model_fields:
        assert name == "kind" or re.search(rf"\b{name}\b", doc), f"nothing is said of {name}"
    if kind in WORDS:
        formula, source = catalogued()[kind]
        assert formula and FORMULA.search(doc), "no formula"
        for word in re.findall(r"[A-Z]\w+|\d{4}|scikit-learn", source):
            assert word in doc, f"the catalogue names {source}"
        assert re.search(r"\bSource: \S", doc), "no source"


FORMULA = re.compile(r"[=/^·−∑Σ]|\b(x|s|k|0|1)\b|SQL")


# Teeth: what breaks a law must be caught


class Broken(Weight[None]):
    """A kind that is fine: each of those below breaks it in one way."""

    def __call__(self, rows, known):
        return rows.x * 2


class PerChunk(Broken):
    """A softmax normalised per chunk."""

    def __call__(self, rows, known):
        return torch.softmax(rows.x, 0)


class ByPlace(Broken):
    """A row that knows where it stands in its chunk."""

    def __call__(self, rows, known):
        return rows.x + torch.arange(len(rows.x)) % 2


@dataclass(frozen=True)
class FloatSums:
    """Σx and Σx² as floats, whose order shows."""

    sums: torch.Tensor

    def __add__(self, other):
        return FloatSums(self.sums + other.sums)


class Squares(Question[FloatSums]):
    def of(self, rows):
        x = rows.present().x
        return FloatSums(torch.stack([x.sum(), (x * x).sum()]))


class Variance(Broken):
    """A variance from a difference of float sums."""

    def fit(self):
        sums = (yield Squares()).sums
        return sums[1:] - sums[:1] ** 2

    def __call__(self, rows, known):
        return rows.x * known


class OverAll(Broken):
    """An extent that does not know of groups."""

    def fit(self):
        class Everywhere(Extent):
            def of(self, rows):
                return super().of(replace(rows.present(), ids=None, size=1))

        return (yield Everywhere()).high

    def __call__(self, rows, known):
        return rows.x - known


class Counting(Broken):
    """A sum over what is missing too."""

    def fit(self):
        class All(Sum):
            def of(self, rows):
                return super().of(replace(rows, x=rows.x.nan_to_num(0, 9, -9), ok=None))

        return (yield All()).value()

    def __call__(self, rows, known):
        return rows.x / rows.at(known)


class Threads(Broken):
    """What is otherwise with more threads."""

    def __call__(self, rows, known):
        return rows.x + torch.get_num_threads()


class Sample(Broken):
    """A deviation over n − 1."""

    def __call__(self, rows, known):
        return rows.x / (len(rows.x) - 1)


class Positions(Broken):
    """Equal keys by the place that they stand at."""

    def __call__(self, rows, known):
        return rows.x + rows.position()


class Unbounded(Broken):
    """inf − inf."""

    def fit(self):
        return (yield Largest()).high

    def __call__(self, rows, known):
        return rows.x - rows.at(known)


class Unequal(Broken):
    """Asks something else each time."""

    def fit(self):
        class About(Term):
            at: float

            def term(self, rows):
                return rows.x

        yield About(at=random.random())


class Rounded(Broken):
    """A parameter that loses its digits on the way."""

    digits: Annotated[float, PlainSerializer(lambda v: round(v, 1))] = 0.123


class Silent(Broken):
    __doc__ = None


TEETH = [
    (PerChunk, test_a_row_is_the_same_wherever_it_stands, {"step": 7}),
    (ByPlace, test_a_row_is_the_same_wherever_it_stands, {"step": 7}),
    (Variance, test_no_cut_and_no_order_shows, {}),
    (Unequal, test_it_asks_the_same_again, {}),
    (OverAll, test_a_group_equals_a_table_of_its_own, {}),
    (Counting, test_what_is_missing_takes_no_part, {}),
    (Threads, test_threads_do_not_show, {}),
    (Sample, test_empty_and_one_row, {"n": 1}),
    (Positions, test_equal_keys_are_weighed_alike, {"value": 0.7}),
    (Unbounded, test_an_infinite_key_is_refused_or_compared_as_itself, {"infinite": math.inf}),
    (lambda: Rounded(digits=0.123), test_its_entry_survives_json, {}),
]


@pytest.mark.parametrize(("kind", "law", "how"), TEETH, ids=[law.__name__[5:] for _, law, _ in TEETH])
def test_laws_have_teeth(kind, law, how):
    law(Broken(), **how)
    with pytest.raises(AssertionError):
        law(kind(), **how)


def test_the_law_of_docstrings_has_teeth():
    with pytest.raises(AssertionError):
        test_its_docstring_says_formula_parameters_and_source(Silent)


def test_a_kind_that_no_family_names_is_found(monkeypatch):
    class Forgotten(Broken):
        pass

    assert Forgotten not in defined()
    monkeypatch.setattr(Forgotten, "__module__", "attention_core.weights.forgotten")
    assert Forgotten in defined()


# A few of them one by one


def test_the_example_of_the_text():
    score = run(SCORES["threshold"](above=5), [1, 6, 3, 7, 2, 5, 9])
    weight = run(WEIGHTS["step"](high=2, low=1), score.tolist())
    assert weight.tolist() == [1, 2, 1, 2, 1, 1, 2]
    assert (weight * tensor([1, 6, 3, 7, 2, 5, 9])).tolist() == [1, 12, 3, 14, 2, 5, 18]


@pytest.mark.parametrize("scale", [1e-300, 1e-5, 1.0, 1e150, 1e300])
def test_zscore_at_any_scale(scale):
    x = np.random.default_rng(0).normal(3, 1, 1000)
    want = np.abs(x - x.mean()) / x.std()
    np.testing.assert_allclose(run(SCORES["zscore"](), (x * scale).tolist()).numpy(), want, rtol=1e-9)


def test_zscore_of_far_numbers_and_of_a_constant():
    x = np.random.default_rng(1).normal(1e9, 1, 1000)
    np.testing.assert_allclose(
        run(SCORES["zscore"](absolute=False), x.tolist()).numpy(), (x - x.mean()) / x.std(), atol=1e-6
    )
    assert run(SCORES["zscore"](), [0.1] * 7).tolist() == [0.0] * 7


@pytest.mark.parametrize(("middle", "passes"), [(0, 1), (3.5, 1), (-3.5, 1), (5, 2), (1e9, 2), (-1e7, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-160, 2.0**-1060, 1e155])
def test_zscore_is_exact_where_it_takes_one_pass_and_where_two(middle, passes, scale):
    x = tensor((np.random.default_rng(2).normal(0, 1, 200) + middle).tolist()) * (scale if abs(middle) < 1e6 else 1.0)
    exact = [Fraction(v) for v in x.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / len(exact)
    asked, rows = [], Rows(x)
    known = fitted(SCORES["zscore"](), [rows], asked)
    width = Fraction(float(known.width))
    assert abs(width**2 - variance) <= variance * Fraction(2) ** (-44 if scale > 1e-300 else -8)
    assert len(asked) == (passes if scale == 1.0 else 2)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 50.0])
def test_softmax_is_torchs_and_scipys(temperature):
    x = torch.randn(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 10
    got = run(WEIGHTS["softmax"](temperature=temperature), x.tolist())
    torch.testing.assert_close(got, torch.softmax(x / temperature, 0), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(got.numpy(), scipy.special.softmax(x.numpy() / temperature), rtol=1e-11)


def test_softmax_asks_again_where_scores_lie_far_from_zero_and_there_alone():
    softmax = WEIGHTS["softmax"](temperature=2.0)
    x = torch.randn(5, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 3
    x += tensor([0.0, 1e6, -40.0, 110.0, -1e300])[:, None]
    asked, together = [], Rows(x.reshape(-1), ids=torch.arange(5).repeat_interleave(400), size=5)
    known = fitted(softmax, [together], asked)
    got = softmax(together, known).reshape(5, 400)
    torch.testing.assert_close(got, torch.softmax(x / 2, 1), rtol=1e-13, atol=1e-300)
    assert len(asked) == 2 and known.centre.tolist() == [0.0, float(x[1].max()), float(x[2].max()), 0.0, -1e300]
    for i, passes in enumerate((1, 2, 2, 1, 2)):
        asked, alone = [], Rows(x[i])
        assert torch.equal(softmax(alone, fitted(softmax, [alone], asked)), got[i]) and len(asked) == passes


def test_softmax_keeps_its_smallest_weights():
    for middle in (0.0, -64.0, -3.0, 60.0):
        x = tensor([0.0, -600.0, -680.0, -700.0]) + middle
        want = [1.0, math.exp(-600), math.exp(-680), math.exp(-700)]
        np.testing.assert_allclose(run(WEIGHTS["softmax"](), x.tolist()).numpy(), want, rtol=1e-13)


def test_softmax_of_infinite_scores():
    assert run(WEIGHTS["softmax"](), [-math.inf, 0.0]).tolist() == [0.0, 1.0]
    assert run(WEIGHTS["softmax"](), [-math.inf] * 2).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match=r"\+inf has no softmax"):
        run(WEIGHTS["softmax"](), [1.0, math.inf])


@pytest.mark.parametrize("kind", [SCORES["zscore"](), WEIGHTS["linear"](), WEIGHTS["proportional"](), Scale(mean=1.0)])
def test_an_infinite_key_is_an_error_for_a_sum_or_an_extent(kind):
    with pytest.raises(DataError, match="infinite"):
        run(kind, [1.0, math.inf])


def test_plain_weights():
    assert run(WEIGHTS["exponential"](half_life=30), [0.0, -30.0, -60.0]).tolist() == pytest.approx([1, 0.5, 0.25])
    assert run(WEIGHTS["linear"](low=1, high=3), [0.0, 5.0, 10.0]).tolist() == [1, 2, 3]
    assert run(WEIGHTS["linear"](low=1, high=3), [4.0, 4.0]).tolist() == [1, 1]
    assert run(WEIGHTS["proportional"](), [1.0, 3.0]).tolist() == [0.25, 0.75]
    assert run(WEIGHTS["proportional"](), [0.0] * 4).tolist() == [0.25] * 4
    assert sum(run(WEIGHTS["proportional"](), [1e308] * 4).tolist()) == 1.0
    with pytest.raises(DataError, match="negative"):
        run(WEIGHTS["proportional"](), [1.0, -1.0])


def test_recency_counts_from_the_latest_key():
    day = 8.64e10
    score = SCORES["recency"]().bound(pl.Datetime("us"))
    assert run(score, [0.0, day, 3 * day]).tolist() == [-3, -2, 0]


def test_recency_of_a_now_and_an_offset():
    assert run(SCORES["recency"](now=5.0), [3.0, 4.5, 6.0]).tolist() == [-2, -0.5, 0]
    assert run(SCORES["recency"](now=5.0, offset=1.0), [3.0, 4.5, 6.0]).tolist() == [-1, 0, 0]
    assert run(SCORES["recency"](offset=1.0), [3.0, 4.5, 6.0]).tolist() == [-2, -0.5, 0]
    hours = SCORES["recency"](unit="hours").bound(pl.Datetime("us"))
    assert run(hours, [0.0, 3.6e9, 7.2e9]).tolist() == [-2, -1, 0]


def test_scales():
    assert run(Scale(mean=1.0), [1.0, 3.0]).tolist() == [0.5, 1.5]
    assert run(Scale(sum=8.0), [1.0, 3.0]).tolist() == [2, 6]
    assert run(Scale(max=1.0), [1.0, 4.0]).tolist() == [0.25, 1]
    assert run(Scale(sum_at_most=2.0), [1.0, 3.0]).tolist() == [0.5, 1.5]
    assert run(Scale(sum_at_most=9.0), [1.0, 3.0]).tolist() == [1, 3]
    with pytest.raises(DataError, match="it is 0"):
        run(Scale(mean=1.0), [0.0, 0.0])
