"""The job of `data/delays` is right, and its forecasts are what NumPy makes of the same days."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from attention_core.run import opened, run

DELAYS = Path(__file__).parents[2] / "data" / "delays"
WEATHER = ["wind_speed", "precip", "visib", "temp", "pressure", "dewp"]
FIRST, TOMORROW = dt.date(2013, 11, 20), dt.date(2013, 12, 17)


def test_the_job_file_is_right():
    added = opened(DELAYS / "job.yaml").outputs.added()
    assert list(added) == ["recent_weight", "alike_weight", "share"]


@pytest.fixture(scope="module")
def rows():
    """Four weeks: tomorrow and a week beyond it, which must not be looked at, among them."""
    days = pl.read_parquet(DELAYS / "days")
    return days.filter(pl.col("day").is_between(FIRST, TOMORROW + dt.timedelta(days=7)))


@pytest.fixture(scope="module")
def forecast(rows, tmp_path_factory):
    """The rows and the table of a run over them."""
    folder = tmp_path_factory.mktemp("delays")
    rows.write_parquet(folder / "days.parquet")
    given = [f"source.path={folder / 'days.parquet'}", f"sink.path={folder / 'out'}", "expect={}"]
    run(DELAYS / "job.yaml", given)
    return pl.read_parquet(folder / "out"), pl.read_parquet(folder / "out.pooled" / "forecast.parquet")


def by_numpy(route, query):
    """The past days' shares, and the forecast, of one route."""
    keys = route.select(WEATHER).to_numpy()
    mean, deviation = keys.mean(0), keys.std(0)
    keys, query = (keys - mean) / deviation, (query - mean) / deviation
    score = keys @ query / np.sqrt(len(WEATHER))
    alike = np.exp(score - score.max())
    age = (route["day"].max() - route["day"]).dt.total_days().to_numpy()
    weight = route["flights"].to_numpy() * alike * 0.5 ** (age / 14)
    return weight / weight.sum(), (weight * route["delay"].to_numpy()).sum() / weight.sum()


def test_a_forecast_is_that_of_numpy(rows, forecast):
    attended, table = forecast
    tomorrow = pl.read_parquet(DELAYS / "tomorrow.parquet")
    past = rows.filter(pl.col("day") < TOMORROW)
    # the last past day is the same for all routes that flew on it
    routes = past.filter(pl.col("day") == TOMORROW - dt.timedelta(days=1)).select("origin", "carrier").rows()
    assert len(routes) > 30
    for origin, carrier in routes:
        query = tomorrow.filter(origin=origin).select(WEATHER).to_numpy()[0]
        shares, delay = by_numpy(past.filter(origin=origin, carrier=carrier), query)
        here = table.row(by_predicate=(pl.col("origin") == origin) & (pl.col("carrier") == carrier), named=True)
        assert here["expected_delay"] == pytest.approx(delay, rel=1e-9, abs=1e-9)
        found = attended.filter((pl.col("day") < TOMORROW), origin=origin, carrier=carrier)
        np.testing.assert_allclose(found["share"].to_numpy(), shares, rtol=1e-9, atol=1e-12)


def test_the_shares_stay_with_the_past_days_alone(rows, forecast):
    attended, table = forecast
    assert attended.select(rows.columns).equals(rows)
    assert attended.filter(pl.col("day") >= TOMORROW)["share"].null_count() == (rows["day"] >= TOMORROW).sum()
    assert attended.filter(pl.col("day") < TOMORROW)["share"].null_count() == 0
    assert attended["share"].sum() == pytest.approx(table.height)
