"""What no snapshot can tell: rows that were deleted, or left an entity, while nobody listened.

After a snapshot is through, the lake and PostgreSQL are compared by primary key. What is gone, or has moved, is
sent to the topic as Debezium would have sent it, as deletes at the LSNs that `streams.snapshots` keeps for them,
and takes the ordinary way into every store. Repeatable: what was reconciled is not found again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pyarrow as pa

from connectors.table import Table
from connectors.to_json import encode
from stores.lake import Lake
from stores.lost import moved, vanished
from streams.broker import Producer
from streams.changes import changes_schema
from streams.decide import changes_table
from streams.pipeline import Flow
from streams.snapshots import GONE, LEFT

RECONCILED = "millrace.reconciled"
"""Header of a delete that PostgreSQL did not send: the request for the snapshot that told of it."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How many rows were found gone, and how many to have left an entity of an event view. Of the latter some may
    have done so beside the snapshot and been heard: to delete them twice there is no harm."""

    deleted: int
    moved: int


def reconcile(lake: Lake, producer: Producer, flow: Flow, present: pa.Table, base: int, request: str) -> Reconciled:
    """Send the deletes that a snapshot with this base left open; `present` has the primary keys of all rows that
    PostgreSQL held at some moment after it. Raises `BrokerUnavailable`, `StoreUnavailable`."""
    name = changes_table(flow.table.topic)
    gone = vanished(lake, name, present, base)
    left = moved(lake, name, flow.before, base - LEFT) if flow.before else gone.slice(0, 0)
    for rows, lsn in ((left, base - LEFT), (gone, base - GONE)):
        for key, value in _deletes(flow, rows, lsn):
            producer.send(flow.table.topic, key, value, {RECONCILED: request.encode()})
    producer.flush()
    return Reconciled(gone.num_rows, left.num_rows)


def _deletes(flow: Flow, rows: pa.Table, lsn: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and envelope of the delete of each row, with the columns that name its entities."""
    table = flow.table
    columns = dict.fromkeys([*table.primary_key, *flow.before])
    typed = rows.select(list(columns)).cast(_schema(table, list(columns))).combine_chunks()
    values = {name: encode(_array(typed[name]), table.column(name)) for name in columns}
    micros = time.time_ns() // 1_000
    source = {"connector": "millrace", "schema": table.schema, "table": table.name, "lsn": lsn, "ts_us": micros}
    for i in range(rows.num_rows):
        before = {name: column[i] for name, column in values.items()}
        key = {name: before[name] for name in table.primary_key}
        envelope = {"op": "d", "before": before, "after": None, "source": {**source, "snapshot": "false"}}
        yield orjson.dumps(key), orjson.dumps(envelope)


def _schema(table: Table, names: list[str]) -> pa.Schema:
    schema = changes_schema(table)
    return pa.schema([schema.field(name) for name in names])


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
