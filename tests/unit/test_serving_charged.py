"""Requests whose join keys are wrong, or that ask for what is gone, before a server without stores: refused before they
are charged for entities."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int64

from serving.access import Caller, Forbidden
from serving.aside import Aside
from serving.features import OnlineFeatures
from serving.http import GetOnlineFeatures, Seen
from serving.plan import InvalidRequest, NotDeclared
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
    services = [FeatureService(name=name, features=[plain]) for name in ("sizes", "secret")]
    store.apply([item, plain, texts, moves, *services])
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
    with pytest.raises(InvalidRequest, match=said):
        ask(snapshot, access, {"features": [feature], "entities": entities})
    assert access.entities == []


class Scoped(Charged):
    """For the services `sizes` and `gone` alone."""

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        if service not in ("sizes", "gone"):
            raise Forbidden("the key is for other services")
        return super().reach(key_id, project, service)


@pytest.mark.parametrize(("access", "known"), [(Scoped(), "sizes"), (Charged(), "secret, sizes")])
def test_of_a_service_that_is_gone_a_key_is_told_those_that_it_is_for(
    snapshot: Snapshot, access: Charged, known: str
) -> None:
    with pytest.raises(NotDeclared, match=f"no feature service 'gone'; there are: {known}$"):
        ask(snapshot, access, {"feature_service": "gone", "entities": {"id": [1]}})


def ask(snapshot: Snapshot, access: Charged, request: dict[str, Any]) -> None:
    registry: Any = SimpleNamespace(current=snapshot)
    stores: Any = SimpleNamespace()
    cells = Scales("large requests", 1_000_000, 10, 1)
    answering = OnlineFeatures(stores, stores, Aside("vectors", 1, 1), Aside("on-demand views", 1, 1), cells, 1_000)
    post = GetOnlineFeatures(registry, answering, access, RequestLimits(), Aside("versions", 1, 1))
    asyncio.run(post(orjson.dumps(request), "", Seen()))
