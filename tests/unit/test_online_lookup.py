"""Lookups over stores in memory: values, statuses, ages, and what is refused."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from serving.lookup import InvalidLookup, OnlineLookup, Status
from stores.memory import MemoryOnline
from stores.view import Feature, View
from tests.feature_changes import EPOCH, Change, rows, view

HOUR = timedelta(hours=1)
now_view = replace(view("weather_now", "state"), ttl=HOUR)
forever = view("airports", "state")
elsewhere = replace(view("planes", "state"), join_keys=(Feature("id", 2, pa.string()),))


@pytest.fixture
def lookup() -> OnlineLookup:
    one, two = MemoryOnline(), MemoryOnline()
    one.write(
        [
            rows(now_view, Change(1, lsn=1, x=10), Change(2, lsn=2, x=20, minute=50, name=None)),
            rows(forever, Change(1, lsn=1, x=100), Change(3, lsn=1, x=300), Change(3, lsn=2, deleted=True)),
        ]
    )
    two.write([rows(elsewhere, Change("N1", lsn=1, x=7))])  # type: ignore[arg-type]
    return OnlineLookup([(now_view, one), (forever, one), (elsewhere, two)])


def ids(*values: Any) -> pa.Table:
    return pa.table({"id": list(values)})


def names(statuses: pa.ChunkedArray) -> list[str]:
    return [Status(status).name for status in statuses.to_pylist()]


def test_every_value_has_its_status(lookup: OnlineLookup) -> None:
    found = lookup.lookup(["weather_now:x", "weather_now:name", "airports"], ids(1, 2, 9), True, EPOCH + 1.5 * HOUR)
    assert found.values.to_pydict() == {
        "weather_now__x": [None, 20, None],
        "weather_now__name": [None, None, None],
        "airports__x": [100, None, None],
        "airports__name": ["a name", None, None],
    }
    statuses = {name: names(found.statuses[name]) for name in found.statuses.column_names}
    assert statuses == {
        "weather_now__x": ["OUTSIDE_MAX_AGE", "PRESENT", "NOT_FOUND"],
        "weather_now__name": ["OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND"],
        "airports__x": ["PRESENT", "NOT_FOUND", "NOT_FOUND"],
        "airports__name": ["PRESENT", "NOT_FOUND", "NOT_FOUND"],
    }
    assert found.views == ("weather_now", "weather_now", "airports", "airports")
    times = {name: found.event_timestamps[name].to_pylist() for name in ("weather_now__x", "airports__x")}
    assert times == {
        "weather_now__x": [EPOCH, EPOCH + timedelta(minutes=50), None],
        "airports__x": [EPOCH, None, None],
    }


def test_a_value_as_old_as_the_limit_is_served(lookup: OnlineLookup) -> None:
    at_the_limit = lookup.lookup(["weather_now:x"], ids(1), now=EPOCH + HOUR)
    assert names(at_the_limit.statuses["x"]) == ["PRESENT"]
    past_it = lookup.lookup(["weather_now:x"], ids(1), now=EPOCH + HOUR + timedelta(microseconds=1))
    assert names(past_it.statuses["x"]) == ["OUTSIDE_MAX_AGE"]
    assert past_it.values["x"].to_pylist() == [None]


def test_a_deleted_entity_is_not_found(lookup: OnlineLookup) -> None:
    assert names(lookup.lookup(["airports:x"], ids(3)).statuses["x"]) == ["NOT_FOUND"]


def test_the_answer_in_feasts_shape(lookup: OnlineLookup) -> None:
    assert lookup.lookup(["airports:x"], ids(1, 9)).to_dict() == {
        "metadata": {"feature_names": ["x"]},
        "results": [{"values": [100, None], "statuses": ["PRESENT", "NOT_FOUND"], "event_timestamps": [EPOCH, None]}],
    }


def test_join_keys_are_cast_to_their_declared_type(lookup: OnlineLookup) -> None:
    found = lookup.lookup(["airports:x"], pa.table({"id": pa.array([1], pa.int8()), "more": ["ignored"]}))
    assert found.values["x"].to_pylist() == [100]
    found = lookup.lookup(["planes:x"], ids("N1"))
    assert found.values["x"].to_pylist() == [7]


def test_views_of_different_entities_in_one_lookup() -> None:
    planes = replace(view("planes", "state"), join_keys=(Feature("tail", 2, pa.string()),))
    memory = MemoryOnline()
    plane = rows(view("planes", "state"), Change(1, lsn=1, x=7)).table
    renamed = plane.rename_columns(["tail", *plane.column_names[1:]]).set_column(0, "tail", pa.array(["N1"]))
    memory.write([replace(rows(forever, Change(1, lsn=1, x=100)))])
    memory.write([replace(rows(forever), view=planes, table=renamed)])
    both = OnlineLookup([(forever, memory), (planes, memory)])
    entities = pa.table({"id": [1, 1], "tail": ["N1", "N2"]})
    found = both.lookup(["planes:x", "airports:x"], entities, full_feature_names=True)
    assert found.values.to_pydict() == {"planes__x": [7, None], "airports__x": [100, 100]}


def test_a_view_without_entities() -> None:
    total = View("p", "total", "total", "state", (), (Feature("x", 4, pa.int64()),))
    memory = MemoryOnline()
    one = rows(forever, Change(1, lsn=1, x=5)).table.drop_columns(["id", "name"])
    memory.write([replace(rows(forever), view=total, table=one)])
    found = OnlineLookup([(total, memory)]).lookup(["total:x"], pa.table({"any": [1, 2]}))
    assert found.values["x"].to_pylist() == [5, 5]


@pytest.mark.parametrize(
    ("features", "entities", "message"),
    [
        (["nothing:x"], ids(1), "no feature view 'nothing'; there are: airports, planes, weather_now"),
        (["airports:y"], ids(1), "'airports' has no feature 'y'; it has: x, name"),
        (["airports:x", "weather_now:x"], ids(1), "two features are called 'x'"),
        (["airports:x"], pa.table({"key": [1]}), "no column 'id'"),
        (["airports:x"], ids("one"), "join key 'id' must be int64"),
        (["airports:x"], ids(1, None), "join key 'id' is null in 1 of 2"),
    ],
)
def test_what_cannot_be_answered(lookup: OnlineLookup, features: list[str], entities: pa.Table, message: str) -> None:
    with pytest.raises(InvalidLookup, match=message):
        lookup.lookup(features, entities)
