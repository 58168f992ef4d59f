"""What a run came to: numbers, lines and tables, in the terminal and in Markdown."""

import polars as pl
import pytest

from flows import show
from flows.summary import HEADERS, counted, headline, number, planned, table

WEIGHT = {
    "rule": "late", "seconds": 0.5, "rows": 12000, "nulls": 3, "nans": 4, "min": 1.0, "mean": 1.25, "max": 2.0,
    "effective_sample_size": 11000.4,
}  # fmt: skip
RECORD = {
    "job": "flights", "sink": "/out/flights", "tables": [], "plan": {"new": 2}, "batches": 2, "rows": 12000,
    "seconds": 2.0, "engine": "here",
    "weights": {"late_weight": WEIGHT, "standing": {**WEIGHT, "rule": "a|b", "seconds": None}},
}  # fmt: skip


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"), (0, "0"), (1, "1"), (-2.5, "-2.5"), (1.23456, "1.235"), (0.001, "0.001"), (0.00012, "1.20e-04"),
        (9999.4, "9999"), (9999.6, "10,000"), (12345.6, "12,346"), (-12345.6, "-12,346"), (1.5e12, "1.50e+12"),
        (0.0009999999, "0.001"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_a_number_as_a_person_reads_it(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "n, one, text",
    [(1, "batch", "1 batch"), (0, "batch", "0 batches"), (1200, "batch", "1,200 batches"), (2, "rule", "2 rules"),
     (1, "fitting pass", "1 fitting pass"), (3, "fitting pass", "3 fitting passes")],
)  # fmt: skip
def test_one_and_many(n, one, text):
    assert counted(n, one) == text


def test_lines():
    assert headline(RECORD) == "2 batches, 12,000 rows in 2.0 s (6,000 rows/s)"
    assert headline({**RECORD, "batches": 0, "rows": 0}) == "nothing is new"
    assert planned({"new": 1200, "done": 3}) == "1,200 new, 3 done"
    assert planned({}) == "no batches"


def test_a_row_for_each_weight_column_under_its_rule_or_its_own_name():
    first, second = table(RECORD)
    assert first == ("late", "12,000", "7", "1", "1.25", "2", "11,000", "0.50", "24,000")
    assert second[0] == "standing" and second[-2:] == ("", "")
    assert len(first) == len(HEADERS)


def test_markdown_is_a_table_whatever_the_names():
    from flows.artifacts import markdown

    lines = markdown({**RECORD, "weights": {"a|b_weight": {**WEIGHT, "rule": "a|b"}}}).splitlines()
    assert lines[0] == "**flights**: 2 batches, 12,000 rows in 2.0 s (6,000 rows/s)"
    assert "`/out/flights`" in lines[2]
    assert lines[4].count("|") == len(HEADERS) + 1
    assert lines[5] == "| --- |" + " --: |" * (len(HEADERS) - 1)
    assert lines[6].startswith("| a\\|b | 12,000 | 7 | 1 | 1.25 |")
    assert len(lines) == 7


@pytest.mark.parametrize(
    "value, text",
    [(None, "null"), (float("nan"), "nan"), (2.0, "2"), (1 / 3, "0.333333"), (12, "12"), ("a", "a"),
     ([1.0, None], "[1, null]")],
)  # fmt: skip
def test_a_cell(value, text):
    assert show.cell(value) == text


def test_text_is_shown_as_it_stands(capsys):
    """Brackets and colons mean something to the library that draws the tables, and nothing in data."""
    strange = "[/b] [red]x :smile:"
    show.frame(pl.DataFrame({strange: [strange]}), [strange])
    show.summary({**RECORD, "job": strange, "sink": strange, "weights": {strange: WEIGHT}}, strange)
    assert capsys.readouterr().out.count(strange) == 6


def test_a_wide_frame_keeps_its_names_and_values(capsys):
    show.frame(pl.DataFrame({f"a_long_column_name_{i}": [1234567.0] for i in range(30)}), [])
    said = capsys.readouterr().out
    assert "a_long_column_name_29" in said and said.count("1.23457e+06") == 30


def test_rows_that_do_not_fit_are_counted(capsys):
    show.frame(pl.DataFrame({"a": ["x" * 70] * 5, "b": ["y" * 100] * 5}), [])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[-1] == "4 of 5 rows more, which do not fit beside each other"
