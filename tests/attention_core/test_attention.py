"""`attend` on frames: the example of the text, the laws of chunks, and what is missing."""

import math
import random

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from attention_core.attention import FramePart, Look, attend
from attention_core.errors import DataError, JobError
from attention_core.frozen import Frozen
from attention_core.job import Rule
from attention_core.kinds import Score, Weight
from attention_core.questions import Extent

RULES = [
    {"key": "a", "score": {"kind": "threshold", "above": 0.5}, "weight": "step"},
    {"name": "zg", "key": "b", "over": {"group": ["g", "h"]}, "score": "zscore", "weight": "softmax",
     "apply": "weights"},
    {"key": "t", "value": "a", "score": "recency", "weight": {"kind": "exponential", "half_life": 30}, "name": "rec"},
    {"name": "both", "key": ["a", "b"], "score": "zscore", "mask": "a < 2", "fit": "b > 0"},
    {"name": "row", "key": {"match": "^[ab]$"}, "over": "row", "weight": "softmax"},
    {"name": "kept", "key": "b", "missing": 0.0, "weight": {"kind": "linear"}, "apply": "none"},
    {"name": "mix", "score": {"kind": "expression", "sql": "zg_weight * rec_weight + kept_weight"},
     "scale": {"mean": 1.0}, "apply": "weights"},
    {"name": "onmix", "key": "mix_weight", "over": {"group": ["g"]}, "score": "zscore", "apply": "weights"},
]  # fmt: skip


def frame(n=2000, seed=0):
    r = np.random.default_rng(seed)
    b = [None if u < 0.1 else math.nan if u < 0.15 else v for u, v in zip(r.random(n), r.normal(size=n), strict=True)]
    return pl.DataFrame(
        {
            "a": r.normal(1, 3, n),
            "b": pl.Series(b, dtype=pl.Float64, strict=False),
            "g": [["x", "y", None][i] for i in r.integers(0, 3, n)],
            "h": r.integers(0, 9, n),
            "t": pl.Series(r.integers(0, 10**9, n)).cast(pl.Datetime("ms")),
            "s": r.normal(size=n).astype("f4"),
        },
        nan_to_null=False,
    )


def bits(f):
    """Frames compared with NaN and the sign of zero seen."""
    return {c: [None if v is None else float(v).hex() for v in f[c]] for c in f.columns if f[c].dtype.is_float()}


def test_the_example_of_the_text():
    out = attend(
        pl.DataFrame({"x": [1, 6, 3, 7, 2, 5, 9]}),
        [{"key": "x", "score": {"kind": "threshold", "above": 5}, "weight": {"kind": "step", "high": 2, "low": 1}}],
    )
    assert out["x_weight"].to_list() == [1, 2, 1, 2, 1, 1, 2]
    assert out["x_weighted"].to_list() == [1, 12, 3, 14, 2, 5, 18]
    assert out["x"].to_list() == [1, 6, 3, 7, 2, 5, 9]


def test_the_example_as_one_row():
    values = [1, 6, 3, 7, 2, 5, 9]
    row = pl.DataFrame({f"s{i}": [v] for i, v in enumerate(values)})
    rule = {"name": "n", "key": {"match": "^s"}, "over": "row", "score": {"kind": "threshold", "above": 5},
            "weight": "step"}  # fmt: skip
    out = attend(row, [rule])
    assert [out[f"s{i}_weighted"].item() for i in range(7)] == [1, 12, 3, 14, 2, 5, 18]
    assert [out[f"n_s{i}_weight"].item() for i in range(7)] == [1, 2, 1, 2, 1, 1, 2]


@pytest.mark.parametrize("rows", [1, 7, 997])
def test_chunks_do_not_show(rows):
    f = frame(150 if rows == 1 else 2000)
    rules = RULES[:4] + [{**RULES[4], "rename": {"weighted": "{value}_row"}}] + RULES[5:]
    rules[2] = {**rules[2], "rename": {"weighted": "{value}_rec"}}
    rules[3] = {**rules[3], "rename": {"weighted": "{value}_both"}}
    assert bits(attend(f, rules, chunk_rows=rows)) == bits(attend(f, rules))


def test_the_order_of_rows_does_not_show_in_a_scope():
    f = frame().with_row_index("i")
    order = list(range(f.height))
    random.Random(0).shuffle(order)
    rules = [RULES[1]]
    assert bits(attend(f, rules)) == bits(attend(f[order], rules).sort("i"))


def test_group_softmax_is_polars_own():
    f = frame().filter(pl.col("b").is_not_null() & pl.col("b").is_not_nan())
    out = attend(f, [{"key": "b", "over": {"group": ["g"]}, "weight": "softmax", "apply": "weights"}])
    e = f.select((pl.col("b") - pl.col("b").max().over("g")).exp()).to_series()
    want = pl.DataFrame({"e": e, "g": f["g"]}).select(pl.col("e") / pl.col("e").sum().over("g")).to_series()
    np.testing.assert_allclose(out["b_weight"].to_numpy(), want.to_numpy(), rtol=1e-12)


def test_null_and_nan_stay_apart():
    f = pl.DataFrame({"b": [1.0, None, math.nan, 3.0], "v": [1.0, 1.0, 1.0, None]})
    out = attend(f, [{"key": "b", "value": "v", "weight": "proportional"}])
    assert out["b_weight"].to_list()[:2] == [0.25, None] and math.isnan(out["b_weight"][2])
    assert out["v_weighted"].to_list()[:2] == [0.25, None] and math.isnan(out["v_weighted"][2])
    assert out["v_weighted"][3] is None and out["b_weight"][3] == 0.75


def test_missing_as_a_number_and_as_an_error():
    f = pl.DataFrame({"b": [1.0, None, 3.0]})
    out = attend(f, [{"key": "b", "weight": "proportional", "missing": 9, "scale": {"sum": 8.0}}])
    assert out["b_weight"].to_list() == [2, 9, 6]
    with pytest.raises(DataError, match="rule .b., key .b.: missing keys: 1,"):
        attend(f, [{"key": "b", "missing": "error"}])


def test_mask_and_fit():
    f = pl.DataFrame({"b": [1.0, 2.0, 5.0], "train": [True, True, False]})
    out = attend(f, [{"key": "b", "score": {"kind": "zscore", "absolute": False}, "fit": "train", "apply": "weights"}])
    assert out["b_weight"].to_list() == [-1, 1, 7]
    out = attend(f, [{"key": "b", "weight": "proportional", "mask": "train", "apply": "weights"}])
    assert out["b_weight"].to_list() == [1 / 3, 2 / 3, None]


def test_a_group_that_taught_nothing_is_missing():
    f = pl.DataFrame({"b": [1.0, 2.0, 5.0], "g": ["x", "x", "y"]})
    rule = {"key": "b", "over": {"group": ["g"]}, "weight": "softmax", "fit": "g = 'x'", "apply": "weights"}
    assert attend(f, [rule])["b_weight"].is_null().to_list() == [False, False, True]


@pytest.mark.parametrize("rule", RULES[:3] + RULES[4:6])
@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_one_row_keep_the_schema(rule, n):
    f = frame()
    assert attend(f[:n], [rule]).schema == attend(f, [rule]).schema and attend(f[:n], [rule]).height == n


def test_other_columns_do_not_change_and_float32_stays():
    f = frame()
    out = attend(f, [{"key": "s", "score": "zscore"}])
    assert_frame_equal(out.select(f.columns), f)
    assert out.schema["s_weighted"] == pl.Float32 and out.schema["s_weight"] == pl.Float64


def test_torchs_settings_are_left_as_they_were():
    before = torch.get_num_threads()
    attend(frame(10), RULES[:1])
    assert torch.get_num_threads() == before


def test_a_lazy_frame_comes_back_lazy():
    assert isinstance(attend(frame(10).lazy(), RULES[:1]), pl.LazyFrame)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"key": "aa"}, "no column 'aa'; did you mean 'a'"),
        ({"key": "g", "apply": "weights"}, "scores numbers, and this column is String"),
        (
            {"key": "g", "score": "recency", "apply": "weights"},
            "recency takes dates, times and numbers, and this column",
        ),
        ({"key": "a", "scale": "mean"}, "scale: 'mean' is not a mapping; write {mean: ...}"),
        (
            {"key": "a", "mask": "g = FR"},
            "; a text is written in single quotes, as 'FR'",
        ),
        ({"key": "a", "value": "g"}, "'g' is String and cannot be multiplied"),
        ({"key": "a", "weight": "softmx"}, "softmx"),
        ({"key": "a", "rename": {"weight": "b"}}, "a column 'b' already; rename"),
        ({"name": "e", "score": {"kind": "expression", "sql": "a - AVG(a)"}, "apply": "weights"}, "beyond its row"),
        ({"name": "e", "score": {"kind": "expression", "sql": "a"}}, "needs a value to multiply"),
        ({"key": "a", "score": {"kind": "recency", "unit": "days"}}, "unit is for keys that are times"),
        ({"key": {"match": "^q"}}, "no column matches"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(rule, says):
    with pytest.raises(JobError) as error:
        attend(frame(10), [rule])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_column_that_a_rule_below_makes_is_told():
    below = {"name": "made", "key": "a", "weight": "sigmoid", "apply": "weights"}
    for above in (
        {"key": "made_weight", "apply": "weights"},
        {"name": "e", "score": {"kind": "expression", "sql": "made_weight * 2"}, "apply": "weights"},
    ):
        with pytest.raises(JobError, match="no column 'made_weight' yet: rule 'made' makes it, and must stand above"):
            attend(frame(10), [above, below])
        attend(frame(10), [below, above])


LISTS = pl.DataFrame(
    {"x": [[1.0, 2.0, None], None, [], [math.nan, 3.0], [5.0], [None]], "m": [True] * 4 + [False, True]},
    schema_overrides={"x": pl.List(pl.Float32)},
    nan_to_null=False,
)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_list_shares_attention_among_its_elements(rows):
    out = attend(LISTS, [{"key": "x", "over": "row", "weight": "softmax", "mask": "m"}], chunk_rows=rows)
    e = math.exp(-1)
    assert out["x_weight"].dtype == pl.List(pl.Float64) and out["x_weighted"].dtype == pl.List(pl.Float32)
    weights = out["x_weight"].to_list()
    assert weights[0] == [pytest.approx(e / (1 + e)), pytest.approx(1 / (1 + e)), None]
    assert weights[1:3] == [None, []] and weights[3][1] == 1 and math.isnan(weights[3][0])
    assert weights[4:] == [[None], [None]]
    single = [None if v is None else np.float32(np.float64(v) * w) for v, w in zip([1, 2], weights[0][:2], strict=True)]
    assert out["x_weighted"].to_list()[0] == [*single, None]
    assert out.select("x", "m").equals(LISTS, null_equal=True)


def test_a_list_of_another_length_is_refused():
    f = pl.DataFrame({"x": [[1.0, 2.0]], "y": [[1.0]]})
    with pytest.raises(DataError, match="not as long"):
        attend(f, [{"key": "x", "over": "row", "value": "y"}])


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"key": "x"}, "say over: row"),
        ({"key": "x", "over": "row", "value": "m"}, "multiply a List"),
        ({"key": ["x", "m"], "over": "row"}, "one List"),
    ],
)
def test_what_a_list_cannot_do(rule, says):
    with pytest.raises(JobError, match=says):
        attend(LISTS, [rule])


W = {"apply": "weights"}


def expression(sql, **more):
    return [{"name": "e", "score": {"kind": "expression", "sql": sql}, **W, **more}]


@pytest.mark.parametrize("rows", [1, 2, 10])
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_zeros_and_nans_are_one_group_each(rows, dtype):
    f = pl.DataFrame({"a": [1.0, 2, 3, 4, 5], "g": pl.Series([-0.0, 0.0, math.nan, -math.nan, None], dtype=dtype)})
    out = attend(f, [{"key": "a", "over": {"group": ["g"]}, "scale": {"sum": 1}, **W}], chunk_rows=rows)
    assert out["a_weight"].to_list() == pytest.approx([1 / 3, 2 / 3, 3 / 7, 4 / 7, 1])


def test_a_group_of_one_nan():
    f = pl.DataFrame({"a": [1.0, 3.0], "g": [math.nan] * 2})
    assert attend(f, [{"key": "a", "over": {"group": ["g"]}, "scale": {"sum": 1}, **W}])["a_weight"].to_list() == [
        0.25,
        0.75,
    ]


def test_an_expression_of_no_column_has_a_scope():
    f = pl.DataFrame({"a": [1.0, 2.0]})
    assert attend(f, expression("2.0", scale={"mean": 1}))["e_weight"].to_list() == [1, 1]


def test_rows_that_do_not_teach_are_weighed_by_the_formula():
    f = pl.DataFrame({"a": [0.0, 1.0, 5.0], "t": [True, True, False]})
    out = attend(f, [{"key": "a", "fit": "t", "weight": "softmax", **W}])
    assert out["a_weight"][2] == pytest.approx(math.exp(5) / (1 + math.e))
    for bad, weight, says in ((math.inf, "softmax", "no softmax"), (-3.0, "proportional", "negative")):
        with pytest.raises(DataError, match=says):
            attend(f.with_columns(a=pl.Series([0.0, 1.0, bad])), [{"key": "a", "fit": "t", "weight": weight, **W}])


SMALL = pl.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0], "s": ["x", "y"], "l": [[1], [2]], "d": [1, 2]})


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"key": []}, "empty list"),
        ({"key": "a", "over": {"group": ["s", "s"]}}, "named twice"),
        ({"key": "a", "over": {"group": ["l"]}}, "does not group"),
        ({"key": "a", "value": ["a", "a"]}, "two columns would be called 'a_weighted'"),
        ({"key": "a", "rename": {"weight": "w", "weighted": "w"}}, "two columns would be called 'w'"),
        ({"key": "a", "mask": "a"}, "true or false"),
        ({"key": "a", "missing": math.nan}, "nan"),
        ({"key": "a", "weight": {"kind": "step", "high": math.nan}}, "nan"),
        ({"key": "a", "score": "zscor"}, "did you mean 'zscore'"),
        ({"kye": "a"}, "did you mean 'key'"),
        ({"key": "^a.*$"}, "pattern to Polars"),
        (expression("s")[0], "String, where a number"),
        (expression("s * a")[0], "arithmetic"),
        (expression("a = ANY(b)")[0], "beyond its row"),
        (expression("DATE(s) IS NULL")[0], "write it out"),
        (expression('"now"() IS NULL')[0], "not of the row"),
        (expression("NOW/**/() IS NULL")[0], "not of the row"),
    ],
)
def test_what_a_rule_cannot_say(rule, says):
    with pytest.raises(JobError, match=says):
        attend(SMALL, [rule])


@pytest.mark.parametrize("rules", [5, None, "a", {"key": "a"}, [5]])
def test_rules_are_a_list_of_rules(rules):
    with pytest.raises(JobError):
        attend(SMALL, rules)


def test_a_cast_that_fails_names_the_rule():
    with pytest.raises(DataError, match="rule 'e': conversion"):
        attend(SMALL, expression("CAST(s AS INT)"))


def test_values_beside_one_key_of_a_row():
    out = attend(SMALL, [{"key": ["a"], "value": ["a", "b"], "over": "row"}])
    assert out["b_weighted"].to_list() == [1, 4]


class Ends(Frozen):
    low: torch.Tensor
    high: torch.Tensor


class Stretched(Score[Ends]):
    """A kind of one's own: where the key lies between the least and the greatest of its scope."""

    power: float = 1.0

    def fit(self):
        extent = yield Extent()
        return Ends(low=extent.low, high=extent.high)

    def __call__(self, rows, known):
        low, high = rows.at(known.low), rows.at(known.high)
        return ((rows.x - low) / (high - low)) ** self.power


class Halved(Weight[None]):
    """Another, with nothing to ask."""

    def __call__(self, rows, known):
        return rows.x / 2


@pytest.mark.parametrize("form", [lambda r: r, lambda r: Rule(**r)], ids=["mapping", "object"])
def test_a_kind_of_ones_own(form):
    f = pl.DataFrame({"x": [1.0, 3.0, None, 2.0], "g": [1, 1, 1, 2]})
    rule = form({"key": "x", "score": Stretched(power=2.0), "weight": Halved(), "apply": "weights"})
    assert attend(f, [rule])["x_weight"].to_list() == [0, 0.5, None, 0.125]
    again = attend(f, [rule, {"key": "x_weight", "name": "more", "over": {"group": ["g"]}, "score": Stretched()}])
    assert again["more_weight"].to_list()[:3] == [0, 1, None]
    with pytest.raises(JobError, match="score"):
        attend(f, [{"key": "x", "score": Halved()}])


def test_what_several_keep_while_they_read_stays_within_the_space():
    """Chunks of 80 bytes; the space of five of them, for two parts of four."""
    look = Look((), fitting=True, space=400)
    parts = [FramePart(pl.DataFrame({"x": np.arange(40.0)}), name) for name in "ab"]
    readers, left = [look.chunks(part, ["x"], 10) for part in parts], []
    for one in [0, 1, 0, 1, 0, 1, 0, 1]:
        next(readers[one])
        left.append(look.space)
    assert left == [320, 240, 160, 80, 0, 160, 80, 80]  # the second finds no room for its third, and lets go of two
    assert [next(reader, None) for reader in readers] == [None, None] and list(look.read) == ["a"]
    again = pl.concat(chunk for _, chunk in look.chunks(parts[0], ["x"], 7))
    assert again.equals(parts[0].frame) and look.space == 80
