"""The same searches to `feast serve` and to `millrace serve` over one vector store, and where they differ."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Bool, Float32, Float64, Int64, String

from stores.values import has_column
from streams.embedders import WordLlamaEmbedder
from tests.fuzz.vectors import meaning
from tests.integration.database import Database
from tests.integration.serving_differences import Answer, Difference, Differences, each
from tests.integration.serving_repo import MILLRACE, NOW, SEARCHED, Server, feast, millrace
from tests.integration.serving_types import TYPED, TYPES
from tests.redis_server import RedisServer

PATHS = ("/retrieve-online-documents", "/search")
EMBEDDER = WordLlamaEmbedder()
OLD = NOW - timedelta(hours=2)
ROUTES = pd.DataFrame(
    {
        "origin": ["EWR", "EWR", "JFK", "LGA"],
        "flight": [10, -2, 3, 7],
        "text": ["to Chicago", "to Boston", None, "to Denver"],
        "fare": [99.5, 120.25, None, 80.0],
        "hub": [True, False, None, True],
        "gates": [[1, 2], [], None, [3]],
        "place": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]],
        "event_timestamp": [NOW, NOW - timedelta(minutes=1), NOW, OLD],
    }
)
"""The last of them is older than its view's `ttl`."""

ORIGIN, FLIGHT = Entity(name="origin", value_type=ValueType.STRING), Entity(name="flight", value_type=ValueType.INT64)
FAA = Entity(name="faa", value_type=ValueType.STRING)
KEYS = Field(name="origin", dtype=String), Field(name="flight", dtype=Int64)
TEXT = Field(name="text", dtype=String)
PLACE = Field(
    name="place",
    dtype=Array(Float32),
    vector_index=True,
    vector_length=3,
    vector_search_metric="l2",
    tags={"model": "maps"},
)
LATER = Field(name="fare", dtype=Float64), Field(name="hub", dtype=Bool), Field(name="gates", dtype=Array(Int64))
"""What the second version of the view `routes` has beside the first."""
CARRIED = [kind.name.lower() for kind in ValueType if has_column(kind.value)]
"""The types of features that the vector store has columns for."""


def view(name: str, entities: list[Entity], *fields: Field, hours: int = 0) -> FeatureView:
    return FeatureView(
        name=name,
        entities=entities,
        ttl=timedelta(hours=hours),
        schema=[*fields],
        source=FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp"),
    )


def write_types(repo: FeatureStore) -> None:
    """A view with a value of each type beside its vector, as Feast's own messages."""
    number = Entity(name="number", value_type=ValueType.INT64)
    fields = [Field(name=name, dtype=TYPES[name]) for name in CARRIED]
    types = view("types", [number], Field(name="number", dtype=Int64), *fields, PLACE)
    repo.apply([number, types])
    rows = []
    for place, values in enumerate(TYPED):
        key = EntityKey(join_keys=["number"], entity_values=[Value(int64_val=place)])
        vector = Value(float_list_val=FloatList(val=[1.0, place, 0.0]))
        rows.append((key, {**{name: values[name] for name in CARRIED}, "place": vector}, NOW, None))
    provider = repo._get_provider()
    provider.online_store.online_write_batch(repo.config, repo.get_feature_view("types"), rows, None)


@pytest.fixture(scope="module")
def folder(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, store = tmp_path_factory.mktemp("compared"), RedisServer().start()
    yaml = SEARCHED.format(project="compared", folder=folder, redis=store.connection_string, vectors=database.url)
    registry = f"{{path: {folder}/registry.db, enable_online_feature_view_versioning: true}}"
    (folder / "feature_store.yaml").write_text(yaml.replace(f"{folder}/registry.db", registry))
    (folder / "millrace.yaml").write_text(MILLRACE)
    repo = FeatureStore(repo_path=str(folder))
    key = Field(name="faa", dtype=String)
    texts = view("texts", [FAA], key, TEXT, meaning(EMBEDDER.model))
    facts = view("facts", [FAA], key, Field(name="altitude", dtype=Int64))
    repo.apply([ORIGIN, FLIGHT, FAA, view("routes", [ORIGIN, FLIGHT], *KEYS, TEXT, PLACE, hours=1), texts, facts])
    repo.apply([view("routes", [ORIGIN, FLIGHT], *KEYS, TEXT, *LATER, PLACE, hours=1)])
    repo.apply([FeatureService(name="described", features=[texts[["text"]]])])
    repo.write_to_online_store("routes", ROUTES)
    of = ["a beach in Hawaii", "an airport in Chicago"]
    vectors = [vector.tolist() for vector in EMBEDDER.embed(of)]
    rows = {"faa": ["HNL", "ORD"], "text": of, "meaning": vectors, "event_timestamp": [NOW] * 2}
    repo.write_to_online_store("texts", pd.DataFrame(rows))
    write_types(repo)
    yield folder
    store.stop()


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[Server, Server]]:
    with feast(folder) as theirs, millrace(folder) as ours:
        yield theirs, ours


def search(*features: str, **more: Any) -> dict[str, Any]:
    """A search of Feast's newer form."""
    wanted = [f"routes:{feature}" for feature in features or ("text",)]
    return {"features": wanted, "query": [0.9, 0.1, 0.0], "top_k": 3, "api_version": 2, **more}


def older(*features: str, **more: Any) -> dict[str, Any]:
    """The same in Feast's older form."""
    found = search(*features, **more)
    del found["api_version"]
    return found


def comparison(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


REQUESTS: dict[str, dict[str, Any]] = {
    "a text": search(),
    "the nearest one": search(top_k=1),
    "all features, more than there are": search("hub", "text", "place", "gates", "fare", top_k=10),
    "a text key": search("text", filters=comparison("ne", "origin", "EWR")),
    "a number key": search("text", filters=comparison("lte", "flight", 3)),
    "a number": search("fare", filters=comparison("gt", "fare", 90)),
    "one of": search("text", filters=comparison("in", "text", ["to Boston", "to Denver"])),
    "none of": search("text", filters=comparison("nin", "flight", [10, -2])),
    "a null": search("text", filters=comparison("eq", "fare", None)),
    "one and another": search(
        "fare",
        filters={"type": "and", "filters": [comparison("eq", "hub", True), comparison("eq", "origin", "EWR")]},
    ),
    "one or another": search(
        "fare",
        filters={
            "type": "or",
            "filters": [
                comparison("gte", "fare", 120),
                {"type": "and", "filters": [comparison("lt", "flight", 4), comparison("ne", "hub", True)]},
                comparison("eq", "flight", 10),
            ],
        },
    ),
    "filters of nothing": search(filters={"type": "and", "filters": []}),
    "with the version": search("fare", include_feature_view_version_metadata=True),
    "without it": search("fare", include_feature_view_version_metadata=False),
    "with full names, which a search has not": search(full_feature_names=True),
    "by another metric than the view's": search(distance_metric="cosine"),
    "the latest version": search() | {"features": ["routes@latest:text"]},
    "every type": {"features": [f"types:{name}" for name in CARRIED], "query": [1, 0, 0], "top_k": 3, "api_version": 2},
    "another view": {
        "features": ["texts:text", "texts:meaning"],
        "query": EMBEDDER.embed(["the ocean"])[0].tolist(),
        "top_k": 2,
        "api_version": 2,
    },
}


PARTS = ("values", "statuses", "event_timestamps")


def columns(answer: Any) -> dict[str, list[tuple[Any, str, str]]]:
    """By column: value, status and event time of each entity, in the order of the answer."""
    found = zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    return {name: list(zip(*(column[part] for part in PARTS), strict=True)) for name, column in found}


def corrected(answer: Any) -> dict[str, list[tuple[Any, str, str]]]:
    """What Feast says, with the documented corrections of features: nulls, and values older than their `ttl`."""
    old = OLD.strftime("%Y-%m-%dT%H:%M:%SZ")
    found = columns(answer)
    for name in found.keys() - {"distance"}:
        for row, (value, _, moment) in enumerate(found[name]):
            if moment == old:
                found[name][row] = (None, "OUTSIDE_MAX_AGE", moment)
            elif value is None:
                found[name][row] = (None, "NULL_VALUE", moment)
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_answer(servers: tuple[Server, Server], name: str, path: str) -> None:
    (status, theirs), (answered, ours) = (server.ask(path, REQUESTS[name]) for server in servers)
    assert (status, answered) == (200, 200), ours
    assert len(theirs["results"][0]["values"]) > 0
    assert list(columns(ours)) == list(columns(theirs))
    assert columns(ours) == corrected(theirs)
    assert ours["metadata"].get("feature_view_metadata") == theirs["metadata"].get("feature_view_metadata")


def test_features_of_a_view_with_a_vector_are_the_same(servers: tuple[Server, Server]) -> None:
    """`/get-online-features` reads them of the same store."""
    asked = {
        "features": ["routes:hub", "routes:text", "routes:place", "routes:gates"],
        "entities": {"origin": ["LGA", "EWR", "XXX", "JFK"], "flight": [7, -2, 1, 3]},
    }
    (status, theirs), (answered, ours) = (server.features(**asked) for server in servers)
    assert (status, answered) == (200, 200), ours
    expected = corrected(theirs)
    for name in ("hub", "text", "place", "gates"):
        assert expected[name][2] == (None, "NULL_VALUE", "1970-01-01T00:00:00Z")
        expected[name][2] = (None, "NOT_FOUND", "1970-01-01T00:00:00Z")
    assert columns(ours) == expected
    assert columns(ours)["hub"][1][0] is False


def test_what_is_compared_is_answered(servers: tuple[Server, Server]) -> None:
    """The two agree on this too; here it is told what on."""
    _, answer = servers[1].ask(PATHS[0], search("text", "fare", include_feature_view_version_metadata=True))
    found = columns(answer)
    assert list(found) == ["text", "fare", "distance", "flight", "origin"]
    keys = list(zip(*([value for value, _, _ in found[key]] for key in ("origin", "flight")), strict=True))
    assert set(keys) == {("EWR", 10), ("EWR", -2), ("LGA", 7)}
    at = keys.index(("LGA", 7))
    assert [found[name][at][:2] for name in ("text", "fare")] == [(None, "OUTSIDE_MAX_AGE")] * 2
    assert found["distance"][at][:2] == (pytest.approx(0.4123, abs=1e-4), "PRESENT")
    assert found["fare"][keys.index(("EWR", 10))][:2] == (99.5, "PRESENT")
    assert answer["metadata"]["feature_view_metadata"] == [{"name": "routes", "version": 1}]


def test_the_older_form_has_all_that_was_asked_for(servers: tuple[Server, Server]) -> None:
    """Of which Feast has the vector, and the join keys and the distance where they are named, without event times."""
    for wanted in (["place", "distance", "flight"], ["place"], ["text", "place", "distance"], ["fare", "origin"]):
        (status, theirs), (answered, ours) = (server.ask(PATHS[0], older(*wanted)) for server in servers)
        assert (status, answered) == (200, 200), ours
        found, known = columns(ours), columns(theirs)
        assert known.keys() == {*wanted} - {"text", "fare"}
        assert {moment for cells in known.values() for _, _, moment in cells} <= {"1970-01-01T00:00:00Z"}
        for name in known.keys() - {"place"}:
            assert [cell[0] for cell in found[name]] == [cell[0] for cell in known[name]]
        features = [name for name in wanted if name in ("text", "fare", "place")]
        assert list(found) == [*features, "distance", "flight", "origin"]
        distances = [value for value, _, _ in found["distance"]]
        assert distances == sorted(distances)


def test_the_older_form_takes_filters(servers: tuple[Server, Server]) -> None:
    """Feast passes them over."""
    asked = older("place", "origin", filters=comparison("ne", "origin", "EWR"))
    theirs, ours = (columns(server.ask(PATHS[0], asked)[1]) for server in servers)
    assert "EWR" in [value for value, _, _ in theirs["origin"]]
    assert [value for value, _, _ in ours["origin"]] == ["LGA", "JFK"]


def test_the_stock_sdk_searches_through_both(folder: Path, servers: tuple[Server, Server]) -> None:
    """In both of its forms; the older one names the distance, to get it."""
    answers = []
    for server in servers:
        remote = FeatureStore(
            config=RepoConfig(
                project="compared",
                provider="local",
                registry={"path": str(folder / "registry.db")},
                online_store={"type": "remote", "path": server.url},
                entity_key_serialization_version=3,
            )
        )
        vector = EMBEDDER.embed(["the ocean"])[0].tolist()
        newer = remote.retrieve_online_documents_v2(features=["texts:text"], query=vector, top_k=2)
        named = remote.retrieve_online_documents(features=["texts:meaning", "texts:distance"], query=vector, top_k=2)
        answers.append((newer.to_dict(), named.to_dict()))
    assert answers[0] == answers[1]
    assert answers[0][0]["text"][answers[0][0]["faa"].index("HNL")] == "a beach in Hawaii"
    assert len(answers[0][1]["distance"]) == 2


def one(theirs: Answer, ours: Answer, body: dict[str, Any]) -> Difference:
    return Difference(body, theirs, ours, PATHS[0])


TEXTS: dict[str, Any] = {"features": ["texts:text"], "top_k": 1, "api_version": 2, "query_string": "the ocean"}
NEAREST = Answer(200, {"text": (["to Chicago"], ["PRESENT"])})

SEARCHES: Differences = {
    "`query_string` in a search": [
        one(Answer(500, "no keyword search here"), Answer(200, {"faa": (["HNL"], ["PRESENT"])}), TEXTS),
    ],
    "`query_string` beside `query` in a search": [
        one(Answer(500, "no keyword search here"), Answer(422, "give one of them"), search(query_string="Chicago")),
        one(Answer(200), Answer(422, "give one of them"), older("place", query_string="Chicago")),
    ],
    "`feature_service` in a search": [
        one(
            Answer(500, "'FeatureService' object is not iterable"),
            Answer(422, "a search names features of one vector view"),
            {**search(), "features": [], "feature_service": "described"},
        ),
    ],
    "a search that finds nothing": [
        one(
            Answer(200, '"statuses": []}], "metadata": {"feature_names": ["text", "distance"]}'),
            Answer(200, {name: ([], []) for name in ("text", "distance", "origin", "flight")}),
            search(filters=comparison("eq", "origin", "XXX")),
        ),
    ],
    "an unknown feature, features of two views or of none, a view without a vector, in a search": [
        one(Answer(500, "no feature title"), Answer(404, "view 'routes' has no feature 'title'"), search("title")),
        one(
            Answer(500, "single feature view"),
            Answer(422, "over one view; these features are of facts, routes"),
            {**search(), "features": ["routes:text", "facts:altitude"]},
        ),
        one(Answer(500), Answer(422, "names features of one vector view"), {**search(), "features": []}),
        one(
            Answer(500, "facts has no vector field"),
            Answer(404, "feature view 'facts' has no vector field to search by"),
            {**search(), "features": ["facts:altitude"]},
        ),
    ],
    "`distance` or a join key among the features of a search": [
        *(
            one(
                Answer(500, f"no feature {name}"),
                Answer(200, {"text": (["to Chicago"], ["PRESENT"]), "origin": (["EWR"], ["PRESENT"])}),
                search(name, "text", top_k=1),
            )
            for name in ("distance", "origin", "flight")
        ),
        one(
            Answer(500, "no feature distance"),
            Answer(200, {"text": (["to Chicago"], ["PRESENT"]), "flight": ([10], ["PRESENT"])}),
            older("distance", "text", top_k=1),
        ),
    ],
    "a feature twice in a search": [
        one(
            Answer(200, '"feature_names": ["text", "text", "distance"'),
            Answer(200, '"feature_names": ["text", "distance"'),
            search("text", "text", top_k=1),
        ),
    ],
    "a version in a search, as `view@v1:feature`": [
        one(
            Answer(200), Answer(422, "name its features without a version"), search() | {"features": ["routes@v1:text"]}
        ),
        one(
            Answer(200, {"text": ([], [])}),
            Answer(422, "name its features without a version"),
            search() | {"features": ["routes@v0:text"]},
        ),
    ],
    "no `top_k` in a search": [
        one(
            Answer(500, "'NoneType'"),
            Answer(200, {"flight": ([-2, 3, 7, 10], ["PRESENT"] * 4)}),
            {name: value for name, value in search().items() if name != "top_k"},
        ),
    ],
    "`top_k` below 1": [
        one(Answer(200, {"text": ([], [])}), Answer(422, "top_k must be a whole number above 0"), search(top_k=0)),
        one(
            Answer(500, "LIMIT must not be negative"),
            Answer(422, "top_k must be a whole number above 0"),
            search(top_k=-1),
        ),
    ],
    '`top_k`, `api_version` or numbers of `query` as "1", true or 1.0': [
        *(
            one(NEAREST, Answer(422, "top_k must be a whole number above 0"), search(top_k=top_k))
            for top_k in ("1", True, 1.0)
        ),
        *(
            one(NEAREST, Answer(422, "api_version must be a whole number"), search(top_k=1, api_version=version))
            for version in ("2", 2.0)
        ),
        *(
            one(NEAREST, Answer(422, "query must be a list of numbers"), search(top_k=1, query=query))
            for query in (["1", "0", "0"], [True, False, False])
        ),
    ],
    "a vector of another length, or neither a vector nor a text": [
        one(
            Answer(500, "has the shape (2,)"),
            Answer(422, "a query vector for view routes has 3 finite numbers, this one has the shape (2,)"),
            search(query=[1.0, 2.0]),
        ),
        one(Answer(500, "Must provide either query"), Answer(422, "give one of them"), search(query=None)),
    ],
    "filters on an unknown field, or by a value of another type": [
        one(
            Answer(500, "no field zone to filter on"),
            Answer(422, "view routes has no field zone to filter on; it has origin, flight, text"),
            search(filters=comparison("eq", "zone", 1)),
        ),
        one(
            Answer(500, "not of its field's type (hub)"),
            Answer(422, "filters: a value is not of its field's type"),
            search(filters=comparison("eq", "hub", "yes")),
        ),
        one(
            Answer(500, "not of its field's type (fare)"),
            Answer(422, "not of its field's type (fare)"),
            search(filters=comparison("gt", "fare", None)),
        ),
    ],
}


@pytest.mark.parametrize(("row", "number"), each(SEARCHES))
def test_a_documented_difference(servers: tuple[Server, Server], row: str, number: int) -> None:
    SEARCHES[row][number].check(*servers)


TESTED: dict[str, Callable[..., None]] = {
    'a search without `"api_version": 2`, the older form': test_the_older_form_has_all_that_was_asked_for,
}
"""The rows of which a request and its answer tell too little."""
