"""An entry of the job file's `attention:`, a rule, and the heads that it means for the columns at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import polars as pl
from pydantic import BeforeValidator, Field, model_validator

from attention_core import scores, weights
from attention_core.adjust import Clip, Scale
from attention_core.contract import Kind
from attention_core.errors import JobError
from attention_core.frozen import Frozen
from attention_core.head import Head, Over
from attention_core.kinds import Score, Weight, catalogue, union
from attention_core.sql import columns_of, row_expression

SCORES = catalogue(scores.FAMILIES, Score)
WEIGHTS = catalogue(weights.FAMILIES, Weight)

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


if TYPE_CHECKING:
    AnyScore = Score[Any]
    AnyWeight = Weight[Any]
else:  # derived from what the families define, which a type checker cannot follow
    AnyScore = Annotated[union(SCORES), Field(discriminator="kind"), BeforeValidator(_word)]
    AnyWeight = Annotated[union(WEIGHTS), Field(discriminator="kind"), BeforeValidator(_word)]


class Match(Frozen):
    """Columns by pattern: whose name matches, of a type, except some."""

    match: str
    type: Literal["float", "integer", "temporal", "text", "boolean", "vector"] | None = None
    exclude: tuple[str, ...] = Field(default=(), alias="except")

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
    """Other names for the columns a rule adds; {key} and {value} stand for the columns."""

    weight: str | None = None
    weighted: str | None = None


class Rule(Frozen):
    """Score, weight and apply, over a scope."""

    name: str | None = None
    key: Columns | None = None
    value: Columns | None = None
    over: Literal["dataset", "batch", "row"] | Group = "dataset"
    score: AnyScore = SCORES["identity"]()
    weight: AnyWeight = WEIGHTS["identity"]()
    mask: str | None = None
    fit: str | None = None
    missing: Literal["propagate", "error"] | float = "propagate"
    clip: tuple[float, float] | None = None
    scale: Scale | None = None
    apply: Literal["multiply", "weights", "none"] = "multiply"
    rename: Rename = Rename()

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for sql in (self.mask, self.fit):
            if sql is not None:
                row_expression(sql)
        keyless = self.score.keyless
        if keyless and self.key is not None:
            raise ValueError(f"{self.score.word} takes no key; it reads the columns that it names")
        if not keyless and self.key is None:
            raise ValueError(f"{self.score.word} needs a key: the column that is looked at")
        if keyless and self.name is None:
            raise ValueError("a rule without a key needs a name")
        if self.apply != "multiply" and self.value is not None:
            raise ValueError(f"apply: {self.apply} multiplies nothing, so value has no place; leave it out")
        if keyless and self.apply == "multiply" and self.value is None:
            raise ValueError("a rule without a key needs a value to multiply, or apply: weights")
        if self.over == "row" and self.fit is not None:
            raise ValueError("a row teaches itself; use mask to leave rows out")
        if self.over == "row" and keyless:
            raise ValueError("over: row shares attention among the key columns of a row, and this rule has no key")
        return self

    def kinds(self, score: Kind[Any]) -> tuple[Kind[Any], ...]:
        """The chain of kinds that makes weights of keys."""
        clip = (Clip(low=self.clip[0], high=self.clip[1]),) if self.clip else ()
        return (score, self.weight, *clip, *((self.scale,) if self.scale else ()))

    def heads(self, schema: Mapping[str, pl.DataType]) -> tuple[Head, ...]:
        """One head for each key column that is scored by itself; one for all of them where the scope is the row.

        Raises:
            JobError: for a column that is not there, or of a type that has no meaning here.
        """
        keys = self._columns(self.key, "key", schema)
        values = self._columns(self.value, "value", schema) if self.value is not None else keys
        over: Over = self.over.group if isinstance(self.over, Group) else self.over
        for sql, where in ((self.mask, "mask"), (self.fit, "fit")):
            self._known(columns_of(sql) if sql else (), where, schema)
        self._known(over if isinstance(over, tuple) else (), "over.group", schema)
        if self.score.keyless:
            self._known(self.score.looks_at(None).meta.root_names(), "score", schema)
        several = self.key is not None and not isinstance(self.key, str)
        if several and self.value is not None and len(keys) > 1 and len(values) != len(keys):
            raise self._wrong("value", f"{len(values)} values stand beside {len(keys)} keys; name as many")
        if self.apply != "multiply":
            values = ()
        for value in values:
            if not (schema[value].is_numeric() or schema[value] == pl.Boolean):
                advice = "name another value, or apply: weights"
                raise self._wrong("value", f"{value!r} is {schema[value]} and cannot be multiplied; {advice}")
        names = tuple(self._weight_name(key, several) for key in keys) or (self._weight_name(None, False),)
        if over == "row" or len(names) == 1:
            pairs = tuple((v, i if over == "row" and several else 0) for i, v in enumerate(values))
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
        score = self.score
        for key in keys:
            try:
                score = self.score.bound(schema[key])
            except ValueError as error:
                raise self._wrong("key", f"{key!r}: {error}") from None
        weighted = self.rename.weighted or "{value}_weighted"
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
        )

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
        self._known(found, where, schema)
        return found

    def _known(self, columns: Any, where: str, schema: Mapping[str, pl.DataType]) -> None:
        for column in columns:
            if column not in schema:
                near = get_close_matches(column, list(schema), 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(schema)}"
                raise self._wrong(where, f"no column {column!r}{hint}")

    def _wrong(self, where: str, what: str) -> JobError:
        return JobError(f"rule {self.name or self.key!r}: {where}: {what}")
