"""Personal data in serving: what a search may not tell, and what the log of a failed view leaves out."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_source import PushSource
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, String

from millrace.logs import Logfmt
from serving.access import Caller, Forbidden, OpenAccess
from serving.aside import Aside
from serving.console.look_up import searched
from serving.documents import RetrieveOnlineDocuments
from serving.features import json_body, vector_keys
from serving.http import GetOnlineFeatures, Seen
from serving.plan import InvalidRequest, PlannedView
from serving.refusals import refusal
from serving.request import RequestLimits, features_request
from serving.scales import Scales
from serving.snapshot import Snapshot
from stores.view import Feature, View
from tests.unit.local_feast import local_feast
from tests.unit.online_features import online_features

SECRET = "annabel@example.com"
PERSONAL = {"personal": "true"}
CELLS = Scales("large requests", 1_000_000, 10, 1)


class Plain(OpenAccess):
    """Lets everybody in, and nobody see personal data."""

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        return Caller("plain", personal=False)


def customers(vector: dict[str, str], key: dict[str, str] | None = None) -> list[Any]:
    customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.STRING)
    fields = [
        Field(name="id", dtype=String, tags=key),
        Field(name="city", dtype=String),
        Field(name="email", dtype=String, tags=PERSONAL),
        Field(name="v", dtype=Array(Float32), vector_index=True, vector_length=2, tags=vector),
    ]
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    return [customer, FeatureView(name="customers", entities=[customer], schema=fields, source=source)]


def snapshot(folder: Path, objects: list[Any]) -> Snapshot:
    config = local_feast(folder)
    store = FeatureStore(config=config)
    store.apply(objects)
    return Snapshot(config, store.registry)


def search(folder: Path, body: dict[str, Any], vector: dict[str, str] | None = None) -> None:
    """Comes to the search itself, which has no store here, unless it is refused before."""
    registry: Any = SimpleNamespace(current=snapshot(folder, customers(vector or {})))
    documents = RetrieveOnlineDocuments(registry, None, None, Plain(), RequestLimits(), Aside("vectors", 1, 1), CELLS)
    asked = {"features": ["customers:city"], "query": [1.0, 0.0], **body}
    asyncio.run(documents(orjson.dumps(asked), "", Seen()))


def test_a_search_without_personal_fields_goes_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no vector store"):
        search(tmp_path, {"filters": {"type": "eq", "key": "city", "value": "Oslo"}})


@pytest.mark.parametrize(
    "body",
    [
        {"features": ["customers:city", "customers:email"]},
        {"filters": {"type": "eq", "key": "email", "value": SECRET}},
        {
            "filters": {
                "type": "and",
                "filters": [
                    {"type": "eq", "key": "city", "value": "Oslo"},
                    {"type": "or", "filters": [{"type": "ne", "key": "email", "value": SECRET}]},
                ],
            }
        },
    ],
)
def test_a_search_neither_shows_nor_filters_by_personal_data(tmp_path: Path, body: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="customers:email is personal data") as refused:
        search(tmp_path, body)
    assert SECRET not in str(refused.value)


def test_a_personal_vector_is_not_searched(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="customers:v is personal data"):
        search(tmp_path, {}, vector=PERSONAL)


def test_a_search_answers_no_personal_join_key(tmp_path: Path) -> None:
    registry: Any = SimpleNamespace(current=snapshot(tmp_path, customers({}, key=PERSONAL)))
    documents = RetrieveOnlineDocuments(registry, None, None, Plain(), RequestLimits(), Aside("vectors", 1, 1), CELLS)
    with pytest.raises(Forbidden, match="customers:id is personal data"):
        asyncio.run(documents(orjson.dumps({"features": ["customers:city"], "query": [1.0, 0.0]}), "", Seen()))


@pytest.mark.parametrize(("vector", "key", "named"), [(PERSONAL, None, "v"), ({}, PERSONAL, "id")])
def test_the_console_searches_as_the_api_does(tmp_path: Path, vector: Any, key: Any, named: str) -> None:
    declared = snapshot(tmp_path, customers(vector, key))
    with pytest.raises(Forbidden, match=f"customers:{named} is personal data"):
        searched(declared, Caller("plain", personal=False), "customers", "by the sea")


def admitted(declared: Snapshot, reference: str) -> None:
    """What HTTP and gRPC ask before they look anything up."""
    registry: Any = SimpleNamespace(current=declared)
    features: Any = SimpleNamespace(look=lambda request, compiled: None, prepared=lambda request, compiled: None)
    asked = orjson.dumps({"features": [reference], "entities": {"id": ["1"]}})
    request = features_request(asked, RequestLimits())
    answering = GetOnlineFeatures(registry, features, Plain(), RequestLimits(), Aside("versions", 1, 1))
    asyncio.run(answering.admitted("", request, Seen()))


@pytest.mark.parametrize("at", ["", "@", "@latest", "@LATEST", "@v0", "@V0", "@v00"])
def test_no_spelling_of_a_version_shows_personal_data(tmp_path: Path, at: str) -> None:
    declared = snapshot(tmp_path, customers({}))
    admitted(declared, f"customers{at}:city")
    with pytest.raises(Forbidden, match=f"customers{at}:email is personal data"):
        admitted(declared, f"customers{at}:email")


def test_what_was_personal_in_an_older_version_stays_so_there(tmp_path: Path) -> None:
    snapshot(tmp_path, customers({}))
    customer, view = customers({})
    fields = [field for field in view.features if field.name != "email"] + [Field(name="phone", dtype=String)]
    newer = FeatureView(name="customers", entities=[customer], schema=fields, source=view.batch_source)
    declared = snapshot(tmp_path, [customer, newer])
    assert declared.view("customers").current_version_number == 1
    admitted(declared, "customers@v0:city")
    admitted(declared, "customers:phone")
    with pytest.raises(Forbidden, match="customers@v0:email is personal data"):
        admitted(declared, "customers@v0:email")


def test_the_log_of_a_failed_view_has_no_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = RequestSource(name="asked", schema=[Field(name="email", dtype=String)])

    @on_demand_feature_view(sources=[asked], schema=[Field(name="domain", dtype=String)], mode="python")
    def domain(inputs: dict[str, Any]) -> dict[str, Any]:
        if "@" in inputs["email"][0]:
            raise ValueError(f"odd address {inputs['email']}")
        return {"domain": inputs["email"]}

    compiled_from = snapshot(tmp_path, [domain])
    request = features_request(
        orjson.dumps({"features": ["domain:domain"], "entities": {"email": [SECRET]}}), RequestLimits()
    )
    reads: Any = SimpleNamespace()
    answering = online_features(reads)
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidRequest, match="domain failed") as refused:
        asyncio.run(answering.answer(answering.prepared(request, compiled_from.plan(request.asked)), json_body))
    (record,) = [record for record in caplog.records if record.name == "millrace"]
    assert record.error == "ValueError" and "line" in record.at  # type: ignore[attr-defined]  # given with `extra`
    assert SECRET not in caplog.text + str(refused.value) + str(record.__dict__)


def test_the_log_of_an_unforeseen_failure_has_its_place_and_no_words(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        try:
            orjson.loads(f"{SECRET!r}")
        except ValueError as error:
            raise RuntimeError(f"could not take {SECRET}") from error

    with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError) as raised:
        fails()
    answer = refusal(raised.value)
    (record,) = caplog.records
    assert record.error == "RuntimeError from JSONDecodeError"  # type: ignore[attr-defined]  # given with `extra`
    assert "test_serving_personal.py, line " in record.at  # type: ignore[attr-defined]  # as above
    formatted = Logfmt().format(record)
    assert "in fails" in formatted and answer.status == 500
    assert SECRET not in formatted + caplog.text + answer.body.decode()


def test_a_key_that_its_type_cannot_hold_is_not_quoted() -> None:
    view = View("shop", "texts", "texts", "state", (Feature("id", 4, pa.int64()),), ())
    planned = PlannedView("texts", 0, view, ("id",), 0, 0, 0.0)
    for value in (SECRET, 2**70):
        with pytest.raises(InvalidRequest, match=r"entities\.id has a value that its type cannot hold") as refused:
            vector_keys(planned, {"id": [value]}, 1)
        assert str(value) not in str(refused.value)


def test_what_the_store_cannot_read_is_not_quoted(tmp_path: Path) -> None:
    """Arrow's errors are `ValueError`s, as those that say what is wrong with a search."""

    class Odd:
        def search(self, *asked: Any) -> pa.Table:
            return pa.table({"city": pa.array([SECRET], pa.string()).cast(pa.int64())})

    index: Any = Odd()
    registry: Any = SimpleNamespace(current=snapshot(tmp_path, customers({})))
    documents = RetrieveOnlineDocuments(registry, index, None, Plain(), RequestLimits(), Aside("vectors", 1, 1), CELLS)
    asked = orjson.dumps({"features": ["customers:city"], "query": [1.0, 0.0]})
    with pytest.raises(pa.ArrowInvalid) as raised:
        asyncio.run(documents(asked, "", Seen()))
    assert refusal(raised.value).status == 500


def test_keys_of_a_view_without_entities_have_a_row_for_each_that_is_asked_for() -> None:
    view = View("shop", "none", "none", "state", (), (Feature("t", 2, pa.string()),))
    assert vector_keys(PlannedView("none", 0, view, (), 0, 0, 0.0), {"z": [1, 2]}, 2).num_rows == 2


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_computed_of_what_was_computed_is_personal_in_any_order(tmp_path: Path, turned: bool) -> None:
    person = Entity(name="id", join_keys=["id"], value_type=ValueType.STRING)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    fields = [Field(name="id", dtype=String), Field(name="email", dtype=String, tags=PERSONAL)]
    people = FeatureView(name="people", entities=[person], schema=fields, source=source)

    def computed(name: str, of: Any, reads: str) -> Any:
        @on_demand_feature_view(
            sources=[of],
            schema=[Field(name=name, dtype=String)],
            mode="python",
            name=f"of_{reads}",
            entities=[person],
            write_to_online_store=True,
        )
        def compute(inputs: dict[str, Any]) -> dict[str, Any]:
            return {name: inputs[reads]}

        return compute

    first = computed("one", people, "email")
    second = computed("two", first.projection, "one")
    third = computed("three", second.projection, "two")
    derived = [third, second, first] if turned else [first, second, third]
    config = local_feast(tmp_path)
    store = FeatureStore(config=config)
    store.apply([person, people, *derived])
    declared = Snapshot(config, store.registry)
    assert {name: set(fields) - {"id"} for name, fields in declared.personal.items()} == {
        "people": {"email"},
        "of_email": {"one"},
        "of_one": {"two"},
        "of_two": {"three"},
    }


def test_what_is_computed_of_a_personal_label_is_personal(tmp_path: Path) -> None:
    person = Entity(name="id", join_keys=["id"], value_type=ValueType.STRING)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    fields = [Field(name="id", dtype=String), Field(name="ill", dtype=String, tags=PERSONAL)]
    pushed = PushSource(name="pushed", batch_source=source)
    labels = LabelView(
        name="labels", entities=[person], source=pushed, schema=[*fields, Field(name="labeler", dtype=String)]
    )

    @on_demand_feature_view(
        sources=[labels.projection], schema=[Field(name="upper", dtype=String)], mode="python", name="derived"
    )
    def derived(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"upper": [text and text.upper() for text in inputs["ill"]]}

    declared = snapshot(tmp_path, [person, labels, derived])
    for reference in ("derived:upper", "labels:ill"):
        with pytest.raises(Forbidden, match=f"{reference} is personal data"):
            admitted(declared, reference)
    admitted(declared, "labels:labeler")
