"""The demo from an empty machine to the report: every step by the commands that a user has."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import create_engine, text

from millrace.apply import apply
from millrace.demo import traffic
from millrace.demo.data import LIVE_DAY, Flights2013, load
from millrace.demo.freshness import Freshness
from millrace.lookup import look_up, search_text
from millrace.progress import progress
from millrace.repo import Repo, open_repo
from millrace.stack.stack import Stack
from millrace.verify import verify_views
from millrace.wiring import flows, lake, online, topics
from streams.decide import changes_table
from streams.letters import read

SOURCE = "nyc"
LIVE_SECONDS = 25.0
SETTLE_SECONDS = 180.0
WIND = "1048.36"
LOOKED_UP = ("weather_now", "plane_last_flight")
ENTITY = {"faa": "JFK", "tailnum": "N328AA"}
MIDNIGHT = LIVE_DAY + pd.Timedelta(days=1)  # the day's features are looked up at its end, not years later
TRAINED_ON = ("weather_now:wind", "weather_now:visib", "plane_last_flight:arr_delay", "plane_last_flight:late")

Say = Callable[[str], None]


class DemoFailed(Exception):
    """The demo did not do what it promises."""


def run_demo(repo_path: Path, stack: Stack, folder: Path, say: Say) -> dict[str, Any]:
    """Run the demo on a running, empty stack; returns its report. Raises `DemoFailed`."""
    began = time.monotonic()
    say("reading the flights of 2013")
    data = load()
    engine = _make_database(stack, data, say)
    repo = open_repo(repo_path, folder)
    say("millrace apply")
    apply(repo, say)
    with _worker(repo_path, folder, say) as worker:
        _drain(repo, worker, say, "the snapshot")
        say(f"live: the commits of {LIVE_DAY:%Y-%m-%d} in {LIVE_SECONDS:g} seconds")
        freshness = _live(repo, engine, data)
        _drain(repo, worker, say, "the live day")
        say("millrace verify")
        with progress(say) as told:
            verified = verify_views(repo, (), None, 10.0, told)
    report = _report(repo, data, freshness, verified)
    engine.dispose()
    return {**report, "seconds": round(time.monotonic() - began, 1)}


def _make_database(stack: Stack, data: Flights2013, say: Say) -> Any:
    server = create_engine(f"{stack.endpoints().postgres}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {SOURCE}"))
    server.dispose()
    engine = create_engine(f"{stack.endpoints().postgres}/{SOURCE}")
    loaded = traffic.create(engine, data)
    say("loaded: " + ", ".join(f"{count:,} {table}" for table, count in loaded.items()))
    return engine


@contextmanager
def _worker(repo_path: Path, folder: Path, say: Say) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as a process of its own, stopped as an operator stops it: by SIGTERM."""
    log = folder / "logs" / "worker.log"
    command = [sys.executable, "-m", "millrace.cli", "run", "--repo", str(repo_path), "--stack", str(folder)]
    with log.open("wb") as output:
        worker = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            say(f"millrace run (log: {log})")
            yield worker
        finally:
            worker.terminate()
            code = worker.wait(15)
    if code != 0:
        raise DemoFailed(f"the worker ended with exit code {code}; see {log}")


def _drain(repo: Repo, worker: subprocess.Popen[bytes], say: Say, what: str) -> None:
    """Wait until the workers have committed everything that the topics hold, and that holds for a second."""
    since, deadline = time.monotonic(), time.monotonic() + SETTLE_SECONDS
    quiet, last = 0, -1
    tables, broker = sorted(flows(repo)), topics(repo)
    while quiet < 4:
        if worker.poll() is not None:
            raise DemoFailed(f"the worker ended with exit code {worker.returncode}; its log says why")
        if time.monotonic() > deadline:
            raise DemoFailed(f"{what} is not through after {SETTLE_SECONDS:g} s: millrace status tells why")
        time.sleep(0.25)
        offsets = broker.committed(repo.group, tables).values()
        total = sum(end for _, end in offsets)
        drained = total > 0 and all(committed >= end for committed, end in offsets)
        quiet = quiet + 1 if drained and total == last else 0
        last = total
    say(f"{what}: {last:,} records through in {time.monotonic() - since:.1f} s")


def _live(repo: Repo, engine: Any, data: Flights2013) -> Freshness:
    view = next(v.view for flow in flows(repo).values() for v in flow.views if v.view.name == "plane_last_flight")
    freshness = Freshness(online(repo), view)
    traffic.play(engine, traffic.day(data), LIVE_SECONDS, freshness.committed)
    freshness.finish()
    return freshness


def _report(repo: Repo, data: Flights2013, freshness: Freshness, verified: dict[str, Any]) -> dict[str, Any]:
    letters = list(read(topics(repo), repo.letters_topic))
    reasons = Counter(reason for letter in letters for reason in letter.reasons)
    store = lake(repo)
    accepted = sum(store.snapshot(changes_table(topic)).data.count_rows() for topic in flows(repo))
    return {
        "captured": accepted + len(letters),
        "accepted": accepted,
        "rejected": len(letters),
        "letters": dict(reasons),
        "wind_caught": any(WIND in reason for reason in reasons),
        "freshness_ms": freshness.summary(),
        "lookup": look_up(repo, LOOKED_UP, ENTITY, MIDNIGHT.to_pydatetime()),
        "search": search_text(repo, None, "international airport in Chicago", 3, MIDNIGHT.to_pydatetime()),
        "training": _training(repo, data),
        "verify": verified,
    }


def _training(repo: Repo, data: Flights2013) -> dict[str, Any]:
    """A training frame of the day's flights: what was known when each was to depart, and how late it arrived."""
    frame = repo.store.get_historical_features(entity_df=_departures(data), features=list(TRAINED_ON)).to_df()
    label = "late_minutes"
    known = {name: int(frame[name.split(":")[1]].notna().sum()) for name in TRAINED_ON}
    shown = frame.sort_values("event_timestamp").tail(3).astype(str).to_dict("records")
    return {"rows": len(frame), "known": known, "label": label, "examples": shown}


def _departures(data: Flights2013) -> Any:
    """The flights of the live day as entities, each at its scheduled departure, with its arrival delay."""
    flights = load().flights
    day = flights[
        (flights["flight_date"] == LIVE_DAY.date()) & flights["tailnum"].notna() & flights["arr_delay"].notna()
    ]
    return day[["tailnum", "origin", "sched_dep", "arr_delay"]].rename(
        columns={"origin": "faa", "sched_dep": "event_timestamp", "arr_delay": "late_minutes"}
    )
