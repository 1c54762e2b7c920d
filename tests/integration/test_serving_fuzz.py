"""A short, seeded run of `make fuzz-serving`, with searches that are answered and, for a part of it, with keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.run import Fuzz
from tests.fuzz.vectors import add_vectors
from tests.integration.database import Database
from tests.integration.serving_repo import Server, make_repo, millrace, new_key
from tests.redis_server import RedisServer

REQUESTS, WITH_KEYS = 200, 200
SEARCH = {"features": ["texts:text"], "query_string": "a storm"}


@pytest.fixture(scope="module")
def folder(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, store = tmp_path_factory.mktemp("fuzzed"), RedisServer().start()
    make_repo(folder, store.port)
    add_vectors(folder, store.port, database.url)
    yield folder
    store.stop()


def test_no_request_makes_the_server_fail_hang_grow_or_tell(folder: Path) -> None:
    with millrace(folder) as server:
        assert server.ask("/search", SEARCH)[0] == 200
        fuzzed(server, REQUESTS, 20_260_101, "")


def test_nor_where_it_asks_for_keys(folder: Path) -> None:
    key = new_key(folder, "fuzz")
    with millrace(folder, "--with-keys") as server:
        fuzz = fuzzed(server, WITH_KEYS, 20_260_102, key)
        personal = {"features": ["airports:name"], "entities": {"origin": ["EWR"]}}
        assert server.ask("/get-online-features", personal, {"authorization": f"Bearer {key}"})[0] == 403
        assert 401 in fuzz.statuses, fuzz.statuses
        assert key not in server.output.read_text()


def fuzzed(server: Server, requests: int, seed: int, key: str) -> Fuzz:
    assert server.process is not None
    fuzz = Fuzz(server.url, server.process.pid, key)
    before = fuzz.memory()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    document = server.ask("/openapi.json", headers=headers)[1]
    fuzz.run(document, seed, requests)
    assert fuzz.sent >= requests
    assert {200, 400, 404, 422} <= fuzz.statuses.keys(), fuzz.statuses
    assert fuzz.memory() - before < 200e6
    assert server.ask("/ready")[0] == 200
    return fuzz
