"""Similarity: the key is a vector, and the score is how near it is to a query."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import polars as pl
import torch
from pydantic import (
    Discriminator,
    Field,
    FiniteFloat,
    PrivateAttr,
    SkipValidation,
    Tag,
    ValidationInfo,
    field_validator,
)
from torch import Tensor

from attention_core.contract import Fit, Question, Rows
from attention_core.errors import DataError, JobError, nearest
from attention_core.frozen import Frozen
from attention_core.kinds import Score
from attention_core.paths import based, content
from attention_core.questions import Count, Sum, both, parts, refused
from attention_core.scores.salience import Spread, ZScore, power_of_two, standardised

QUERY = ("score", "query")


class Beside(Frozen):
    """The query of each row is in a column of its own."""

    column: str


class Table(Frozen):
    """The query of each row is in a Parquet file, in the row where these columns have the same values.

    table: the file; of a table that is read, what stands for its bytes.
    column: one column of vectors, or numeric columns that are the components.
    """

    table: str
    match: Annotated[tuple[str, ...], Field(min_length=1)]
    column: str | Annotated[tuple[str, ...], Field(min_length=1)]
    _rows: pl.DataFrame | None = PrivateAttr(None)
    _file: str = PrivateAttr("")

    @field_validator("table")
    @classmethod
    def _from_its_folder(cls, table: str, info: ValidationInfo) -> str:
        return _local(table, info)

    def read(self) -> Self:
        """The same, with its rows.

        Raises:
            JobError: for a file, a column or a type that it cannot use, or two rows that match the same.
        """
        if self._rows is not None:
            return self
        read, digits = content(self.table, QUERY)
        components = (self.column,) if isinstance(self.column, str) else self.column
        try:
            names = pl.read_parquet_schema(io.BytesIO(read))
            for name in (*self.match, *components):
                if name not in names:
                    raise ValueError(f"no column {name!r}{nearest(name, names)}")
            rows = pl.read_parquet(io.BytesIO(read), columns=list(dict.fromkeys((*self.match, *components))))
            query = _one_vector(rows, components)
            rows = _matched_by(rows, self.match).with_columns(query.alias("query")).drop_nulls(_places(self.match))
            twice = rows.filter(rows[_places(self.match)].is_duplicated())
            if twice.height:
                raise ValueError(f"{dict(zip(self.match, twice.row(0), strict=False))} is there twice")
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise JobError(f"{self.table}: {str(error).splitlines()[0]}", QUERY) from None
        found = self.model_copy(update={"table": digits})
        found._rows, found._file = rows, self.table
        return found

    def of(self, frame: pl.DataFrame) -> pl.Series:
        """The query of each row; null where the table has none.

        Raises:
            ValueError: for a column of another type than the table's.
        """
        assert self._rows is not None
        left, right = _matched_by(frame, self.match), self._rows
        for name, here, there in zip(self.match, left.dtypes, right.dtypes, strict=False):
            if here != there and not (here.is_integer() and there.is_integer()):
                raise ValueError(f"{name!r} is {here}, and {there} in the table {self._file}; cast one of them")
        return left.join(right, on=left.columns, how="left", maintain_order="left")["query"]

    def width(self) -> int:
        """How many components its vectors have."""
        assert self._rows is not None
        dtype = self._rows["query"].dtype
        assert isinstance(dtype, pl.Array)
        return dtype.size


def _sort(query: object) -> str:
    """Which of the two mappings is meant, so that an error speaks of that one alone."""
    return "Table" if isinstance(query, Table) or (isinstance(query, dict) and "table" in query) else "Beside"


Looked = Annotated[Annotated[Beside, Tag("Beside")] | Annotated[Table, Tag("Table")], Discriminator(_sort)]


class Where(Frozen):
    """Where the vectors of each segment lie: (size, d) each; None: not asked."""

    centroid: Tensor | None = None
    spread: Spread | None = None


class Similarity(Score[Where | None]):
    """What the kinds that compare a vector with a query have in common."""

    vector = True
    query: Literal["centroid"] | Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] | Looked
    standardise: bool = False
    _length: int | None = PrivateAttr(None)  # of a query, where it is known

    def beside(self) -> tuple[str, ...]:
        match self.query:
            case Beside():
                return (self.query.column,)
            case Table():
                return self.query.match
        return ()

    def bound(self, dtype: pl.DataType | None) -> Similarity:
        d = self._width(dtype)
        found = self._read(d)
        given = None
        match found.query:
            case tuple():
                given = len(found.query)
            case Table():
                given = found.query.width()
            case "centroid":
                given = d
        if given is not None and found._length not in (None, given):
            whose = f" in {self.query.table}" if isinstance(self.query, Table) else ""
            raise JobError(f"the query{whose} has {given} components, where {found._length} are wanted", QUERY)
        return found

    def _width(self, dtype: pl.DataType | None) -> int | None:
        """How many components a key of this type has; None: its lists say it."""
        inner = _component(dtype)
        if inner is None or not (inner.is_numeric() or inner == pl.Boolean):
            what = "an Array or a List of numbers, or several numeric columns"
            raise ValueError(f"{self.word} compares vectors, {what}, and this column is {dtype}")
        if isinstance(dtype, pl.List):
            return None
        d = dtype.size if isinstance(dtype, pl.Array) else 1
        if d == 0:
            raise ValueError(f"{self.word} compares vectors, and these have no components")
        return d

    def _read(self, d: int | None) -> Self:
        """The same with what its files hold, for keys of d components."""
        query = self.query.read() if isinstance(self.query, Table) else self.query
        found = self.model_copy(update={"query": query})
        found._length = d
        return found

    def queries(self, frame: pl.DataFrame) -> pl.Series | None:
        match self.query:
            case Beside():
                query = frame[self.query.column]
                inner = _component(query.dtype)
                if inner is None or not (inner.is_numeric() or inner == pl.Boolean):
                    raise ValueError(f"{self.query.column!r} is {query.dtype}, where a vector of numbers is wanted")
            case Table():
                query = self.query.of(frame)
            case _:
                return None
        given = query.dtype.size if isinstance(query.dtype, pl.Array) else None if query.dtype == pl.List else 1
        if given is not None and self._length not in (None, given):
            raise ValueError(f"the query has {given} components, where {self._length} are wanted")
        return query

    def fit(self) -> Fit[Where | None]:
        if self.standardise:
            spread, *shape = yield from _each(ZScore().fit())
            spread = Spread(middle=spread.middle.reshape(shape), width=spread.width.reshape(shape))
            return Where(centroid=spread.middle, spread=spread)
        if self.query == "centroid":
            centroid, *shape = yield from _each(_mean())
            return Where(centroid=centroid.reshape(shape))
        return None

    def __call__(self, rows: Rows, known: Where | None) -> Tensor:
        if not (len(rows.x) if rows.ok is None else bool(rows.ok.any())):
            return rows.x.new_zeros(len(rows.x))  # lists that are all null do not say how long they are
        if known is not None and known.centroid is not None and not known.centroid.numel():
            return rows.x.new_zeros(len(rows.x))  # nor do keys of which none taught
        key, query = rows.x, self._asked(rows, known)
        for_key, for_query = self.lengths(key.shape[1])
        _same("a key", key.shape[1], for_key)
        _same("a query", query.shape[1], for_query)
        if known is not None and known.spread is not None:
            _same("a key", key.shape[1], known.spread.middle.shape[1])
            key = standardised(rows, known.spread, absolute=False)
            query = standardised(replace(rows, x=query), known.spread, absolute=False)
        score = self.compared(key, query)
        refused(rows, score.isnan(), f"{self.word} of an infinite component is no number; mask it or leave it out")
        return score

    def _asked(self, rows: Rows, known: Where | None) -> Tensor:
        """The queries: (n, d), or (1, d) for all."""
        if rows.query is not None:
            return rows.query
        if isinstance(self.query, tuple):
            return torch.tensor([self.query], dtype=torch.float64, device=rows.x.device)
        assert known is not None and known.centroid is not None
        return rows.at(known.centroid)

    def lengths(self, d: int) -> tuple[int, int]:
        """How many components a key, and its query, must have where the key has d."""
        return d, d

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        """The scores (n,) of keys (n, d) and their queries, (n, d_q) or (1, d_q)."""
        raise NotImplementedError


class Dot(Similarity):
    """The inner product of query and key: q·k. No pass; one for a centroid, one or two to standardise.

    query: a list of numbers, one for all rows; {column: name}, the row's own; centroid, the mean of the scope's keys;
        or {table: FILE, match: [columns], column: name or names}, from the row of a Parquet file where the columns have
        the same values. A key that the table does not match is missing.
    standardise: each component of key and query less the scope's mean, over its σ; 0 where σ = 0.
    Source: Luong et al. 2015.
    """

    kind: Literal["dot"] = "dot"

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        return dot(key, query)


class ScaledDot(Similarity):
    """The inner product over the root of the number of components: q·k/√d. Passes and parameters are those of dot.

    Source: Vaswani et al. 2017.
    """

    kind: Literal["scaled_dot"] = "scaled_dot"

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        return dot(key, query) / math.sqrt(max(key.shape[1], 1))


class Cosine(Similarity):
    """The cosine of the angle between query and key, from -1 to 1; 0 where a norm is 0.

    Passes and parameters are those of dot.
    Source: the vector space model of Salton et al. 1975.
    """

    kind: Literal["cosine"] = "cosine"

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        key, query = _scaled(key), _scaled(query)
        norms = dot(key, key) * dot(query, query)  # one root of both: it is exact where key and query are the same
        return (dot(key, query) / torch.where(norms == 0, 1.0, norms).sqrt()).clamp(-1.0, 1.0)


class Euclidean(Similarity):
    """Minus half the squared distance: −‖q−k‖²/2, whose softmax is a Gaussian kernel of width √temperature.

    Passes and parameters are those of dot. Source: Nadaraya 1964; Watson 1964.
    """

    kind: Literal["euclidean"] = "euclidean"

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        apart = key - query
        return 0 - total(apart * apart) / 2


class Parameters(Frozen):
    """What an additive score was trained to be: W_k (h, d), W_q (h, d_q) and v (h,), float64."""

    W_k: Tensor
    W_q: Tensor
    v: Tensor

    def neurons(self, device: torch.device) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
        """What each of the h makes of it: a row of W_k, one of W_q, and a number of v."""
        return list(zip(*(t.to(device) for t in (self.W_k, self.W_q, self.v)), strict=True))


class Additive(Similarity):
    """What a layer of h neurons makes of both: vᵀ tanh(W_k k + W_q q). Passes and the query are those of dot.

    parameters: a safetensors file with W_k (h, d), W_q (h, d_q) and v (h); d components of a key, d_q of a query.
    standardise: needs d_q = d.
    Source: Bahdanau et al. 2015.
    """

    kind: Literal["additive"] = "additive"
    parameters: str
    _loaded: Parameters | None = PrivateAttr(None)

    @field_validator("parameters")
    @classmethod
    def _from_its_folder(cls, parameters: str, info: ValidationInfo) -> str:
        return _local(parameters, info)

    def _read(self, d: int | None) -> Self:
        if self._loaded is not None:
            return self
        at = ("score", "parameters")
        read, digits = content(self.parameters, at)
        try:
            loaded = _parameters(read)
        except ValueError as error:
            raise JobError(f"{self.parameters}: {error}", at) from None
        (_, wide), (_, asked) = loaded.W_k.shape, loaded.W_q.shape
        if d not in (None, wide):
            raise JobError(f"{self.parameters}: W_k is for keys of {wide} components, and these have {d}", at)
        if self.standardise and wide != asked:
            raise JobError(f"{self.parameters}: standardise needs W_k and W_q for as many components", at)
        found = super()._read(wide).model_copy(update={"parameters": digits})
        found._loaded, found._length = loaded, asked
        return found

    def lengths(self, d: int) -> tuple[int, int]:
        assert self._loaded is not None
        return self._loaded.W_k.shape[1], self._loaded.W_q.shape[1]

    def compared(self, key: Tensor, query: Tensor) -> Tensor:
        assert self._loaded is not None
        score = key.new_zeros(len(key))
        for of_key, of_query, v in self._loaded.neurons(key.device):
            score = score + v * torch.tanh(dot(key, of_key) + dot(query, of_query))
        return score


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product (n,) of each row of a (n, d) with that of b, (n, d), or with b, (1, d) or (d,).

    Its bits do not depend on what stands beside a row.
    """
    return total(a * b)


def total(x: Tensor) -> Tensor:
    """The sum (n,) of each row of x (n, d), which is used up.

    By halves, number by number: a sum over a dimension may go another way where there are more rows.
    """
    d = x.shape[1]
    if d == 0:
        return x.new_zeros(len(x))
    while d > 1:
        half = (d + 1) // 2
        x[:, : d - half] += x[:, half:d]
        d = half
    return x[:, 0].clone()


def _scaled(x: Tensor) -> Tensor:
    """The vectors over a power of two near their largest component, so that no square overflows or vanishes."""
    return x / power_of_two(x.abs().amax(1, keepdim=True)) if x.shape[1] else x


def _same(what: str, given: int, wanted: int) -> None:
    if given != wanted:
        raise DataError(f"{what} has {given} components, where {wanted} are wanted")


@dataclass(frozen=True, eq=False)
class Components:
    """What is known of each of d components of each of `size` segments; d is 0 where no row has said it."""

    state: Any  # of size·d segments
    size: int
    d: int

    def __add__(self, other: Components) -> Components:
        if 0 in (self.d, other.d):
            return self if self.d else other
        _same("a key", self.d, other.d)
        return Components(self.state + other.state, self.size, self.d)

    def spread(self, ids: Tensor, size: int) -> Components:
        return Components(self.state.spread(_flat(ids, self.d), size * self.d), size, self.d)


class OfEach(Question[Components]):
    """A question about every component by itself, with d of them in what it carries."""

    question: SkipValidation[Question[Any]]
    d: int

    def of(self, rows: Rows) -> Components:
        there = rows.present()
        n, d = there.x.shape if len(there.x) else (0, 0)
        ids = torch.zeros(n, dtype=torch.int64, device=there.x.device) if there.ids is None else there.ids
        flat = Rows(there.x.reshape(-1), None, _flat(ids[:n], d), rows.size * d)
        return Components(self.question.of(flat), rows.size, d)

    def inner(self) -> Mapping[str, Question[Any]]:
        return {"state": self.question}

    def picked(self, ids: Tensor) -> OfEach:
        return OfEach(question=self.question.picked(_flat(ids, self.d)), d=self.d)


def _each(fit: Fit[Any]) -> Fit[tuple[Any, int, int]]:
    """Fits every component by itself: what that concludes, of size·d segments, with size and d."""
    question, d = next(fit), 0
    while True:
        answer = yield OfEach(question=question, d=d)
        d = answer.d
        try:
            question = fit.send(answer.state)
        except StopIteration as done:
            return done.value, answer.size, d


def _flat(ids: Tensor, d: int) -> Tensor:
    """The places of the d components of these segments, (len(ids)·d,)."""
    return (ids[:, None] * d + torch.arange(d, device=ids.device)).reshape(-1)


def _mean() -> Fit[Tensor]:
    count, sums = parts((yield both(Count(), Sum())))
    mean: Tensor = sums.mean(count.n)
    return mean


def _local(path: str, info: ValidationInfo) -> str:
    if "://" in path:
        raise ValueError(f"{path}: files of a rule are read from local folders only; name one there")
    return str(based(path, "attention", info))


def _component(dtype: pl.DataType | None) -> pl.DataType | None:
    """The type of a vector's components; of any other type, itself."""
    return pl.Series(dtype=dtype.inner).dtype if isinstance(dtype, pl.Array | pl.List) else dtype


def _one_vector(columns: pl.DataFrame, components: Sequence[str]) -> pl.Series:
    """One column of vectors as an Array, or numeric columns as its components.

    Raises:
        ValueError: for what is neither.
    """
    first = columns[components[0]]
    if len(components) == 1 and isinstance(first.dtype, pl.List):
        lengths = sorted(first.drop_nulls().list.len().unique().to_list())
        if len(lengths) > 1:
            raise ValueError(f"the vectors of {first.name!r} have {lengths[0]} to {lengths[-1]} components")
        first = first.list.to_array(lengths[0] if lengths else 0)
    if len(components) == 1 and isinstance(first.dtype, pl.Array):
        inner = _component(first.dtype)
        if inner is None or not (inner.is_numeric() or inner == pl.Boolean):
            raise ValueError(f"{first.name!r} is {first.dtype}, where a vector of numbers is wanted")
        return first
    for name in components:
        if not (columns[name].dtype.is_numeric() or columns[name].dtype == pl.Boolean):
            raise ValueError(f"{name!r} is {columns[name].dtype} and no component of a vector")
    every = [pl.col(name).cast(pl.Float64).alias(str(i)) for i, name in enumerate(components)]
    return columns.select(every).select(pl.concat_arr(pl.all())).to_series()


def _matched_by(rows: pl.DataFrame, match: Sequence[str]) -> pl.DataFrame:
    """The columns that match, numbered; a category is its text, and NaN, as null, matches nothing."""
    found = rows.select(pl.col(name).alias(place) for name, place in zip(match, _places(match), strict=True))
    texts = pl.selectors.categorical() | pl.selectors.enum()
    return found.with_columns(pl.selectors.float().fill_nan(None), texts.cast(pl.String))


def _places(match: Sequence[str]) -> list[str]:
    return [str(i) for i in range(len(match))]


def _parameters(read: bytes) -> Parameters:
    """What a safetensors file holds.

    Raises:
        ValueError: where that is not W_k, W_q and v, of shapes that fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(read)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    for name in Parameters.model_fields:
        if name not in tensors:
            raise ValueError(f"no tensor {name!r}{nearest(name, tensors)}")
    found = {name: tensors[name].to(torch.float64) for name in Parameters.model_fields}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    h = shapes["v"]
    if len(h) != 1 or any(len(shapes[w]) != 2 or shapes[w][0] != h[0] for w in ("W_k", "W_q")):
        said = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"W_k (h, d), W_q (h, d_q) and v (h) are wanted, and there are {said}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        raise ValueError("a parameter is not finite")
    return Parameters(**found)
