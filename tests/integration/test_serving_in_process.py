"""Online features in process, and as `millrace lookup` shows them: what `millrace serve` would answer."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from millrace.lookup import look_up
from millrace.repo import Repo, open_repo
from millrace.wiring import in_process
from serving.lookup import OnlineLookup
from serving.plan import InvalidRequest
from tests.integration.serving_repo import NOW, make_repo
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    folder, redis = tmp_path_factory.mktemp("served"), RedisServer().start()
    try:
        make_repo(folder, redis.port)
        yield open_repo(folder, folder / "no-stack")
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def lookup(repo: Repo) -> OnlineLookup:
    return in_process(repo)


def test_every_value_has_its_status(lookup: OnlineLookup) -> None:
    found = lookup.get({"origin": ["EWR", "LGA", "X"]}, ["weather:temp", "airports:name"])
    assert found.values == {"temp": [39.25, None, None], "name": ["Newark", None, None]}
    assert found.statuses["temp"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
    assert found.event_times["name"][1:] == [None, None]


def test_a_past_moment_has_what_was_young_enough_then(lookup: OnlineLookup) -> None:
    stored = NOW - timedelta(hours=2)
    for age, status in ((timedelta(hours=1), "PRESENT"), (timedelta(hours=1, microseconds=1), "OUTSIDE_MAX_AGE")):
        found = lookup.get({"origin": ["LGA"]}, ["weather:temp"], now=stored + age)
        assert found.statuses == {"temp": [status]}


def test_on_demand_features_are_derived(lookup: OnlineLookup) -> None:
    felt = lookup.get({"origin": ["EWR"], "offset": [1.5]}, feature_service="felt")
    assert felt.values == {"temp": [39.25], "felt": [40.75], "felt_twice": [80.0]}
    assert felt.to_arrow().to_pydict() == felt.values
    trip: dict[str, list[Any]] = {"origin": ["EWR"], "flight": [1]}
    for asked in (["weather:temp", "cabin_kelvin:kelvin"], ["cabin_kelvin:kelvin", "weather:temp"]):
        assert lookup.get(trip, asked).values == {"temp": [39.25], "kelvin": [294.5]}


def test_as_arrow_the_features_have_their_types(lookup: OnlineLookup) -> None:
    features = [f"types:{field.name}" for field in lookup.registry.current.view("types").features]
    found = lookup.get({"item": [1, 9]}, features).to_arrow()
    assert found.num_columns == len(features)
    types = {name: found.schema.field(name).type for name in found.column_names}
    moment = pa.timestamp("us", tz="UTC")
    expected = {
        "float": pa.float32(),
        "bytes": pa.binary(),
        "unix_timestamp": moment,
        "int64_list": pa.list_(pa.int64()),
        "unix_timestamp_list": pa.list_(moment),
    }
    assert {name: types[name] for name in expected} == expected
    assert all(column[1].as_py() is None for column in found.columns)


def test_the_columns_stand_as_they_were_asked_for(lookup: OnlineLookup) -> None:
    entities: dict[str, list[Any]] = {"origin": ["EWR"], "flight": [1], "offset": [1.5]}
    wanted = ["felt_python:felt", "weather:wind", "totals:flights", "airports:name", "weather:temp", "routes:delay"]
    found = lookup.get(entities, wanted)
    assert found.values == {
        "felt": [40.75],
        "wind": [7],
        "flights": [336_776],
        "name": ["Newark"],
        "temp": [39.25],
        "delay": [1.5],
    }
    names = ["felt", "wind", "flights", "name", "temp", "delay"]
    assert [list(found.values), list(found.statuses), list(found.event_times)] == [names] * 3
    assert found.to_arrow().column_names == names


@pytest.mark.parametrize("column", [np.array([2, 1]), pd.Series([2, 1]), (2, 1), range(2, 0, -1)])
def test_entities_may_be_any_column(lookup: OnlineLookup, column: Any) -> None:
    assert lookup.get({"flight": column}, ["cabins:seats"]).values == {"seats": [90, 180]}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("view", ["cabin_same_python", "cabin_same_pandas"])
def test_a_function_may_call_a_feature_as_one_that_it_reads(lookup: OnlineLookup, view: str, full: bool) -> None:
    """Feast leaves it out where it is asked for full names."""
    prefix = f"{view}__" if full else ""
    found = lookup.get({"flight": [1]}, [f"{view}:temp", f"{view}:colder"], full_feature_names=full)
    assert found.values == {f"{prefix}temp": [43.0], f"{prefix}colder": [20.5]}


def test_a_function_over_two_views_gets_both_features_of_one_name(lookup: OnlineLookup) -> None:
    trip: dict[str, list[Any]] = {"origin": ["EWR"], "flight": [1]}
    for more in ([], ["weather:wind"], ["cabins:seats"]):
        assert lookup.get(trip, ["outside:difference", *more]).values["difference"] == [17.75]
    full = lookup.get(trip, ["outside:difference"], full_feature_names=True)
    assert full.values == {"outside__difference": [17.75]}


def test_derived_numbers_that_are_none_in_json_are_numbers_in_arrow(lookup: OnlineLookup) -> None:
    found = lookup.get({"flight": [1, 2]}, ["cabin_endless:endless"])
    assert found.values == {"endless": ["Infinity", 19.0]}
    assert found.to_arrow()["endless"].to_pylist() == [float("inf"), 19.0]


@pytest.mark.parametrize(
    ("entities", "features", "why"),
    [
        ({"origin": ["EWR"]}, ["weather:tmp"], "no feature 'tmp'"),
        ({"origin": ["EWR"], "flight": []}, ["weather:temp"], r"differ in length \(origin: 1, flight: 0\)"),
        ({}, ["weather:temp"], "names no entity"),
        ({"origin": []}, ["weather:temp"], "names no entity"),
        ({"origin": "EWR"}, ["weather:temp"], "origin must be a list"),
        ({"origin": None}, ["weather:temp"], "origin must be a list"),
        ({"flight": ["1"]}, ["cabins:seats"], "flight must be INT64, and holds str"),
    ],
)
def test_what_cannot_be_answered(lookup: OnlineLookup, entities: Any, features: list[str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        lookup.get(entities, features)


def test_a_moment_has_its_zone(lookup: OnlineLookup) -> None:
    with pytest.raises(ValueError, match="time zone"):
        lookup.get({"origin": ["EWR"]}, ["weather:temp"], now=NOW.replace(tzinfo=None))


def test_lookup_takes_a_timestamp_as_seconds_or_as_text(repo: Repo) -> None:
    for seen in ("86400", "1970-01-02T00:00:00Z"):
        found = look_up(repo, ["moments"], {"seen": seen, "item": "1"})
        assert found["features"]["moments__count"]["value"] == 5


def test_lookup_takes_views_features_and_services_together(repo: Repo) -> None:
    entity = {"origin": "EWR", "flight": "1", "offset": "1.5"}
    found = look_up(repo, ["felt", "airports", "routes:delay", "cabin_rows:rows"], entity)
    assert found["entity"] == entity
    shown = {name: (feature["value"], feature["status"]) for name, feature in found["features"].items()}
    assert shown == {
        "weather__temp": (39.25, "PRESENT"),
        "felt_python__felt": (40.75, "PRESENT"),
        "felt_pandas__felt_twice": (80.0, "PRESENT"),
        "airports__name": ("Newark", "PRESENT"),
        "routes__delay": (1.5, "PRESENT"),
        "cabin_rows__rows": (30, "PRESENT"),
    }
    assert found["features"]["airports__name"]["event_timestamp"] == NOW


@pytest.mark.parametrize(
    ("name", "entity", "why"),
    [
        ("nothing", {"origin": "EWR"}, "no feature view 'nothing'; there are: .*weather"),
        ("weather", {"flight": "1"}, "no 'origin'"),
        ("cabins", {"flight": "one"}, "flight must be a whole number"),
    ],
)
def test_lookup_says_what_it_needs(repo: Repo, name: str, entity: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        look_up(repo, [name], entity)
