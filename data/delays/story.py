"""Does attention pay? The forecasts of `job.yaml` for every day from 1 April on, each made from the days before it.

`python data/delays/story.py` prints what they miss by, and draws `story.svg`. Needs matplotlib. With entries of the job
file in other words, `python data/delays/story.py "attention[1].score.kind=euclidean"`, it prints and draws nothing.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from attention_core.attention import attend, pooled
from attention_core.job import Job, Rule
from attention_core.jobfile import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
FIRST = dt.date(2013, 4, 1)  # 90 days are known by then
STORM = dt.date(2013, 12, 17)
SHOWN = ("EWR", "UA")  # the route with the most flights
ROUTE = ["origin", "carrier"]
WAYS = {  # what a past day counts, each time beside its flights
    "plain mean": "flights",
    "recency": "flights * recent_weight",
    "weather": "flights * alike_weight",
    "both": "flights * recent_weight * alike_weight",
}


def rules(tomorrow: dt.date, weather: Path) -> tuple[Rule, ...]:
    """The rules of the job file for another tomorrow and a file with its weather, changed as the command line says."""
    given = [f"attention[{i}].mask=\"day < DATE '{tomorrow}'\"" for i in (0, 1)]
    given.append(f"attention[1].score.query.table={weather}")
    return load(HERE / "job.yaml", Job, [*given, *sys.argv[1:]]).value.attention


def each_way(given: tuple[Rule, ...]) -> list[Rule]:
    """The first two rules as they are, and the third, the forecast, once for each way."""
    *looks, forecast = given
    found = list(looks)
    for way, sql in WAYS.items():
        score = forecast.score.model_copy(update={"sql": sql})
        rename = forecast.rename.model_copy(update={"weight": f"{way} share", "weighted": way})
        found.append(forecast.model_copy(update={"name": way, "score": score, "rename": rename}))
    return found


def forecasts(days: pl.DataFrame, tomorrow: dt.date, weather: Path) -> pl.DataFrame:
    """One row for each route that flew: what was expected each way, and what came. No day from then on is looked at.

    weather: a file that is written, with the day's weather at each origin.
    """
    today = days.filter(pl.col("day") == tomorrow)
    today.unique("origin", keep="first", maintain_order=True).write_parquet(weather)
    tables = pooled(days.filter(pl.col("day") < tomorrow), each_way(rules(tomorrow, weather)))
    came = today.select("day", *ROUTE, "flights", "delay")
    for way, table in tables.items():
        came = came.join(table.select(*ROUTE, way), on=ROUTE, how="left")
    return came.drop_nulls()


def walked(days: pl.DataFrame) -> pl.DataFrame:
    """The forecasts for all days with weather, from the first on."""
    with tempfile.TemporaryDirectory() as folder:
        weather = Path(folder) / "tomorrow.parquet"
        ahead = days.filter(pl.col("day") >= FIRST).drop_nulls()["day"].unique().sort()
        return pl.concat([forecasts(days, day, weather) for day in ahead])


def misses(found: pl.DataFrame) -> pl.DataFrame:
    """Root mean square and mean absolute error of each way, in minutes, weighted by flights."""
    share = pl.col("flights") / pl.col("flights").sum()
    rows = []
    for way in WAYS:
        off = pl.col(way) - pl.col("delay")
        rows.append(
            found.select(pl.lit(way).alias("way"), RMSE=(off**2 * share).sum().sqrt(), MAE=(off.abs() * share).sum())
        )
    return pl.concat(rows)


def by_day(found: pl.DataFrame) -> pl.DataFrame:
    """The mean over all routes, weighted by flights: what came, and what was expected each way."""
    means = [((pl.col(c) * pl.col("flights")).sum() / pl.col("flights").sum()).alias(c) for c in ("delay", *WAYS)]
    return found.group_by("day").agg(means).sort("day")


def shares(days: pl.DataFrame) -> pl.DataFrame:
    """The days that the storm day's forecast for the largest route is built on, by their share in it."""
    found = attend(days, rules(STORM, HERE / "tomorrow.parquet"))
    assert isinstance(found, pl.DataFrame)
    return found.filter(origin=SHOWN[0], carrier=SHOWN[1]).top_k(5, by="share").select("day", "delay", "share")


def told(found: pl.DataFrame, errors: pl.DataFrame, built_on: pl.DataFrame) -> None:
    """Prints it all."""
    print(f"{found.height:,} forecasts of {found['day'].n_unique()} days, each from the days before it alone")
    print(f"{'minutes, weighted by flights':30}  RMSE   MAE")
    for way, rmse, mae in errors.iter_rows():
        print(f"{way:30} {rmse:5.1f} {mae:5.1f}")
    storm = by_day(found).row(by_predicate=pl.col("day") == STORM, named=True)
    print(f"\nOn {STORM}, a day of snow, {storm['delay']:.1f} minutes came;", end=" ")
    print("expected were " + ", ".join(f"{storm[way]:.1f} ({way})" for way in WAYS))
    print(f"For {' '.join(SHOWN)}, that forecast is built on:")
    for day, delay, share in built_on.iter_rows():
        print(f"  {day}  {share:6.1%}  {delay:5.1f} minutes late")
    print("\nHalf-life and temperature were picked on these same days, and the weather that came stands for a forecast")
    print("of it: on new days, with a forecast that errs, expect less.")


def drawn(found: pl.DataFrame, errors: pl.DataFrame, file: Path) -> None:
    """Two pictures in one: what each way misses by, and the last two months, day by day."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "delays",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[1, 2], layout="constrained")
    _errors(left, errors)
    _days(right, by_day(found).filter(pl.col("day") >= dt.date(2013, 11, 1)))
    figure.savefig(file, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def _errors(axes: Axes, errors: pl.DataFrame) -> None:
    """A pair of bars for each way, the number beside each."""
    for i, (measure, colour) in enumerate({"RMSE": "#0072b2", "MAE": "#8fc1e3"}.items()):
        at = [way + (i - 0.5) * 0.38 for way in range(errors.height)]
        bars = axes.barh(at, errors[measure], height=0.36, color=colour, label=measure)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(errors.height), errors["way"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15 * errors["RMSE"].max()), xlabel="minutes, less is better")
    axes.set_title("What the forecasts miss by", loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _days(axes: Axes, days: pl.DataFrame) -> None:
    """What came and what was expected, and the storm day by name."""
    from matplotlib.dates import DateFormatter

    lines = {
        "delay": ("came", "#222222", "-", 1.4),
        "plain mean": ("expected: plain mean", "#999999", "--", 1.4),
        "both": ("expected: recency and weather", "#d55e00", "-", 2.0),
    }
    for column, (label, colour, style, width) in lines.items():
        axes.plot(days["day"], days[column], style, color=colour, label=label, linewidth=width)
    height = days.filter(pl.col("day") == STORM)["delay"].item()
    said = {"xytext": (14, 20), "textcoords": "offset points"}
    axes.annotate("17 December, snow", (STORM, height), arrowprops={"arrowstyle": "-", "color": "#222222"}, **said)
    axes.set_title("Mean departure delay of all routes, and what was expected the day before", loc="left")
    axes.set(ylabel="minutes")
    axes.xaxis.set_major_formatter(DateFormatter("%d %b"))
    axes.legend(loc="upper left", frameon=False)


def main() -> None:
    began = time.perf_counter()
    days = pl.read_parquet(HERE / "days")
    found = walked(days)
    errors = misses(found)
    told(found, errors, shares(days))
    if not sys.argv[1:]:
        drawn(found, errors, HERE / "story.svg")
        print(f"drawn: {HERE / 'story.svg'}")
    print(f"{time.perf_counter() - began:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
