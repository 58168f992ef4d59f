"""A score in the user's own words: a Polars SQL expression of the row."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import field_validator
from torch import Tensor

from attention_core.contract import Rows
from attention_core.kinds import Score
from attention_core.sql import row_expression


class Expression(Score[None]):
    """The value of a Polars SQL expression of the row's own columns; true is 1, false 0, null is missing.

    sql: may name the columns of the rules above. What looks beyond its row (an aggregate, a window, the clock) is
        refused.
    Source: Polars SQL.
    """

    kind: Literal["expression"] = "expression"
    keyless: ClassVar[bool] = True
    sql: str

    @field_validator("sql")
    @classmethod
    def _of_its_row(cls, sql: str) -> str:
        row_expression(sql)
        return sql

    def looks_at(self, key: str | None) -> pl.Expr:
        return row_expression(self.sql)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return rows.x
