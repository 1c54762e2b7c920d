"""Do the point-in-time joins, asked through Feast, say what the ledger says?

Two readings. *As served*: at moments between two commits, joined by commit time, every entity must have what had to
be served then. *As known now*: at event times, an event view's entity must have the newest row, where a row counts
from its event time until that of a later version of it; of two of one time the later written one, for a row that got
another key stands there under both. (Deletes are committed long after all event times here.)
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pandas as pd
from feast import FeatureStore

from tests.chaos.ground import Ground
from tests.chaos.ledger import Ledger, Row
from tests.chaos.served import VIEWS, Served

MOMENTS = 40
"""Moments, and event times, at which every entity of a view is asked for."""

Wanted = dict[tuple[Any, datetime], dict[str, Any] | None]
"""By entity and time what it must have; None for nothing."""


def wrong_joins(ground: Ground, ledger: Ledger) -> Iterator[str]:
    """One line for each entity and time at which a join does not say what the ledger says."""
    store = ground.feast()
    choose = random.Random(0)
    moments = choose.sample(ledger.moments, min(MOMENTS, len(ledger.moments)))
    for view, served in VIEWS.items():
        yield from _compared(store, view, served, _as_served(ledger, served, moments), known=True)
        if served.event:
            yield from _compared(store, view, served, _as_known_now(ledger, served, choose), known=False)


def _as_served(ledger: Ledger, served: Served, moments: list[tuple[datetime, int]]) -> Wanted:
    entities = ledger.keys(served.table, served.column)
    wanted: Wanted = {}
    for moment, changes in moments:
        then = served.wanted(ledger.until(changes))
        wanted.update({(entity, moment): then.get(entity) for entity in entities})
    return wanted


def _as_known_now(ledger: Ledger, served: Served, choose: random.Random) -> Wanted:
    versions: defaultdict[int, list[Row]] = defaultdict(list)
    for change in ledger.changes:
        if change.table == served.table and change.row is not None and change.accepted:
            versions[change.key].append(change.row)
    times = sorted({row["at"] for rows in versions.values() for row in rows})
    wanted: Wanted = {}
    for time in choose.sample(times, min(MOMENTS, len(times))):
        newest: dict[Any, Row] = {}
        for rows in versions.values():
            for place, row in enumerate(rows):
                if row["at"] <= time and all(later["at"] > time for later in rows[place + 1 :]):
                    entity = row[served.column]
                    newest[entity] = max(newest.get(entity, row), row, key=lambda row: (row["at"], row["v"]))
        for entity in ledger.keys(served.table, served.column):
            wanted[entity, time] = served.made_of(newest[entity]) if entity in newest else None
    return wanted


def _compared(store: FeatureStore, view: str, served: Served, wanted: Wanted, known: bool) -> Iterator[str]:
    if not wanted:
        return
    entities, times = zip(*wanted, strict=True)
    frame = pd.DataFrame({served.key: entities, "event_timestamp": pd.to_datetime(times, utc=True)})
    features = [f"{view}:{name}" for name in served.features]
    job = store.get_historical_features(frame, features, filter_by_created_timestamp=known)
    for row in job.to_arrow().to_pylist():
        place = row[served.key], row["event_timestamp"]
        got = {name: row[name] for name in served.features}
        value = None if all(v is None for v in got.values()) else got
        if value != wanted[place]:
            told = "as served" if known else "as known now"
            yield f"{view} {place[0]} at {place[1]} {told}: {value}, not {wanted[place]}"
