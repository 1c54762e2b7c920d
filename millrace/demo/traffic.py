"""2013-02-12 as traffic on the source database: every commit that the day made, in its order."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, text

from millrace.demo.data import LIVE_DAY, Flights2013

SCHEMA = Path(__file__).parent / "schema.sql"
TABLES = ("airlines", "airports", "planes", "weather", "flights")
ANNOUNCED = pd.Timedelta(hours=2)  # a flight is entered this long before its scheduled departure
CLOSED_AIRPORT = "04G"  # no flight and no weather refers to it
RENUMBERED_PLANE = ("N10156", "N1015X")


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction of the day: when it happened, and the statement with its parameters.

    `tailnum` and `updated_at` name the plane and the event time that a reader can wait for: of arrivals.
    """

    at: pd.Timestamp
    statement: str
    parameters: Mapping[str, Any]
    tailnum: str | None = None
    updated_at: pd.Timestamp | None = None


def create(engine: Engine, data: Flights2013) -> dict[str, int]:
    """Make the tables and load what happened before the live day. Returns the rows of each table."""
    with engine.begin() as connection:
        connection.exec_driver_sql(SCHEMA.read_text())
        return {table: _copy(connection, table, _history(table, data)) for table in TABLES}


def day(data: Flights2013) -> list[Commit]:
    """All commits of the live day, in the order of their moments."""
    commits = [*_weather(data), *_flights(data), *_specials()]
    return sorted(commits, key=lambda commit: commit.at)


def play(engine: Engine, commits: list[Commit], seconds: float, committed: Callable[[Commit, float], None]) -> None:
    """Commit them one by one, spread evenly over `seconds`; `committed` is told the moment (`time.time()`)
    just before each commit was asked for, so that what is measured from it includes the commit itself."""
    start = time.monotonic()
    with engine.connect() as connection:
        for i, commit in enumerate(commits):
            time.sleep(max(0.0, start + seconds * i / len(commits) - time.monotonic()))
            connection.execute(text(commit.statement), dict(commit.parameters))
            asked = time.time()
            connection.commit()
            committed(commit, asked)


def _history(table: str, data: Flights2013) -> pd.DataFrame:
    frame: pd.DataFrame = getattr(data, table)
    if table == "weather":
        return frame[frame["time_hour"] < LIVE_DAY]
    if table == "flights":
        return frame[frame["flight_date"] < LIVE_DAY.date()]
    return frame


def _copy(connection: Connection, table: str, frame: pd.DataFrame) -> int:
    command = f"COPY {table} ({', '.join(frame.columns)}) FROM STDIN (FORMAT csv)"
    cursor: Any = connection.connection.cursor()  # psycopg's, which knows COPY
    with cursor.copy(command) as copy:
        copy.write(frame.to_csv(index=False, header=False))
    return len(frame)


def _weather(data: Flights2013) -> Iterator[Commit]:
    for row in _rows(data.weather[data.weather["time_hour"] >= LIVE_DAY]):
        yield Commit(row["time_hour"], _insert("weather", row), row)


def _flights(data: Flights2013) -> Iterator[Commit]:
    for row in _rows(data.flights[data.flights["flight_date"] == LIVE_DAY.date()]):
        yield _announced(row)
        if row["status"] == "cancelled":
            yield _cancelled(row)
            continue
        yield _updated(row, row["departed_at"], "departed", "departed_at", "dep_delay")
        if row["arrived_at"] is not None:
            yield _updated(row, row["arrived_at"], row["status"], "arrived_at", "arr_delay", "air_time")


def _announced(row: dict[str, Any]) -> Commit:
    at = row["sched_dep"] - ANNOUNCED
    unknown = dict.fromkeys(("departed_at", "arrived_at", "dep_delay", "arr_delay", "air_time"))
    values = {**row, **unknown, "status": "scheduled", "updated_at": at}
    return Commit(at, _insert("flights", row), values)


def _updated(row: dict[str, Any], at: pd.Timestamp, status: str, *columns: str) -> Commit:
    values = {**{c: row[c] for c in (*columns, *KEY)}, "status": status, "updated_at": at}
    changes = ", ".join(f"{c} = :{c}" for c in ("status", "updated_at", *columns))
    statement = f"UPDATE flights SET {changes} WHERE {WHERE_KEY}"
    if status == "arrived":
        return Commit(at, statement, values, row["tailnum"], at)
    return Commit(at, statement, values)


def _cancelled(row: dict[str, Any]) -> Commit:
    """A cancelled flight stays, as such, if it had a plane; one that never got a plane is taken out."""
    at = row["sched_dep"]
    if row["tailnum"] is None:
        return Commit(at, f"DELETE FROM flights WHERE {WHERE_KEY}", {c: row[c] for c in KEY})
    return _updated(row, at, "cancelled")


def _specials() -> Iterator[Commit]:
    noon = LIVE_DAY + pd.Timedelta(hours=12)
    old, new = RENUMBERED_PLANE
    yield Commit(noon, "DELETE FROM airports WHERE faa = :faa", {"faa": CLOSED_AIRPORT})
    yield Commit(noon, "UPDATE planes SET tailnum = :new WHERE tailnum = :old", {"old": old, "new": new})


KEY = ("flight_date", "carrier", "flight", "origin")
WHERE_KEY = " AND ".join(f"{column} = :{column}" for column in KEY)


def _insert(table: str, row: Mapping[str, Any]) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{c}' for c in row)})"


def _rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        yield {str(column): value for column, value in row.items()}
