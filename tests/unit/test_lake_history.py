"""Newest rows and point-in-time joins: keys of several columns, vectors, and what is refused.

The rules themselves are in `tests/property/test_history.py`.
"""

from pathlib import Path

import pyarrow as pa
import pytest

from stores.asof import Join, asof
from stores.delta import DeltaLake
from stores.errors import StoreRefused, StoreUnavailable
from stores.history import current, feature_properties, newest
from stores.lake import TableMissing
from stores.memory_lake import MemoryLake
from stores.rows import EMBEDDING, TIMESTAMP, rows_schema
from stores.view import Feature, Kind, Vector, View

KEYS = (Feature("Origin", 2, pa.string()), Feature("no", 3, pa.int32()))
VECTOR = Feature("v", 11, pa.list_(pa.float32()))


def view_of(kind: Kind, vector: Vector | None = None) -> View:
    return View("p", "w", "w", kind, KEYS, (VECTOR,) if vector else (Feature("x", 5, pa.float64()),), vector=vector)


def filled(view: View, rows: list[dict[str, object]], schema: pa.Schema | None = None) -> MemoryLake:
    """A lake with rows at the event times 0, 1, .. microseconds, each with an LSN and offset of its own."""
    schema = schema or rows_schema(view)
    lake = MemoryLake()
    lake.create("features/w", schema, feature_properties(view, "t"))
    numbered = ("event_timestamp", "created_timestamp", "_lsn", "_offset")
    complete = [
        {**dict.fromkeys(numbered, i), "_deleted": False, "_row": bytes([i]) * 16, **row} for i, row in enumerate(rows)
    ]
    lake.append("features/w", pa.Table.from_pylist(complete, schema), {})
    return lake


def at(*micros: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(micros, TIMESTAMP)])


@pytest.mark.parametrize("kind", ["state", "event"])
def test_keys_of_several_columns(kind: Kind) -> None:
    view = view_of(kind)
    rows = [{"Origin": o, "no": n, "x": x} for o, n, x in (("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0), ("a", 1, 4.0))]
    lake = filled(view, rows)
    keys = pa.table({"no": [1, 1], "Origin": ["a", "c"]})
    assert newest(lake, view, keys)["x"].to_pylist() == [4.0]
    assert sorted(newest(lake, view)["x"].to_pylist()) == [2.0, 3.0, 4.0]
    entities = pa.table({"from": ["a", "a", "b", None], "n": ["1", "1", "1", "1"]})
    join = Join("features/w", {"Origin": "from", "no": "n"}, ("x",))
    assert asof(lake, entities, at(2, 9, 9, 9), join)["x"].to_pylist() == [1.0, 4.0, 3.0, None]
    assert asof(lake, entities.slice(0, 0), at(), join).num_rows == 0


@pytest.mark.parametrize("kind", ["state", "event"])
def test_the_rows_of_a_view_with_a_vector_keep_what_stands_beside_it(kind: Kind) -> None:
    view = view_of(kind, Vector("v", 2, "cosine", ("text",)))
    schema = pa.schema([*rows_schema(view), *EMBEDDING])
    lake = filled(view, [{"Origin": "a", "no": 1, "v": [0.5, 1.0], "_text_hash": b"h" * 16, "_model": "m"}], schema)
    for found in (newest(lake, view), newest(lake, view, deleted=True)):
        assert found.schema.equals(schema)
        assert found.select(["v", "_text_hash", "_model"]).to_pylist() == [
            {"v": [0.5, 1.0], "_text_hash": b"h" * 16, "_model": "m"}
        ]


def test_a_column_that_the_lake_lacks_is_named() -> None:
    lake = filled(view_of("event"), [])
    wider = View("p", "w", "w", "event", KEYS, (Feature("x", 5, pa.float64()), Feature("y", 5, pa.float64())))
    with pytest.raises(StoreRefused, match="features/w has no column y"):
        newest(lake, wider)
    with pytest.raises(StoreRefused, match="features/w has no column y"):
        asof(lake, pa.table({"o": ["a"], "n": [1]}), at(1), Join("features/w", {"Origin": "o", "no": "n"}, ("y",)))


def test_what_is_no_feature_table_is_refused() -> None:
    lake = MemoryLake()
    lake.create("features/w", rows_schema(view_of("event")), {})
    join = Join("features/w", {"Origin": "o", "no": "n"}, ("x",))
    with pytest.raises(StoreRefused, match=r"features/w has no property millrace\.kind"):
        asof(lake, pa.table({"o": ["a"], "n": [1]}), at(1), join)
    with pytest.raises(TableMissing, match="features/v"):
        asof(lake, pa.table({"o": ["a"]}), at(1), Join("features/v", {"Origin": "o"}, ("x",)))


def test_an_event_time_is_a_time() -> None:
    lake = MemoryLake()
    lake.replace("datasets/a", pa.table({"x": ["2024-01-01"]}))
    with pytest.raises(StoreRefused, match="column x of the lake's table datasets/a is string"):
        current(lake.snapshot("datasets/a"), {"x": "x"}, "x")


def test_a_file_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    lake, view = DeltaLake(str(tmp_path)), view_of("state")
    lake.create("features/w", rows_schema(view), feature_properties(view, "t"))
    rows = filled(view, [{"Origin": "a", "no": 1, "x": 1.0}]).scan("features/w").read_all()
    lake.append("features/w", rows, {})
    for file in (tmp_path / "features" / "w").glob("*.parquet"):
        file.unlink()
    with pytest.raises(StoreUnavailable, match="the lake is unavailable"):
        newest(lake, view)
