"""Changes to feature rows: values, renames, deletes, moves, and what cannot be taken."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pytest

from connectors.table import Column, Table
from stores.entity_keys import entity_keys
from stores.rows import FeatureRows
from stores.values import arrow_type_of, as_stored, decode, encode
from stores.vector_limits import ENTITY_KEY_BYTES, FIRST_MOMENT
from stores.view import Feature, Kind, Vector, View
from streams.changes import Changes, as_snapshot, carried, changes_schema
from streams.personal import PersonalColumns
from streams.transform import transform
from streams.views import Projected, StreamView, Unprojectable, castable, project

UTC_US = pa.timestamp("us", tz="UTC")
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
TABLE = Table(
    source="shop",
    schema="public",
    name="sales",
    topic="shop.public.sales",
    columns=(
        Column("id", "bigint", pa.int64(), "plain", nullable=False),
        Column("Who", "text", pa.string(), "plain", nullable=True),
        Column("price", "numeric(10,2)", pa.decimal128(10, 2), "decimal", nullable=True),
        Column("sold", "timestamp with time zone", UTC_US, "timestamptz", nullable=True),
        Column("sizes", "integer[]", pa.list_(pa.int32()), "array", nullable=True, element="plain"),
    ),
    primary_key=("id",),
)
PRICE = Feature("price", 5, pa.float64())
WHO = Feature("who", 2, pa.string())
ID = Feature("id", 4, pa.int64())
INFINITE = float("inf")


def changes(*rows: tuple[str, int, dict[str, Any]], before: list[dict[str, Any]] | None = None) -> Changes:
    """Each an operation, an LSN and the values."""
    schema = changes_schema(TABLE)
    made = [
        {**values, "_op": op, "_lsn": lsn, "_commit_ts": NOON, "_partition": 0, "_offset": i}
        for i, (op, lsn, values) in enumerate(rows)
    ]
    old = None
    if before is not None:
        old = pa.Table.from_pylist(before, pa.schema([schema.field("Who")]))
    return Changes(TABLE, pa.Table.from_pylist(made, schema), old)


def stream_view(*features: Feature, kind: Kind = "state", event_time: str | None = None, **more: Any) -> StreamView:
    keys = (ID,) if kind == "state" else (WHO,)
    view = View("p", "v", "v", kind, keys, features or (PRICE,))
    return StreamView(view, TABLE, event_time, {"Who": "who"}, **more)


def rows(projected: Projected, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(projected.rows.table[name].to_pylist() for name in names), strict=True))


def blamed(view: StreamView, given: Changes) -> dict[int, list[str]]:
    with pytest.raises(Unprojectable) as caught:
        project(view, given)
    return dict(caught.value.bad)


def test_values_are_renamed_and_cast() -> None:
    found = project(stream_view(PRICE, WHO), changes(("c", 1, {"id": 1, "Who": "ann", "price": Decimal("19.90")})))
    assert rows(found, "id", "price", "who", "_lsn", "_deleted") == [(1, 19.9, "ann", 1, False)]
    assert isinstance(found.rows, FeatureRows)


@pytest.mark.parametrize(("precision", "scale"), [(10, 2), (15, 15), (15, 7), (38, 10), (20, 5)])
def test_a_decimal_becomes_the_nearest_double(precision: int, scale: int) -> None:
    random = np.random.default_rng(precision * scale)
    digits = [int(random.integers(-(10 ** min(precision, 18)), 10 ** min(precision, 18))) for _ in range(500)]
    values = [Decimal(d).scaleb(-scale) for d in digits]
    column = Column("price", "numeric", pa.decimal128(precision, scale), "decimal", nullable=True)
    table = Table("s", "public", "t", "s.public.t", (TABLE.columns[0], column), ("id",))
    view = StreamView(View("p", "v", "v", "state", (ID,), (PRICE,)), table)
    given = pa.table({"id": range(500), "price": pa.array(values, column.arrow_type)})
    found = project(view, as_snapshot(table, given))
    assert found.rows.table["price"].to_pylist() == [float(value) for value in values]


def test_a_delete_is_a_marked_row_of_nulls_at_the_commit() -> None:
    given = changes(("c", 1, {"id": 1, "price": Decimal(1), "sold": None}), ("d", 2, {"id": 1, "Who": "ann"}))
    found = project(stream_view(), given)
    assert rows(found, "price", "_deleted", "event_timestamp") == [(1.0, False, NOON), (None, True, NOON)]


def test_a_truncate_makes_no_row_here() -> None:
    assert len(project(stream_view(), changes(("t", 1, {}))).rows.table) == 0


def test_a_row_that_moves_leaves_its_entity_before_it_joins_the_next() -> None:
    given = changes(("u", 5, {"id": 1, "Who": "bob", "price": Decimal(2)}), before=[{"Who": "ann"}])
    found = project(stream_view(kind="event"), given)
    assert rows(found, "who", "price", "_deleted") == [("ann", None, True), ("bob", 2.0, False)]
    assert len({row for (row,) in rows(found, "_row")}) == 1


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        (Column("id", "bytea", pa.binary(), "bytes", nullable=False), [b"\xff\x00", b"\xff", b"", b"\xff\x00"]),
        (
            Column("id", "integer[]", pa.list_(pa.int32()), "array", nullable=False, element="plain"),
            [[1, 23], [12, 3], [], [1, 23]],
        ),
        (
            Column("id", "double precision[]", pa.list_(pa.float64()), "array", nullable=False, element="float"),
            [[float("nan")], [INFINITE], [None], [float("nan")]],
        ),
        (
            Column("id", "bytea[]", pa.list_(pa.binary()), "array", nullable=False, element="bytes"),
            [[b"\xff", b""], [b"\xff"], [b"", b"\xff"], [b"\xff", b""]],
        ),
    ],
)
def test_a_row_has_a_name_whatever_its_key_is_made_of(column: Column, keys: list[Any]) -> None:
    table = replace(TABLE, columns=(column, *TABLE.columns[1:]))
    view = replace(stream_view(kind="event"), table=table)
    given = pa.table({"id": pa.array(keys, column.arrow_type), "Who": ["ann"] * 4})
    filled = [given[f.name] if f.name in given.column_names else pa.nulls(4, f.type) for f in carried(table)]
    named = rows(project(view, as_snapshot(table, pa.table(filled, names=[f.name for f in carried(table)]))), "_row")
    assert len(set(named)) == 3 and named[0] == named[3]


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        (pa.int64(), -7, b"2:-7"),
        (pa.string(), "né", "2:né".encode()),
        (pa.decimal128(10, 2), Decimal("19.90"), b"5:19.90"),
        (pa.bool_(), True, b"4:true"),
        (pa.date32(), date(2024, 1, 31), b"10:2024-01-31"),
        (UTC_US, NOON, b"27:2024-01-01 12:00:00.000000Z"),
        (pa.binary(), b"\xff:", b"2:\xff:"),
    ],
)
def test_a_row_keeps_its_name(kind: pa.DataType, key: Any, name: bytes) -> None:
    """It stands in every stored version."""
    column = Column("id", "", kind, "plain", nullable=False)
    table = Table("s", "public", "t", "s.public.t", (column, TABLE.columns[1], TABLE.columns[2]), ("id", "Who"))
    view = replace(stream_view(kind="event"), table=table)
    values = {"id": pa.array([key], kind), "Who": ["ann"], "price": pa.nulls(1, TABLE.columns[2].arrow_type)}
    ((found,),) = rows(project(view, as_snapshot(table, pa.table(values))), "_row")
    assert found == mmh3.hash_bytes(name + b":3:ann")


def test_a_row_that_stays_leaves_nothing() -> None:
    given = changes(("u", 5, {"id": 1, "Who": "ann", "price": Decimal(2)}), before=[{"Who": "ann"}])
    assert rows(project(stream_view(kind="event"), given), "who", "_deleted") == [("ann", False)]


def test_a_row_leaves_no_entity_that_its_key_does_not_fit() -> None:
    """It was never in the view there; its new values are none the worse."""
    number = Feature("who", 3, pa.int32())
    view = StreamView(View("p", "v", "v", "event", (number,), (PRICE,)), TABLE, None, {"Who": "who"})
    given = changes(
        ("u", 5, {"id": 1, "Who": "7", "price": Decimal(2)}),
        ("d", 6, {"id": 2, "Who": str(2**31)}),
        before=[{"Who": str(2**31)}, {"Who": str(2**31)}],
    )
    found = project(view, replace(given, before=given.before.append_column("id", pa.array([1, 2]))))  # type: ignore[union-attr]
    assert rows(found, "who", "_deleted") == [(7, False)]
    assert found.skipped == 1


def test_a_row_without_an_entity_is_skipped_and_counted() -> None:
    found = project(stream_view(kind="event"), changes(("c", 1, {"id": 1}), ("c", 2, {"id": 2, "Who": "ann"})))
    assert rows(found, "who") == [("ann",)]
    assert (found.skipped, found.positions.tolist()) == (1, [1])


def test_a_row_without_its_event_time_is_blamed() -> None:
    given = changes(("c", 1, {"id": 1, "Who": "a", "sold": NOON}), ("c", 2, {"id": 2, "Who": "b"}))
    assert blamed(stream_view(kind="event", event_time="sold"), given) == {1: ["view v: the event time sold is null"]}


def test_a_value_that_does_not_fit_is_blamed_and_named() -> None:
    small = Feature("id", 3, pa.int32())
    view = StreamView(View("p", "v", "v", "event", (WHO,), (small,)), TABLE, None, {"Who": "who"})
    given = changes(("c", 1, {"id": 7, "Who": "a"}), ("c", 2, {"id": 2**40, "Who": "b"}))
    bad = blamed(view, given)
    assert list(bad) == [1]
    assert f"column id: {2**40} does not fit int32" in bad[1][0]


DOUBLE = Column("value", "double precision", pa.float64(), "float", nullable=True)
NUMERIC = Column("value", "numeric", pa.string(), "decimal", nullable=True)
DOUBLES = Column("value", "double precision[]", pa.list_(pa.float64()), "array", nullable=True, element="float")
LONGS = Column("value", "bigint[]", pa.list_(pa.int64()), "array", nullable=True, element="plain")
FLOAT32, FLOAT64 = Feature("value", 6, pa.float32()), Feature("value", 5, pa.float64())


@pytest.mark.parametrize(
    ("column", "feature", "values", "good", "bad"),
    [
        (DOUBLE, FLOAT32, [1.5, 1e300, -1e39, INFINITE, None], [1.5, INFINITE, None], [1, 2]),
        (NUMERIC, FLOAT64, ["1e400", "Infinity", "1.5", "-Infinity"], [INFINITE, 1.5, -INFINITE], [0]),
        (NUMERIC, FLOAT64, [None, "-1" + 400 * "0"], [None], [1]),
        (NUMERIC, FLOAT32, ["9" * 39, "Infinity", "1.5"], [INFINITE, 1.5], [0]),
        (
            DOUBLES,
            Feature("value", 16, pa.list_(pa.float32())),
            [None, [1.5, None], [], [INFINITE, 1e300], [-INFINITE]],
            [None, [1.5, 0.0], [], [-INFINITE]],
            [3],
        ),
        (LONGS, Feature("value", 16, pa.list_(pa.float32())), [[2**60 + 1], [1]], [[1.0]], [0]),
    ],
)
def test_a_number_beyond_a_float_is_blamed_and_an_infinity_is_a_value(
    column: Column, feature: Feature, values: list[Any], good: list[Any], bad: list[int]
) -> None:
    table = Table("s", "public", "t", "s.public.t", (TABLE.columns[0], column), ("id",))
    view = StreamView(View("p", "v", "v", "state", (ID,), (feature,)), table)
    given = pa.table({"id": range(len(values)), "value": pa.array(values, column.arrow_type)})
    found = blamed(view, as_snapshot(table, given))
    assert sorted(found) == bad
    assert all("column value: " in why and "range" in why for (why,) in found.values())
    rest = given.take([i for i in range(len(values)) if i not in bad])
    assert project(view, as_snapshot(table, rest)).rows.table["value"].to_pylist() == good


def test_a_value_that_does_not_fit_is_named_by_its_column_and_hidden_if_personal() -> None:
    view = View("p", "v", "v", "state", (ID,), (Feature("cost", 3, pa.int32()),))
    given = changes(("c", 1, {"id": 1, "price": Decimal("12345678.90")}))
    ((why,),) = blamed(StreamView(view, TABLE, None, {"price": "cost"}), given).values()
    assert why.startswith("column price: Decimal('12345678.90') does not fit int32")
    assert "12345678" not in PersonalColumns(frozenset({"price"})).reason(why)


def test_a_transforms_failures_are_blamed_by_their_change() -> None:
    def inverse(given: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**given, "price": [1 / p for p in given["price"]]}

    function = transform("v", inverse, "python", {"id": pa.int64(), "price": pa.float64()})
    given = changes(
        ("d", 1, {"id": 9}), ("c", 2, {"id": 1, "price": Decimal(0)}), ("c", 3, {"id": 2, "price": Decimal(4)})
    )
    assert list(blamed(stream_view(transform=function), given)) == [1]


def test_rows_that_a_transform_drops_are_skipped() -> None:
    function = transform("v", lambda frame: frame[frame["id"] > 1], "pandas", {"id": pa.int64(), "price": pa.float64()})
    given = changes(("c", 1, {"id": 1, "price": Decimal(1)}), ("c", 2, {"id": 2, "price": Decimal(2)}))
    found = project(stream_view(transform=function), given)
    assert (rows(found, "id"), found.skipped, found.positions.tolist()) == ([(2,)], 1, [1])


def test_an_update_that_a_transform_drops_takes_the_row_out_of_the_view() -> None:
    """As it is to be where the change is the newest: what was served of the row before is not what it is now."""
    function = transform("v", lambda frame: frame[frame["id"] > 1], "pandas", {"id": pa.int64(), "price": pa.float64()})
    given = changes(("u", 1, {"id": 1, "price": Decimal(1)}), ("u", 2, {"id": 2, "price": Decimal(2)}))
    found = project(stream_view(transform=function), given)
    assert rows(found, "id", "price", "_deleted") == [(1, None, True), (2, 2.0, False)]
    assert (found.skipped, found.positions.tolist()) == (0, [0, 1])


def with_vector(view: StreamView) -> StreamView:
    features = (*view.view.features, Feature("vector", 16, pa.list_(pa.float32())))
    return replace(view, view=replace(view.view, features=features, vector=Vector("vector", 2, "l2", ("Who",))))


BEFORE_ALL = FIRST_MOMENT - 1_000_000
YEAR_10000 = 253_402_300_800_000_000
NUL = "its text holds NUL (U+0000), which PostgreSQL does not take"


@pytest.mark.parametrize(
    ("value_type", "values", "why"),
    [
        (2, ["a\0", "a", None], NUL),
        (12, [["a", "b\0"], ["a", None], None], NUL),
        (8, [BEFORE_ALL, FIRST_MOMENT, YEAR_10000], "it is before 4714-11-24 BC, PostgreSQL's first day"),
        (18, [[0, YEAR_10000], [0, None], None], "in its list is a timestamp that is not in the years 1 to 9999"),
    ],
)
def test_what_postgresql_never_takes_is_blamed_where_there_is_a_vector(
    value_type: int, values: list[Any], why: str
) -> None:
    made = Feature("made", value_type, arrow_type_of(value_type))
    column = pa.table({"who": ["ann"] * 3, "made": pa.array(values, made.arrow_type)})
    plain = stream_view(made, kind="event", transform=lambda _: (column, np.arange(3)))
    given = changes(*(("c", i, {"id": i, "Who": "ann"}) for i in range(3)))
    assert blamed(with_vector(plain), given) == {0: [f"column made: {why}"]}
    assert project(plain, given).rows.table.num_rows == 3


def test_an_entity_that_postgresql_never_takes_is_blamed_and_its_deletes_are_skipped() -> None:
    around = len(entity_keys(stream_view(kind="event").view).encode(pa.table({"who": [""]}))[0].as_py())
    longest, nul = (ENTITY_KEY_BYTES - around - 1) * "x" + "y", "a\0"
    view = with_vector(stream_view(kind="event"))
    given = changes(*(("c", i, {"id": i, "Who": who}) for i, who in enumerate([longest, longest + "x", nul, None])))
    assert blamed(view, given) == {
        1: ["view v: the entity key of Who has 2,693 bytes, and PostgreSQL's index takes 2,692"],
        2: [f"column Who: {NUL}"],
    }
    deletes = changes(*(("d", i, {"id": i, "Who": who}) for i, who in enumerate([longest, longest + "x", nul])))
    found = project(view, deletes)
    assert (rows(found, "who", "_deleted"), found.skipped) == ([(longest, True)], 2)
    assert project(stream_view(kind="event"), deletes).skipped == 0
    moved = changes(("u", 1, {"id": 1, "Who": "ann"}), before=[{"Who": nul}])
    found = project(view, moved)
    assert (rows(found, "who", "_deleted"), found.skipped) == ([("ann", False)], 0)


VALUES: dict[int, list[Any]] = {
    8: [NOON.replace(microsecond=999_999), None, datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)],
    11: [[b"a", None], None, []],
    12: [["a", None, ""], None, []],
    13: [[1, None], None, []],
    14: [[None], [2**40]],
    15: [[1.5, None], [float("inf")]],
    16: [[1.5, None], []],
    17: [[True, None], [False]],
    18: [[NOON.replace(microsecond=1), None], None, []],
    33: [["{}", None], None],
}


@pytest.mark.parametrize("value_type", VALUES)
def test_a_feature_is_kept_as_it_will_be_served(value_type: int) -> None:
    array = pa.array(VALUES[value_type], arrow_type_of(value_type))
    for column in (array, array.slice(1), pa.chunked_array([array.slice(0, 1), array.slice(1)])):
        served = decode(encode(column, value_type).to_pylist(), value_type)
        assert as_stored(column, value_type).to_pylist() == served.to_pylist()


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        (pa.int16(), {"int32", "int64", "float", "double", "string"}),
        (pa.float64(), {"float", "double", "string"}),
        (pa.decimal128(10, 2), {"int32", "int64", "float", "double", "string"}),
        (pa.string(), {"string", "binary"}),
        (pa.binary(), {"binary"}),
        (pa.bool_(), {"bool", "string"}),
        (pa.date32(), {"timestamp[us, tz=UTC]", "string"}),
        (pa.timestamp("us"), {"timestamp[us, tz=UTC]", "string"}),
        (pa.list_(pa.int32()), {"list<item: int64>", "list<item: double>", "list<item: string>"}),
        (pa.null(), set()),
    ],
)
def test_a_column_is_carried_only_where_every_value_has_a_meaning(source: pa.DataType, targets: set[str]) -> None:
    scalars = [pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.binary(), UTC_US]
    lists = [pa.list_(t) for t in (pa.int64(), pa.float64(), pa.string(), pa.binary(), UTC_US)]
    assert {str(target) for target in (*scalars, *lists) if castable(source, target)} == targets
