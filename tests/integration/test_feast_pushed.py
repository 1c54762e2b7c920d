"""What is pushed through Feast's SDK is trained on as it is served."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.types import Array, Float32, Float64, Int64, PrimitiveFeastType, String, UnixTimestamp

from stores.errors import StoreRefused
from stores.feast_lake import LakeSource, SavedDatasetLakeStorage
from tests.integration.lake_repo import applied, at, make
from tests.redis_server import RedisServer

KEY_TYPES = {Int64: ValueType.INT64, String: ValueType.STRING, UnixTimestamp: ValueType.UNIX_TIMESTAMP}


@pytest.fixture
def redis() -> Iterator[str]:
    """The online store plug-in over a Redis, for feature_store.yaml."""
    server = RedisServer().start()
    yield f"{{type: stores.feast_online.MillraceOnlineStore, connection_string: '{server.connection_string}'}}"
    server.stop()


def pushed_view(key: PrimitiveFeastType, fields: dict[str, Any], **source: Any) -> list[Entity | FeatureView]:
    """An entity `k` and a view `v` that is pushed to by `s`."""
    entity = Entity(name="k", join_keys=["k"], value_type=KEY_TYPES[key])
    lake = LakeSource(name="l", table="features/v", timestamp_field="at", **source)
    schema = [Field(name="k", dtype=key), *(Field(name=name, dtype=type_) for name, type_ in fields.items())]
    push = PushSource(name="s", batch_source=lake)
    return [entity, FeatureView(name="v", entities=[entity], source=push, ttl=timedelta(0), schema=schema)]


def set_up(folder: Path, redis: str, objects: list[Any]) -> FeatureStore:
    """A repo over a lake of its own with these objects applied."""
    store = FeatureStore(repo_path=str(make(folder / "repo", "", online_store=redis)))
    store.apply(objects)
    return store


def push(store: FeatureStore, **row: Any) -> None:
    """Push one row to both stores."""
    store.push("s", pd.DataFrame([{"at": at(1), **row}]), to=PushMode.ONLINE_AND_OFFLINE)


def both(store: FeatureStore, key: Any, feature: str) -> tuple[Any, Any]:
    """What is served of the entity, and what a model is trained on."""
    served = store.get_online_features([feature], [{"k": key}]).to_dict()
    frame = pd.DataFrame({"k": [key], "event_timestamp": [at(2)]})
    trained = store.get_historical_features(frame, [feature]).to_arrow().to_pydict()
    name = feature.split(":")[1]
    return served[name][0], trained[name][0]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (UnixTimestamp, 1_704_067_200),
        (Array(UnixTimestamp), [1_704_067_200]),
        (Float64, Decimal("19.90")),
        (Float32, Decimal("0.1")),
        (Array(Float64), [float("nan"), 1.0]),
        (Array(Float64), np.array([np.nan, 1.0])),
        (Array(Float32), [None, 1.0]),
        (String, True),
    ],
)
def test_a_value_of_pandas(tmp_path: Path, redis: str, type_: Any, value: Any) -> None:
    store = set_up(tmp_path, redis, pushed_view(Int64, {"x": type_}))
    push(store, k=1, x=value)
    served, trained = both(store, 1, "v:x")
    np.testing.assert_equal(trained, served)  # by which NaN is NaN


def test_keys_that_are_moments(tmp_path: Path, redis: str) -> None:
    """However they are given, their second is the entity."""
    store = set_up(tmp_path, redis, pushed_view(UnixTimestamp, {"x": Int64}))
    moments = [at(1), at(2) + timedelta(milliseconds=500), int(at(3).timestamp())]
    for x, moment in enumerate(moments):
        push(store, k=moment, x=x)
    asked = [int(at(1).timestamp()), at(1) + timedelta(milliseconds=5), at(2), at(3)]
    assert [both(store, key, "v:x") for key in asked] == [(0, 0), (0, 0), (1, 1), (2, 2)]


def test_keys_that_are_uuids(tmp_path: Path, redis: str) -> None:
    """As database drivers give them. Arrow keeps their bytes, which are no text."""
    store = set_up(tmp_path, redis, pushed_view(String, {"x": Int64}))
    key = uuid.UUID(int=5 << 120 | 0xFF)
    push(store, k=str(key), x=1)
    assert both(store, key, "v:x") == (1, 1)


def test_of_corrections_created_at_the_same_time_the_later_pushed_counts(tmp_path: Path, redis: str) -> None:
    store = set_up(tmp_path, redis, pushed_view(Int64, {"x": Int64}, created_timestamp_column="made"))
    times = {"at": [at(1)] * 2, "made": [at(1)] * 2}
    store.push("s", pd.DataFrame({"k": [1, 2], "x": [10, 20], **times}), to=PushMode.ONLINE_AND_OFFLINE)
    push(store, k=2, x=21, made=at(1))
    assert both(store, 2, "v:x") == (21, 21)


ON_DEMAND = """
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int32, Int64

from stores.feast_lake import LakeSource

k = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
lake = LakeSource(name="l", table="features/v", timestamp_field="at")
v = FeatureView(
    name="v",
    entities=[k],
    source=PushSource(name="s", batch_source=lake),
    ttl=timedelta(0),
    schema=[
        Field(name="k", dtype=Int64),
        Field(name="number", dtype=Int32),
        Field(name="share", dtype=Float32),
        Field(name="numbers", dtype=Array(Int32)),
    ],
)
made = [Field(name="square", dtype=Int64), Field(name="thrice", dtype=Float64), Field(name="sums", dtype=Int64)]


@on_demand_feature_view(sources=[v], mode="pandas", schema=made)
def by_pandas(df):
    sums = [int(sum(value * value for value in values)) for values in df["numbers"]]
    return pd.DataFrame({"square": df["number"] * df["number"], "thrice": df["share"] * 3, "sums": sums})
"""


def test_on_demand_functions_compute_with_the_same_numbers(tmp_path: Path, redis: str) -> None:
    """Of 32 bits, products would wrap, and others round elsewhere. What is answered has the types of its features."""
    store = applied(make(tmp_path / "repo", ON_DEMAND, online_store=redis))
    push(store, k=1, number=100_000, share=0.1, numbers=[100_000, 3])
    answers = [both(store, 1, f"by_pandas:{name}") for name in ("square", "thrice", "sums")]
    assert [trained for _, trained in answers] == [served for served, _ in answers]
    assert answers[0] == (10_000_000_000, 10_000_000_000)
    frame = pd.DataFrame({"k": [1], "event_timestamp": [at(2)]})
    schema = store.get_historical_features(frame, ["v:number", "v:share", "by_pandas:square"]).to_arrow().schema
    assert [str(schema.field(name).type) for name in ("number", "share")] == ["int32", "float"]


def test_two_projects_that_share_a_lake_need_two_names(tmp_path: Path, redis: str) -> None:
    one = set_up(tmp_path, redis, pushed_view(Int64, {"x": Int64}))
    other = make(tmp_path / "other", "", online_store=redis)
    yaml = other / "feature_store.yaml"
    yaml.write_text(
        yaml.read_text().replace("project: shop", "project: two").replace("path: lake", "path: ../repo/lake")
    )
    two = FeatureStore(repo_path=str(other))
    two.apply(pushed_view(Int64, {"x": Int64}))
    push(one, k=1, x=10)
    push(one, k=2, x=20)
    with pytest.raises(StoreRefused, match=r"holds what is pushed in project shop: in project two, .* another name"):
        push(two, k=1, x=11)


def test_a_saved_dataset_has_every_column(tmp_path: Path, redis: str) -> None:
    store = set_up(tmp_path, redis, pushed_view(Int64, {"x": Int64}))
    push(store, k=1, x=10)
    frame = pd.DataFrame({"k": [1], "label": [0.5], "event_timestamp": [at(2)]})
    job = store.get_historical_features(frame, ["v:x"])
    store.create_saved_dataset(job, "labelled", SavedDatasetLakeStorage("datasets/labelled"))
    saved = store.get_saved_dataset("labelled").to_df()
    assert saved[["k", "label", "x"]].to_dict("list") == {"k": [1], "label": [0.5], "x": [10]}
    job = store.get_historical_features(frame.rename(columns={"event_timestamp": "when"}), ["v:x"])
    with pytest.raises(ValueError, match=r"read back by its column event_timestamp, .* only k, label, when, x"):
        store.create_saved_dataset(job, "unreadable", SavedDatasetLakeStorage("datasets/unreadable"))
