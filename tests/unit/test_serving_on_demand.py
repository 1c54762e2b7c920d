"""On-demand views of request data, computed in process by Feast's own transformation."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pandas as pd
import pytest
from feast import FeatureStore, Field, OnDemandFeatureView, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Map as MapOf
from feast.protos.feast.types.Value_pb2 import MapKey, RepeatedValue, ScalarMap, ScalarMapEntry, Value, ZonedTimestamp
from feast.types import Array, Float64, Int64, Map, UnixTimestamp

from serving.http import GetOnlineFeatures, Seen
from serving.lookup import OnlineLookup
from serving.messages import request_fields, response
from serving.plan import InvalidRequest
from serving.request import checked
from serving.snapshot import Snapshot
from tests.unit.local_feast import local_feast
from tests.unit.test_serving_personal import snapshot
from tests.unit.test_serving_same_name import asking

ASKED = RequestSource(name="asked", schema=[Field(name="offset", dtype=Float64)])
X, Y = Field(name="x", dtype=Float64), Field(name="y", dtype=Float64)


class Nothing:
    """A store of which nothing is read."""

    def ask(self, commands: Any) -> list[Any]:
        return []


def versions() -> list[OnDemandFeatureView]:
    """`calc` twice: the second of them has another `x`."""

    @on_demand_feature_view(sources=[ASKED], schema=[X], mode="python", name="calc")
    def first(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"x": [1.0 + offset for offset in inputs["offset"]]}

    @on_demand_feature_view(sources=[ASKED], schema=[X, Y], mode="python", name="calc")
    def second(inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "x": [100.0 + offset for offset in inputs["offset"]],
            "y": [200.0 + offset for offset in inputs["offset"]],
        }

    return [first, second]


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> OnlineLookup:
    folder: Path = tmp_path_factory.mktemp("versions")
    config = local_feast(folder)
    store = FeatureStore(config=config)
    for view in versions():
        store.apply([view])
    registry: Any = SimpleNamespace(current=Snapshot(config, store.registry))
    return OnlineLookup(registry, Nothing(), None)


@pytest.mark.parametrize(
    ("features", "full", "expected"),
    [
        (["calc@v0:x", "calc@v1:y"], False, {"x": [1.5], "y": [200.5]}),
        (["calc@v1:y", "calc@v0:x"], False, {"y": [200.5], "x": [1.5]}),
        (["calc@v0:x", "calc:y"], False, {"x": [1.5], "y": [200.5]}),
        (["calc@v0:x", "calc@v1:x", "calc:x"], True, {"calc@v0__x": [1.5], "calc@v1__x": [100.5], "calc__x": [100.5]}),
    ],
)
def test_each_version_of_a_view_computes_its_own(
    lookup: OnlineLookup, features: list[str], full: bool, expected: dict[str, list[float]]
) -> None:
    assert lookup.get({"offset": [0.5]}, features, full_feature_names=full).values == expected


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> GetOnlineFeatures:
    """Answers `weighed:total`, of an object and a list that a request brings along."""
    asked = RequestSource(
        name="given", schema=[Field(name="parts", dtype=Map), Field(name="weights", dtype=Array(Float64))]
    )

    @on_demand_feature_view(sources=[asked], schema=[Field(name="total", dtype=Float64)], mode="pandas", name="weighed")
    def weighed(inputs: pd.DataFrame) -> pd.DataFrame:
        parts = [part or {} for part in inputs["parts"]]  # None where Feast, as it applies the view, tries the function
        both = zip(parts, inputs["weights"], strict=True)
        return pd.DataFrame({"total": [float(sum(part.values()) * sum(weights)) for part, weights in both]})

    current = snapshot(tmp_path_factory.mktemp("weighed"), [weighed])
    return asking(current)


@pytest.fixture(scope="module")
def fewer(tmp_path_factory: pytest.TempPathFactory) -> GetOnlineFeatures:
    """Answers `dropped:x` and `listed:y`, whose functions leave the entities with an offset below zero out."""

    @on_demand_feature_view(sources=[ASKED], schema=[X], mode="pandas", name="dropped")
    def dropped(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"x": inputs[~(inputs["offset"] < 0)]["offset"] * 2.0})

    @on_demand_feature_view(sources=[ASKED], schema=[Y], mode="python", name="listed")
    def listed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": [offset for offset in inputs["offset"] if not offset < 0]}

    return asking(snapshot(tmp_path_factory.mktemp("fewer"), [dropped, listed]))


@pytest.mark.parametrize("feature", ["dropped:x", "listed:y"])
def test_a_function_that_leaves_entities_out_gives_none_the_value_of_another(
    fewer: GetOnlineFeatures, feature: str
) -> None:
    def ask(offsets: list[float]) -> Any:
        body = orjson.dumps({"features": [feature], "entities": {"offset": offsets}})
        return orjson.loads(asyncio.run(fewer(body, "", Seen())))

    assert len(ask([1.0, 2.0])["results"][-1]["values"]) == 2
    with pytest.raises(InvalidRequest, match=f"{feature[:-2]} gave 2 values of '{feature[-1]}' for 3 entities"):
        ask([-1.0, 1.0, 2.0])


HELD = {"a": 1.0, "b": 2.0}
PARTS = MapOf(val={name: Value(double_val=value) for name, value in HELD.items()})


@pytest.mark.parametrize("parts", [Value(map_val=PARTS), Value(struct_val=PARTS)])
def test_a_function_is_given_by_grpc_what_it_is_given_by_http(weighed: GetOnlineFeatures, parts: Value) -> None:
    body = orjson.dumps({"features": ["weighed:total"], "entities": {"parts": [HELD], "weights": [[0.5, 4.0]]}})
    assert orjson.loads(asyncio.run(weighed(body, "", Seen())))["results"][-1]["values"] == [13.5]
    found = by_message(weighed, weighing(parts))
    assert [one.double_val for one in found.results[-1].values] == [13.5]


@pytest.mark.parametrize(
    "value",
    [
        Value(zoned_timestamp_val=ZonedTimestamp(unix_timestamp=2**62, zone="Nowhere/At_All")),
        Value(scalar_map_val=ScalarMap(val=[ScalarMapEntry(key=MapKey(int32_key=7), value=Value(double_val=1.0))])),
    ],
)
def test_what_json_has_no_form_of_is_refused(weighed: GetOnlineFeatures, value: Value) -> None:
    for parts in (value, Value(map_val=MapOf(val={"a": value}))):
        with pytest.raises(InvalidRequest, match="parts has values of which no column is made"):
            by_message(weighed, weighing(parts))


def by_message(posted: GetOnlineFeatures, message: GetOnlineFeaturesRequest) -> GetOnlineFeaturesResponse:
    """The answer to a message, as the gRPC server makes it."""
    request = checked(request_fields(message), posted.limits)
    found = asyncio.run(posted.features.find(asyncio.run(posted.admitted("", request, Seen()))))
    return GetOnlineFeaturesResponse.FromString(response(message, found, versions=False))


def weighing(parts: Value) -> GetOnlineFeaturesRequest:
    """Asks for `weighed:total` of those parts, with the weights 0.5 and 4."""
    weights = RepeatedValue(val=[Value(double_val=0.5), Value(double_val=4.0)])
    columns = {"parts": RepeatedValue(val=[parts]), "weights": RepeatedValue(val=[Value(list_val=weights)])}
    message = GetOnlineFeaturesRequest(entities=columns)
    message.features.val.append("weighed:total")
    return message


def test_a_null_timestamp_of_a_function_in_pandas_is_null(tmp_path: Path) -> None:
    """pandas' NaT becomes the number that stands for it, as whoever reads Feast's message gets it."""
    asked = RequestSource(name="asked", schema=[Field(name="n", dtype=Int64)])

    @on_demand_feature_view(sources=[asked], schema=[Field(name="at", dtype=UnixTimestamp)], mode="pandas", name="p")
    def p(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"at": pd.to_datetime(inputs["n"].where(inputs["n"] > 0), unit="s")})

    declared = snapshot(tmp_path, [p])
    body = orjson.dumps({"features": ["p:at"], "entities": {"n": [5, -1]}})
    (column,) = orjson.loads(asyncio.run(asking(declared)(body, "", Seen())))["results"]
    assert (column["values"], column["statuses"]) == ([5, None], ["PRESENT", "NULL_VALUE"])
    registry: Any = SimpleNamespace(current=declared)
    found = OnlineLookup(registry, Nothing(), None).get({"n": [5, -1]}, ["p:at"])
    assert (found.values, found.statuses) == ({"at": [5, None]}, {"at": ["PRESENT", "NULL_VALUE"]})
    assert found.to_arrow()["at"].null_count == 1
