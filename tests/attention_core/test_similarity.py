"""The similarity kinds against torch's own, over every form that a vector and a query can have."""

import math
import pickle

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

from attention_core.attention import attend, passes, resolved
from attention_core.contract import Rows, conclude
from attention_core.errors import DataError, JobError
from attention_core.frozen import digest
from attention_core.job import Job, Rule
from attention_core.jobfile import load
from attention_core.scores.similarity import Additive, Cosine, Dot, Euclidean, OfEach, ScaledDot, total

KINDS = {"dot": Dot, "scaled_dot": ScaledDot, "cosine": Cosine, "euclidean": Euclidean}
D = 5
QUERY = [0.5, -1.0, 2.0, 0.0, 3.0]


def frame(n=400, seed=0, dtype=pl.Float64):
    r = np.random.default_rng(seed)
    e, q = r.normal(1, 2, (n, D)), r.normal(0, 1, (n, D))
    arrays = pl.Series("e", e.tolist(), dtype=pl.Array(pl.Float64, D)).cast(pl.Array(dtype, D))
    out = pl.DataFrame({"e": arrays, "q": pl.Series(q.tolist(), dtype=pl.Array(pl.Float64, D)), "g": np.arange(n) % 3})
    return out.with_columns(
        *(out["e"].arr.get(i).alias(f"e{i}") for i in range(D)), l=out["e"].arr.to_list(), id=pl.int_range(n) * 10
    )


def matrix(column):
    return torch.tensor(column.to_list(), dtype=torch.float64)


def weights(f, score, chunk_rows=None, key="e", **rule):
    rule = {"name": "r", "key": key, "apply": "weights", "score": score, **rule}
    return attend(f, [rule], chunk_rows=chunk_rows)["r_weight"].to_list()


def oracle(kind, k, q):
    """By torch: q (d,) or (n, d)."""
    q = q.expand_as(k)
    match kind:
        case "dot":
            return (k[:, None] @ q[:, :, None])[:, 0, 0]
        case "scaled_dot":  # with identities for values, attention shows its softmax, and that its scores
            shown = [
                torch.nn.functional.scaled_dot_product_attention(
                    one[None], torch.stack([a, torch.zeros_like(a)]), torch.eye(2, dtype=torch.float64)
                )[0].log()
                for one, a in zip(q, k, strict=True)
            ]
            return torch.stack([s[0] - s[1] for s in shown])
        case "cosine":
            return torch.cosine_similarity(k, q)
        case "euclidean":
            return -(torch.stack([torch.cdist(a[None], b[None])[0, 0] for a, b in zip(k, q, strict=True)]) ** 2) / 2
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["e", "l", [f"e{i}" for i in range(D)]], ids=["array", "list", "columns"])
@pytest.mark.parametrize("query", [QUERY, {"column": "q"}, "centroid"], ids=["numbers", "column", "centroid"])
def test_against_torch(kind, key, query):
    f = frame()
    k = matrix(f["e"])
    q = {"column": matrix(f["q"]), "centroid": k.mean(0)}.get(
        "centroid" if query == "centroid" else "column" if isinstance(query, dict) else "", torch.tensor(QUERY).double()
    )
    got = weights(f, {"kind": kind, "query": query}, 150, key)
    np.testing.assert_allclose(got, oracle(kind, k, q).numpy(), rtol=1e-9, atol=1e-9)


def test_softmax_of_scaled_dot_is_torchs_attention():
    f = frame()
    k, q = matrix(f["e"]), torch.tensor([QUERY], dtype=torch.float64)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, torch.eye(len(k), dtype=torch.float64))[0]
    got = weights(f, {"kind": "scaled_dot", "query": QUERY}, weight="softmax")
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Int32, pl.Int8, pl.Boolean, pl.Decimal(20, 3)], ids=str)
def test_components_of_any_numeric_type(kind, dtype):
    f = frame(50).select(e=pl.col("e").cast(pl.Array(pl.Int8, D)).cast(pl.Array(dtype, D)))
    k = matrix(f["e"].cast(pl.Array(pl.Float64, D)))
    got = weights(f, {"kind": kind, "query": QUERY})
    want = oracle(kind, k, torch.tensor(QUERY).double()).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over", ["dataset", "batch", {"group": ["g"]}], ids=str)
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("query", [QUERY, {"column": "q"}, "centroid"], ids=["numbers", "column", "centroid"])
def test_scopes_and_chunks(kind, over, standardise, query):
    f = with_holes(frame(60))
    score = {"kind": kind, "query": query, "standardise": standardise}
    whole = weights(f, score, over=over)
    for rows in (3, 25):
        assert_same(weights(f, score, rows, over=over), whole)
    assert_same(weights(f.with_columns(e=pl.col("e").arr.to_list()), score, 3, over=over), whole)
    for _, part in f.with_row_index("i").group_by("g") if isinstance(over, dict) else []:
        alone = weights(part, score)
        assert_same(alone, [whole[i] for i in part["i"]])


def with_holes(f):
    """Null vectors, null and NaN components, zero vectors, and null queries."""
    i = pl.int_range(pl.len())
    nan, null, zero = ([v, 1.0, 2.0, 0.0, 0.5] if v != 0 else [0.0] * D for v in (math.nan, None, 0.0))
    holes = [pl.lit(pl.Series([v], dtype=pl.Array(pl.Float64, D))) for v in (nan, null, zero)]
    e = pl.when(i % 11 == 1).then(None).when(i % 11 == 2).then(holes[0]).when(i % 11 == 3).then(holes[1])
    e = e.when(i % 11 == 4).then(holes[2]).otherwise(pl.col("e"))
    return f.with_columns(e=e, q=pl.when(i % 13 == 5).then(None).otherwise(pl.col("q")))


def assert_same(got, want):
    assert [None if v is None else v.hex() for v in got] == [None if v is None else v.hex() for v in want]


def test_what_is_missing():
    got = weights(with_holes(frame(12)), {"kind": "dot", "query": QUERY})
    assert got[1] is None and math.isnan(got[2]) and got[3] is None and got[4] == 0.0 and got[0] is not None
    got = weights(with_holes(frame(12)), {"kind": "dot", "query": {"column": "q"}})
    assert got[5] is None and got[6] is not None
    got = weights(with_holes(frame(12)), {"kind": "dot", "query": QUERY}, missing=7.0)
    assert got[1:4] == [7.0] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_standardised_is_of_standardised_components(kind):
    f = frame()
    k, q = matrix(f["e"]), matrix(f["q"])
    middle, width = k.mean(0), k.std(0, correction=0)
    got = weights(f, {"kind": kind, "query": {"column": "q"}, "standardise": True})
    want = oracle(kind, (k - middle) / width, (q - middle) / width)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-8, atol=1e-8)
    fit = weights(f, {"kind": kind, "query": {"column": "q"}, "standardise": True}, fit="g = 0")
    taught = k[::3]
    middle, width = taught.mean(0), taught.std(0, correction=0)
    want = oracle(kind, (k - middle) / width, (q - middle) / width)
    np.testing.assert_allclose(fit, want.numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e150, 1e300])
def test_standardised_at_any_scale(scale):
    f = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1e6, 1e6 + 1, 1e6 + 2]}) * scale
    got = weights(f, {"kind": "euclidean", "query": "centroid", "standardise": True}, key=["a", "b"])
    assert got == pytest.approx([-1.5, 0.0, -1.5], rel=1e-6)


def test_a_constant_component_counts_for_nothing():
    f = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.1] * 3})
    with_b = weights(f, {"kind": "dot", "query": [3.0, 9.0], "standardise": True}, key=["a", "b"])
    assert with_b == weights(f, {"kind": "dot", "query": [3.0], "standardise": True}, key=["a"])


def test_cosine_of_zero_vectors_and_at_any_scale():
    f = pl.DataFrame({"a": [0.0, 3.0, 3e-200, 3e300, 5e-324], "b": [0.0, 4.0, 4e-200, 4e300, 0.0]})
    assert weights(f, {"kind": "cosine", "query": [0.0, 0.0]}, key=["a", "b"]) == [0.0] * 5
    for query in ([1.0, 0.0], [1e300, 0.0], [5e-324, 0.0]):
        got = weights(f, {"kind": "cosine", "query": query}, key=["a", "b"])
        assert got == pytest.approx([0.0, 0.6, 0.6, 0.6, 1.0], rel=1e-15)


def test_cosine_of_a_vector_with_itself_is_one():
    f = frame(500)
    assert weights(f, {"kind": "cosine", "query": {"column": "e"}}) == [1.0] * 500
    bound = weights(f.with_columns(q=pl.col("e") * 3.0), {"kind": "cosine", "query": {"column": "q"}})
    assert max(bound) <= 1.0


@pytest.mark.parametrize("score", [{"query": "centroid"}, {"query": QUERY, "standardise": True}], ids=str)
@pytest.mark.parametrize("over", ["dataset", {"group": ["g"]}], ids=str)
def test_where_no_key_taught_there_is_no_weight(score, over):
    assert weights(frame(4), {"kind": "dot", **score}, over=over, fit="g > 9") == [None] * 4


def test_a_number_is_no_query_of_a_longer_key():
    with pytest.raises(JobError, match="the query has 1 components, where 5 are wanted"):
        attend(frame(4), [{"key": "e", "score": {"kind": "dot", "query": {"column": "id"}}, "apply": "weights"}])


def test_infinite_components():
    f = pl.DataFrame({"a": [math.inf, 1.0], "b": [1.0, 1.0]})
    assert weights(f, {"kind": "dot", "query": [1.0, 1.0]}, key=["a", "b"]) == [math.inf, 2.0]
    with pytest.raises(DataError, match="infinite component"):
        weights(f, {"kind": "dot", "query": [0.0, 1.0]}, key=["a", "b"])
    with pytest.raises(DataError, match="infinite component"):
        weights(f, {"kind": "cosine", "query": [0.0, 1.0]}, key=["a", "b"])
    for score in ({"query": "centroid"}, {"query": [1.0, 1.0], "standardise": True}):
        with pytest.raises(DataError, match="infinite key"):
            weights(f, {"kind": "dot", **score}, key=["a", "b"])
    assert weights(f, {"kind": "dot", "query": [0.0, 1.0]}, key=["a", "b"], mask="a < 9") == [None, 1.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", [[1.0, -1.0], {"column": "q"}, "centroid"], ids=["numbers", "column", "centroid"])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_sequence_of_vectors_in_each_row(kind, query, standardise):
    lists = [
        [[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], [], None, [[1.0, None], [2.0, 2.0], None], [[5.0, 1.0]],
        [[math.nan, 1.0], [1.0, 1.0], [0.5, 3.0]],
    ]  # fmt: skip
    f = pl.DataFrame({
        "s": pl.Series(lists, dtype=pl.List(pl.Array(pl.Float64, 2))),
        "v": pl.Series([None if r is None else [1.0] * len(r) for r in lists], dtype=pl.List(pl.Float64)),
        "q": pl.Series([[1.0, 0.0]] * 5 + [[0.0, 1.0]], dtype=pl.Array(pl.Float64, 2)),
    })  # fmt: skip
    rule = {"name": "r", "key": "s", "value": "v", "over": "row", "weight": "softmax",
            "score": {"kind": kind, "query": query, "standardise": standardise}}  # fmt: skip
    got = attend(f, [rule])["r_weight"].to_list()
    assert repr(got) == repr(attend(f, [rule], chunk_rows=1)["r_weight"].to_list())
    assert got[1] == [] and got[2] is None and got[3] == [None, 1.0, None] and got[4] == [1.0]
    assert math.isnan(got[5][0]) and sum(got[5][1:]) == pytest.approx(1)
    k = torch.tensor(lists[0], dtype=torch.float64)
    q = {"centroid": k.mean(0)}.get(query if query == "centroid" else "", torch.tensor([1.0, 0.0]).double())
    if query == [1.0, -1.0]:
        q = torch.tensor(query).double()
    if standardise:
        middle, width = k.mean(0), k.std(0, correction=0)
        k, q = (k - middle) / width, (q - middle) / width
    np.testing.assert_allclose(got[0], torch.softmax(oracle(kind, k, q), 0).numpy(), rtol=1e-9, atol=1e-12)


def test_one_component_is_a_number():
    f = pl.DataFrame({"x": [1, 2, None], "q": [3.0, None, 1.0]})
    assert weights(f, {"kind": "dot", "query": [2.0]}, key="x") == [2.0, 4.0, None]
    assert weights(f, {"kind": "dot", "query": {"column": "q"}}, key="x") == [3.0, None, None]
    lists = pl.DataFrame({"x": [[1.0, 2.0], None]})
    assert weights(lists, {"kind": "dot", "query": [2.0]}, key="x", over="row") == [[2.0, 4.0], None]


@pytest.mark.parametrize("score", [{"query": "centroid"}, {"query": QUERY, "standardise": True}], ids=str)
def test_lists_that_are_all_missing_do_not_say_how_long_they_are(score):
    e = frame(9)["e"].arr.to_list()
    f = pl.DataFrame({"e": pl.Series([None, None, *e.to_list(), None]), "g": [1, 1] + [2] * 9 + [3]})
    for over in ("dataset", {"group": ["g"]}):
        whole = weights(f, {"kind": "dot", **score}, over=over)
        for rows in (1, 2, 3):
            assert_same(weights(f, {"kind": "dot", **score}, rows, over=over), whole)
        assert_same(whole[2:11], weights(f[2:11], {"kind": "dot", **score}, over=over))
    nothing = pl.DataFrame({"e": pl.Series([None, None], dtype=pl.List(pl.Float64))})
    assert weights(nothing, {"kind": "dot", **score}) == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_small_frames(kind):
    for query in (QUERY, "centroid", {"column": "q"}):
        for key in ("e", "l"):
            assert weights(frame(1)[:0], {"kind": kind, "query": query, "standardise": True}, key=key) == []
            one = weights(frame(1), {"kind": kind, "query": query, "standardise": True}, key=key)
            assert one == [0.0]


@pytest.mark.parametrize("d", [1, 2, 3, 8, 17, 64, 129])
@pytest.mark.parametrize("kind", [*KINDS, "additive"])
def test_a_row_is_the_same_wherever_it_stands(kind, d, tmp_path):
    g = torch.Generator().manual_seed(d)
    x, q = (torch.randn(501, d, dtype=torch.float64, generator=g) for _ in range(2))
    if kind == "additive":
        saved(tmp_path / "p", torch.randn(4, d, generator=g), torch.randn(4, d, generator=g), torch.ones(4))
        score = Additive(query={"column": "q"}, parameters=str(tmp_path / "p")).bound(pl.Array(pl.Float64, d))
    else:
        score = KINDS[kind](query={"column": "q"})
    whole = score(Rows(x, query=q), None)
    for step in (1, 2, 7, 97):
        parts = [score(Rows(x[i : i + step].clone(), query=q[i : i + step].clone()), None) for i in range(0, 501, step)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_sum_by_halves():
    for d in (0, 1, 2, 3, 7, 64, 1000):
        x = torch.randn(9, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
        want = [math.fsum(row) for row in x.tolist()]
        assert total(x.clone()).tolist() == pytest.approx(want, rel=1e-12, abs=1e-13)


def saved(path, W_k, W_q, v, **more):
    safetensors.torch.save_file({"W_k": W_k, "W_q": W_q, "v": v, **more}, path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_additive_is_a_layer_of_torchs(dtype, tmp_path):
    g = torch.Generator().manual_seed(0)
    W_k, W_q, v = (torch.randn(s, generator=g).to(dtype) for s in ((6, D), (6, 2), (6,)))
    score = {"kind": "additive", "query": [0.3, -2.0], "parameters": saved(tmp_path / "p", W_k, W_q, v)}
    f = frame()
    k, q = matrix(f["e"]), torch.tensor([0.3, -2.0], dtype=torch.float64)
    want = torch.tanh(k @ W_k.double().T + q @ W_q.double().T) @ v.double()
    np.testing.assert_allclose(weights(f, score), want.numpy(), rtol=1e-10, atol=1e-12)
    assert_same(weights(f, score, 7), weights(f, score))


def test_additive_with_other_queries(tmp_path):
    g = torch.Generator().manual_seed(0)
    W_k, W_q, v = (torch.randn(s, generator=g).double() for s in ((6, D), (6, D), (6,)))
    path = saved(tmp_path / "p", W_k, W_q, v)
    f = frame()
    k, q = matrix(f["e"]), matrix(f["q"])
    score = {"kind": "additive", "parameters": path}
    got = weights(f, {**score, "query": {"column": "q"}})
    np.testing.assert_allclose(got, (torch.tanh(k @ W_k.T + q @ W_q.T) @ v).numpy(), rtol=1e-9, atol=1e-11)
    got = weights(f, {**score, "query": "centroid", "standardise": True})
    z = (k - k.mean(0)) / k.std(0, correction=0)
    np.testing.assert_allclose(got, (torch.tanh(z @ W_k.T) @ v).numpy(), rtol=1e-9, atol=1e-11)


def test_what_additive_refuses(tmp_path):
    f, ok = frame(9), (torch.ones(2, D), torch.ones(2, 3), torch.ones(2))

    def refused(says, query=(1.0, 2.0, 3.0), **more):
        with pytest.raises(JobError, match=says) as caught:
            weights(f, {"kind": "additive", "query": query, "parameters": str(tmp_path / "p"), **more})
        assert "\n" not in str(caught.value)

    refused("cannot be read: No such file")
    (tmp_path / "p").write_bytes(b"no such thing")
    refused("not a safetensors file")
    safetensors.torch.save_file({"W_k": ok[0], "w_q": ok[1], "v": ok[2]}, tmp_path / "p")
    refused("no tensor 'W_q'; did you mean 'w_q'")
    saved(tmp_path / "p", torch.ones(3, D), ok[1], ok[2])
    refused(r"W_k \[3, 5\], W_q \[2, 3\], v \[2\]")
    saved(tmp_path / "p", ok[0] * math.nan, ok[1], ok[2])
    refused("not finite")
    saved(tmp_path / "p", torch.ones(2, 4), ok[1], ok[2])
    refused("keys of 4 components, and these have 5")
    saved(tmp_path / "p", *ok)
    refused("query has 2 components, where 3", query=(1.0, 2.0))
    refused("query has 5 components, where 3", query="centroid")
    refused("query has 5 components, where 3", query={"column": "q"})
    refused("as many components", standardise=True)
    with pytest.raises(JobError, match="local folders only"):
        weights(f, {"kind": "additive", "query": [1.0], "parameters": "s3://b/p"})


def table(path, ids, vectors, **more):
    pl.DataFrame({"id": ids, "emb": pl.Series(vectors, dtype=pl.List(pl.Float64)), **more}).write_parquet(path)
    return {"table": str(path), "match": ["id"], "column": "emb"}


def test_queries_from_a_table(tmp_path):
    f = frame(50)
    ids, q = f["id"].to_list(), f["q"].to_list()
    query = table(tmp_path / "t", [*ids[:40][::-1], 7, None, None], [*q[:40][::-1], [0.0] * D, [1.0] * D, None])
    got = weights(f, {"kind": "dot", "query": query})
    assert_same(got[:40], weights(f, {"kind": "dot", "query": {"column": "q"}})[:40])
    assert got[40:] == [None] * 10
    assert_same(weights(f, {"kind": "dot", "query": query}, 7), got)
    wide = pl.read_parquet(tmp_path / "t").select(
        pl.col("id").cast(pl.Int32), *(pl.col("emb").list.get(i).alias(f"c{i}") for i in range(D))
    )
    wide.write_parquet(tmp_path / "w")
    query = {"table": str(tmp_path / "w"), "match": ["id"], "column": [f"c{i}" for i in range(D)]}
    assert_same(weights(f, {"kind": "dot", "query": query}), got)


def test_a_key_without_a_query_teaches_nothing(tmp_path):
    f = frame(50)
    query = table(tmp_path / "t", f["id"].to_list()[:40], f["q"].to_list()[:40])
    score = {"kind": "dot", "query": query, "standardise": True}
    assert_same(weights(f, score)[:40], weights(f[:40], score))


def test_tables_match_texts_of_any_sort(tmp_path):
    f = pl.DataFrame({"k": [1.0, 2.0, 3.0], "u": ["a", "b", None], "w": [1, 1, 1]})
    pl.DataFrame({"u": ["b", "a", None], "w": [1, 1, 1], "q": [5, 7, 9]}).write_parquet(tmp_path / "t")
    query = {"table": str(tmp_path / "t"), "match": ["u", "w"], "column": "q"}
    for dtype in (pl.String, pl.Categorical, pl.Enum(["b", "a"])):
        got = weights(f.with_columns(pl.col("u").cast(dtype)), {"kind": "dot", "query": query}, key="k")
        assert got == [7.0, 10.0, None]


def test_what_a_table_refuses(tmp_path):
    f = frame(9)
    path = tmp_path / "t"
    one = {"table": str(path), "match": ["id"], "column": "emb"}

    def refused(says, query=one):
        with pytest.raises(JobError, match=says) as caught:
            weights(f, {"kind": "dot", "query": query})
        assert "\n" not in str(caught.value) and str(caught.value).startswith("attention[0].score.query")

    refused("cannot be read: No such file")
    path.write_bytes(b"PAR1 no such thing")
    refused(str(path))
    table(path, [1, 2, 1], [[1.0] * D] * 3)
    refused("{'id': 1} is there twice")
    table(path, [1, 2], [[1.0] * D, [1.0]])
    refused("1 to 5 components")
    table(path, [1, 2], [[1.0] * 4] * 2)
    refused(f"the query in {path} has 4 components, where 5")
    refused("no column 'ebm'; did you mean 'emb'", {**one, "column": "ebm"})
    refused("no column 'id2'", {**one, "match": ["id2"]})
    table(path, ["1", "2"], [[1.0] * D] * 2, text=["a", "b"])
    refused(f"'id' is Int64, and String in the table {path}; cast")
    refused("'text' is String and no component", {**one, "column": "text"})
    table(path, [1, 2], [[1.0] * D] * 2, u=[1, 2])
    refused("no column 'u'", {**one, "match": ["u"]})


def test_queries_that_do_not_fit_the_key():
    f = frame(9)
    for query in ([1.0, 2.0], {"column": "two"}):
        with pytest.raises(JobError, match="query has 2 components, where 5"):
            weights(f.with_columns(two=pl.concat_arr("e0", "e1")), {"kind": "dot", "query": query})
    for key, query in (("l", [1.0, 2.0]), ("e", {"column": "two"})):
        with pytest.raises(DataError, match="query has 2 components, where 5"):
            weights(f.with_columns(two=pl.concat_list("e0", "e1")), {"kind": "dot", "query": query}, key=key)
    with pytest.raises(JobError, match="no column 'p'"):
        weights(f, {"kind": "dot", "query": {"column": "p"}})
    with pytest.raises(JobError, match="'t' is String, where a vector of numbers"):
        weights(f.with_columns(t=pl.lit("a")), {"kind": "dot", "query": {"column": "t"}})
    for query in ("centre", [], [math.inf], {"table": "t"}, 3):
        with pytest.raises(JobError, match=r"^attention\[0\]"):
            weights(f, {"kind": "dot", "query": query})


def test_keys_that_are_no_vectors():
    f = frame(9).with_columns(t=pl.lit("a"), s=pl.struct("e0"), n=pl.Series([[[1.0]]] * 9))
    for key in ("t", "s", "n"):
        with pytest.raises(JobError, match="compares vectors"):
            weights(f, {"kind": "dot", "query": QUERY}, key=key)
    with pytest.raises(JobError, match="stand in a List of Array"):
        weights(f, {"kind": "dot", "query": QUERY}, over="row")
    ragged = pl.DataFrame({"e": [[1.0, 2.0], [1.0]]})
    with pytest.raises(DataError, match="1 to 2 components"):
        weights(ragged, {"kind": "dot", "query": [1.0, 1.0]})
    with pytest.raises(DataError, match="components"):
        weights(ragged, {"kind": "dot", "query": "centroid"}, 1)


def test_passes():
    schema = {"e": pl.Array(pl.Float64, 3)}
    for query, standardise, want in (([1.0] * 3, False, 0), ("centroid", False, 1), ("centroid", True, 1)):
        rule = Rule(key="e", apply="weights", score={"kind": "dot", "query": query, "standardise": standardise})
        assert passes(resolved([rule], schema), schema) == want


def test_what_is_known_is_picked_by_segment():
    x = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 9  # two passes
    ids = torch.arange(60) % 4
    score = Dot(query="centroid", standardise=True)
    asked = []

    def ask(question, ids=ids, size=4):
        asked.append(question)
        return question.of(Rows(x, None, ids, size))

    known = conclude(score.fit(), ask)
    pick = torch.tensor([2, 0])
    picked = asked[1].picked(pick)
    assert isinstance(picked, OfEach)
    two = [i for i in range(60) if ids[i] in (0, 2)]
    own = Rows(x[two], None, (ids[two] == 0).long(), 2)
    here = conclude(score.fit(), lambda q: q.of(own))
    assert digest(here) == digest(known.picked(pick))
    want = asked[1].of(Rows(x, None, ids, 4)).state.value().reshape(4, 3)[pick]
    assert torch.equal(picked.of(own).state.value().reshape(2, 3), want)


def test_the_bytes_of_its_files_are_part_of_it_and_their_place_is_not(tmp_path):
    def bound(name, v):
        (tmp_path / name).mkdir(exist_ok=True)
        path = saved(tmp_path / name / "p", torch.ones(2, 3), torch.ones(2, 1), torch.full((2,), v))
        return Additive(query=[1.0], parameters=path).bound(pl.Array(pl.Float64, 3))

    assert bound("a", 1.0) == bound("b", 1.0) != bound("a", 2.0)
    query = table(tmp_path / "t", [1], [[1.0] * 3])
    one = Dot(query=query).bound(pl.Array(pl.Float64, 3))
    table(tmp_path / "t", [1], [[2.0] * 3])
    assert one != Dot(query=query).bound(pl.Array(pl.Float64, 3))
    f = pl.DataFrame({"id": [1]})
    assert pickle.loads(pickle.dumps(one)).queries(f).to_list() == [[1.0] * 3]
    again = one.bound(pl.Array(pl.Float64, 3))
    assert again == one and again.queries(f).to_list() == [[1.0] * 3]


def test_files_are_relative_to_the_job_file(tmp_path):
    (tmp_path / "jobs").mkdir()
    table(tmp_path / "t.parquet", [1], [[1.0]])
    (tmp_path / "jobs" / "job.yaml").write_text("""
name: j
source: {path: in}
sink: {path: out}
attention:
  - key: e
    apply: weights
    score: {kind: dot, query: {table: ../t.parquet, match: [id], column: emb}}
  - key: e
    name: a
    apply: weights
    score: {kind: additive, query: centroid, parameters: p.safetensors}
""")
    job = load(tmp_path / "jobs" / "job.yaml", Job).value
    assert job.attention[0].score.query.table == str(tmp_path / "t.parquet")
    assert job.attention[1].score.parameters == str(tmp_path / "jobs" / "p.safetensors")
