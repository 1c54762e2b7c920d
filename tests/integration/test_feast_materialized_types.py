"""What stock Feast materializes of a plain view is what the stream writes, whatever types the view declares."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, PushSource, StreamFeatureView, ValueType
from feast.data_source import PushMode
from feast.stream_feature_view import stream_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    String,
    UnixTimestamp,
    Uuid,
)
from feast.types import (
    Decimal as DecimalText,
)

from connectors.table import Column, Encoding, Table
from millrace.declare import cdc_source
from stores.delta import DeltaLake
from stores.feast_lake import LakeSource
from stores.feast_protos import messages
from stores.history import change_properties
from stores.rows import TIMESTAMP
from streams.changes import Changes, as_snapshot, changes_schema
from streams.declarations import captured_views, compile_view
from streams.views import Projected, project
from tests.integration.lake_repo import SQLITE, at, make
from tests.redis_server import RedisServer

TOPIC = "shop.public.orders"
FRACTION = at(1).replace(microsecond=999_999)
BEFORE_1970 = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
CODE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
NAN = float("nan")

Values = dict[str, tuple[pa.DataType, Encoding, list[Any]]]

VALUES: Values = {
    "whole": (pa.int32(), "plain", [3, None, -7]),
    "large": (pa.int64(), "plain", [2**53 + 1, None, -(2**62) - 1]),
    "real": (pa.float32(), "float", [0.1, None, 1.5]),
    "double": (pa.float64(), "float", [1e300, None, -float("inf")]),
    "price": (pa.decimal128(10, 2), "decimal", [Decimal("19.90"), None, Decimal("-3.00")]),
    "exact": (pa.string(), "decimal", ["19.90", None, "1E+3"]),
    "flag": (pa.bool_(), "plain", [True, None, False]),
    "text": (pa.string(), "plain", ["né", None, ""]),
    "code": (
        pa.string(),
        "plain",
        [CODE, None, CODE.upper()],
    ),
    "settings": (pa.string(), "plain", ['{"a":  1}', None, "1.0"]),
    "day": (pa.date32(), "date", [date(2024, 1, 2), None, date(1, 1, 1)]),
    "local": (pa.timestamp("us"), "timestamp", [FRACTION.replace(tzinfo=None), None, BEFORE_1970.replace(tzinfo=None)]),
    "moment": (TIMESTAMP, "timestamptz", [FRACTION, None, BEFORE_1970]),
    "raw": (pa.binary(), "bytes", [b"\xff\x00", None, b""]),
    "wholes": (pa.list_(pa.int32()), "array", [[1, None, 3], None, []]),
    "larges": (pa.list_(pa.int64()), "array", [[2**53 + 1, None], None, []]),
    "doubles": (pa.list_(pa.float64()), "array", [[0.1, None, NAN], None, []]),
    "flags": (pa.list_(pa.bool_()), "array", [[True, None], None, []]),
    "texts": (pa.list_(pa.string()), "array", [["a", None, ""], None, []]),
    "raws": (pa.list_(pa.binary()), "array", [[b"\xff", None], None, []]),
    "days": (pa.list_(pa.date32()), "array", [[date(2024, 1, 2), None], None, []]),
    "moments": (pa.list_(TIMESTAMP), "array", [[FRACTION, None], None, []]),
}

CASTS: dict[str, dict[FeastType, list[str]]] = {
    "as_numbers": {
        Int32: ["whole"],
        Int64: ["large"],
        Float32: ["real"],
        Float64: ["double", "price", "exact"],
        Bool: ["flag"],
    },
    "as_other_numbers": {Int64: ["whole"], Float64: ["real"], DecimalText: ["large", "price", "exact"]},
    "as_floats": {Float64: ["whole"], Float32: ["price", "exact"]},
    "as_texts": {
        String: [
            "whole",
            "large",
            "real",
            "double",
            "price",
            "exact",
            "flag",
            "text",
            "code",
            "day",
            "local",
            "moment",
        ],
        Json: ["settings"],
    },
    "as_json": {Json: ["whole", "large", "price", "flag"], Uuid: ["code"]},
    "as_bytes": {Bytes: ["text", "raw"]},
    "as_times": {UnixTimestamp: ["day", "local", "moment"]},
    "as_arrays": {
        Array(Int32): ["wholes"],
        Array(Int64): ["larges"],
        Array(Float64): ["doubles"],
        Array(Bool): ["flags"],
        Array(String): ["texts"],
        Array(Bytes): ["raws"],
        Array(UnixTimestamp): ["days", "moments"],
    },
    "as_other_arrays": {Array(Float32): ["wholes", "doubles"], Array(Bytes): ["texts"], Array(Json): ["larges"]},
    "as_arrays_of_texts": {
        Array(String): ["wholes", "larges", "doubles", "flags", "days", "moments"],
        Array(DecimalText): ["texts"],
    },
}
"""Some views, by what they declare the columns to be."""

ORDER = Entity(name="order", join_keys=["id"], value_type=ValueType.INT64)


@pytest.fixture
def redis() -> Iterator[str]:
    """The online store plug-in over a Redis, for feature_store.yaml."""
    server = RedisServer().start()
    yield f"{{type: stores.feast_online.MillraceOnlineStore, connection_string: '{server.connection_string}'}}"
    server.stop()


def table_of(values: Values) -> Table:
    columns = [
        Column(name, "", kind, encoding, nullable=True, element="plain" if encoding == "array" else None)
        for name, (kind, encoding, _) in values.items()
    ]
    return Table(
        "shop", "public", "orders", TOPIC, (Column("id", "bigint", pa.int64(), "plain", False), *columns), ("id",)
    )


def filled(repo: Path, values: Values) -> Changes:
    """The changes that the lake holds: three orders, read by a snapshot."""
    table = table_of(values)
    columns = {name: pa.array(given, kind) for name, (kind, _, given) in values.items()}
    changes = as_snapshot(table, pa.table({"id": [1, 2, 3], **columns})).timed(pa.array([at(1)] * 3, TIMESTAMP))
    lake = DeltaLake(str(repo / "lake"))
    lake.create(f"changes/{TOPIC}", changes_schema(table), change_properties(TOPIC, ["id"]))
    lake.append(f"changes/{TOPIC}", changes.rows, {(TOPIC, 0): 3})
    return changes


def view_of(view: str, casts: dict[FeastType, list[str]], **source: Any) -> FeatureView:
    fields = [Field(name=column, dtype=kind) for kind, columns in casts.items() for column in columns]
    return FeatureView(
        name=view,
        entities=[ORDER],
        source=cdc_source(TOPIC, **source),
        ttl=timedelta(0),
        schema=[Field(name="id", dtype=Int64), *fields],
    )


def applied(repo: Path, *objects: Any) -> FeatureStore:
    store = FeatureStore(repo_path=str(repo))
    store.apply(list(objects))
    return store


def streamed(view: FeatureView, entity: Entity, changes: Changes) -> Projected:
    """The rows that the stream makes of the changes."""
    (declared,) = captured_views([view], [entity], ["shop"])
    return project(compile_view("shop", declared, changes.table, view.name), changes)


def served(store: FeatureStore, rows: Projected) -> dict[str, list[Any]]:
    """What is online for the entities of the rows, by feature."""
    view = rows.rows.view
    keys = rows.rows.table.select([key.name for key in view.join_keys]).to_pylist()
    answer = store.get_online_features([f"{view.name}:{feature.name}" for feature in view.features], keys).proto
    return dict(zip(answer.metadata.feature_names.val, (list(found.values) for found in answer.results), strict=True))


def assert_served_as_streamed(store: FeatureStore, rows: Projected) -> None:
    found = served(store, rows)
    for feature in rows.rows.view.features:
        # As text: a NaN equals no other.
        expected = [str(message) for message in messages(rows.rows.table[feature.name], feature)]
        assert [str(value) for value in found[feature.name]] == expected, (rows.rows.view.name, feature.name)


@pytest.mark.parametrize(("latest", "plug_in"), [("false", False), ("true", False), ("false", True)])
def test_values_are_those_of_the_stream(tmp_path: Path, redis: str, latest: str, plug_in: bool) -> None:
    config = f"materialization: {{pull_latest_features: {latest}}}"
    repo = make(tmp_path / "repo", config=config, online_store=redis if plug_in else SQLITE)
    changes = filled(repo, VALUES)
    views = [view_of(name, casts) for name, casts in CASTS.items()]
    store = applied(repo, ORDER, *views)
    store.materialize(at(0), at(9))
    for view in views:
        assert_served_as_streamed(store, streamed(view, ORDER, changes))


def test_a_key_of_another_type_names_the_entity_that_the_stream_writes(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo")
    values: Values = {name: VALUES[name] for name in ("large", "moment")}
    changes = filled(repo, values)
    when = Entity(name="when", join_keys=["at"], value_type=ValueType.STRING)
    view = FeatureView(
        name="by_time",
        entities=[when],
        source=cdc_source(TOPIC, field_mapping={"moment": "at", "large": "number"}),
        ttl=timedelta(0),
        schema=[Field(name="at", dtype=String), Field(name="number", dtype=Int64)],
    )
    store = applied(repo, when, view)
    store.materialize(at(0), at(9))
    rows = streamed(view, when, changes)
    assert rows.rows.table["at"].to_pylist() == ["2024-01-01 01:00:00.999999Z", "1969-12-31 23:59:59.500000Z"]
    assert_served_as_streamed(store, rows)


@pytest.mark.parametrize("kind", [String, UnixTimestamp])
def test_an_event_time_that_is_a_feature_keeps_its_fraction(tmp_path: Path, redis: str, kind: FeastType) -> None:
    repo = make(tmp_path / "repo", online_store=redis)
    moments: Values = {"moment": (TIMESTAMP, "timestamptz", [FRACTION, at(2), BEFORE_1970])}
    changes = filled(repo, {**moments, "large": VALUES["large"]})
    view = view_of("last", {kind: ["moment"], Int64: ["large"]}, event_time="moment")
    store = applied(repo, ORDER, view)
    store.materialize(at(-1_000_000), at(9))
    rows = streamed(view, ORDER, changes)
    assert_served_as_streamed(store, rows)
    answer = store.get_online_features(["last:moment"], [{"id": 1}, {"id": 2}, {"id": 3}]).proto
    times = answer.results[list(answer.metadata.feature_names.val).index("moment")].event_timestamps
    assert [time.ToDatetime(UTC) for time in times] == rows.rows.table["event_timestamp"].to_pylist()


def test_views_that_only_their_types_tell_apart_need_sources_of_their_own(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo")
    changes = filled(repo, {"price": VALUES["price"]})
    number, text = view_of("number", {Float64: ["price"]}), view_of("text", {String: ["price"]})
    same = view_of("same", {Float64: ["price"]})
    store = applied(repo, ORDER, number, text, same)
    with pytest.raises(ValueError, match=r"views number and text have the same columns .* and price with different"):
        store.materialize(at(0), at(9))
    text = view_of("text", {String: ["price"]}, name="prices")
    store.apply([text])
    store.materialize(at(0), at(9))
    for view in (number, text, same):
        assert_served_as_streamed(store, streamed(view, ORDER, changes))


def test_a_view_with_a_function_declares_nothing_of_its_source(tmp_path: Path) -> None:
    @stream_feature_view(
        entities=[ORDER],
        source=cdc_source(TOPIC),
        mode="pandas",
        ttl=timedelta(0),
        schema=[Field(name="id", dtype=Int64), Field(name="price", dtype=Int64)],
    )
    def cents(frame: pd.DataFrame) -> pd.DataFrame:
        frame["price"] = [0 if price is None else int(price * 100) for price in frame["price"]]
        return frame

    plain = StreamFeatureView(
        name="plain",
        entities=[ORDER],
        source=cdc_source(TOPIC),
        mode="pandas",
        ttl=timedelta(0),
        schema=[Field(name="id", dtype=Int64), Field(name="price", dtype=Float64)],
    )
    repo = make(tmp_path / "repo")
    changes = filled(repo, {"price": VALUES["price"]})
    store = applied(repo, ORDER, cents, plain)
    store.materialize(at(0), at(9))
    assert_served_as_streamed(store, streamed(plain, ORDER, changes))
    asked = store.get_online_features(["cents:price"], [{"id": 1}, {"id": 2}, {"id": 3}])
    assert asked.to_dict()["price"] == [1990, 0, -300]


def test_values_that_do_not_fit_are_told_by_their_column(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo")
    filled(repo, {"large": VALUES["large"]})
    store = applied(repo, ORDER, view_of("small", {Int32: ["large"]}))
    with pytest.raises(ValueError, match=r"column large: 2 of 3 values do not fit int32: declare large with a type"):
        store.materialize(at(0), at(9))


def test_what_was_pushed_is_materialized_as_it_was(tmp_path: Path) -> None:
    clicks = PushSource(
        name="clicks", batch_source=LakeSource(name="clicks.lake", table="features/last_click", timestamp_field="at")
    )
    schema = [Field(name="id", dtype=Int64), Field(name="page", dtype=Int64), Field(name="seen", dtype=UnixTimestamp)]
    view = FeatureView(name="last_click", entities=[ORDER], source=clicks, ttl=timedelta(0), schema=schema)
    store = applied(make(tmp_path / "repo"), ORDER, view)
    rows = {"page": pd.array([2**53 + 1, None], "Int64"), "seen": [FRACTION, None]}
    frame = pd.DataFrame({"id": [1, 2], **rows, "at": [at(1)] * 2})
    store.push("clicks", frame, to=PushMode.OFFLINE)
    store.materialize(at(0), at(9))
    features = ["last_click:page", "last_click:seen"]
    found = store.get_online_features(features, [{"id": 1}, {"id": 2}]).to_dict()
    assert (found["page"], found["seen"]) == ([2**53 + 1, None], [FRACTION.replace(microsecond=0), None])
