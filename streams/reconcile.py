"""What no snapshot can tell: rows that were deleted, or left an entity, while nobody listened.

After a snapshot is through, the lake and PostgreSQL are compared by primary key. What is gone, or has moved, is
sent to the topic as Debezium would have sent it, as deletes at the LSNs that `streams.snapshots` keeps for them,
and takes the ordinary way into every store. Repeatable: what was reconciled is not found again.

Who is gone is found by any later comparison. Who has moved is found only at the base of the snapshot that told of it,
for the next one finds the row where it is. So what a snapshot that was never reconciled leaves open is made up for
before the next base is noted (`reconcile_earlier`).
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
from streams.changes import carried, changes_schema
from streams.decide import changes_table
from streams.pipeline import Flow
from streams.snapshots import GONE, LEFT, end_snapshot, unreconciled

RECONCILED = "millrace.reconciled"
"""Header of a delete that PostgreSQL did not send: the request for the snapshot that told of it."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How many rows were found gone, and how many to have left an entity of an event view, or to have changed where a
    view's function may drop them for it. Of the latter some may have done so beside the snapshot and been heard: to
    delete them twice there is no harm."""

    deleted: int
    moved: int


def reconcile(lake: Lake, producer: Producer, flow: Flow, present: pa.Table, base: int, request: str) -> Reconciled:
    """Send the deletes that a snapshot with this base left open; `present` has the primary keys of all rows that
    PostgreSQL held at some moment after it. Raises `BrokerUnavailable`, `StoreUnavailable`."""
    gone = vanished(lake, changes_table(flow.table.topic), present, base)
    now = pa.scalar(time.time_ns() // 1_000, pa.int64())
    left = _leave(lake, producer, flow, base, request)
    _send(producer, flow, gone, pa.repeat(now, gone.num_rows), base - GONE, request)
    producer.flush()
    end_snapshot(lake, flow.table.topic, base)
    return Reconciled(gone.num_rows, left)


def reconcile_earlier(lake: Lake, producer: Producer, flow: Flow) -> int:
    """Send the deletes of the rows that had left an entity by an earlier snapshot, if whoever began it did not come to
    that; the number of rows. To be called when the workers have taken all there is, before the next base is noted.
    Raises `BrokerUnavailable`, `StoreUnavailable`."""
    base = unreconciled(lake, flow.table.topic)
    if base is None:
        return 0
    left = _leave(lake, producer, flow, base, f"base-{base}")
    producer.flush()
    end_snapshot(lake, flow.table.topic, base)
    return left


def _leave(lake: Lake, producer: Producer, flow: Flow, base: int, request: str) -> int:
    """Each row leaves at the time of the version that has it elsewhere: an event view has it there from then on, and
    a state view, whose versions count in the order of their LSNs, must not have this one count for longer. A view's
    function may have dropped it for any value: then it leaves whatever it was, and is where the snapshot has it."""
    drops = any(view.transform is not None for view in flow.views)
    columns = [field.name for field in carried(flow.table)] if drops else flow.moving
    if not columns:
        return 0
    left = moved(lake, changes_table(flow.table.topic), columns, base - LEFT)
    _send(producer, flow, left, left["_commit_ts"].cast(pa.int64()), base - LEFT, request)
    return int(left.num_rows)


def _send(
    producer: Producer, flow: Flow, rows: pa.Table, times: pa.Array | pa.ChunkedArray, lsn: int, request: str
) -> None:
    for key, value in _deletes(flow, rows, times.to_pylist(), lsn):
        producer.send(flow.table.topic, key, value, {RECONCILED: request.encode()})


def _deletes(flow: Flow, rows: pa.Table, times: list[int], lsn: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and envelope of the delete of each row at its time in microseconds, with the columns that name its
    entities."""
    table = flow.table
    columns = dict.fromkeys([*table.primary_key, *flow.moving])
    typed = rows.select(list(columns)).cast(_schema(table, list(columns))).combine_chunks()
    values = {name: encode(_array(typed[name]), table.column(name)) for name in columns}
    source = {"connector": "millrace", "schema": table.schema, "table": table.name, "lsn": lsn, "snapshot": "false"}
    for i, micros in enumerate(times):
        before = {name: column[i] for name, column in values.items()}
        key = {name: before[name] for name in table.primary_key}
        envelope = {"op": "d", "before": before, "after": None, "source": {**source, "ts_us": micros}}
        yield orjson.dumps(key), orjson.dumps(envelope)


def _schema(table: Table, names: list[str]) -> pa.Schema:
    schema = changes_schema(table)
    return pa.schema([schema.field(name) for name in names])


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
