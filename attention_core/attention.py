"""The middle: fit rules on a frame, and apply them to it, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
import torch
from pydantic import ValidationError

from attention_core.columns import ONE, Segments, segments
from attention_core.contract import conclude, together
from attention_core.errors import JobError
from attention_core.head import Ask, Head, Known, column_type
from attention_core.job import Rule


def attend(
    frame: pl.DataFrame | pl.LazyFrame, rules: Sequence[Rule | Mapping[str, Any]], chunk_rows: int = 1 << 17
) -> pl.DataFrame | pl.LazyFrame:
    """The frame with the columns that the rules add, of the same sort as it came.

    The frame is one batch. The bits do not depend on `chunk_rows`.

    Raises:
        JobError: for a rule that does not fit the columns.
        DataError: for data that a rule cannot work on, as an infinite key of a sum.
    """
    if isinstance(frame, pl.LazyFrame):
        attended = attend(frame.collect(), rules, chunk_rows)
        assert isinstance(attended, pl.DataFrame)
        return attended.lazy()
    heads = resolved([_rule(i, rule) for i, rule in enumerate(rules)], frame.schema)
    with one_thread():
        known, parts = _fitted(frame, heads, chunk_rows)
        return _attended(frame, heads, known, parts, chunk_rows).drop(_hidden(heads))


def resolved(rules: Sequence[Rule], schema: Mapping[str, pl.DataType]) -> tuple[Head, ...]:
    """The heads of the rules in order; each may look at the columns of those above it.

    Raises:
        JobError: for a column that is not there, or two of the same name.
    """
    schema, heads = dict(schema), list[Head]()
    for rule in rules:
        for head in rule.heads(schema):
            heads.append(head)
            for name, dtype in _types(head, schema).items():
                if name in schema:
                    fix = "rename: {weight: ..., weighted: ...} on the rule gives another"
                    raise JobError(f"rule {head.rule!r}: there is a column {name!r} already; {fix}")
                schema[name] = dtype
    return tuple(heads)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread here, since torch's threads and Polars' own get in each other's way; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rule(i: int, rule: Rule | Mapping[str, Any]) -> Rule:
    if isinstance(rule, Rule):
        return rule
    try:
        return Rule.model_validate(dict(rule))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise JobError(f"attention[{i}]{'.' if where else ''}{where}: {first['msg']}") from None


def _types(head: Head, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    weighted = {name: column_type(schema[value]) for value, name, _ in head.values}
    return {name: pl.Float64() for name in head.weights} | weighted


def _hidden(heads: Sequence[Head]) -> list[str]:
    return [name for head in heads if not head.written for name in head.weights]


def _needs(heads: Sequence[Head]) -> dict[str, set[str]]:
    """For each head, by its first weight column, the heads whose columns it looks at, and theirs."""
    maker = {column: head.weights[0] for head in heads for column in head.adds()}
    needs: dict[str, set[str]] = {}
    for head in heads:
        direct = {maker[c] for c in head.columns() | {v for v, _, _ in head.values} if c in maker}
        needs[head.weights[0]] = direct.union(*(needs[d] for d in direct))
    return needs


def _fitted(
    frame: pl.DataFrame, heads: Sequence[Head], chunk_rows: int
) -> tuple[dict[str, Known | None], dict[str, Segments]]:
    needs, parts = _needs(heads), dict[str, Segments]()
    by_name = {head.weights[0]: head for head in heads}

    def answers(asked: tuple[tuple[Ask, ...], dict[str, Known | None]]) -> tuple[Any, ...]:
        asks, known = asked
        wanted = {n for ask in asks for n in needs[ask.head.weights[0]]}
        before = [h for h in heads if h.weights[0] in wanted]
        columns = {c for h in (*before, *(a.head for a in asks)) for c in (*h.columns(), *(v for v, _, _ in h.values))}
        narrow = frame.select([c for c in frame.columns if c in columns] or frame.columns[:1])
        for ask in asks:
            if ask.head.weights[0] not in parts:
                parts[ask.head.weights[0]] = _segments(narrow, ask.head, before, known, parts, chunk_rows)
        totals: list[Any] = [None] * len(asks)
        for start, chunk in _chunks(narrow, chunk_rows):
            for head in before:
                chunk = head.attend(chunk, _slice(parts, head, start, chunk), _of(known, head))
            for i, ask in enumerate(asks):
                state = ask.of(chunk, _slice(parts, ask.head, start, chunk))
                totals[i] = state if totals[i] is None else totals[i] + state
        return tuple(totals)

    known = conclude(together({name: head.fit() for name, head in by_name.items()}, needs), answers)
    return known, parts


def _segments(
    frame: pl.DataFrame,
    head: Head,
    before: Sequence[Head],
    known: dict[str, Known | None],
    parts: dict[str, Segments],
    chunk_rows: int,
) -> Segments:
    if not isinstance(head.over, tuple):
        return ONE
    if not set(head.over) <= set(frame.columns):
        frame = _attended(frame, before, known, parts, chunk_rows)
    return segments(frame.select(head.over))


def _attended(
    frame: pl.DataFrame,
    heads: Sequence[Head],
    known: Mapping[str, Known | None],
    parts: Mapping[str, Segments],
    chunk_rows: int,
) -> pl.DataFrame:
    """The rows of a frame with what the heads add, chunk by chunk."""
    out = []
    for start, chunk in _chunks(frame, chunk_rows):
        for head in heads:
            chunk = head.attend(chunk, _slice(parts, head, start, chunk), _of(known, head))
        out.append(chunk)
    return pl.concat(out)


def _of(known: Mapping[str, Known | None], head: Head) -> Known:
    found = known[head.weights[0]]
    assert found is not None
    return found


def _slice(parts: Mapping[str, Segments], head: Head, start: int, chunk: pl.DataFrame) -> Segments:
    whole = parts.get(head.weights[0], ONE)
    if whole.ids is None:
        return whole
    return Segments(whole.keys, whole.ids[start : start + chunk.height], whole.size)


def _chunks(frame: pl.DataFrame, rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
    if not frame.height:
        yield 0, frame
    for start in range(0, frame.height, rows):
        yield start, frame.slice(start, rows)
