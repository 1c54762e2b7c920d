"""A backfill adds what a view lacks of its window, once: whatever is there, whenever that says it was made."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stores.history import change_properties, feature_properties
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import rows_schema
from stores.view import Feature, View
from streams import backfill
from streams.backfill import Backfill, Window
from streams.changes import Changes, changes_schema
from streams.decide import changes_table, features_table
from streams.pipeline import Flow, process
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC
from validation.contract import load

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "orders.json").write_text(json.dumps({"name": "orders", "expectations": [], "meta": {}}))
AMOUNT = (Feature("amount", 5, pa.float64()),)
STATE = View("p", "order_now", "order_now", "state", (Feature("id", 4, pa.int64()),), AMOUNT)
EVENT = View("p", "customer_last", "customer_last", "event", (Feature("customer", 2, pa.string()),), AMOUNT)
CONTRACT = load(FOLDER / "orders.json", changes_schema(ORDERS))
VIEWS = (StreamView(STATE, ORDERS), StreamView(EVENT, ORDERS, "placed_at"))
START = datetime(2026, 1, 1, tzinfo=UTC)

Change = tuple[int, int, int, bool]
"""Partition, offset, the hour of its commit, and whether the view has its row: offsets need not follow the clock, for
what is replayed or read by a snapshot stands late in its topic."""

places = st.tuples(st.integers(0, 2), st.integers(0, 30))
histories = st.lists(
    st.tuples(places, st.integers(0, 9), st.booleans()).map(lambda drawn: (*drawn[0], *drawn[1:])),
    max_size=20,
    unique_by=lambda change: change[:2],
)
hours = st.one_of(st.none(), st.integers(0, 9))


def rows(history: list[Change]) -> pa.Table:
    count = len(history)
    columns = {
        "id": [offset % 4 for _, offset, _, _ in history],
        "customer": ["ab"[offset % 2] for _, offset, _, _ in history],
        "amount": [1.0] * count,
        "placed_at": [START] * count,
        "_op": ["u"] * count,
        "_lsn": [100 * offset + partition for partition, offset, _, _ in history],
        "_commit_ts": [START + timedelta(hours=hour) for _, _, hour, _ in history],
        "_partition": [partition for partition, _, _, _ in history],
        "_offset": [offset for _, offset, _, _ in history],
    }
    schema = changes_schema(ORDERS)
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


@contextmanager
def at_once(changes: int, query_bytes: int) -> Iterator[None]:
    before = backfill.CHUNK, backfill.QUERY_BYTES
    backfill.CHUNK, backfill.QUERY_BYTES = changes, query_bytes
    try:
        yield
    finally:
        backfill.CHUNK, backfill.QUERY_BYTES = before


def moment(hour: int | None) -> datetime | None:
    return None if hour is None else (START + timedelta(hours=hour)).replace(tzinfo=None)


@given(
    histories, st.integers(0, 31), hours, hours, st.sampled_from(VIEWS), st.integers(1, 4), st.sampled_from([1, 500])
)
def test_what_the_window_lacks_is_added_once(
    history: list[Change],
    held: int,
    start: int | None,
    end: int | None,
    of: StreamView,
    chunk: int,
    query_bytes: int,
) -> None:
    flow, name = Flow(ORDERS, CONTRACT, (of,)), features_table(of.view.name)
    lake = MemoryLake()
    lake.create(changes_table(TOPIC), changes_schema(ORDERS), change_properties(TOPIC, ORDERS.primary_key))
    lake.create(name, rows_schema(of.view), feature_properties(of.view, TOPIC))
    lake.append(changes_table(TOPIC), rows(history), {})
    lake.advance(changes_table(TOPIC), {(TOPIC, partition): held for partition in range(2)})  # nothing of the third
    there = [change for change in history if change[3]]
    ((_, made),) = process(Changes(ORDERS, rows(there)), flow).projected
    column = made.rows.table.schema.get_field_index("created_timestamp")
    another_time = pa.array([START - timedelta(days=1)] * len(there), made.rows.table.schema.field(column).type)
    lake.append(name, made.rows.table.set_column(column, "created_timestamp", another_time), {})

    with at_once(chunk, query_bytes):
        job = Backfill({TOPIC: flow}, lake, MemoryOnline(), lambda outcome, made: outcome)
        report = job.run([], Window(moment(start), moment(end)), lambda view, share: None)[of.view.name]

    within = [c for c in history if (start is None or start <= c[2]) and (end is None or c[2] < end)]
    added = [c for c in within if not c[3] and c[0] < 2 and c[1] < held]
    table = lake.scan(name).read_all()
    standing = zip(table["_partition"].to_pylist(), table["_offset"].to_pylist(), strict=True)
    assert sorted(standing) == sorted(c[:2] for c in [*there, *added])
    assert (report["changes_read"], report["rows_added"]) == (len(within), len(added))
