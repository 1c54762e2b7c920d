"""The commands for a few rows are byte for byte those that columns give."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.batches import versioned
from stores.few import Operation, chunk_of, operations_of
from stores.operations import chunk
from stores.rows import FeatureRows, rows_schema
from stores.view import Feature, View

SHA = b"0" * 40
STATE = View("p", "now", "now", "state", (Feature("id", 4, pa.int64()),), (Feature("a", 5, pa.float64()),))
EVENT = View(
    "p",
    "last",
    "last",
    "event",
    (Feature("id", 4, pa.int64()),),
    (Feature("s", 2, pa.string()), Feature("n", 3, pa.int32()), Feature("t", 12, pa.list_(pa.string()))),
)


@st.composite
def rows_of(draw: st.DrawFn, view: View) -> FeatureRows:
    count = draw(st.integers(0, 6))
    values: dict[str, list[Any]] = {
        "a": draw(st.lists(st.none() | st.floats(), min_size=count, max_size=count)),
        "s": draw(st.lists(st.none() | st.text(max_size=3), min_size=count, max_size=count)),
        "n": draw(st.lists(st.none() | st.integers(-9, 9), min_size=count, max_size=count)),
        "t": draw(st.lists(st.none() | st.lists(st.text(max_size=2), max_size=2), min_size=count, max_size=count)),
    }
    micros = draw(st.lists(st.integers(-(10**15), 10**15), min_size=count, max_size=count))
    columns = {
        "id": pa.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), pa.int64()),
        "event_timestamp": pa.array(micros, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        "_lsn": pa.array(draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count)), pa.int64()),
        "_row": pa.array([bytes([draw(st.integers(0, 2))]) * 16 for _ in range(count)], pa.binary(16)),
        "_deleted": pa.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), pa.bool_()),
    }
    schema = rows_schema(view)
    given_ = {f.name: pa.array(values[f.name], f.arrow_type) for f in view.features} | columns
    table = pa.table([given_.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema)
    return FeatureRows(view, table)


@given(rows_of(STATE), rows_of(EVENT), st.booleans())
@settings(max_examples=150)
def test_the_same_commands(state: FeatureRows, event: FeatureRows, marking: bool) -> None:
    batch = versioned([state, event])
    if not batch.changes:
        return
    few: list[Operation] = []
    for number, each in enumerate(batch.changes):
        assert each.stamps is not None
        mark = marking and each.view.kind == "event"
        few += operations_of(number, each.view, each.table, each.rows, each.entities, each.stamps, mark)
    by_row = chunk_of(SHA, batch.keys, few)
    operations = [each.operations(each.rows, marking) for each in batch.changes]
    by_column = chunk(SHA, batch.keys, [each.entities for each in batch.changes], operations)
    assert bytes(by_row.stream) == bytes(by_column.stream)
    assert by_row.calls == by_column.calls
    np.testing.assert_array_equal(by_row.views, by_column.views)
    np.testing.assert_array_equal(by_row.rows, by_column.rows)
