"""Queries over the lake whose own names are those of a user's columns."""

import pyarrow as pa
import pytest

from stores.asof import Join, asof
from stores.history import before, change_properties, current, deleted_at, feature_properties, newest, standing
from stores.lost import moved, vanished
from stores.memory_lake import MemoryLake
from stores.rows import TIMESTAMP, rows_schema
from stores.view import Feature, Kind, View

# What the queries call their tables and columns.
NAMES = [
    "asked",
    "at",
    "begun",
    "best",
    "by",
    "c",
    "candidates",
    "closed",
    "d",
    "data",
    "e",
    "earlier",
    "entities",
    "f0",
    "follower",
    "following",
    "found",
    "h",
    "i",
    "k0",
    "kept",
    "l",
    "leads",
    "live",
    "lsn",
    "moment",
    "moments",
    "newest",
    "o",
    "old",
    "one",
    "open",
    "p",
    "present",
    "r",
    "s",
    "several",
    "spine",
    "steps",
    "t",
    "truncated",
    "unordered",
    "until",
    "version",
    "versions",
]

CHANGES = [("c", 1, 10), ("u", 1, 11), ("d", 2, 20), ("t", None, None), ("c", 3, 30), ("u", 3, 31)]
"""Operation, key and value, at the LSNs 0, 1, .."""


def changes(key: str, value: str) -> MemoryLake:
    lake, count = MemoryLake(), len(CHANGES)
    meta = {"_lsn": pa.int64(), "_commit_ts": TIMESTAMP, "_partition": pa.int32(), "_offset": pa.int64()}
    columns = {
        key: pa.array([of for _, of, _ in CHANGES], pa.int64()),
        value: pa.array([held for _, _, held in CHANGES], pa.int64()),
        "_op": pa.array([op for op, _, _ in CHANGES]),
        **{name: pa.array(range(count)).cast(type_) for name, type_ in meta.items()},
    }
    rows = pa.table(columns)
    lake.create("changes/t", rows.schema, change_properties("t", [key]))
    lake.append("changes/t", rows, {})
    return lake


@pytest.mark.parametrize(("key", "value"), zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
def test_a_table_of_changes_may_call_its_columns_anything(key: str, value: str) -> None:
    lake = changes(key, value)
    table = lake.snapshot("changes/t")
    assert vanished(lake, "changes/t", pa.table({key: pa.array([4])}), 9)[value].to_pylist() == [31]
    assert vanished(lake, "changes/t", pa.table({key: pa.array([3])}), 9).num_rows == 0
    assert moved(lake, "changes/t", [value], 4)[value].to_pylist() == [30]
    asked = pa.table({key: pa.array([1, 3, 3]), "_lsn": pa.array([1, 5, 4])})
    assert before(table, asked, [value])[value].to_pylist() == [10, 30, None]
    without = {value: pa.array([10, 30])}
    assert before(table, asked.set_column(1, "_lsn", pa.array([2, 6, 5])), [value], without)[value].to_pylist() == [
        11,
        31,
        None,
    ]
    assert current(table, {value: value}, "_commit_ts", keys=[key], newest_by=[key])[value].to_pylist() == [31]


@pytest.mark.parametrize("kind", ["state", "event"])
@pytest.mark.parametrize(("key", "value"), zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
def test_a_view_may_call_its_features_anything(key: str, value: str, kind: Kind) -> None:
    view = View("p", "v", "v", kind, (Feature(key, 4, pa.int64()),), (Feature(value, 4, pa.int64()),))
    cells = [(1, 10, False, b"a"), (1, 11, False, b"a"), (2, 20, False, b"b"), (2, None, True, b"b")]
    table = pa.table(
        [
            pa.array([of for of, _, _, _ in cells]),
            pa.array([held for _, held, _, _ in cells]),
            *(pa.array(range(len(cells))).cast(type_) for type_ in (TIMESTAMP, TIMESTAMP, pa.int64())),
            pa.array([None if kind == "state" else row * 16 for _, _, _, row in cells], pa.binary(16)),
            pa.array([deleted for _, _, deleted, _ in cells]),
            pa.array([0] * len(cells), pa.int32()),
            pa.array(range(len(cells))),
        ],
        schema=rows_schema(view),
    )
    lake = MemoryLake()
    lake.create("features/v", rows_schema(view), feature_properties(view, "t"))
    lake.append("features/v", table, {})
    assert newest(lake, view)[value].to_pylist() == [11]
    assert newest(lake, view, pa.table({key: pa.array([1, 2])}))[value].to_pylist() == [11]
    assert sorted(pa.concat_tables(standing(lake, view, [0, 2], [0, 2]))[key].to_pylist()) == [1, 1, 2]
    assert pa.concat_tables(deleted_at(lake, view, [3]))[key].to_pylist() == [2]
    assert current(lake.snapshot("features/v"), {value: value}, "event_timestamp")[value].to_pylist() == [11]
    spine = pa.table({"of": pa.array([1, 1, 2, 2])})
    times = pa.chunked_array([pa.array([0, 9, 2, 9], TIMESTAMP)])
    for known in (False, True):
        found = asof(lake, spine, times, Join("features/v", {key: "of"}, (value,)), known=known)
        assert found[value].to_pylist() == [10, 11, 20, None]
