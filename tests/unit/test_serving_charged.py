"""Requests whose join keys are wrong, before a server without stores: refused before they are charged for entities."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int64

from serving.aside import Aside
from serving.features import OnlineFeatures
from serving.http import GetOnlineFeatures, Seen
from serving.plan import InvalidRequest
from serving.request import RequestLimits
from serving.scales import Scales
from serving.snapshot import Snapshot
from tests.unit.charged_access import Charged
from tests.unit.local_feast import local_feast

MANY = 10_000


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    config = local_feast(tmp_path_factory.mktemp("charged"))
    config.online_store.__dict__["vectors"] = "postgresql://nowhere"
    item = Entity(name="item", join_keys=["id"], value_type=ValueType.INT32)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    size = Field(name="size", dtype=Int64)
    vector = Field(name="v", dtype=Array(Float32), vector_index=True, vector_length=2)
    asked = RequestSource(name="asked", schema=[Field(name="offset", dtype=Float64)])

    @on_demand_feature_view(sources=[asked], schema=[Field(name="moved", dtype=Float64)], mode="python")
    def moves(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"moved": inputs["offset"]}

    plain = FeatureView(name="plain", entities=[item], schema=[size], source=source)
    texts = FeatureView(name="texts", entities=[item], schema=[size, vector], source=source)
    store = FeatureStore(config=config)
    store.apply([item, plain, texts, moves])
    return Snapshot(config, store.registry)


@pytest.mark.parametrize(
    ("feature", "entities", "said"),
    [
        ("plain:size", {"id": ["1"] * MANY}, "must be INT32"),
        ("plain:size", {"id": [None] * MANY}, "must be INT32"),
        ("plain:size", {"other": [1] * MANY}, "entities has no 'id'"),
        ("plain:size", {"id": [1] * MANY, "item": [1] * MANY}, "entities has 'id' twice"),
        ("plain:size", {"id": [1 << 31] * MANY}, "a value that its type cannot hold"),
        ("texts:size", {"id": [1 << 31] * MANY}, "a value that its type cannot hold"),
        ("moves:moved", {"id": [1] * MANY}, "entities has no 'offset'"),
    ],
)
def test_wrong_join_keys_cost_no_entities(
    snapshot: Snapshot, feature: str, entities: dict[str, list[Any]], said: str
) -> None:
    access = Charged()
    registry: Any = SimpleNamespace(current=snapshot)
    stores: Any = SimpleNamespace()
    cells = Scales("large requests", 1_000_000, 10, 1)
    answering = OnlineFeatures(stores, stores, Aside("vectors", 1, 1), Aside("on-demand views", 1, 1), cells, 1_000)
    post = GetOnlineFeatures(registry, answering, access, RequestLimits(), Aside("versions", 1, 1))
    body = orjson.dumps({"features": [feature], "entities": entities})
    with pytest.raises(InvalidRequest, match=said):
        asyncio.run(post(body, "", Seen()))
    assert access.entities == []
