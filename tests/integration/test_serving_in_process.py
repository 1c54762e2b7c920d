"""Online features in process, and as `millrace lookup` shows them: what `millrace serve` would answer."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from millrace.lookup import look_up
from millrace.repo import Repo, open_repo
from millrace.wiring import in_process
from serving.lookup import OnlineLookup
from serving.plan import InvalidRequest, NotDeclared
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


def test_what_cannot_be_answered(lookup: OnlineLookup) -> None:
    with pytest.raises(NotDeclared, match="no feature 'tmp'"):
        lookup.get({"origin": ["EWR"]}, ["weather:tmp"])
    with pytest.raises(InvalidRequest, match="of one length"):
        lookup.get({"origin": ["EWR"], "flight": []}, ["weather:temp"])


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
