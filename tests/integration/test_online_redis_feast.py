"""The stock Feast SDK with `online_store: {type: redis}` and millrace read each other's values."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast import types as feast_types
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.types import Array, Float64, Int64, PrimitiveFeastType, String, from_value_type

from stores.fields import fields_of
from stores.online import RedisAddress, RedisOnline
from stores.rows import FeatureRows, rows_schema
from stores.values import arrow_type_of
from stores.view import Feature, View
from tests.redis_server import RedisServer

PROJECT = "nyc"
AT = datetime(2013, 2, 12, 3, 0, 0, 123_456, tzinfo=UTC)
MOMENT = datetime(2013, 2, 12, 5, tzinfo=UTC)
BEFORE = datetime(1935, 1, 1, tzinfo=UTC)
SOME = uuid.UUID("12345678-1234-5678-1234-567812345678")

EXAMPLES: dict[PrimitiveFeastType, tuple[list[Any], list[Any]]] = {
    feast_types.Bytes: ([b"\x00\xff", b""], [b"\x00\xff", b""]),
    feast_types.String: (["Žluťoučký", ""], ["Žluťoučký", ""]),
    feast_types.Int32: ([-(2**31), 0], [-(2**31), 0]),
    feast_types.Int64: ([2**63 - 1, -1], [2**63 - 1, -1]),
    feast_types.Float64: ([1048.36, float("-inf")], [1048.36, float("-inf")]),
    feast_types.Float32: ([1.5, 0.0], [1.5, 0.0]),
    feast_types.Bool: ([True, False], [True, False]),
    feast_types.UnixTimestamp: ([MOMENT, BEFORE], [MOMENT, BEFORE]),
    feast_types.PdfBytes: ([b"%PDF", b"x"], [b"%PDF", b"x"]),
    feast_types.ImageBytes: ([b"\x89PNG", b"x"], [b"\x89PNG", b"x"]),
    feast_types.Json: (['{"a": [1, null]}', '"text"'], [{"a": [1, None]}, "text"]),
    feast_types.Uuid: ([str(SOME)] * 2, [SOME] * 2),
    feast_types.TimeUuid: ([str(SOME)] * 2, [SOME] * 2),
    feast_types.Decimal: (["12.340", "-0"], [Decimal("12.340"), Decimal("-0")]),
}
"""By type: two values as they stand in a column, and as Feast's SDK gives them back."""

NOT_IN_ARRAYS = (feast_types.PdfBytes, feast_types.ImageBytes)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture
def online(server: RedisServer) -> Iterator[RedisOnline]:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    store = RedisOnline(RedisAddress.parse(server.connection_string), 3_600)
    yield store
    store.close()


@pytest.fixture
def feast(server: RedisServer, tmp_path: Path) -> FeatureStore:
    """The stock SDK: file registry, local provider, Redis."""
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry={"path": str(tmp_path / "registry.db"), "enable_online_feature_view_versioning": True},
            online_store={"type": "redis", "connection_string": server.connection_string},
            offline_store={"type": "dask"},
            entity_key_serialization_version=3,
        )
    )


def declare(feast: FeatureStore, name: str, keys: dict[str, ValueType], fields: Sequence[Field]) -> View:
    """Applies a feature view to Feast, and reads it back as the stores see it."""
    entities = [Entity(name=f"the_{key}", join_keys=[key], value_type=kind) for key, kind in keys.items()]
    columns = [Field(name=key, dtype=from_value_type(value_type)) for key, value_type in keys.items()]
    feature_view = FeatureView(
        name=name,
        entities=entities,
        schema=[*columns, *fields],
        ttl=timedelta(0),
        source=FileSource(name=f"{name}_source", path="nowhere.parquet", timestamp_field="event_timestamp"),
    )
    feast.apply([*entities, feature_view])
    applied = feast.get_feature_view(name)
    features = [(field.name, field.dtype.to_value_type().value) for field in applied.features]
    return View(
        PROJECT,
        name,
        compute_versioned_name(applied, True),
        "state",
        tuple(Feature(key, value_type.value, arrow_type_of(value_type.value)) for key, value_type in keys.items()),
        tuple(Feature(name, number, arrow_type_of(number)) for name, number in features),
    )


def write(online: RedisOnline, view: View, rows: list[dict[str, Any]], lsn: int = 1, deleted: bool = False) -> None:
    meta = {
        "event_timestamp": AT,
        "created_timestamp": AT,
        "_lsn": lsn,
        "_deleted": deleted,
        "_partition": 0,
        "_offset": 0,
    }
    table = pa.Table.from_pylist([meta | row for row in rows], rows_schema(view))
    online.write([FeatureRows(view, table)])


def ask(feast: FeatureStore, features: list[str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    answer: dict[str, list[Any]] = feast.get_online_features(features, rows, full_feature_names=True).to_dict()
    return answer


def every_type() -> dict[str, tuple[Any, list[Any], list[Any]]]:
    """By field: its Feast type, its values in three rows (the last null), and what Feast gives back."""
    fields = {}
    for feast_type, (values, answers) in EXAMPLES.items():
        name = str(feast_type).lower()
        fields[name] = (feast_type, [*values, None], [*answers, None])
        if feast_type not in NOT_IN_ARRAYS:
            fields[f"{name}_array"] = (Array(feast_type), [values, [], None], [answers, [], None])
    return fields


def test_every_type(feast: FeatureStore, online: RedisOnline) -> None:
    fields = every_type()
    view = declare(
        feast,
        "types",
        {"id": ValueType.INT64},
        [Field(name=name, dtype=dtype) for name, (dtype, _, _) in fields.items()],
    )
    rows = [{"id": row} | {name: values[row] for name, (_, values, _) in fields.items()} for row in range(3)]
    write(online, view, rows)
    answer = ask(feast, [f"types:{name}" for name in fields], [{"id": row} for row in range(4)])
    for name, (_, _, expected) in fields.items():
        assert answer[f"types__{name}"] == [*expected, None], name
    (own,) = online.read([view], pa.table({"id": [0, 1, 2, 3]}))
    assert own["_present"].to_pylist() == [True, True, True, False]
    assert own["event_timestamp"].to_pylist() == [AT, AT, AT, None]
    for name, (_, values, _) in fields.items():
        column = pa.array([*values, None], arrow_type_of(next(f for f in view.features if f.name == name).value_type))
        assert own[name].combine_chunks().equals(column), name


def test_what_feast_writes_is_the_same_hash(feast: FeatureStore, online: RedisOnline, server: RedisServer) -> None:
    """Field for field, apart from our version."""
    fields = {
        name: (dtype, [value for value in values if value is not None])
        for name, (dtype, values, _) in every_type().items()
        if not name.startswith("float64")  # pandas would make the infinity null
    }
    view = declare(
        feast,
        "types",
        {"tail": ValueType.STRING, "id": ValueType.INT32},
        [Field(name=name, dtype=dtype) for name, (dtype, _) in fields.items()],
    )
    keys = {"tail": ["N1", "N2"], "id": [1, -2]}
    frame = pd.DataFrame(keys | {name: values for name, (_, values) in fields.items()} | {"event_timestamp": [AT, AT]})
    frame["id"] = frame["id"].astype("int32")
    feast.write_to_online_store("types", frame)
    with redis.Redis(port=server.port) as client:
        by_feast = {key: client.hgetall(key) for key in client.scan_iter()}
        (own,) = online.read([view], pa.table(keys).cast(pa.schema([(k.name, k.arrow_type) for k in view.join_keys])))
        assert own["_present"].to_pylist() == [True, True]
        client.flushall()
        write(
            online,
            view,
            own.drop_columns(["_present"])
            .append_column("tail", pa.array(keys["tail"]))
            .append_column("id", pa.array(keys["id"], pa.int32()))
            .to_pylist(),
        )
        by_us = {key: client.hgetall(key) for key in client.scan_iter()}
    version = fields_of(view).version
    assert all(len(found.pop(version)) == 33 for found in by_us.values())
    assert by_us == by_feast


def test_several_views_of_an_entity(feast: FeatureStore, online: RedisOnline) -> None:
    keys = {"origin": ValueType.STRING}
    weather = declare(feast, "weather", keys, [Field(name="temp", dtype=Float64), Field(name="name", dtype=String)])
    airports = declare(feast, "airports", keys, [Field(name="name", dtype=String)])
    write(online, weather, [{"origin": "EWR", "temp": 39.2, "name": "w"}, {"origin": "JFK", "temp": None}])
    write(online, airports, [{"origin": "EWR", "name": "Newark"}])
    answer = ask(
        feast,
        ["weather:temp", "airports:name", "weather:name"],
        [{"origin": "JFK"}, {"origin": "EWR"}, {"origin": "LGA"}],
    )
    assert answer == {
        "origin": ["JFK", "EWR", "LGA"],
        "weather__temp": [None, 39.2, None],
        "weather__name": [None, "w", None],
        "airports__name": [None, "Newark", None],
    }


def test_composite_keys_of_every_type(feast: FeatureStore, online: RedisOnline) -> None:
    kinds = {
        "z_text": ValueType.STRING,
        "m_small": ValueType.INT32,
        "a_time": ValueType.UNIX_TIMESTAMP,
        "b_bytes": ValueType.BYTES,
        "big": ValueType.INT64,
    }
    view = declare(feast, "composite", kinds, [Field(name="x", dtype=Int64)])
    entities: list[dict[str, Any]] = [
        {"z_text": "ž", "m_small": -5, "a_time": MOMENT, "b_bytes": b"\x00\x01", "big": 2**40},
        {"z_text": "", "m_small": 5, "a_time": BEFORE, "b_bytes": b"*", "big": -1},
    ]
    write(online, view, [entity | {"x": number} for number, entity in enumerate(entities)])
    assert ask(feast, ["composite:x"], [*entities, entities[0] | {"big": 7}])["composite__x"] == [0, 1, None]
    (scanned,) = online.scan(view)
    found = [{name: row[name] for name in kinds} for row in scanned.to_pylist()]
    assert sorted(found, key=lambda row: row["big"]) == sorted(entities, key=lambda row: row["big"])


def test_a_view_without_entities(feast: FeatureStore, online: RedisOnline) -> None:
    view = declare(feast, "totals", {}, [Field(name="flights", dtype=Int64)])
    write(online, view, [{"flights": 336_776}])
    assert ask(feast, ["totals:flights"], [{"any": 1}])["totals__flights"] == [336_776]


def test_a_versioned_view(feast: FeatureStore, online: RedisOnline) -> None:
    keys, text = {"tail": ValueType.STRING}, Field(name="maker", dtype=String)
    first = declare(feast, "planes", keys, [text])
    write(online, first, [{"tail": "N1", "maker": "EMBRAER"}])
    second = declare(feast, "planes", keys, [text, Field(name="seats", dtype=Int64)])
    assert (first.online_name, second.online_name) == ("planes", "planes_v1")
    ours = {"tail": ["N1"], "planes__maker": [None], "planes__seats": [None]}
    assert ask(feast, ["planes:maker", "planes:seats"], [{"tail": "N1"}]) == ours
    write(online, second, [{"tail": "N1", "maker": "BOEING", "seats": 189}])
    ours = {"tail": ["N1"], "planes__maker": ["BOEING"], "planes__seats": [189]}
    assert ask(feast, ["planes:maker", "planes:seats"], [{"tail": "N1"}]) == ours
    assert [table["maker"].to_pylist() for table in online.scan(first)] == [["EMBRAER"]]
    assert online.drop(first) == 1
    assert ask(feast, ["planes:maker", "planes:seats"], [{"tail": "N1"}]) == ours


def test_a_delete_makes_feast_return_nulls(feast: FeatureStore, online: RedisOnline) -> None:
    keys = {"tail": ValueType.STRING}
    planes = declare(feast, "planes", keys, [Field(name="maker", dtype=String)])
    owners = declare(feast, "owners", keys, [Field(name="name", dtype=String)])
    write(online, planes, [{"tail": "N1", "maker": "EMBRAER"}])
    write(online, owners, [{"tail": "N1", "name": "UA"}])
    write(online, planes, [{"tail": "N1"}], lsn=2, deleted=True)
    write(online, planes, [{"tail": "N1", "maker": "EMBRAER"}], lsn=1)
    answer = ask(feast, ["planes:maker", "owners:name"], [{"tail": "N1"}])
    assert answer == {"tail": ["N1"], "planes__maker": [None], "owners__name": ["UA"]}


def test_a_change_with_the_same_event_time_reaches_feast(feast: FeatureStore, online: RedisOnline) -> None:
    planes = declare(feast, "planes", {"tail": ValueType.STRING}, [Field(name="maker", dtype=String)])
    for lsn, maker in enumerate(("first", "second", "third")):
        write(online, planes, [{"tail": "N1", "maker": maker}], lsn=lsn)
    assert ask(feast, ["planes:maker"], [{"tail": "N1"}])["planes__maker"] == ["third"]
