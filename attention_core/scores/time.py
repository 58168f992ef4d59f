"""Attention in time: what is recent matters more."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import polars as pl
from pydantic import FiniteFloat
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.frozen import Frozen
from attention_core.kinds import Score
from attention_core.questions import Extent

MICROSECONDS = {"seconds": 1e6, "minutes": 6e7, "hours": 3.6e9, "days": 8.64e10}


class Now(Frozen):
    """The moment that ages are counted from: (size,) float64."""

    now: Tensor


class Recency(Score[Now | None]):
    """Minus the age of the key: −max(now − x − offset, 0).

    unit: seconds, minutes, hours or days, for keys that are times (days unless given); numbers count in their own unit.
    now: `latest` (the largest key of the scope), a timestamp, or a number for a numeric key.
    offset: an age that still counts as 0, in the same unit.

    A key later than now has age 0, and is counted in the health.
    Source: the age that decay by time goes by; pandas ewm with `times`.
    """

    kind: Literal["recency"] = "recency"
    unit: Literal["seconds", "minutes", "hours", "days"] | None = None
    now: Literal["latest"] | FiniteFloat | dt.datetime | dt.date = "latest"
    offset: FiniteFloat = 0.0

    def bound(self, dtype: pl.DataType | None) -> Recency:
        if dtype == pl.String:
            raise ValueError("recency takes dates, times and numbers, and this column is String; cast it in the source")
        super().bound(dtype)
        if dtype is None or not dtype.is_temporal():
            if self.unit is not None:
                raise ValueError(f"unit is for keys that are times, and this column is {dtype}; leave it out")
            if isinstance(self.now, dt.date):
                raise ValueError(f"now must be a number, since this column is {dtype}")
            return self
        now = self.now if self.now == "latest" else _microseconds(self.now, dtype)
        return Recency(unit=self.unit or "days", now=now, offset=self.offset)

    def fit(self) -> Fit[Now | None]:
        if self.now != "latest":
            return None
        return Now(now=(yield Extent()).high)

    def __call__(self, rows: Rows, known: Now | None) -> Tensor:
        per = MICROSECONDS[self.unit] if self.unit else 1.0
        return -((self._now(rows, known) - rows.x) / per - self.offset).clamp(min=0.0)

    def later(self, rows: Rows, known: Now | None) -> Tensor | None:
        if known is None and self.now == "latest":
            return None  # of each row by itself
        return rows.x > self._now(rows, known)

    def _now(self, rows: Rows, known: Now | None) -> Tensor | float:
        return float(self.now) if known is None else rows.at(known.now)  # type: ignore[arg-type]


def _microseconds(now: object, dtype: pl.DataType) -> float:
    """A timestamp as the key counts it: microseconds since 1970, in UTC where the key has a zone."""
    if not isinstance(now, dt.date):
        raise ValueError("now must be latest or a timestamp, since the key is a time")
    moment = now if isinstance(now, dt.datetime) else dt.datetime(now.year, now.month, now.day)
    if isinstance(dtype, pl.Time | pl.Duration) or dtype in (pl.Time, pl.Duration):
        raise ValueError(f"now must be latest, since this column is {dtype} and no moment")
    zone = getattr(dtype, "time_zone", None)
    if moment.tzinfo is not None and zone is None:
        raise ValueError("now has a time zone, and this column has none; write it without")
    try:
        series = pl.Series([moment]) if moment.tzinfo else pl.Series([moment]).dt.replace_time_zone(zone)
    except pl.exceptions.PolarsError:
        raise ValueError(f"now: {moment} is not one moment in {zone}; write it with its offset") from None
    return float(series.dt.epoch("us").item())
