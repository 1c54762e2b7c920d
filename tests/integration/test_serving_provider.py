"""`millrace serve` before an embedding provider that refuses a text, hangs, or is away."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import String

from tests import embedding_server
from tests.embedding_server import in_order, vector_of
from tests.fuzz.vectors import meaning
from tests.integration.database import Database
from tests.integration.serving_repo import MILLRACE, NOW, SEARCHED, Server, millrace, until
from tests.integration.test_console import Browser
from tests.redis_server import RedisServer

EMBEDDINGS = "embeddings: [{type: http, url: URL, model: a-model, length: 256, timeout: 60}]\n"
SECRET = "annabel@example.com"
SEARCH = {"features": ["notes:text"], "query_string": SECRET}
TEXT = {"features": ["notes:text"], "entities": {"id": ["1"]}}


def long_vectors(request: dict[str, Any]) -> tuple[int, Any]:
    status, answer = in_order(request)
    for item, text in zip(answer["data"], request["input"][::-1], strict=True):
        item["embedding"] = vector_of(text, 256)
    return status, answer


@pytest.fixture(scope="module")
def provider() -> Iterator[embedding_server.Server]:
    with embedding_server.embedding_server() as running:
        yield running


@pytest.fixture(autouse=True)
def well(provider: embedding_server.Server) -> None:
    provider.answer = long_vectors


@pytest.fixture(scope="module")
def folder(
    database: Database, provider: embedding_server.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    folder, redis = tmp_path_factory.mktemp("provided"), RedisServer().start()
    yaml = SEARCHED.format(project="provided", folder=folder, redis=redis.connection_string, vectors=database.url)
    (folder / "feature_store.yaml").write_text(yaml)
    (folder / "millrace.yaml").write_text(MILLRACE + EMBEDDINGS.replace("URL", provider.url))
    store = FeatureStore(repo_path=str(folder))
    note = Entity(name="note", join_keys=["id"], value_type=ValueType.STRING)
    fields = [Field(name="id", dtype=String), Field(name="text", dtype=String), meaning("a-model")]
    source = FileSource(name="notes_source", path="notes.parquet", timestamp_field="event_timestamp")
    store.apply([note, FeatureView(name="notes", entities=[note], ttl=timedelta(0), schema=fields, source=source)])
    row = {"id": ["1"], "text": ["a note"], "meaning": [vector_of("a note", 256)], "event_timestamp": [NOW]}
    store.write_to_online_store("notes", pd.DataFrame(row))
    yield folder
    redis.stop()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with millrace(folder, request_seconds=5) as running:
        yield running


def searched_in_console(server: Server) -> tuple[int, str]:
    browser = Browser(server)
    browser.ask("/console/search")
    return browser.ask("/console/search", {"view": "notes", "text": SECRET})


def test_a_text_that_the_model_refuses(server: Server, provider: embedding_server.Server) -> None:
    """It is the request's fault, and its text is quoted nowhere."""

    def refuse(request: dict[str, Any]) -> tuple[int, Any]:
        return long_vectors(request) if request["input"] == ["word"] else (400, {"error": f"no {request['input']}"})

    assert server.ask("/search", SEARCH)[0] == 200
    provider.answer = refuse
    status, answer = server.ask("/search", SEARCH)
    assert (status, answer["error"]) == (422, "invalid_request")
    assert "a-model does not take this text" in answer["detail"]
    status, page = searched_in_console(server)
    assert status == 422 and "a-model does not take this text" in page
    assert SECRET not in json.dumps(answer) + page + server.output.read_text()


def test_a_provider_that_fails(server: Server, provider: embedding_server.Server) -> None:
    provider.answer = lambda request: (500, {"error": "out of memory"})
    status, answer, headers = server.exchange("/search", SEARCH)
    assert (status, answer["error"], headers["retry-after"]) == (503, "store_unavailable", "1")
    assert answer["detail"] == "the embedding provider is unavailable; try again"
    status, page = searched_in_console(server)
    assert status == 503 and "the embedding provider is unavailable" in page


def test_a_provider_that_is_away(folder: Path) -> None:
    with embedding_server.embedding_server() as gone:
        pass
    (folder / "millrace.yaml").rename(folder / "kept.yaml")
    try:
        (folder / "millrace.yaml").write_text(MILLRACE + EMBEDDINGS.replace("URL", gone.url))
        with millrace(folder) as server:
            status, answer, headers = server.exchange("/search", SEARCH)
            assert (status, answer["error"], headers["retry-after"]) == (503, "store_unavailable", "1")
            assert server.ask("/get-online-features", TEXT)[0] == 200
            assert "ERROR" not in server.output.read_text()
    finally:
        (folder / "kept.yaml").rename(folder / "millrace.yaml")


def test_a_provider_that_hangs_keeps_no_read_waiting(server: Server, provider: embedding_server.Server) -> None:
    """More searches than the vector store has threads: entities and searches by vector are answered beside them."""
    asked, go = threading.Semaphore(0), threading.Event()

    def hang(request: dict[str, Any]) -> tuple[int, Any]:
        asked.release()
        go.wait(60)
        return long_vectors(request)

    provider.answer = hang
    with ThreadPoolExecutor(12) as pool:
        searches = [pool.submit(server.ask, "/search", SEARCH) for _ in range(12)]
        try:
            assert asked.acquire(timeout=60)
            status, answer = server.ask("/get-online-features", TEXT)
            assert status == 200 and answer["results"][1]["values"] == ["a note"]
            assert server.ask("/search", {"features": ["notes:text"], "query": [1.0] * 256})[0] == 200
            assert not any(search.done() for search in searches)
            assert {search.result()[0] for search in searches} == {503}
        finally:
            go.set()
    provider.answer = long_vectors
    until(lambda: server.ask("/search", SEARCH)[0] == 200)


def test_how_long_a_text_may_be(server: Server) -> None:
    assert server.ask("/search", {**SEARCH, "query_string": "a word " * 1_170})[0] == 200
    status, answer = server.ask("/search", {**SEARCH, "query_string": "a word " * 1_171})
    assert (status, answer["error"]) == (413, "too_large")
    assert answer["detail"] == "the text has 8197 characters; at most 8192 are embedded"
    browser = Browser(server)
    browser.ask("/console/search")
    status, page = browser.ask("/console/search", {"view": "notes", "text": "a word " * 1_171})
    assert status == 413 and "at most 8192 are embedded" in page
