"""The lake in memory: a double of `stores.delta.DeltaLake` for tests, held to the same suite."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.dataset as ds

from stores.errors import StoreUnavailable
from stores.lake import STORE, AppendResult, Snapshot, TableMissing, TopicPartition
from stores.lake_schema import agreed_schema, check_name, conform, fresh_rows, stored_schema


@dataclass(slots=True)
class _Table:
    rows: pa.Table
    properties: dict[str, str]
    version: int = 0
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    counts: list[int] = field(init=False)
    """How many rows each version had."""

    def __post_init__(self) -> None:
        self.counts = [self.rows.num_rows]

    def commit(self, rows: pa.Table) -> None:
        self.rows = rows
        self.version += 1
        self.counts.append(rows.num_rows)

    def advance(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.offsets |= {place: max(n, self.offsets.get(place, 0)) for place, n in offsets.items()}


class MemoryLake:
    """See `stores.lake.Lake`. While `outage` says why, every call raises `StoreUnavailable` with it."""

    root = "memory"

    def __init__(self) -> None:
        self.outage: str | None = None
        self._tables: dict[str, _Table] = {}
        self._lock = threading.RLock()

    def ping(self) -> None:
        if self.outage is not None:
            raise StoreUnavailable(STORE, self.outage)

    def tables(self) -> tuple[str, ...]:
        self.ping()
        return tuple(sorted(self._tables))

    def exists(self, name: str) -> bool:
        self.ping()
        check_name(name)
        return name in self._tables

    def create(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        self.ping()
        check_name(name)
        with self._lock:
            table = self._tables.get(name)
            if table is None:
                self._tables[name] = _Table(stored_schema(schema, name).empty_table(), dict(properties))
                return
            merged = agreed_schema(table.rows.schema, table.properties, schema, properties, name)
            if not merged.equals(table.rows.schema):
                table.commit(conform(table.rows, merged, name))

    def describe(self, name: str, properties: Mapping[str, str]) -> None:
        self.ping()
        self._table(name).properties.update(properties)

    def append(self, name: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> AppendResult:
        with self._lock:
            table = self._table(name)
            fresh = fresh_rows(rows, offsets, {key: table.offsets.get(key) for key in offsets}, name)
            if fresh.num_rows:
                fresh = conform(fresh, table.rows.schema, name)
                table.commit(pa.concat_tables([conform(table.rows, fresh.schema, name), fresh]))
            table.advance(offsets)
            return AppendResult(fresh.num_rows, rows.num_rows - fresh.num_rows)

    def append_once(self, name: str, rows: pa.Table, job: str, number: int) -> bool:
        with self._lock:
            table = self._table(name)
            if table.jobs.get(job, 0) >= number:
                return False
            self.append(name, rows, {})
            table.jobs[job] = number
            return True

    def commits(self, name: str, job: str) -> int:
        return self._table(name).jobs.get(job, 0)

    def advance(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        with self._lock:
            self._table(name).advance(offsets)

    def replace(self, name: str, rows: pa.Table) -> None:
        stored = rows.cast(stored_schema(rows.schema, name))
        with self._lock:
            if self.exists(name):
                self._table(name).commit(stored)
            else:
                self._tables[name] = _Table(stored, {})

    def next_offset(self, name: str, topic: str, partition: int) -> int | None:
        return self._table(name).offsets.get((topic, partition))

    def snapshot(self, name: str) -> Snapshot:
        with self._lock:
            table = self._table(name)
            data = ds.dataset(table.rows)
            return Snapshot(name, table.version, table.rows.schema, dict(table.properties), data)

    def added(self, name: str, version: int) -> Snapshot:
        with self._lock:
            table = self._table(name)
            return replace(self.snapshot(name), data=ds.dataset(table.rows.slice(table.counts[version])))

    def properties(self, name: str) -> Mapping[str, str]:
        return dict(self._table(name).properties)

    def version(self, name: str) -> int:
        return self._table(name).version

    def files(self, name: str) -> int:
        return 1 if self._table(name).rows.num_rows else 0

    def scan(
        self, name: str, columns: list[str] | None = None, filter: ds.Expression | None = None
    ) -> pa.RecordBatchReader:
        return self.snapshot(name).rows(columns, filter)

    def compact(self, name: str, *, look_inside: bool = False) -> int:
        self._table(name)
        return 0

    def vacuum(self, name: str, retention: timedelta) -> int:
        self._table(name)
        return 0

    def _table(self, name: str) -> _Table:
        if not self.exists(name):
            raise TableMissing(name, self.root)
        return self._tables[name]
