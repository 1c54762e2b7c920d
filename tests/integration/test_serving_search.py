"""`millrace serve` over Redis and pgvector: searches by text and by vector, and views with a vector beside others."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Int64, String

from millrace.client import Client
from streams.embedders import WordLlamaEmbedder
from tests.fuzz.vectors import meaning
from tests.integration.database import Database
from tests.integration.serving_repo import MILLRACE, NOW, SEARCHED, Server, millrace, until
from tests.integration.test_console import Browser
from tests.redis_server import RedisServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import waited

TEXTS = {"ORD": "international airport in Chicago", "HNL": "beach of Honolulu, Hawaii", "DEN": "mountains of Colorado"}
EMBEDDER = WordLlamaEmbedder()


@pytest.fixture(scope="module")
def folder(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, redis = tmp_path_factory.mktemp("searched"), RedisServer().start()
    yaml = SEARCHED.format(project="searched", folder=folder, redis=redis.connection_string, vectors=database.url)
    (folder / "feature_store.yaml").write_text(yaml)
    (folder / "millrace.yaml").write_text(MILLRACE)
    store = FeatureStore(repo_path=str(folder))
    airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
    others = Field(name="hub", dtype=Bool), Field(name="gates", dtype=Array(Int64))
    texts_view = _view(airport, "texts", Field(name="text", dtype=String), *others, meaning(EMBEDDER.model))
    store.apply([airport, texts_view])
    store.apply([_view(airport, "foreign", Field(name="text", dtype=String), meaning("another-model"))])
    store.apply([_view(airport, "facts", Field(name="altitude", dtype=Int64))])
    twice = RequestSource(name="number", schema=[Field(name="n", dtype=Int64)])

    @on_demand_feature_view(sources=[twice], schema=[Field(name="double", dtype=Int64)], mode="python")
    def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"double": [2 * n for n in inputs["n"]]}

    store.apply([doubled])
    faa, moments = list(TEXTS), [NOW] * 3
    vectors = [vector.tolist() for vector in EMBEDDER.embed(list(TEXTS.values()))]
    texts = pd.DataFrame({"faa": faa, "text": TEXTS.values(), "meaning": vectors, "event_timestamp": moments})
    columns: dict[str, Any] = {"hub": [True, False, None], "gates": [[1, 2], [], [3]]}
    texts = texts.assign(**columns)
    store.write_to_online_store("texts", texts)
    facts = pd.DataFrame({"faa": faa, "altitude": [668, 13, 5431], "event_timestamp": moments})
    store.write_to_online_store("facts", facts)
    yield folder
    redis.stop()


def _view(airport: Entity, name: str, *fields: Field) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[airport],
        ttl=timedelta(0),
        schema=[Field(name="faa", dtype=String), *fields],
        source=FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp"),
    )


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with millrace(folder) as running:
        yield running


def vectors_by_proxy(folder: Path, database: Database, copy: Path) -> TcpProxy:
    """A copy of the repo whose vector store is reached by the proxy."""
    place = sa.make_url(database.url)
    assert place.port is not None
    proxy = TcpProxy(place.port).start()
    through = place.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    yaml = (folder / "feature_store.yaml").read_text()
    (copy / "feature_store.yaml").write_text(yaml.replace(database.url, through))
    (copy / "millrace.yaml").write_text(MILLRACE)
    return proxy


def test_a_vector_store_that_hangs_or_is_away(folder: Path, database: Database, tmp_path: Path) -> None:
    """`/ready` says so and stays 200, searches are refused, other views are answered; all as before once it is back."""
    proxy = vectors_by_proxy(folder, database, tmp_path)
    search = {"features": ["texts:text"], "query_string": "an island in the ocean", "top_k": 1}

    def works(server: Server) -> bool:
        return server.ask("/ready")[1]["status"] == "ready" and server.ask("/search", search)[0] == 200

    def refused(server: Server) -> bool:
        """While it is away; `/ready` has looked at it by then."""
        status, answer = server.ask("/ready")
        assert status == 200
        assert server.ask("/health")[0] == 200
        assert server.features(features=["facts:altitude"], entities={"faa": ["HNL"]})[0] == 200
        return answer["stores"]["pgvector"] == "away" and server.ask("/search", search)[0] == 503

    with millrace(tmp_path) as server:
        try:
            assert works(server)
            proxy.silent = True
            until(lambda: refused(server))
            proxy.silent = False
            until(lambda: works(server))
        finally:
            proxy.stop()
        until(lambda: refused(server))
        back = TcpProxy(proxy.behind, port=proxy.port).start()
        try:
            until(lambda: works(server))
        finally:
            back.stop()


def test_searches_leave_a_place_to_the_others_however_few_there_are(
    folder: Path, database: Database, tmp_path: Path
) -> None:
    """One by text and one by vector hang, and another of each is turned away: all that may."""
    proxy = vectors_by_proxy(folder, database, tmp_path)
    by_text = {"features": ["texts:text"], "query_string": "an island in the ocean", "top_k": 1}
    by_vector = {"features": ["texts:text"], "query": EMBEDDER.embed(["an island"])[0].tolist(), "top_k": 1}
    with millrace(tmp_path, concurrency=1, queue=0, request_seconds=20) as server, ThreadPoolExecutor(4) as pool:

        def one_is_refused(search: dict[str, Any]) -> list[Future[Any]]:
            """Both, once one of them is refused, for the other one has its place."""
            both = [pool.submit(server.ask, "/search", search) for _ in range(2)]
            (refused,) = until(lambda: [asked.result()[1] for asked in both if asked.done()])
            assert refused["error"] == "overloaded"
            return both

        try:
            assert server.ask("/search", by_text)[0] == 200
            proxy.silent = True
            # By text first: where a vector is searched for, no text is let in that would have to wait for it.
            asked = [*one_is_refused(by_text), *one_is_refused(by_vector)]
            for _ in range(10):
                assert server.features(features=["facts:altitude"], entities={"faa": ["HNL"]})[0] == 200
            assert sum(search.done() for search in asked) == 2
        finally:
            proxy.stop()


def columns(answer: Any) -> dict[str, list[Any]]:
    names = answer["metadata"]["feature_names"]
    return {name: column["values"] for name, column in zip(names, answer["results"], strict=True)}


def test_by_text_the_nearest_comes_first(server: Server) -> None:
    assert server.ask("/ready")[0] == 200
    body = {"features": ["texts:text"], "query_string": "an island in the ocean, Hawaii", "top_k": 2}
    for path in ("/search", "/retrieve-online-documents"):
        status, answer = server.ask(path, body)
        assert status == 200, answer
        found = columns(answer)
        assert (found["faa"][0], found["text"][0]) == ("HNL", TEXTS["HNL"])
        assert found["distance"] == sorted(found["distance"])


def test_the_example_of_a_search_works(server: Server) -> None:
    described = server.ask("/openapi.json")[1]
    path = "/retrieve-online-documents"
    example = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    status, answer = server.ask(path, example)
    assert (status, len(answer["results"][0]["values"])) == (200, example["top_k"])


def test_features_of_two_views_with_a_vector_are_not_mixed_up(server: Server) -> None:
    """Such a view is read whole, and both have a text and a vector."""
    for features in (["texts:text", "foreign:meaning"], ["foreign:meaning", "texts:text"]):
        status, answer = server.ask("/get-online-features", {"features": features, "entities": {"faa": ["ORD"]}})
        found = columns(answer)
        assert (status, found["text"], found["meaning"]) == (200, [TEXTS["ORD"]], [None])


def test_by_vector_with_a_filter(server: Server) -> None:
    vector = EMBEDDER.embed([TEXTS["HNL"]])[0].tolist()
    search = {"features": ["texts:text"], "query": vector}
    assert columns(server.ask("/search", search)[1])["faa"][0] == "HNL"
    kept = {**search, "filters": {"type": "ne", "key": "faa", "value": "HNL"}}
    assert set(columns(server.ask("/search", kept)[1])["faa"]) == {"ORD", "DEN"}
    assert columns(server.ask("/search", {**search, "api_version": 2})[1])["faa"] == ["DEN", "HNL", "ORD"]


def test_the_client_gets_the_nearest_first(server: Server) -> None:
    """Also where the server answers Feast's SDK in the order of the keys."""
    near, far = EMBEDDER.embed([TEXTS["ORD"], TEXTS["HNL"]])
    with Client(server.url, timeout=30) as client:
        for query, nearest in ((near, "ORD"), (far, "HNL")):
            found = client.retrieve_online_documents(["texts:text"], query=query, top_k=3)
            assert found.values["faa"][0] == nearest and found.values["text"][0] == TEXTS[nearest]
            assert found.values["distance"] == sorted(found.values["distance"])
            assert len(found.statuses["text"]) == len(found.event_timestamps["text"]) == 3
        found = client.retrieve_online_documents(["texts:text"], query_string="an island in the ocean", top_k=1)
        assert found.values["faa"] == ["HNL"]


def _filtered(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"features": ["texts:text"], "query_string": "x", "filters": {"type": kind, "key": key, "value": value}}


def _nested(depth: int) -> dict[str, Any]:
    body = _filtered("eq", "faa", "ORD")
    for _ in range(depth):
        body["filters"] = {"type": "and", "filters": [body["filters"]]}
    return body


def test_filters_on_every_kind_of_field(server: Server) -> None:
    for filtered, found in (
        (_filtered("eq", "hub", True), {"ORD"}),
        (_filtered("in", "hub", [True, False]), {"ORD", "HNL"}),
        (_filtered("eq", "hub", None), {"DEN"}),
        (_filtered("eq", "gates", [1, 2]), {"ORD"}),
        (_filtered("in", "gates", [[3], []]), {"DEN", "HNL"}),
        (_nested(16), {"ORD"}),
    ):
        status, answer = server.ask("/search", filtered)
        assert status == 200, answer
        assert set(columns(answer)["faa"]) == found


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"features": ["texts:text"]}, 422, "give one of them"),
        ({"features": ["texts:text"], "query": [1.0], "query_string": "x"}, 422, "give one of them"),
        ({"features": ["texts:text"], "query": [1.0]}, 422, "has 256 finite numbers"),
        ({"features": ["texts:text"], "query": ["x"] * 256}, 422, "list of numbers"),
        ({"features": ["texts:text"], "query_string": " "}, 422, "must be a text"),
        ({"features": ["texts:text"], "query_string": "x", "top_k": 0}, 422, "above 0"),
        ({"features": ["texts:text"], "query_string": "x", "top_k": 10_000}, 413, "at most 1000"),
        (
            {"features": ["texts:text"], "query_string": "x", "distance_metric": 2},
            422,
            "distance_metric must be a text",
        ),
        ({"features": ["facts:altitude"], "query_string": "x"}, 404, "no vector field"),
        ({"features": ["texts:text", "facts:altitude"], "query_string": "x"}, 422, "over one view"),
        ({"features": ["texts:title"], "query_string": "x"}, 404, "no feature 'title'"),
        ({"features": ["foreign:text"], "query_string": "x"}, 422, "holds vectors of another-model, and texts"),
        ({"features": ["texts:text"], "query_string": "x", "filters": {"type": "near"}}, 422, "filters"),
        (_filtered("eq", "z", 1), 422, "no field z"),
        (_filtered("in", "faa", "ORD"), 422, "needs a list"),
        (_filtered("eq", "faa", {"a": [1]}), 422, "not of its field's type (faa)"),
        (_filtered("eq", "faa", "\0"), 422, "not of its field's type (faa)"),
        (_filtered("gt", "faa", None), 422, "not of its field's type (faa)"),
        (_filtered("lte", "hub", True), 422, "not of its field's type (hub)"),
        (_filtered("eq", "hub", "true"), 422, "not of its field's type (hub)"),
        (_filtered("eq", "hub", 5), 422, "not of its field's type (hub)"),
        (_filtered("eq", "hub", [1]), 422, "not of its field's type (hub)"),
        (_filtered("in", "hub", [True, "x"]), 422, "not of its field's type (hub)"),
        (_filtered("eq", "gates", 5), 422, "not of its field's type (gates)"),
        (_filtered("eq", "gates", ["x"]), 422, "not of its field's type (gates)"),
        (_filtered("in", "gates", [[1], 5]), 422, "not of its field's type (gates)"),
        (
            {
                **_filtered("eq", "faa", "ORD"),
                "filters": {
                    "type": "and",
                    "filters": [
                        {"type": "eq", "key": "hub", "value": 5},
                        {"type": "eq", "key": "faa", "value": "ORD"},
                    ],
                },
            },
            422,
            "not of its field's type (one of hub, faa)",
        ),
        (_nested(160), 413, "nested too deep"),
        (_filtered("in", "faa", [1] * 70_000), 413, "at most 1000"),
    ],
)
def test_what_cannot_be_searched(server: Server, body: Any, status: int, detail: str) -> None:
    found, answer = server.ask("/search", body)
    assert found == status, answer
    assert detail in answer["detail"]


def test_the_console_says_how_many_a_search_shows(server: Server) -> None:
    browser = Browser(server)
    browser.ask("/console/search")
    asked = {"view": "texts", "text": "an island"}
    assert browser.ask("/console/search", {**asked, "top": "3"})[0] == 200
    for top in ("0", "101", "x", "9" * 5_000):
        status, text = browser.ask("/console/search", {**asked, "top": top})
        assert status == 422 and "a search shows 1 to 100 entities" in text


def test_features_of_both_stores_in_one_answer(server: Server) -> None:
    status, answer = server.features(
        features=["facts:altitude", "texts:text", "texts:meaning"], entities={"faa": ["DEN", "XXX"]}
    )
    assert status == 200, answer
    found = columns(answer)
    assert (found["altitude"], found["text"]) == ([5431, None], [TEXTS["DEN"], None])
    assert found["meaning"][0] == pytest.approx(EMBEDDER.embed([TEXTS["DEN"]])[0].tolist(), rel=1e-6)
    assert answer["results"][2]["statuses"] == ["PRESENT", "NOT_FOUND"]


def test_a_locked_table_keeps_nothing_else_waiting(folder: Path, database: Database) -> None:
    """Each search is given up in time, in the database too, and on-demand views are computed meanwhile."""
    asked = {"features": ["texts:text"], "query": [0.0] * 255 + [1.0], "top_k": 1}
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with millrace(folder, request_seconds=2) as server, psycopg.connect(database.dsn) as holder:
        assert server.ask("/search", asked)[0] == 200
        holder.execute("lock table features_searched.texts in access exclusive mode")
        with psycopg.connect(database.dsn, autocommit=True) as watcher, ThreadPoolExecutor(24) as pool:
            searches = [pool.submit(server.ask, "/search", asked) for _ in range(24)]
            waited(lambda: watcher.execute(waiting).fetchone() != (0,), "a statement that waits")
            status, answer = server.features(features=["doubled:double"], entities={"n": [21]})
            assert status == 200 and answer["results"][-1]["values"] == [42]
            assert not any(search.done() for search in searches)
            assert {search.result()[0] for search in searches} == {503}
            waited(lambda: watcher.execute(waiting).fetchone() == (0,), "the end of statements that nobody waits for")
        holder.rollback()
        assert server.ask("/search", asked)[0] == 200


def test_the_stock_sdk_searches_through_it(folder: Path, server: Server) -> None:
    remote = FeatureStore(
        config=RepoConfig(
            project="searched",
            provider="local",
            registry={"path": str(folder / "registry.db")},
            online_store={"type": "remote", "path": server.url},
            entity_key_serialization_version=3,
        )
    )
    vector = EMBEDDER.embed([TEXTS["ORD"]])[0].tolist()
    found = remote.retrieve_online_documents_v2(features=["texts:text"], query=vector, top_k=3).to_dict()
    assert dict(zip(found["faa"], found["text"], strict=True)) == TEXTS
    assert min(zip(found["distance"], found["faa"], strict=True))[1] == "ORD"
