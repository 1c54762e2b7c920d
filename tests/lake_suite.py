"""What every `Lake` does: one suite, run over Delta and over the double in memory.

A test module subclasses `LakeSuite` and gives it the fixture `new_lake`: it makes an empty lake and returns
how to open it, so that two of them stand for two processes.
"""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import strategies as st

from stores.errors import StoreRefused
from stores.lake import AppendResult, Lake, TableMissing

NAME = "changes/shop.public.orders"
TOPIC = "shop.public.orders"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("note", pa.string()),
        pa.field("_partition", pa.int32()),
        pa.field("_offset", pa.int64()),
    ]
)
PROPERTIES = {"millrace.kind": "event", "millrace.join_keys": '["id", "a,b"]'}

Open = Callable[[], Lake]


def rows(start: int, end: int, partition: int = 0) -> pa.Table:
    """The records of a partition from offset `start` up to `end`; each one's id tells both."""
    offsets = np.arange(start, end)
    columns = [offsets + 1_000 * partition, pa.nulls(len(offsets)), np.full(len(offsets), partition), offsets]
    return pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def append(lake: Lake, start: int, end: int, partition: int = 0) -> AppendResult:
    return lake.append(NAME, rows(start, end, partition), {(TOPIC, partition): end})


def ids(lake: Lake) -> list[int]:
    return sorted(lake.scan(NAME, ["id"]).read_all()["id"].to_pylist())


def each_record_stands_once(open_lake: Open, data: st.DataObject) -> None:
    """Two writers take turns at two partitions. Either may have read any part again (a crash before the Kafka
    commit, a rebalance), hold an old state of the table (a zombie), or start anew."""
    writers = [open_lake(), open_lake()]
    writers[0].create(NAME, SCHEMA, PROPERTIES)
    ends = [0, 0]
    for _ in range(data.draw(st.integers(1, 10))):
        writer, partition = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
        if data.draw(st.integers(0, 4)) == 0:
            writers[writer] = open_lake()
        start = data.draw(st.integers(0, ends[partition]))
        end = start + data.draw(st.integers(0, 5))
        result = append(writers[writer], start, end, partition)
        assert result.written == max(0, end - ends[partition])
        assert result.written + result.duplicates == end - start
        ends[partition] = max(ends[partition], end)
    assert ids(open_lake()) == [*range(ends[0]), *range(1_000, 1_000 + ends[1])]


class LakeSuite:
    @pytest.fixture
    def lake(self, new_lake: Callable[[], Open]) -> Lake:
        lake = new_lake()()
        lake.create(NAME, SCHEMA, PROPERTIES)
        return lake

    def test_an_empty_lake_has_no_tables(self, new_lake: Callable[[], Open]) -> None:
        lake = new_lake()()
        lake.ping()
        assert lake.tables() == ()
        assert not lake.exists(NAME)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda lake: lake.append(NAME, rows(0, 1), {}),
            lambda lake: lake.advance(NAME, {(TOPIC, 0): 1}),
            lambda lake: lake.next_offset(NAME, TOPIC, 0),
            lambda lake: lake.snapshot(NAME),
            lambda lake: lake.properties(NAME),
            lambda lake: lake.version(NAME),
            lambda lake: lake.scan(NAME),
            lambda lake: lake.compact(NAME),
            lambda lake: lake.vacuum(NAME, timedelta(days=7)),
        ],
    )
    def test_a_table_that_is_missing_is_named(
        self, new_lake: Callable[[], Open], ask: Callable[[Lake], object]
    ) -> None:
        with pytest.raises(TableMissing, match=NAME):
            ask(new_lake()())

    def test_a_table_is_listed_with_its_schema_and_properties(self, lake: Lake) -> None:
        lake.create("features/last_order", SCHEMA, {})
        assert lake.tables() == (NAME, "features/last_order")
        snapshot = lake.snapshot(NAME)
        assert snapshot.schema.equals(SCHEMA)
        assert {key: snapshot.properties[key] for key in PROPERTIES} == PROPERTIES
        assert snapshot.data.to_table().num_rows == 0

    def test_a_table_is_created_once(self, lake: Lake) -> None:
        append(lake, 0, 3)
        lake.create(NAME, SCHEMA, PROPERTIES)
        assert ids(lake) == [0, 1, 2]

    def test_columns_declared_later_are_added(self, lake: Lake) -> None:
        append(lake, 0, 1)
        lake.create(NAME, SCHEMA.append(pa.field("price", pa.float64())), PROPERTIES)
        assert lake.scan(NAME).read_all()["price"].to_pylist() == [None]
        assert append(lake, 1, 2).written == 1

    def test_a_declaration_that_disagrees_is_refused(self, lake: Lake) -> None:
        with pytest.raises(StoreRefused, match=r"column note: is string .* declared double"):
            lake.create(NAME, SCHEMA.set(1, pa.field("note", pa.float64())), PROPERTIES)
        with pytest.raises(StoreRefused, match=r"millrace\.kind = event"):
            lake.create(NAME, SCHEMA, {"millrace.kind": "state"})

    def test_properties_that_may_change_are_described_anew(self, lake: Lake) -> None:
        append(lake, 0, 1)
        for value in ("1", "2"):
            lake.describe(NAME, {"millrace.table": value})
            assert lake.snapshot(NAME).properties["millrace.table"] == value
            assert lake.properties(NAME)["millrace.table"] == value
        version = lake.version(NAME)
        lake.describe(NAME, {"millrace.table": "2"})
        assert lake.version(NAME) == version
        assert append(lake, 0, 2) == AppendResult(1, 1)

    def test_columns_that_cannot_be_stored_are_refused(self, lake: Lake) -> None:
        with pytest.raises(StoreRefused, match="column price: the lake cannot store decimal256"):
            lake.create("features/a", pa.schema([pa.field("price", pa.decimal256(50, 2))]), {})
        with pytest.raises(StoreRefused, match="Id and ID"):
            lake.create("features/a", pa.schema([pa.field("Id", pa.int64()), pa.field("ID", pa.int64())]), {})

    @pytest.mark.parametrize("name", ["orders", "changes/", "changes/a/b", "changes/../x", "changes/a b", "/x"])
    def test_names_are_checked(self, lake: Lake, name: str) -> None:
        with pytest.raises(ValueError, match="is not a table name"):
            lake.create(name, SCHEMA, {})

    def test_rows_come_back(self, lake: Lake) -> None:
        assert append(lake, 0, 3) == AppendResult(3, 0)
        assert lake.scan(NAME).read_all().sort_by("_offset").equals(rows(0, 3))

    def test_a_scan_takes_columns_and_a_filter(self, lake: Lake) -> None:
        append(lake, 0, 5)
        found = lake.scan(NAME, ["id"], ds.field("_offset") >= 3).read_all()
        assert found.schema.names == ["id"] and sorted(found["id"].to_pylist()) == [3, 4]

    def test_a_replay_is_dropped(self, lake: Lake) -> None:
        append(lake, 0, 3)
        version = lake.version(NAME)
        assert append(lake, 0, 3) == AppendResult(0, 3)
        assert lake.version(NAME) == version
        assert append(lake, 1, 5) == AppendResult(2, 2)
        assert ids(lake) == [0, 1, 2, 3, 4]

    def test_a_replay_raises_the_offsets_to_where_it_was_read(self, lake: Lake) -> None:
        """What was read beyond its rows brought none."""
        append(lake, 0, 3)
        assert lake.append(NAME, rows(0, 3), {(TOPIC, 0): 5, (TOPIC, 1): 2}) == AppendResult(0, 3)
        assert [lake.next_offset(NAME, TOPIC, p) for p in (0, 1)] == [5, 2]
        assert append(lake, 3, 6) == AppendResult(1, 2)

    def test_partitions_are_told_apart(self, lake: Lake) -> None:
        append(lake, 0, 3)
        both = pa.concat_tables([rows(2, 4, 0), rows(0, 2, 1)])
        assert lake.append(NAME, both, {(TOPIC, 0): 4, (TOPIC, 1): 2}) == AppendResult(3, 1)
        assert ids(lake) == [0, 1, 2, 3, 1_000, 1_001]

    def test_the_next_offset_is_that_of_the_newest_append(self, lake: Lake) -> None:
        assert lake.next_offset(NAME, TOPIC, 0) is None
        lake.append(NAME, rows(0, 3), {(TOPIC, 0): 7, (TOPIC, 1): 4})
        append(lake, 0, 2)
        assert [lake.next_offset(NAME, TOPIC, p) for p in (0, 1, 2)] == [7, 4, None]

    def test_offsets_can_be_raised_without_rows(self, lake: Lake) -> None:
        lake.advance(NAME, {(TOPIC, 0): 3})
        assert append(lake, 0, 4) == AppendResult(1, 3)
        lake.advance(NAME, {(TOPIC, 0): 2})
        assert lake.next_offset(NAME, TOPIC, 0) == 4

    def test_rows_of_no_topic_are_always_added(self, lake: Lake) -> None:
        append(lake, 0, 1)
        for _ in range(2):
            assert lake.append(NAME, rows(0, 1), {}) == AppendResult(1, 0)
        assert ids(lake) == [0, 0, 0]
        assert lake.append(NAME, rows(0, 0), {}) == AppendResult(0, 0)

    def test_two_runs_of_a_job_add_their_rows_once(self, new_lake: Callable[[], Open]) -> None:
        open_lake = new_lake()
        one, other = open_lake(), open_lake()
        one.create(NAME, SCHEMA, PROPERTIES)
        assert one.commits(NAME, "backfill") == other.commits(NAME, "backfill") == 0
        assert one.append_once(NAME, rows(0, 2), "backfill", 1)
        assert not other.append_once(NAME, rows(0, 2), "backfill", 1)
        assert other.commits(NAME, "backfill") == 1
        assert other.append_once(NAME, rows(2, 3), "backfill", 2)
        assert not one.append_once(NAME, rows(2, 3), "backfill", 2)
        assert one.append_once(NAME, rows(0, 1), "another", 1)
        assert ids(one) == [0, 0, 1, 2]

    def test_rows_and_offsets_must_agree(self, lake: Lake) -> None:
        for offsets in ({(TOPIC, 0): 2}, {(TOPIC, 1): 9}):
            with pytest.raises(ValueError, match="outside the offsets"):
                lake.append(NAME, rows(0, 3), offsets)
        with pytest.raises(ValueError, match="one topic"):
            lake.append(NAME, rows(0, 1), {("a", 0): 1, ("b", 0): 1})
        assert ids(lake) == []

    def test_missing_columns_are_null_and_new_ones_are_added(self, lake: Lake) -> None:
        batch = rows(0, 1).drop_columns("note").append_column("price", pa.array([1.5]))
        lake.append(NAME, batch, {(TOPIC, 0): 1})
        append(lake, 1, 2)
        found = lake.scan(NAME, ["note", "price", "_offset"]).read_all().sort_by("_offset")
        assert found["note"].to_pylist() == [None, None]
        assert found["price"].to_pylist() == [1.5, None]

    @pytest.mark.parametrize("values", [pa.array([1.5]), pa.array(["1"]), pa.array([True])])
    def test_values_are_never_bent_to_a_column(self, lake: Lake, values: pa.Array) -> None:
        with pytest.raises(StoreRefused, match="column id"):
            lake.append(NAME, rows(0, 1).set_column(0, "id", values), {(TOPIC, 0): 1})
        assert ids(lake) == []
        assert append(lake, 0, 1).written == 1

    def test_narrower_numbers_widen_and_wider_ones_must_fit(self, lake: Lake) -> None:
        lake.create("features/a", pa.schema([pa.field("n", pa.int16())]), {})
        lake.append("features/a", pa.table({"n": pa.array([7], pa.int8())}), {})
        lake.append("features/a", pa.table({"n": pa.array([8], pa.int64())}), {})
        with pytest.raises(StoreRefused, match="column n"):
            lake.append("features/a", pa.table({"n": pa.array([70_000], pa.int64())}), {})
        assert sorted(lake.scan("features/a").read_all()["n"].to_pylist()) == [7, 8]

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([b"0123456789abcdef", None], pa.binary(16)),
            pa.array([1, None], pa.time64("us")),
            pa.array([1, None], pa.duration("us")),
            pa.array([250, None], pa.uint8()),
            pa.array([2**32 - 1, None], pa.uint32()),
            pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
            pa.array([["a", None], None], pa.list_(pa.large_string())),
            pa.array(["a", None]).dictionary_encode(),
            pa.array([1, None], pa.timestamp("us")),
            pa.array([-1, None], pa.timestamp("us", "America/New_York")),
            pa.array([1_700_000_000, None], pa.timestamp("s", "UTC")),
            pa.array([-1, None], pa.date32()),
            pa.array([None, "1.50"]).cast(pa.decimal128(20, 2)),
            pa.array([{"a": 1, "b": "x"}, None]),
            pa.array([float("nan"), float("-inf")]),
            pa.array([b"\xff", b""]),
        ],
        ids=lambda array: str(array.type),
    )
    def test_types_that_delta_lacks_come_back_by_a_cast(self, lake: Lake, values: pa.Array) -> None:
        table = pa.table({"v": values})
        lake.create("features/a", table.schema, {})
        lake.append("features/a", table, {})
        found = lake.scan("features/a").read_all()["v"]
        target = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        assert repr(found.cast(target).to_pylist()) == repr(values.to_pylist())

    def test_a_snapshot_stays_as_it_was(self, lake: Lake) -> None:
        append(lake, 0, 2)
        before = lake.snapshot(NAME)
        append(lake, 2, 4)
        lake.compact(NAME)
        assert before.data.count_rows() == 2
        assert lake.snapshot(NAME).data.count_rows() == 4
        assert lake.version(NAME) > before.version

    def test_nothing_was_added_to_a_table_since_it_was_replaced(self, lake: Lake) -> None:
        lake.replace("datasets/a", pa.table({"v": [1, 2]}))
        assert lake.added("datasets/a", lake.version("datasets/a")).rows().read_all().num_rows == 0

    def test_what_was_added_after_a_version(self, lake: Lake) -> None:
        append(lake, 0, 2)
        version = lake.version(NAME)

        def added() -> list[int]:
            return sorted(lake.added(NAME, version).rows(["id"]).read_all()["id"].to_pylist())

        assert added() == []
        append(lake, 2, 4)
        append(lake, 4, 5)
        assert added() == [2, 3, 4]
        lake.compact(NAME)
        assert set(added()) >= {2, 3, 4}

    def test_compacting_and_vacuuming_keep_rows_and_offsets(self, lake: Lake) -> None:
        for start in range(0, 10, 2):
            append(lake, start, start + 2)
        lake.compact(NAME)
        lake.vacuum(NAME, timedelta(0))
        assert ids(lake) == list(range(10))
        assert append(lake, 8, 12) == AppendResult(2, 2)

    def test_a_table_is_replaced(self, lake: Lake) -> None:
        for values in ([1, 2], [3.5]):
            lake.replace("datasets/a", pa.table({"v": values}))
            assert lake.scan("datasets/a").read_all()["v"].to_pylist() == values
