"""Requests for texts, lists and vectors of any size: what they read is bounded by its bytes, before it is decoded."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Float32, Int64, String
from google.protobuf.timestamp_pb2 import Timestamp

from serving.access import OpenAccess
from serving.aside import Aside
from serving.http import GetOnlineFeatures, Seen
from serving.request import RequestLimits, TooLarge
from serving.snapshot import Snapshot
from tests.unit.local_feast import local_feast
from tests.unit.online_features import Connected, online_features

LIMIT = 20_000
"""Bytes that are read for one request."""
STAMP = Timestamp(seconds=1_360_638_000).SerializeToString()
LIST = Value(float_list_val=FloatList(val=[0.5] * 100)).SerializeToString()
VALUES = {"size": Value(int64_val=7).SerializeToString(), "list": LIST}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    config = local_feast(tmp_path_factory.mktemp("sizes"))
    config.online_store.__dict__["vectors"] = "postgresql://nowhere"
    item = Entity(name="item", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    fields = [Field(name="size", dtype=Int64), Field(name="list", dtype=Array(Float32))]
    vector = Field(name="v", dtype=Array(Float32), vector_index=True, vector_length=300)
    text = Field(name="text", dtype=String)
    store = FeatureStore(config=config)
    store.apply(
        [
            item,
            FeatureView(name="items", entities=[item], schema=fields, source=source),
            FeatureView(name="totals", entities=[], schema=fields, source=source),
            FeatureView(name="texts", entities=[item], schema=[text, vector], source=source),
        ]
    )
    return Snapshot(config, store.registry)


class Redis(Connected):
    """Has one feature of every entity; `trips` are how many commands came at once."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.trips: list[int] = []

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        self.trips.append(len(commands))
        return [[STAMP, self.value] for _ in commands]


def ask(snapshot: Snapshot, feature: str, entities: int, limits: RequestLimits | None = None) -> tuple[Redis, Any]:
    """What was read, and the feature's values in the answer, or why there is none."""
    redis = Redis(VALUES.get(feature.partition(":")[2], b""))
    registry: Any = SimpleNamespace(current=snapshot)
    answering = online_features(redis, 1_000_000, LIMIT)
    post = GetOnlineFeatures(registry, answering, OpenAccess(), limits or RequestLimits(), Aside("versions", 1, 1))
    body = orjson.dumps({"features": [feature], "entities": {"id": list(range(entities))}})
    try:
        answer = asyncio.run(post(body, "", Seen()))
    except TooLarge as error:
        return redis, str(error)
    return redis, orjson.loads(answer)["results"][-1]["values"]


@pytest.mark.parametrize("feature", ["items:list", "totals:list"])
def test_lists_are_read_up_to_a_bound_on_their_bytes(snapshot: Snapshot, feature: str) -> None:
    fit = LIMIT // (len(LIST) + len(STAMP))
    _, values = ask(snapshot, feature, fit)
    assert values == [[0.5] * 100] * fit
    _, said = ask(snapshot, feature, fit + 1)
    assert f"more than {LIMIT} bytes" in said and "fewer entities" in said


def test_they_are_read_by_so_many_and_no_more_once_it_is_too_much(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.compile.VALUES_FIRST", 5)
    monkeypatch.setattr("serving.compile.VALUES_AT_ONCE", 20)
    fresh = Snapshot(snapshot.config, snapshot.registry)
    redis, values = ask(fresh, "items:list", 45)
    assert (redis.trips, len(values)) == ([5, 20, 20], 45)
    redis, said = ask(fresh, "items:list", 1_000)
    fit = LIMIT // (len(LIST) + len(STAMP))
    assert redis.trips[:3] == [5, 20, 20] and sum(redis.trips) == fit + 1 and "bytes" in said


def test_values_of_a_size_are_read_at_once_and_not_weighed(snapshot: Snapshot) -> None:
    redis, values = ask(snapshot, "items:size", 10_000)
    assert (redis.trips, values) == ([10_000], [7] * 10_000)


def test_a_vector_counts_as_many_values_as_it_has(snapshot: Snapshot) -> None:
    """Of the text too: a view with a vector is read whole."""
    _, said = ask(snapshot, "texts:text", 10, RequestLimits(cells=3_000))
    assert "10 entities with 301 values each" in said
