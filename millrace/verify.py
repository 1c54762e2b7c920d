"""`millrace verify`: PostgreSQL = online = lake, entity by entity.

What PostgreSQL holds goes through the same contract, transforms and casts as a change, and must come out as
what the online store serves and what the lake holds as newest. Rows that the contract or any view of the table
rejects have no known feature: for their entities only online and lake are compared. No text is embedded: a row that
the model alone refuses is a mismatch. What differs is looked at again while changes may be in flight; what still
differs then is a mismatch.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine

from connectors.rows import Rows, read_rows
from connectors.source import Source
from connectors.table import Table
from millrace.repo import Repo
from millrace.wiring import flows, lake, online, source, topics, vectors
from stores.history import newest
from stores.lake import Lake
from stores.view import View
from streams.backfill import UnknownView
from streams.changes import as_snapshot, carried
from streams.pipeline import Flow, process
from streams.views import StreamView

SHOWN = 20
INTERVAL_SECONDS = 0.5
NOT_COMPARABLE = ("interval",)  # Debezium writes ISO 8601 its own way

Key = tuple[Any, ...]
Values = tuple[Any, ...]
Scan = Callable[[View], Iterator[pa.Table]]
"""All entities of a view in the store that serves it, with `_present` or without deleted ones."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One entity whose value differs: what each place holds; None where it holds nothing."""

    view: str
    entity: Mapping[str, Any]
    postgres: Mapping[str, Any] | None
    online: Mapping[str, Any] | None
    lake: Mapping[str, Any] | None


@dataclass(slots=True)
class ViewReport:
    """One view compared. `rejected` counts the rows of PostgreSQL that the contract or a view of the table, be it
    another one, does not let through."""

    entities: int = 0
    rejected: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    looks: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values; of many mismatches the first."""
        return {
            "entities": self.entities,
            "rejected": self.rejected,
            "mismatches": len(self.mismatches),
            "looks": self.looks,
            "examples": [asdict(m) for m in self.mismatches[:SHOWN]],
        }


@dataclass(frozen=True, slots=True)
class Database:
    """A source database and its connections."""

    source: Source
    engine: Engine


def _database(repo: Repo, name: str) -> Database:
    described = source(repo, name)
    return Database(described, described.engine())


@dataclass(frozen=True, slots=True)
class Verifier:
    """Compares views, each until it agrees or `patience_seconds` are over."""

    lake: Lake
    scan: Scan
    patience_seconds: float

    def view(self, flow: Flow, stream_view: StreamView, database: Database, sample: int | None) -> ViewReport:
        """Compare all entities of one view, or `sample` of them, drawn once; then again and again those that differed,
        until all have agreed at some look or patience ends."""
        deadline = time.monotonic() + self.patience_seconds
        held = self._look(flow, stream_view, database)
        keys = held.keys()
        if sample is not None and sample < len(keys):
            keys = random.sample(keys, sample)
        report = ViewReport(entities=len(keys))
        while True:
            report.looks, report.rejected = report.looks + 1, held.rejected
            differing = held.differing(keys, _comparable_to_postgres(stream_view))
            if not differing or time.monotonic() > deadline:
                report.mismatches = [held.mismatch(stream_view.view, key) for key in differing]
                return report
            time.sleep(INTERVAL_SECONDS)
            keys, held = differing, self._look(flow, stream_view, database)

    def _look(self, flow: Flow, stream_view: StreamView, database: Database) -> "Held":
        view = stream_view.view
        truth, free, rejected = _postgres(flow, stream_view, database)
        online = {key: values for table in self.scan(view) for key, values in _entities(view, _present(table))}
        return Held(truth, free, rejected, online, dict(_entities(view, newest(self.lake, view))))


@dataclass(frozen=True, slots=True)
class Held:
    """What the three places hold of a view at one look; `truth`, `free` and `rejected` as of `_postgres`."""

    truth: Mapping[Key, Sequence[Values]]
    free: AbstractSet[Key]
    rejected: int
    online: Mapping[Key, Values]
    lake: Mapping[Key, Values]

    def keys(self) -> list[Key]:
        """The entities that any place knows, in an order of their own."""
        return sorted(set(self.truth) | set(self.online) | set(self.lake), key=repr)

    def differing(self, keys: Iterable[Key], told: Sequence[int]) -> list[Key]:
        """Those of the entities that are not the same everywhere; PostgreSQL counts for the features `told`."""
        return [
            key
            for key in keys
            if self.online.get(key) != self.lake.get(key)
            or not (key in self.free or _right(told, self.truth.get(key, []), self.online.get(key)))
        ]

    def mismatch(self, view: View, key: Key) -> Mismatch:
        """One entity, side by side."""
        first = next(iter(self.truth.get(key, [])), None)
        entity = {k.name: value for k, value in zip(view.join_keys, key, strict=True)}
        postgres, online, lake = (_named(view, v) for v in (first, self.online.get(key), self.lake.get(key)))
        return Mismatch(view.name, entity, postgres, online, lake)


def _postgres(flow: Flow, stream_view: StreamView, database: Database) -> tuple[dict[Key, list[Values]], set[Key], int]:
    """For each entity what PostgreSQL's rows make of it: several values where rows tie for the newest.

    Second, the entities of rejected rows; third, the number of those rows.
    """
    truth: dict[Key, list[Values]] = {}
    latest: dict[Key, Any] = {}
    free: set[Key] = set()
    rejected = 0
    for rows in _rows(flow.table, database):
        accepted = process(as_snapshot(flow.table, rows.table), flow)
        rejected += len(accepted.bad) + rows.undecodable.num_rows
        free |= _keys(stream_view, rows.table.take(pa.array(sorted(accepted.bad), pa.int64())))
        free |= _keys(stream_view, rows.undecodable)
        projected = next(found for view, found in accepted.projected if view is stream_view)
        times = projected.rows.table["event_timestamp"].to_pylist()
        for (key, values), moment in zip(_entities(stream_view.view, projected.rows.table), times, strict=True):
            if key not in latest or moment > latest[key]:
                truth[key], latest[key] = [values], moment
            elif moment == latest[key]:
                truth[key].append(values)
    return truth, free, rejected


def _rows(table: Table, database: Database) -> Iterator[Rows]:
    columns = [table.column(field.name) for field in carried(table)]
    return read_rows(database.engine, database.source, table, columns)


def _keys(stream_view: StreamView, rows: pa.Table) -> set[Key]:
    """The entities that rows of the table belong to."""
    types = [key.arrow_type for key in stream_view.view.join_keys]
    columns = [rows[name].cast(type_, safe=False) for name, type_ in zip(stream_view.key_columns, types, strict=True)]
    return set(zip(*(column.to_pylist() for column in columns), strict=True))


def _entities(view: View, table: pa.Table) -> Iterator[tuple[Key, Values]]:
    """Each row as its join keys and its features."""
    keys = [table[key.name].to_pylist() for key in view.join_keys]
    features = [map(_comparable, table[feature.name].to_pylist()) for feature in view.features]
    return zip(zip(*keys, strict=True), zip(*features, strict=True), strict=True)


def _comparable(value: Any) -> Any:
    """NaN is equal to nothing, itself included; here it is. Feast's values hold whole seconds."""
    if isinstance(value, float):
        return "NaN" if value != value else value
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    return [_comparable(v) for v in value] if isinstance(value, list) else value


def _present(table: pa.Table) -> pa.Table:
    return table.filter(table["_present"]) if "_present" in table.column_names else table


def _comparable_to_postgres(stream_view: StreamView) -> tuple[int, ...]:
    """The features that PostgreSQL's rows can tell: not the vector, nor text that only Debezium writes so."""
    view, columns = stream_view.view, {c.name: c for c in stream_view.table.columns}
    told = []
    for i, feature in enumerate(view.features):
        column = columns.get(stream_view.column(feature.name))
        spelled = column is not None and column.sql_type.startswith(NOT_COMPARABLE)
        if not spelled and (view.vector is None or feature.name != view.vector.name):
            told.append(i)
    return tuple(told)


def _right(told: Sequence[int], wanted: Sequence[Values], online: Values | None) -> bool:
    """Whether the online value is what PostgreSQL holds, or one of several that tie."""
    if online is None or not wanted:
        return online is None and not wanted
    return any(all(values[i] == online[i] for i in told) for values in wanted)


def _named(view: View, values: Values | None) -> dict[str, Any] | None:
    return None if values is None else {f.name: v for f, v in zip(view.features, values, strict=True)}


def verify_views(
    repo: Repo, views: Sequence[str], sample: int | None, patience: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compare the named views, or all; the report as plain values."""
    declared = flows(repo)
    by_name = {v.view.name: (flow, v) for flow in declared.values() for v in flow.views}
    for name in views:
        if name not in by_name:
            raise UnknownView(f"there is no view {name} over a captured table; there are {', '.join(by_name)}")
    redis, pgvector = online(repo), vectors(repo)
    verifier = Verifier(lake(repo), lambda v: (pgvector if v.vector and pgvector else redis).scan(v), patience)
    databases = {name: _database(repo, name) for name in repo.settings.sources}
    reports = {}
    for name in views or by_name:
        flow, view = by_name[name]
        say(f"comparing {name}")
        reports[name] = verifier.view(flow, view, databases[flow.table.source], sample)
    for database in databases.values():
        database.engine.dispose()
    offsets = topics(repo).committed(repo.group, sorted(declared))
    return {
        "views": {name: report.as_dict() for name, report in reports.items()},
        "entities": sum(report.entities for report in reports.values()),
        "mismatches": sum(len(report.mismatches) for report in reports.values()),
        "in_flight": {
            "records": sum(end - max(committed, 0) for committed, end in offsets.values()),
            "seconds": repo.settings.worker.flush_seconds,
        },
    }
