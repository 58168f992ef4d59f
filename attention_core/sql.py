"""Polars SQL expressions of a row: what may stand in `expression`, `mask` and `fit`."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import polars as pl

# What gives each row a value of its own, whatever its neighbours; everything else is refused.
_NODES = {"Column", "Literal", "BinaryExpr", "Ternary", "Cast", "Function"}
_FUNCTIONS = {
    "Abs", "Atan2", "Cbrt", "Ceil", "Clip", "Coalesce", "ConcatExpr", "Exp", "Floor", "Log", "Log1p", "Log10",
    "MaxHorizontal", "MinHorizontal", "Negate", "Pow", "Sign", "Sqrt", "Trigonometry", "FillNull", "ToPhysical",
    "SumHorizontal", "MeanHorizontal", "Bitwise", "Round", "RoundSF", "Truncate", "Entropy_",
}  # fmt: skip
_FAMILIES = {"Sql", "StringExpr", "TemporalExpr", "Trigonometry", "Pow", "Clip", "Log", "Round", "Atan2", "Sign"}
_BOOLEAN = {"IsNull", "IsNotNull", "IsNan", "IsNotNan", "IsFinite", "IsInfinite", "IsIn", "IsBetween", "Not",
            "AllHorizontal", "AnyHorizontal", "IsClose"}  # fmt: skip
_LIST = {"Get", "Length", "Sum", "Mean", "Min", "Max", "Contains"}
_STRING_REFUSED = {"ConcatVertical"}
_TEMPORAL_REFUSED = {"DatetimeFunction"}
_CLOCK = re.compile(
    r"\b(?:now|today|random|uuid|current_\w+)\"?\s*\(|\bcurrent_(?:timestamp|date|time)\b|\blocal(?:timestamp|time)\b",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"\b(?:lag|lead|rank|dense_rank|percent_rank|cume_dist|ntile|nth_value)\"?\s*\(", re.IGNORECASE
)  # of which Polars says that they want an OVER clause
_TABLE = re.compile(r"\bselect\b|\b(?:read|scan)_\w+\"?\s*\(", re.IGNORECASE)
# Texts, names and comments in one pass: marks of one mean nothing inside another. What is called may be quoted, too.
_ASIDE = re.compile(
    r"(?P<comment>/\*.*?\*/|--[^\n]*)|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"(?!\s*\()|`[^`]*`|\$(\w*)\$.*?\$\2\$",
    re.DOTALL,
)


@lru_cache(maxsize=256)
def row_expression(sql: str) -> pl.Expr:
    """The expression, if every row's value depends on that row alone.

    Raises:
        ValueError: where it is not SQL, or looks beyond its row: an aggregate, a window, a sub-query, the clock.
    """
    bare = _ASIDE.sub(lambda aside: " " if aside["comment"] else "''", sql)
    if table := _TABLE.search(bare):  # which Polars would open, to see that it is one
        word = table[0].strip(' ("')
        raise ValueError(f"{sql!r} looks beyond its row ({word}); an expression reads the row's own columns alone")
    if clock := _CLOCK.search(bare):
        word = clock[0].strip(' ("')
        raise ValueError(f"{sql!r} looks at {word}, which is not of the row; write the value itself")
    if window := _WINDOW.search(bare):
        raise _beyond(sql, window[0].strip(' ("'))
    try:
        expression = pl.sql_expr(sql)
        tree = json.loads(expression.meta.serialize(format="json"))
    except Exception as error:
        raise ValueError(f"{sql!r} is not a Polars SQL expression: {str(error).splitlines()[0]}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{sql!r} is not a Polars SQL expression") from None
    if (beyond := _beyond_its_row(tree)) is not None:
        raise _beyond(sql, beyond)
    return expression


def _beyond(sql: str, what: str) -> ValueError:
    return ValueError(f"{sql!r} looks beyond its row ({what}); ask a rule above for what is known of the scope")


def wrong_types(error: pl.exceptions.PolarsError) -> str:
    """What an expression does with columns of types that do not go together."""
    line = str(error).splitlines()[0]
    return (
        "a time is compared with a text; write it as date '2024-12-31', or time '12:00:00'"
        if "date/datetime/time" in line
        else line
    )


def columns_of(sql: str) -> list[str]:
    """The columns that an expression names, sorted."""
    return sorted(set(row_expression(sql).meta.root_names()))


def _beyond_its_row(node: Any) -> str | None:
    """The name of the first part of a serialised expression that is not known to be row by row."""
    if not isinstance(node, dict) or len(node) != 1:
        return str(node)[:40]
    (name, body), *_ = node.items()
    if name not in _NODES:
        return str(name)
    match name:
        case "Column" | "Literal":
            return None if name == "Column" or not isinstance(body, dict) or "Series" not in body else "a list"
        case "BinaryExpr":
            inner = [body["left"], body["right"]]
        case "Ternary":
            inner = [body["predicate"], body["truthy"], body["falsy"]]
        case "Cast":
            inner = [body["expr"]]
        case _:
            function = body["function"]
            if (refused := _refused(function)) is not None:
                return refused
            inner = body["input"]
            if "IsIn" in str(function):
                if any("Literal" not in part for part in inner[1:]):
                    return "ANY of a column"
                inner = inner[:1]
    return next((beyond for part in inner if (beyond := _beyond_its_row(part)) is not None), None)


def _refused(function: Any) -> str | None:
    if isinstance(function, str):
        return None if function in _FUNCTIONS else function
    (family, which), *_ = function.items()
    if "Strptime" in str(function) and "'format': None" in str(function):
        return "a format that is guessed from other rows; write it out, as in DATE(s, '%Y-%m-%d')"
    word = which if isinstance(which, str) else next(iter(which), "") if isinstance(which, dict) else ""
    allowed = (
        (family == "Boolean" and word in _BOOLEAN)
        or (family == "ListExpr" and word in _LIST)
        or (family == "StringExpr" and word not in _STRING_REFUSED)
        or (family == "TemporalExpr" and word not in _TEMPORAL_REFUSED)
        or (family in _FAMILIES - {"StringExpr", "TemporalExpr"})
        or family in _FUNCTIONS
        or family == "StructExpr"
    )
    return None if allowed else f"{family} {word}".strip()
