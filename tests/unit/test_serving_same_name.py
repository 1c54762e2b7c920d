"""A feature that only an on-demand view reads, under the name of one that is asked for, and personal: no way in
answers it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hiredis
import orjson
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.types import Int64, String
from google.protobuf.timestamp_pb2 import Timestamp

from serving.access import Forbidden
from serving.aside import Aside
from serving.console.look_up import look_up, target
from serving.http import GetOnlineFeatures, Seen
from serving.lookup import OnlineLookup
from serving.messages import request_fields, response
from serving.request import RequestLimits, checked
from serving.snapshot import Snapshot
from stores.fields import fields_of
from stores.view import View
from tests.admitted import admit
from tests.unit.online_features import Connected, online_features
from tests.unit.test_serving_personal import PERSONAL, SECRET, Plain, snapshot

ENTITIES = {"shop": ["1"], "person": ["2"]}
ORDERS = [["shops:name", "often:often"], ["often:often", "shops:name"], ["shops:name", "people:visits", "often:often"]]


def declared(folder: Path) -> Snapshot:
    """`shops` and `people` have a `name` each; that of people is personal, and `often` reads their visits alone."""
    shop, person = (Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in ENTITIES)
    names = Field(name="name", dtype=String), Field(name="name", dtype=String, tags=PERSONAL)
    shops = FeatureView(
        name="shops", entities=[shop], schema=[Field(name="shop", dtype=String), names[0]], source=source("shops")
    )
    people = FeatureView(
        name="people",
        entities=[person],
        schema=[Field(name="person", dtype=String), names[1], Field(name="visits", dtype=Int64)],
        source=source("people"),
    )
    computed = [Field(name="often", dtype=Int64)]

    @on_demand_feature_view(sources=[people], schema=computed, mode="python", tags={"personal": "false"})
    def often(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"often": [visits // 7 for visits in inputs["visits"]]}

    services = [
        FeatureService(name="first", features=[shops, often]),
        FeatureService(name="last", features=[often, shops]),
    ]
    return snapshot(folder, [shop, person, shops, people, often, *services])


def source(name: str) -> FileSource:
    return FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp")


VALUES = {
    "shops": {"name": Value(string_val="Corner")},
    "people": {"name": Value(string_val=SECRET), "visits": Value(int64_val=14)},
}


class Stored(Connected):
    """Answers the commands of any request from `VALUES`, whatever the entity."""

    def __init__(self) -> None:
        self._hash: dict[bytes, bytes] = {}
        for name, values in VALUES.items():
            features: Any = [SimpleNamespace(name=feature) for feature in values]
            fields = fields_of(View("shop", name, name, "state", (), tuple(features)))
            self._hash[fields.timestamp] = Timestamp(seconds=1_360_638_000).SerializeToString()
            for field, value in zip(fields.features, values.values(), strict=True):
                self._hash[field] = value.SerializeToString()

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        reader = hiredis.Reader()
        reader.feed(b"".join(commands))
        return [[self._hash.get(field) for field in reader.gets()[2:]] for _ in commands]

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        return self.ask(commands)


def asking(snapshot: Snapshot) -> GetOnlineFeatures:
    registry: Any = SimpleNamespace(current=snapshot)
    return GetOnlineFeatures(registry, online_features(Stored()), Plain(), RequestLimits(), Aside("versions", 1, 1))


def by_http(snapshot: Snapshot, features: list[str]) -> dict[str, Any]:
    body = orjson.dumps({"features": features, "entities": ENTITIES})
    answer = orjson.loads(asyncio.run(asking(snapshot)(body, "", Seen())))
    found = zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    return {name: column["values"][0] for name, column in found if name not in ENTITIES}


def by_grpc(snapshot: Snapshot, features: list[str]) -> dict[str, Any]:
    entities = {name: RepeatedValue(val=[Value(string_val=values[0])]) for name, values in ENTITIES.items()}
    message = GetOnlineFeaturesRequest(entities=entities)
    message.features.val.extend(features)
    posted = asking(snapshot)
    request = checked(request_fields(message), posted.limits)
    found = asyncio.run(posted.features.find(asyncio.run(posted.admitted("", request, Seen()))))
    answer = GetOnlineFeaturesResponse.FromString(response(message, found, versions=False))
    named = zip(answer.metadata.feature_names.val, answer.results, strict=True)
    values = {name: column.values[0] for name, column in named if name not in ENTITIES}
    return {name: getattr(value, str(value.WhichOneof("val"))) for name, value in values.items()}


def in_process(snapshot: Snapshot, features: list[str]) -> dict[str, Any]:
    registry: Any = SimpleNamespace(current=snapshot)
    found = OnlineLookup(registry, Stored(), None).get(ENTITIES, features)
    assert found.values.keys() == found.statuses.keys() == found.event_times.keys()
    return {name: values[0] for name, values in found.values.items()}


@pytest.mark.parametrize("way", [by_http, by_grpc, in_process])
@pytest.mark.parametrize("features", ORDERS)
def test_the_name_is_that_of_the_feature_asked_for(tmp_path: Path, way: Any, features: list[str]) -> None:
    expected = {"name": "Corner", "often": 2, "visits": 14}
    named = [feature.partition(":")[2] for feature in features]
    assert way(declared(tmp_path), features) == {name: expected[name] for name in named}


@pytest.mark.parametrize("way", [by_http, by_grpc])
def test_asked_for_it_is_withheld(tmp_path: Path, way: Any) -> None:
    with pytest.raises(Forbidden, match="people:name is personal data"):
        way(declared(tmp_path), ["people:name", "often:often"])


@pytest.mark.parametrize("service", ["first", "last"])
def test_the_console_shows_what_a_service_has(tmp_path: Path, service: str) -> None:
    posted, caller = asking(declared(tmp_path)), admit(Plain(), "", "shop", None, 1)
    wanted = target(posted.registry.current, caller, service, is_service=True)
    form = {name: values[0] for name, values in ENTITIES.items()}
    shown = asyncio.run(look_up(posted.features, wanted, form, now=1_360_638_000.0))
    assert {one.name: one.value for one in shown} == {"name": "Corner", "often": "2"}


def test_what_is_read_and_not_answered_counts_as_well(tmp_path: Path) -> None:
    """Of one entity: the names of a shop and of a person, the visits, and `often`."""
    posted = asking(declared(tmp_path))
    body = orjson.dumps({"features": ORDERS[0], "entities": ENTITIES})
    request = checked(orjson.loads(body), posted.limits)
    assert asyncio.run(posted.admitted("", request, Seen())).compiled.width == 4
