"""The same requests to `feast serve` and to `millrace serve` over one Redis, the list of what differs between their
answers, and Feast's SDK through both."""

import http.client
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from feast import FeatureService, FeatureStore, FeatureView, Field, RepoConfig
from feast.infra.online_stores.helpers import _redis_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, UnixTimestamp
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration import serving_definitions as declared
from tests.integration.serving_differences import DIFFERENCES, EWR, cells, documented, each, of, refusals, refused
from tests.integration.serving_repo import NOW, Server, feast, millrace, until
from tests.integration.serving_types import NOT_DECLARED, TYPES
from tests.integration.serving_types import TYPED as VALUES
from tests.integration.test_serving_search_feast import SEARCHES
from tests.integration.test_serving_search_feast import TESTED as SEARCHES_TESTED

YEAR_10000 = 253_402_300_800
"""Its first second since 1970."""


@on_demand_feature_view(
    sources=[declared.asked], schema=[Field(name="first", dtype=Float64)], mode="python", name="given_fewer"
)
def given_fewer(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"first": [offset for offset in inputs["offset"] if offset < 5]}


@on_demand_feature_view(
    sources=[declared.asked], schema=[Field(name="first", dtype=Float64)], mode="python", name="given_more"
)
def given_more(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"first": [0.0, *inputs["offset"]]}


@pytest.fixture(scope="module")
def differing(repo: Path) -> Path:
    """The repo, with values that the two answer otherwise."""
    store = FeatureStore(repo_path=str(repo))
    visits = FeatureView(
        name="visits",
        entities=[declared.origin],
        schema=[declared.ORIGIN, Field(name="last", dtype=UnixTimestamp)],
        source=declared.source("visits"),
    )
    store.apply([visits, given_fewer, given_more])
    rows = {"origin": ["EWR", "JFK"], "last": [None, NOW], "event_timestamp": [NOW] * 2}
    store.write_to_online_store("visits", pd.DataFrame(rows))
    # Feast writes no such time, and another writer may.
    key = EntityKey(join_keys=["origin"], entity_values=[Value(string_val="JFK")])
    with redis.Redis.from_url(f"redis://{store.config.online_store.connection_string}") as client:
        name = _redis_key("served", key, entity_key_serialization_version=3)
        assert client.hset(name, "_ts:visits", Timestamp(seconds=YEAR_10000).SerializeToString()) == 0
    return repo


@pytest.fixture(scope="module")
def servers(differing: Path) -> Iterator[tuple[Server, Server]]:
    with feast(differing) as theirs, millrace(differing) as ours:
        yield theirs, ours


TYPED = [f"types:{name}" for name in TYPES if name != "scalar_map"]
FROM_TO = {"from": ["EWR", "JFK"], "to": ["JFK", "LGA"]}
FARES = {"origin": ["EWR", "JFK", "LGA"]}

REQUESTS: dict[str, dict[str, Any]] = {
    "features": {"features": ["weather:temp", "weather:sky"], "entities": {"origin": ["EWR", "JFK", "EWR"]}},
    "full names": {
        "features": ["weather:temp", "airports:name"],
        "entities": {"origin": ["EWR"]},
        "full_feature_names": True,
    },
    "a service": {"feature_service": "departure", "entities": {"origin": ["JFK", "EWR"]}},
    "aliases and join key maps": {"feature_service": "both_ends", "entities": FROM_TO, "full_feature_names": True},
    "composite keys": {"features": ["routes:delay"], "entities": {"flight": [2, 1], "origin": ["JFK", "EWR"]}},
    "views of different entities": {
        "features": ["routes:delay", "weather:temp"],
        "entities": {"origin": ["EWR"], "flight": [1]},
    },
    "a join key that no view needs": {
        "features": ["weather:temp"],
        "entities": {"origin": ["EWR"], "flight": [1], "unknown": [2]},
    },
    "by the name of the entity": {"features": ["lines:planes"], "entities": {"line": ["UA", "DL"]}},
    "an entity's name that no view needs": {
        "features": ["weather:temp"],
        "entities": {"line": ["UA"], "origin": ["EWR"]},
    },
    "no entities": {"features": ["totals:flights"], "entities": {"origin": ["EWR", "JFK"]}},
    "every type": {"features": TYPED, "entities": {"item": [1, 2, 3]}},
    "a timestamp key": {"features": ["moments:count"], "entities": {"seen": [86_400], "item": [1]}},
    "labels": {
        "features": ["ratings:stars", "ratings:labeler", "weather:wind"],
        "entities": {"origin": ["EWR", "JFK"]},
    },
    "missing entities": {"features": ["weather:temp", "routes:delay"], "entities": {"origin": ["X"], "flight": [9]}},
    "older than the ttl": {"features": ["weather:temp"], "entities": {"origin": ["LGA"]}},
    "on demand, python": {"features": ["felt_python:felt"], "entities": {"origin": ["EWR"], "offset": [1.5]}},
    "on demand, pandas": {"features": ["felt_pandas:felt_twice"], "entities": {"origin": ["EWR"], "offset": [1.5]}},
    "on demand in a service": {"feature_service": "felt", "entities": {"origin": ["EWR"], "offset": [1.5]}},
    "versions of views": {
        "features": ["weather:temp"],
        "entities": {"origin": ["EWR"]},
        "include_feature_view_version_metadata": True,
    },
    "the newest version": {
        "features": ["fares:fare", "fares:tax"],
        "entities": FARES,
        "include_feature_view_version_metadata": True,
    },
    "an old version and the newest": {
        "features": ["fares@v0:fare", "fares@v1:tax", "fares@latest:fare"],
        "entities": FARES,
        "full_feature_names": True,
        "include_feature_view_version_metadata": True,
    },
    "an old version": {"features": ["fares@v0:fare"], "entities": FARES},
    "a version by its number": {
        "features": ["fares@v1:fare"],
        "entities": FARES,
        "include_feature_view_version_metadata": True,
    },
}


NOTHING_STORED = {"missing entities", "older than the ttl"}


def columns(answer: Any) -> dict[str, list[tuple[Any, str, str]]]:
    """By feature: value, status and event time of each entity."""
    names = answer["metadata"]["feature_names"]
    return {
        name: list(zip(found["values"], found["statuses"], found["event_timestamps"], strict=True))
        for name, found in zip(names, answer["results"], strict=True)
    }


def corrected(value: Any, status: str, moment: str, outdated: bool) -> tuple[Any, str, str]:
    """What Feast says, with the documented corrections: docs/serving.md has the list."""
    if outdated:
        return None, "OUTSIDE_MAX_AGE", moment
    if value is None and moment == "1970-01-01T00:00:00Z":
        return None, "NOT_FOUND", moment
    if value is None:
        return None, "NULL_VALUE", moment
    return value, status, moment


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_answer(servers: tuple[Server, Server], name: str) -> None:
    theirs, ours = (server.features(**REQUESTS[name]) for server in servers)
    assert (theirs[0], ours[0]) == (200, 200), ours[1]
    if name not in NOTHING_STORED:
        features = {f: column for f, column in columns(ours[1]).items() if f not in REQUESTS[name]["entities"]}
        assert any(status == "PRESENT" for column in features.values() for _, status, _ in column), ours[1]
    expected = {
        feature: [
            corrected(*cell, outdated=feature.endswith("temp") and "LGA" in (_from(name, feature)[row],))
            for row, cell in enumerate(cells)
        ]
        for feature, cells in columns(theirs[1]).items()
    }
    assert columns(ours[1]) == expected
    assert ours[1]["metadata"].get("feature_view_metadata") == theirs[1]["metadata"].get("feature_view_metadata")


def test_a_join_key_twice_is_refused(servers: tuple[Server, Server]) -> None:
    """Feast takes the one that comes last."""
    asked = {"features": ["lines:planes"], "entities": {"carrier": ["DL"], "line": ["UA"]}}
    theirs, ours = (server.features(**asked) for server in servers)
    assert (theirs[0], columns(theirs[1])["planes"][0][0]) == (200, 759)
    assert ours[0] == 422 and "'carrier' twice" in ours[1]["detail"]


def _from(name: str, feature: str) -> list[Any]:
    """The airports that a weather feature is of."""
    entities = REQUESTS[name]["entities"]
    column = "to" if feature.startswith("weather_to") else "from" if feature.startswith("weather_from") else "origin"
    return list(entities.get(column, [None] * 9))


def test_every_type_of_feast_is_compared() -> None:
    assert {kind.name.lower() for kind in ValueType} == {*TYPES} | {kind.name.lower() for kind in NOT_DECLARED}
    assert [row.keys() for row in VALUES] == [TYPES.keys()] * 3


def test_a_map_with_keys_that_are_no_texts_is_an_object(servers: tuple[Server, Server]) -> None:
    """Feast answers it as null: docs/serving.md has it among the differences."""
    theirs, ours = (server.features(features=["types:scalar_map"], entities={"item": [1, 3]})[1] for server in servers)
    assert theirs["results"][1]["values"] == [None, None]
    text = "Žluťoučký"
    keys = ["1", str(2**40), "0.1", "true", "1360638000", b64encode(text.encode() + b"\xff").decode(), "12.340"]
    assert ours["results"][1]["values"] == [dict.fromkeys(keys, text), None]
    assert ours["results"][1]["statuses"] == ["PRESENT", "NULL_VALUE"]


@pytest.mark.parametrize(("feature", "from_old"), [("felt_python:felt", 42.5), ("felt_pandas:felt_twice", 83.5)])
def test_on_demand_views_compute_with_nulls_where_values_are_outdated(
    servers: tuple[Server, Server], feature: str, from_old: float
) -> None:
    """Feast computes with the old values."""
    asked = {"features": [feature], "entities": {"origin": ["LGA"], "offset": [1.5]}}
    theirs, ours = (server.features(**asked)[1]["results"][1] for server in servers)
    assert theirs["values"] == [from_old]
    assert (ours["values"], ours["statuses"]) == ([None], ["NULL_VALUE"])


ONE_NAME: dict[str, tuple[list[str], dict[str, Any]]] = {
    "beside a view": (["weather:temp", "cabin_rows:rows"], {"temp": 39.25, "rows": 30}),
    "before a view": (["cabin_rows:rows", "weather:temp"], {"rows": 30, "temp": 39.25}),
    "with a view's other features": (
        ["weather:temp", "cabins:seats", "cabin_rows:rows"],
        {"temp": 39.25, "seats": 180, "rows": 30},
    ),
    "needed": (["weather:temp", "cabin_kelvin:kelvin"], {"temp": 39.25, "kelvin": 294.5}),
    "both needed, one asked for": (
        ["weather:temp", "felt_python:felt", "cabin_kelvin:kelvin"],
        {"temp": 39.25, "felt": 40.75, "kelvin": 294.5},
    ),
    "both needed": (["felt_pandas:felt_twice", "cabin_kelvin:kelvin"], {"felt_twice": 80.0, "kelvin": 294.5}),
}
"""Requests in which on-demand views read a feature that is named as another view's, and what is to be answered."""
ONE_FLIGHT = {"origin": ["EWR"], "flight": [1], "offset": [1.5]}


@pytest.mark.parametrize("name", ONE_NAME)
def test_what_on_demand_views_read_is_neither_answered_nor_mixed_up(servers: tuple[Server, Server], name: str) -> None:
    """Feast answers both columns under the one name, or fails."""
    features, expected = ONE_NAME[name]
    theirs, ours = (server.features(features=features, entities=ONE_FLIGHT) for server in servers)
    assert theirs[0] == 500 or theirs[1]["metadata"]["feature_names"].count("temp") == 2
    assert ours[0] == 200, ours[1]
    found = zip(ours[1]["metadata"]["feature_names"], ours[1]["results"], strict=True)
    assert {column: values["values"] for column, values in found} == {
        **{key: ONE_FLIGHT[key] for key in ("origin", "flight")},
        **{feature: [value] for feature, value in expected.items()},
    }


@pytest.mark.parametrize("name", ONE_NAME)
def test_with_full_names_it_is_as_feast_answers(servers: tuple[Server, Server], name: str) -> None:
    features, _ = ONE_NAME[name]
    asked = {"features": features, "entities": ONE_FLIGHT, "full_feature_names": True}
    theirs, ours = (server.features(**asked) for server in servers)
    assert (theirs[0], ours[0]) == (200, 200)
    in_python = {"cabin_rows__rows", "felt_python__felt"}  # left out by Feast
    assert {name: column for name, column in columns(ours[1]).items() if name not in in_python} == columns(theirs[1])


def test_with_full_names_a_function_in_python_is_answered_too(servers: tuple[Server, Server]) -> None:
    """Feast leaves its features out."""
    entities = {"origin": ["EWR", "JFK"], "flight": [1, 2], "offset": [1.5, 2.0]}
    wanted = ["felt_python:felt", "felt_pandas:felt_twice", "cabin_rows:rows", "weather:temp"]
    asked = ((servers[0], True), (servers[1], True), (servers[1], False))
    answers = [server.features(features=wanted, entities=entities, full_feature_names=full) for server, full in asked]
    assert [status for status, _ in answers] == [200] * 3
    theirs, ours, short = (columns(answer) for _, answer in answers)
    assert {"felt_python__felt", "cabin_rows__rows"}.isdisjoint(theirs)
    assert ours == {
        **{name: short[name] for name in ("origin", "flight")},
        "felt_python__felt": short["felt"],
        "felt_pandas__felt_twice": short["felt_twice"],
        "cabin_rows__rows": short["rows"],
        "weather__temp": short["temp"],
    }
    assert short["felt"][0][0] == 40.75


def test_each_version_of_an_on_demand_view_computes_its_own(servers: tuple[Server, Server]) -> None:
    """With Feast the later one computes both."""
    asked = {"features": ["raised@v0:raised", "raised@v1:doubled"], "entities": {"offset": [1.5]}}
    theirs, ours = (server.features(**asked)[1] for server in servers)
    found = [{name: column[0][0] for name, column in columns(answer).items()} for answer in (theirs, ours)]
    assert found == [{"raised": 101.5, "doubled": 3.0}, {"raised": 2.5, "doubled": 3.0}]


def test_each_version_of_a_view_has_its_own_values(servers: tuple[Server, Server]) -> None:
    wanted = ["fares@v0:fare", "fares@v1:fare", "fares:fare"]
    status, answer = servers[1].features(features=wanted, entities=FARES, full_feature_names=True)
    assert status == 200, answer
    found = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert {name: (column["values"], column["statuses"]) for name, column in found.items() if name != "origin"} == {
        "fares@v0__fare": ([99.5, None, 120.0], ["PRESENT", "NOT_FOUND", "PRESENT"]),
        "fares@v1__fare": ([101.25, 130.0, None], ["PRESENT", "PRESENT", "NOT_FOUND"]),
        "fares__fare": ([101.25, 130.0, None], ["PRESENT", "PRESENT", "NOT_FOUND"]),
    }
    _, answer = servers[1].features(features=["fares:tax"], entities=FARES, include_feature_view_version_metadata=True)
    assert answer["metadata"]["feature_view_metadata"] == [{"name": "fares", "version": 1}]
    assert servers[1].features(features=["fares@v0:tax"], entities=FARES)[0] == 404


def test_the_order_is_that_of_the_request(servers: tuple[Server, Server]) -> None:
    wanted = ["weather:sky", "airports:name", "weather:temp", "weather:wind"]
    _, answer = servers[1].features(features=wanted, entities={"origin": ["EWR"]})
    assert answer["metadata"]["feature_names"] == ["origin", "sky", "name", "temp", "wind"]


def test_the_stock_sdk_reads_through_it(repo: Path, servers: tuple[Server, Server]) -> None:
    local = FeatureStore(repo_path=str(repo))
    remote = FeatureStore(
        config=RepoConfig(
            project="served",
            provider="local",
            registry={"path": str(repo / "registry.db")},
            online_store={"type": "remote", "path": servers[1].url},
            entity_key_serialization_version=3,
        )
    )
    rows = [{"origin": "EWR", "offset": 1.5}, {"origin": "JFK", "offset": 2.0}]
    for features in (["weather:temp", "airports:name"], local.get_feature_service("departure"), ["felt_python:felt"]):
        assert (
            remote.get_online_features(features, rows).to_dict() == local.get_online_features(features, rows).to_dict()
        )


@pytest.mark.parametrize(("row", "number"), each(DIFFERENCES))
def test_a_documented_difference(servers: tuple[Server, Server], row: str, number: int) -> None:
    DIFFERENCES[row][number].check(*servers)


def test_features_come_in_the_order_asked(servers: tuple[Server, Server]) -> None:
    """Feast has those of a view in the order of a set."""
    wanted = ["weather:sky", "weather:temp", "weather:wind"]
    theirs, ours = (cells(server.features(features=wanted, entities=EWR)[1]) for server in servers)
    assert theirs == ours
    assert list(ours) == ["origin", "sky", "temp", "wind"]


def test_an_error_has_its_body(servers: tuple[Server, Server]) -> None:
    for body, said in (
        (of(EWR, "wether:temp"), '{"module": "feast.errors", "class": "FeatureViewNotFoundException", '),
        (of(EWR, "weather:tmp"), "'Feature tmp not found in projection weather'"),
        ({}, [{"type": "missing", "loc": ["body", "entities"], "msg": "Field required", "input": {}}]),
    ):
        theirs, ours = (server.features(**body)[1] for server in servers)
        assert theirs["detail"] == said if isinstance(said, list) else theirs.startswith(said)
        assert ours.keys() == {"error", "detail"}


def test_pages_and_chats_are_not_there(servers: tuple[Server, Server]) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    for path, sent, status in (("/chat", {}, 200), ("/static/chat/index.html", {}, 200), ("/ws/chat", headers, 101)):
        for server, expected in zip(servers, (status, 404), strict=True):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", path, headers=sent)
            assert connection.getresponse().status == expected
            connection.close()


def test_an_apply_is_seen(servers: tuple[Server, Server], differing: Path) -> None:
    """The last of this module: it changes the repo."""
    asked = {"feature_service": "applied", "entities": EWR}
    assert [server.features(**asked)[0] for server in servers] == [404, 404]
    FeatureStore(repo_path=str(differing)).apply(
        [FeatureService(name="applied", features=[declared.weather[["temp"]]])]
    )
    until(lambda: all(server.features(**asked)[0] == 200 for server in servers))


TESTED: dict[str, Callable[..., None]] = {
    "order of the features of a view": test_features_come_in_the_order_asked,
    "body of an error": test_an_error_has_its_body,
    "`feast apply`": test_an_apply_is_seen,
    "`/chat`, `/ws/chat`, `/static`": test_pages_and_chats_are_not_there,
}
"""The rows of which a request and its answer tell too little."""


def test_the_document_lists_what_is_compared() -> None:
    rows = [about for about, _, _ in documented()]
    assert sorted(rows) == sorted([*DIFFERENCES, *TESTED, *SEARCHES, *SEARCHES_TESTED])


@pytest.mark.parametrize(("about", "theirs", "ours"), documented())
def test_the_document_has_the_statuses_that_are_answered(about: str, theirs: str, ours: str) -> None:
    compared = {**DIFFERENCES, **SEARCHES}.get(about, [])
    if about in TESTED:
        return
    if theirs != "there":
        assert refusals(theirs) == refused(difference.theirs for difference in compared)
    assert refusals(ours) == refused(difference.ours for difference in compared)
