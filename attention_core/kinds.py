"""The two sorts of kind that a job file names, scores and weights, and how their catalogues are found."""

from __future__ import annotations

from functools import reduce
from operator import or_
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import polars as pl
from torch import Tensor

from attention_core.contract import Kind, Rows

K = TypeVar("K")


class Score(Kind[K]):
    """Step 1: a real number for each key, (n,) float64: how relevant it is."""

    keyless: ClassVar[bool] = False  # looks at columns of its own instead of a key
    vector: ClassVar[bool] = False  # takes the key as one vector: an Array or a List, or several columns
    counts: ClassVar[bool] = False  # takes the key as it is, of any type that can be counted

    @property
    def word(self) -> str:
        """The word that names it in a job file."""
        field = type(self).model_fields.get("kind")
        return str(field.default if field else type(self).__name__)

    def looks_at(self, key: str | None) -> pl.Expr:
        """The numbers of a row that are scored, before Polars hands them over."""
        return pl.col(str(key))

    def beside(self) -> tuple[str, ...]:
        """The columns beside the key that it reads."""
        return ()

    def queries(self, frame: pl.DataFrame) -> pl.Series | None:
        """What the key of each row is compared to, an Array or a List; None: nothing, or one query for all."""
        return None

    def later(self, rows: Rows, known: K) -> Tensor | None:
        """Which keys are later than now, (n,) bool, for a score that knows a now."""
        return None

    def bound(self, dtype: pl.DataType | None) -> Score[K]:
        """This score with what the key's type settles.

        Raises:
            ValueError: where it has no meaning for that type; says what does.
        """
        if dtype is None or dtype.is_numeric() or dtype == pl.Boolean or dtype.is_temporal():
            return self
        if isinstance(dtype, pl.List):
            raise ValueError(f"{self.word} looks at the elements of a List among themselves; say over: row")
        other = "dot or cosine takes a vector" if isinstance(dtype, pl.Array) else "rarity takes any type that groups"
        raise ValueError(f"{self.word} scores numbers, and this column is {dtype}; {other}")


class Weight(Kind[K]):
    """Step 2: what a score becomes, (n,) float64."""

    shares: ClassVar[bool] = False  # its weights sum to 1 over the scope


def catalogue(families: tuple[ModuleType, ...], base: type[Any]) -> dict[str, type[Any]]:
    """The kinds that the family modules define, by the word that names them in a job file."""
    found: list[Any] = [
        v for family in families for v in vars(family).values() if isinstance(v, type) and issubclass(v, base)
    ]
    return {k.model_fields["kind"].default: k for k in found if "kind" in k.model_fields}


def union(kinds: dict[str, type[Any]]) -> Any:
    """Any one of these classes, as a type."""
    return reduce(or_, kinds.values())
