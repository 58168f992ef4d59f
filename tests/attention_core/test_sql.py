"""What may stand in an expression: the row's own columns, and nothing beyond."""

import pytest

from attention_core.sql import columns_of, row_expression


@pytest.mark.parametrize(
    "sql",
    [
        "a * b", "CASE WHEN a > 1 THEN 2 ELSE b END", "COALESCE(a, b)", "a IN (1, 2)", "s LIKE 'x%y'",
        "a BETWEEN 1 AND 2 AND b IS NOT NULL", "EXTRACT(hour FROM t)", "GREATEST(a, b)", "s = 'now()'", "1.0",
    ],
)  # fmt: skip
def test_what_is_of_the_row_is_taken(sql):
    row_expression(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "a - AVG(a)", "COUNT(*)", "NOW()", "CURRENT_TIMESTAMP", "RANK() OVER (ORDER BY a)", "FIRST(a)",
        "ROW_NUMBER() OVER ()", "a > (SELECT 1)", "a ; b", "nonsense (", "LEAD(a, 1) OVER (ORDER BY a)",
    ],
)  # fmt: skip
def test_what_looks_beyond_is_refused(sql):
    with pytest.raises(ValueError, match="beyond its row|is not a Polars SQL|not of the row"):
        row_expression(sql)


def test_columns():
    assert columns_of("b + a * b") == ["a", "b"]
