"""`millrace serve` over real Redis and Feast: what it answers, and what it refuses."""

from collections.abc import Iterator

import pytest

from tests.integration.serving_repo import Server, make_repo, millrace
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    store = RedisServer().start()
    make_repo(folder, store.port)
    with millrace(folder) as running:
        yield running
    store.stop()


def test_every_value_has_its_status(server: Server) -> None:
    status, answer = server.features(
        features=["weather:temp", "airports:name"], entities={"origin": ["EWR", "JFK", "LGA", "XXX"]}
    )
    assert status == 200
    assert answer["metadata"] == {"feature_names": ["origin", "temp", "name"]}
    assert [(column["values"], column["statuses"]) for column in answer["results"]] == [
        (["EWR", "JFK", "LGA", "XXX"], ["PRESENT"] * 4),
        ([39.25, None, None, None], ["PRESENT", "NULL_VALUE", "OUTSIDE_MAX_AGE", "NOT_FOUND"]),
        (["Newark", "Kennedy", None, None], ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"]),
    ]


def test_it_is_ready(server: Server) -> None:
    assert server.ask("/ready") == (200, {"status": "ready", "project": "served"})
