"""The job file: where from, where to, which rules; and the heads that a rule means for the columns at hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import polars as pl
from pydantic import BeforeValidator, Field, ValidationInfo, WrapValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from attention_core import scores, weights
from attention_core.adjust import Clip, Keep, Scale, Share
from attention_core.apply import Apply, component, inner
from attention_core.batches import Compression
from attention_core.contract import Kind
from attention_core.errors import JobError, nearest
from attention_core.frozen import WIDE, Frozen
from attention_core.head import Head, Over
from attention_core.health import MEASURES
from attention_core.kinds import Score, Weight, catalogue, union
from attention_core.paths import based
from attention_core.sql import columns_of, row_expression, wrong_types
from attention_core.stores import Remote, Where, located

SCORES = catalogue(scores.FAMILIES, Score)
WEIGHTS = catalogue(weights.FAMILIES, Weight)

if TYPE_CHECKING:
    Place = Where
else:  # a URL is no path of the file system, which would take its slashes away
    Place = Annotated[Path, WrapValidator(lambda v, check: located(v) if _is_url(v) else check(v))]


def _is_url(given: object) -> bool:
    return isinstance(given, str | Remote) and "://" in str(given)


_TYPES: dict[str, Any] = {
    "float": lambda t: t.is_float(),
    "integer": lambda t: t.is_integer(),
    "temporal": lambda t: t.is_temporal(),
    "text": lambda t: t in (pl.String, pl.Categorical, pl.Enum),
    "boolean": lambda t: t == pl.Boolean,
    "vector": lambda t: isinstance(t, pl.Array | pl.List),
}


def _word(value: object) -> object:
    """A bare word is {kind: word}; a mapping that names no kind is left for the error."""
    return {"kind": value} if isinstance(value, str) else value


def _own(base: type[Kind[Any]]) -> WrapValidator:
    """Lets a kind of one's own through, which no job file can name."""
    return WrapValidator(lambda value, check: value if isinstance(value, base) else check(value))


if TYPE_CHECKING:
    AnyScore = Score[Any]
    AnyWeight = Weight[Any]
else:  # derived from what the families define, which a type checker cannot follow
    AnyScore = Annotated[union(SCORES), Field(discriminator="kind"), BeforeValidator(_word), _own(Score)]
    AnyWeight = Annotated[union(WEIGHTS), Field(discriminator="kind"), BeforeValidator(_word), _own(Weight)]


class Match(Frozen):
    """Columns by pattern: whose name matches, of a type, except some.

    match: a regular expression, found anywhere in the name; ^ and $ stand for its ends.
    type: only columns of this sort.
    except: not these.
    """

    match: str
    type: Literal["float", "integer", "temporal", "text", "boolean", "vector"] | None = None
    exclude: tuple[str, ...] = Field(default=(), alias="except")

    @field_validator("match")
    @classmethod
    def _a_pattern(cls, match: str) -> str:
        try:
            re.compile(match)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{match!r} is not a pattern: {error}") from None
        return match

    def among(self, schema: Mapping[str, pl.DataType]) -> tuple[str, ...]:
        return tuple(
            name
            for name, dtype in schema.items()
            if re.search(self.match, name)
            and name not in self.exclude
            and (self.type is None or _TYPES[self.type](dtype))
        )


Columns = str | tuple[str, ...] | Match


class Group(Frozen):
    """A scope for each combination of the values of these columns."""

    group: tuple[str, ...] = Field(min_length=1)


class Rename(Frozen):
    """Other names for the columns a rule adds; {key} and {value} stand for the columns.

    weight: the weight column, `<name>_weight` unless given.
    weighted: the columns of multiplied values, "{value}_weighted" unless given, or of pooled ones.
    """

    weight: str | None = None
    weighted: str | None = None

    @field_validator("weight", "weighted")
    @classmethod
    def _can_be_filled(cls, name: str | None) -> str | None:
        if name is not None and re.search(r"[{}]", re.sub(r"\{key\}|\{value\}", "", name)):
            raise ValueError(f"{name!r}: only {{key}} and {{value}} may stand in braces")
        return name


class Rule(Frozen):
    """Score, weight and apply, over a scope.

    name: what the rule is called, and its weight column before `_weight`; its key unless given.
    key: the column that is looked at: a name, a list of names, or {match: pattern}.
    value: the columns that are multiplied; the key itself unless given.
    over: among whom attention is shared: dataset, batch (one file), row, or {group: [columns]}.
    score: step 1, how relevant each key is: a number, 1 or 0 for a hard target.
    weight: step 2, how much attention a score earns.
    mask: who can get attention at all, as Polars SQL of the row; a key that is masked counts as missing.
    fit: who teaches, as Polars SQL of the row: statistics come from these rows alone, weights go to all.
    missing: the weight of a key that is null, NaN or masked: propagate (null stays null), error, or a number.
    keep: which weights stay; the others become 0.
    clip: [low, high], within which weights are held.
    scale: which statistic of the weights becomes what.
    apply: step 3, what is done with the weights: multiply, weights (written alone), none, pool, or {filter: {min: w}}.
    rename: other names for the columns that are added.
    """

    name: str | None = None
    key: Columns | None = None
    value: Columns | None = None
    over: Literal["dataset", "batch", "row"] | Group = "dataset"
    score: AnyScore = SCORES["identity"]()
    weight: AnyWeight = WEIGHTS["identity"]()
    mask: str | None = None
    fit: str | None = None
    missing: Literal["propagate", "error"] | float = "propagate"
    keep: Keep | None = None
    clip: tuple[float, float] | None = None
    scale: Scale | None = None
    apply: Literal["multiply", "weights", "none", "pool"] | Apply = "multiply"
    rename: Rename = Rename()

    @field_validator("mask", "fit")
    @classmethod
    def _of_its_row(cls, sql: str | None) -> str | None:
        if sql is not None:
            row_expression(sql)
        return sql

    @field_validator("clip")
    @classmethod
    def _in_order(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None:
            Clip(low=clip[0], high=clip[1])
        return clip

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        keyless = self.score.keyless
        if keyless and self.key is not None:
            raise ValueError(f"{self.score.word} takes no key; it reads the columns that it names")
        if self.key == () or self.value == ():
            raise ValueError("an empty list names no column; leave it out, or name one")
        if not keyless and self.key is None:
            raise ValueError(f"{self.score.word} needs a key: the column that is looked at")
        if keyless and self.name is None:
            raise ValueError("a rule without a key needs a name")
        if not self.multiplies() and self.value is not None:
            raise ValueError(f"apply: {self.apply} multiplies nothing, so value has no place; leave it out")
        if keyless and self.multiplies() and self.value is None:
            raise ValueError("a rule without a key needs a value to multiply, or apply: weights")
        if self.score.vector and self.name is None and not isinstance(self.key, str):
            raise ValueError("a rule whose key is several columns as one vector needs a name")
        if self.over == "row" and self.fit is not None:
            raise ValueError("a row teaches itself; use mask to leave rows out")
        if self.over == "row" and keyless:
            raise ValueError("over: row shares attention among the key columns of a row, and this rule has no key")
        return self

    def multiplies(self) -> bool:
        """Whether values are looked at, to be multiplied or pooled."""
        return self.apply not in ("weights", "none")

    def pools(self) -> str | None:
        """How values are pooled: sum or mean."""
        return self.apply.pool if isinstance(self.apply, Apply) else "sum" if self.apply == "pool" else None

    def keeps(self) -> float | None:
        """The smallest weight that a row needs to stay, where some drop out."""
        return self.apply.filter.min if isinstance(self.apply, Apply) and self.apply.filter else None

    def title(self) -> str | None:
        """What the rule is called: its name, or its one key."""
        return self.name or (self.key if isinstance(self.key, str) else None)

    def kinds(self, score: Kind[Any]) -> tuple[Kind[Any], ...]:
        """The chain of kinds that makes weights of keys."""
        clip = (Clip(low=self.clip[0], high=self.clip[1]),) if self.clip else ()
        again = (Share(),) if self.keep and self.weight.shares else ()
        keep = (self.keep, *again) if self.keep else ()
        return (score, self.weight, *keep, *clip, *((self.scale,) if self.scale else ()))

    def heads(self, schema: Mapping[str, pl.DataType]) -> tuple[Head, ...]:
        """One head for each key column that is scored by itself; one for all of them where the scope is the row.

        Raises:
            JobError: for a column that is not there, or of a type that has no meaning here.
        """
        keys = self._columns(self.key, "key", schema)
        values = self._columns(self.value, "value", schema) if self.value is not None else keys
        over: Over = self.over.group if isinstance(self.over, Group) else self.over
        for key, dtype in self._forms(keys, over, schema):
            self._bound(key, dtype)
        self._known(over if isinstance(over, tuple) else (), "over.group", schema, listed=True)
        for sql, where in ((self.mask, "mask"), (self.fit, "fit")):
            self._known(columns_of(sql) if sql else (), where, schema)
            if sql is not None and (dtype := _type_of(row_expression(sql), schema, where)) != pl.Boolean:
                raise self._wrong(where, f"{sql!r} is {dtype}, where true or false is wanted")
        for column in over if isinstance(over, tuple) else ():
            if schema[column].is_nested() or schema[column] in (*WIDE, pl.Object):
                raise self._wrong("over.group", f"{column!r} is {schema[column]}, which does not group; cast it")
        if self.score.keyless:
            looked_at = self.score.looks_at(None)
            self._known(looked_at.meta.root_names(), "score", schema)
            dtype = _type_of(looked_at, schema, "score")
            if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
                raise self._wrong("score", f"the expression is {dtype}, where a number, or true or false, is wanted")
        several = self.key is not None and not isinstance(self.key, str) and not self.score.vector
        if several and self.value is not None and len(keys) > 1 and len(values) != len(keys):
            raise self._wrong("value", f"{len(values)} values stand beside {len(keys)} keys; name as many")
        if not self.multiplies():
            values = ()
        self._known(self.score.beside(), "score.query", schema)
        lists = over == "row" and any(isinstance(schema[key], pl.List) for key in keys)
        if lists and len(keys) > 1:
            raise self._wrong(
                "key", "over: row shares attention among several columns or among the elements of one List"
            )
        for value in values:
            if lists != isinstance(schema[value], pl.List):
                raise self._wrong("value", f"{value!r} is {schema[value]}; the weights of a List key multiply a List")
            one = inner(schema[value])
            one = component(one) if isinstance(one, pl.Array) else one
            if not (one.is_numeric() or one == pl.Boolean):
                advice = "name another value, or apply: weights"
                raise self._wrong("value", f"{value!r} is {schema[value]} and cannot be multiplied; {advice}")
        for where, columns in (("key", keys), ("value", values)):
            for column in (c for c in columns if _width(schema[c]) == 0):
                raise self._wrong(where, f"{column!r} is {schema[column]}, a vector of no components; name another")
        named = (None,) if self.score.vector and len(keys) > 1 else keys or (None,)
        names = tuple(self._weight_name(key, several) for key in named)
        if self.pools() and over == "row" and not lists:
            raise self._wrong("apply", "a row of columns has no pool; over: row pools the elements of one List")
        if self.keeps() is not None and lists:
            raise self._wrong("apply", "filter looks at one weight a row, and a List has as many as elements")
        if (self.keeps() is not None or self.pools()) and len(keys if over == "row" else names) > 1:
            raise self._wrong("apply", "filter and pool look at one weight a row; give each key a rule of its own")
        if over == "row" or len(names) == 1:
            pairs = tuple((v, i if over == "row" and len(keys) > 1 else 0) for i, v in enumerate(values))
            return (self._head(keys, over, names, pairs, schema),)
        return tuple(
            self._head((key,), over, (name,), ((values[i], 0),) if values else (), schema)
            for i, (key, name) in enumerate(zip(keys, names, strict=True))
        )

    def _head(
        self,
        keys: tuple[str, ...],
        over: Over,
        names: tuple[str, ...],
        values: tuple[tuple[str, int], ...],
        schema: Mapping[str, pl.DataType],
    ) -> Head:
        forms = self._forms(keys, over, schema)
        score = self._bound(*forms[0]) if forms else self.score
        for key, dtype in forms:
            if score != self._bound(key, dtype) or (score.counts and dtype != forms[0][1]):
                raise self._wrong("key", f"{key!r} and {keys[0]!r} are of different sorts, and a row shares one score")
        try:  # on no rows, which shows what types it cannot compare
            score.queries(pl.DataFrame(schema={column: schema[column] for column in score.beside()}))
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise self._wrong("score.query", str(error).splitlines()[0]) from None
        weighted = self.rename.weighted or ("{value}_pooled" if self.pools() else "{value}_weighted")
        return Head(
            rule=self.name or keys[0],
            key=keys,
            over=over,
            looks=score,
            kinds=self.kinds(score),
            mask=self.mask,
            teaches=self.fit,
            missing=self.missing,
            weights=names,
            values=tuple((v, weighted.format(value=v, key=keys[i] if keys else ""), i) for v, i in values),
            written=self.apply != "none",
            pool=self.pools(),
            least=self.keeps(),
            widths=tuple(
                (c, w) for c in dict.fromkeys((*keys, *(v for v, _ in values))) if (w := _width(schema[c])) > 1
            ),
            lists=over == "row" and isinstance(schema[keys[0]], pl.List),
        )

    def _forms(
        self, keys: tuple[str, ...], over: Over, schema: Mapping[str, pl.DataType]
    ) -> list[tuple[str, pl.DataType]]:
        """What the score looks at, with its type: each key, or one vector of all."""
        if self.score.vector and over == "row" and not all(isinstance(schema[key], pl.List) for key in keys):
            raise self._wrong("over", "the vectors of a row stand in a List of Array; name that one column")
        if not self.score.vector or len(keys) == 1:
            return [(key, inner(schema[key]) if over == "row" else schema[key]) for key in keys]
        for key in keys:
            if not (schema[key].is_numeric() or schema[key] == pl.Boolean):
                raise self._wrong("key", f"{key!r} is {schema[key]} and no component of a vector; name one vector")
        return [(keys[0], pl.Array(pl.Float64, len(keys)))] if keys else []

    def _bound(self, key: str, dtype: pl.DataType) -> Score[Any]:
        try:
            return self.score.bound(dtype)
        except ValueError as error:
            raise self._wrong("key", f"{key!r}: {error}") from None

    def weight_column(self) -> str:
        """The weight column of a rule with one key, or by one name."""
        return self._weight_name(self.key if isinstance(self.key, str) else None, several=False)

    def _weight_name(self, key: str | None, several: bool) -> str:
        if self.rename.weight is not None:
            return self.rename.weight.format(key=key or "", value=key or "")
        if several:
            return f"{self.name}_{key}_weight" if self.name else f"{key}_weight"
        return f"{self.name or key}_weight"

    def _columns(self, columns: Columns | None, where: str, schema: Mapping[str, pl.DataType]) -> tuple[str, ...]:
        if columns is None:
            return ()
        if isinstance(columns, Match):
            found = columns.among(schema)
            if not found:
                raise self._wrong(where, f"no column matches {columns.match!r}")
            return found
        found = (columns,) if isinstance(columns, str) else columns
        self._known(found, where, schema, listed=not isinstance(columns, str))
        return found

    def _known(
        self, columns: Iterable[str], where: str, schema: Mapping[str, pl.DataType], *, listed: bool = False
    ) -> None:
        """Refuses columns that are not there. listed: they are items of a list, and all but values are there once."""
        before = set[str]()
        for i, column in enumerate(columns):
            if column == "*" or (column.startswith("^") and column.endswith("$")):
                what = f"the column name {column!r} means a pattern to Polars; rename it, or say {{match: ...}}"
                raise self._wrong(where, what, *[i] * listed)
            if column not in schema:
                near = nearest(column, schema)
                text = where in ("mask", "fit") and not near.startswith("; did")
                quoted = f"; a text is written in single quotes, as '{column}'" if text else ""
                raise self._wrong(where, f"no column {column!r}{near}{quoted}", *[i] * listed)
            if listed and where != "value" and column in before:
                raise self._wrong(where, f"{column!r} is named twice", i)
            before.add(column)

    def _wrong(self, where: str, what: str, *item: int) -> JobError:
        return JobError(what, (*where.split("."), *item))


def _width(dtype: pl.DataType) -> int:
    """How many numbers a value of this type is; of a List, unknown, one."""
    dtype = inner(dtype)
    return dtype.size if isinstance(dtype, pl.Array) else 1


def _type_of(expression: pl.Expr, schema: Mapping[str, pl.DataType], where: str) -> pl.DataType:
    there = {name: schema[name] for name in dict.fromkeys(expression.meta.root_names())}
    try:  # on no rows, which shows what types it cannot compare
        return pl.DataFrame(schema=there).select(expression.alias("#"))["#"].dtype
    except pl.exceptions.PolarsError as error:
        raise JobError(wrong_types(error), (where,)) from None


class Source(Frozen):
    """Where the batches are.

    path: a file, a folder (searched for *.parquet), a glob, or a list of these; relative to the job file's folder.
    hive: whether folders such as month=01 are columns.
    where: which batches, by the columns of their folders, as Polars SQL: "month >= 10".
    drift: what becomes of files whose columns differ: strict (they are refused), widen (numbers get a common type), or
        fill (and what a file lacks is null there).
    split_rows: how many rows a batch has before several threads work on it; the results do not change.
    """

    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    hive: Literal["auto"] | bool = "auto"
    where: str | None = None
    drift: Literal["strict", "widen", "fill"] = "strict"
    split_rows: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"

    @field_validator("path")
    @classmethod
    def _from_its_folder(cls, path: str | tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if isinstance(path, str):
            path = (path,)
            places = ["source.path"]
        else:
            places = [f"source.path[{i}]" for i in range(len(path))]
        return tuple(str(based(p, where, info)) for p, where in zip(path, places, strict=True))

    @field_validator("where")
    @classmethod
    def _of_its_folders(cls, where: str | None) -> str | None:
        if where is not None:
            row_expression(where)
        return where

    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


class Except(Frozen):
    """All columns but these."""

    exclude: tuple[str, ...] = Field(alias="except")


class Sink(Frozen):
    """Where the rows go.

    path: a folder, relative to the job file's; each batch becomes one file in it, under the same name.
    columns: all, added (the new ones alone), none (no rows, pooled tables alone), a list, or {except: [columns]}.
    compression: of the files that are written.
    gone: what becomes of outputs whose input is gone: refuse (the run stops), keep, or remove.
    format: parquet, a folder of files; or delta, a Delta Lake table: one commit a run, older versions stay readable.
    work: the folder for what is Farol's own, beside the sink unless given.
    """

    path: Place
    columns: Literal["all", "added", "none"] | tuple[str, ...] | Except = "all"
    compression: Compression = "zstd"
    gone: Literal["refuse", "keep", "remove"] = "refuse"
    format: Literal["parquet", "delta"] = "parquet"
    work: Place | None = None

    @field_validator("path", "work")
    @classmethod
    def _from_its_folder(cls, path: Where | None, info: ValidationInfo) -> Where | None:
        if path is None:
            return None
        if str(path).startswith(("s3:/", "gs:/", "az:/")) and not isinstance(path, Remote):
            raise ValueError(f"{path}: a URL has two slashes, as in s3://bucket/key")
        folder = based(path, f"sink.{info.field_name}", info)
        if not folder.name:
            raise ValueError(f"{path} is the root of all folders; name one in it")
        return folder

    def options(self) -> str:
        """The identity of what decides how rows are written."""
        return self.model_copy(update={"path": None, "work": None, "gone": "refuse"}).digest()

    def written(self, schema: Mapping[str, pl.DataType], added: Mapping[str, pl.DataType]) -> list[str]:
        """The columns of the outputs, of those of the input and those that the rules add.

        Raises:
            JobError: for a column that is not among them.
        """
        every = [*schema, *added]
        match self.columns:
            case "all":
                return every
            case "added":
                return list(added)
            case "none":
                return []
            case Except():
                named, kept = self.columns.exclude, [c for c in every if c not in self.columns.exclude]
            case _:
                named, kept = tuple(self.columns), list(self.columns)
        at = ("sink", "columns", *["except"] * isinstance(self.columns, Except))
        for i, column in enumerate(named):
            if column not in every:
                raise JobError(f"no column {column!r}{nearest(column, every)}", (*at, i))
            if column in named[:i]:
                raise JobError(f"{column!r} is named twice", (*at, i))
        return kept


class Bound(Frozen):
    """At least, and at most.

    min: the least that is expected.
    max: the most that is expected.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and not self.min <= self.max:
            raise ValueError(f"min must not be above max, and {self.min:g} > {self.max:g}")
        return self


class From(Frozen):
    """The statistics of another sink's last run.

    from: the folder of that sink.
    """

    path: Place = Field(alias="from")

    @field_validator("path")
    @classmethod
    def _from_its_folder(cls, path: Where, info: ValidationInfo) -> Where:
        return based(path, "statistics.from", info)


class Job(Frozen):
    """Where from, where to, which rules.

    name: what the job is called.
    source: where the batches are.
    sink: where the rows go.
    attention: the rules, in turn; each may look at the columns of those above it.
    expect: what must hold before anything is published: for a rule, or for source, measures within {min, max}.
    statistics: what rules know: fresh (of the whole source, as it is now), frozen (of the last published run), or
        {from: PATH} (of another sink).
    chunk_rows: how many rows are on the device at once; the results do not change.
    workers: how many batches are worked on at once; the results do not change.
    device: auto (a GPU where there is one), cpu, cuda or cuda:N.
    """

    name: str = Field(min_length=1)
    source: Source
    sink: Sink
    attention: tuple[Rule, ...] = Field(min_length=1)
    expect: dict[str, dict[str, Bound]] = {}
    statistics: Literal["fresh", "frozen"] | From = "fresh"
    chunk_rows: Literal["auto"] | int = "auto"
    workers: Literal["auto"] | int = "auto"
    device: str = "auto"

    @field_validator("device")
    @classmethod
    def _of_a_known_sort(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
            raise ValueError(f"{device!r} is not auto, cpu, cuda or cuda:N")
        return device

    @field_validator("chunk_rows", "workers")
    @classmethod
    def _at_least_one(cls, number: str | int) -> str | int:
        if isinstance(number, int) and number < 1:
            raise ValueError(f"must be auto or at least 1, not {number}")
        return number

    @model_validator(mode="after")
    def _names_hold(self) -> Self:
        names = list[str]()
        for i, one in enumerate(self.attention):
            name = one.title()
            if name in names:
                raise _wrong_entry(f"a rule above is called {name!r} too; name one of them anew", "attention", i)
            if name == "source":
                raise _wrong_entry("no rule can be called 'source'", "attention", i)
            names += [name] if name is not None else []
        if self.sink.columns == "none" and not any(rule.pools() and rule.over != "row" for rule in self.attention):
            what = "none writes pooled tables alone, and no rule pools over dataset, batch or group"
            raise _wrong_entry(what, "sink", "columns")
        for rule, bounds in self.expect.items():
            if rule not in (*names, "source"):
                raise _wrong_entry(f"no rule {rule!r}{nearest(rule, [*names, 'source'])}", "expect", rule)
            known = ("batches", "rows") if rule == "source" else MEASURES
            for measure in bounds:
                if measure not in known:
                    raise _wrong_entry(f"{measure!r} is not measured{nearest(measure, known)}", "expect", rule, measure)
        return self

    def work(self) -> Where:
        """The work folder."""
        return self.sink.work or self.sink.path.with_name(self.sink.path.name + ".farol")


def _wrong_entry(what: str, *at: str | int) -> PydanticCustomError:
    """Refuses an entry of the job, from a look at all of it."""
    return PydanticCustomError("unknown_entry", "{what}", {"what": what, "at": at})
