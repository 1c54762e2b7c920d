"""The seam that a server calls: what a header holds, what is withheld, and which features are personal."""

import math
import threading
from collections.abc import Sequence
from datetime import timedelta

import click
import pytest
from feast import Entity, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from millrace.commands.keys import RATE
from serving.access import Caller, Forbidden, OpenAccess, Unauthorized, bearer, withhold
from serving.keys import KeyedAccess, make_key
from stores.access_keys import AccessKey, Spent, StoredKeys
from stores.personal import marked, personal_features
from tests.admitted import admit

CUSTOMER = Entity(name="customer", join_keys=["email"], value_type=ValueType.STRING)


def view(name: str, fields: dict[str, dict[str, str]], tags: dict[str, str] | None = None) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[CUSTOMER],
        schema=[Field(name=field, dtype=String, tags=marks) for field, marks in fields.items()],
        source=FileSource(name=f"{name}_source", path="nowhere.parquet", timestamp_field="event_timestamp"),
        ttl=timedelta(0),
        tags=tags,
    )


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, None), ("Bearer mr_1", "mr_1"), ("bearer   mr_1 ", "mr_1"), ("BEARER mr_1", "mr_1")],
)
def test_the_token_of_a_header(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "mr_secret"])
def test_a_header_of_another_form_is_refused_without_its_content(header: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        bearer(header)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("limit", [math.inf, math.nan])
def test_a_limit_that_is_no_number_makes_no_key(limit: float) -> None:
    """Nobody could read it."""
    with pytest.raises(ValueError, match="finite"):
        make_key("model", entities_per_second=limit)
    with pytest.raises(click.BadParameter, match=f"{limit} is no limit"):
        RATE.convert(str(limit), None, None)
    assert RATE.convert("0.5", None, None) == 0.5


def test_without_keys_everybody_sees_everything() -> None:
    caller = admit(OpenAccess(), OpenAccess().identify(None), "nyc", None, 10)
    withhold(caller, ["people:name"])
    assert caller.personal


def test_personal_features_are_withheld_by_name() -> None:
    withhold(Caller("model", personal=True), ["people:name"])
    withhold(Caller("model", personal=False), [])
    with pytest.raises(Forbidden, match=r"people:name is personal data, which key 'model'") as refused:
        withhold(Caller("model", personal=False), ["people:name"])
    assert refused.value.caller == "model"


def test_a_tag_marks_a_field_or_a_whole_view() -> None:
    some = view("some", {"email": {}, "name": {"personal": "true"}, "city": {}})
    every = view("every", {"email": {}, "name": {}, "city": {"personal": "false"}}, {"personal": "True"})
    none = view("none", {"email": {}, "name": {}})
    assert personal_features([some, every, none]) == {"some": {"name"}, "every": {"email", "name"}}


def test_a_slip_in_the_tag_hides() -> None:
    assert (marked({}), marked({"personal": "False "}), marked({"personal": "yse"})) == (None, False, True)


def test_what_is_computed_of_personal_features_is_personal_unless_it_says_no() -> None:
    people = view("people", {"email": {}, "name": {"personal": "true"}, "city": {}})
    asked = RequestSource(name="asked", schema=[Field(name="x", dtype=Float64)])
    fields = [Field(name="length", dtype=Int64), Field(name="known", dtype=Int64, tags={"personal": "false"})]

    @on_demand_feature_view(sources=[people, asked], schema=fields, mode="python")
    def of_name(row: dict[str, list[str]]) -> dict[str, list[int]]:
        return {"length": [len(name) for name in row["name"]], "known": [1 for _ in row["name"]]}

    @on_demand_feature_view(sources=[people[["city"]]], schema=[fields[0]], mode="python")
    def of_city(row: dict[str, list[str]]) -> dict[str, list[int]]:
        return {"length": [len(name) for name in row["city"]]}

    assert personal_features([people], [of_name, of_city]) == {"people": {"name"}, "of_name": {"length"}}


class Silent:
    """A `serving.keys.KeyStore` with one key, which takes no report until it is let `go`."""

    def __init__(self, key: AccessKey) -> None:
        self._key = key
        self.asked, self.go, self.answered = threading.Event(), threading.Event(), threading.Event()

    def read(self) -> StoredKeys:
        return StoredKeys([self._key], {})

    def spend(self, spent: Sequence[Spent]) -> list[float]:
        self.asked.set()
        self.go.wait(10)
        self.answered.set()
        return [one.per_second - one.amount for one in spent]


def test_a_store_of_keys_that_is_silent_keeps_no_server_from_ending() -> None:
    key = make_key("model", requests_per_second=10)
    store = Silent(key.stored)
    access = KeyedAccess(store, "nyc")
    access.start()
    admit(access, access.identify(key.text), "nyc", None, 1)
    assert store.asked.wait(60)
    access.close()
    assert not store.answered.is_set()
    store.go.set()
