"""`millrace.client` against `millrace serve` with keys: statuses kept, and every refusal as an error of its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client import (
    AsyncClient,
    Client,
    Forbidden,
    InvalidRequest,
    Status,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from millrace.repo import open_repo
from millrace.wiring import access_keys
from serving.keys import make_key
from stores.access_keys import RedisKeys
from tests.integration.serving_repo import Server, make_repo, millrace
from tests.redis_server import RedisServer

ENTITIES = {"origin": ["EWR", "JFK", "LGA", "XXX"]}


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def repo(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    make_repo(folder, store.port)
    return folder


@pytest.fixture(scope="module")
def keys(repo: Path) -> RedisKeys:
    return access_keys(open_repo(repo, repo / "no-stack"))


def add(keys: RedisKeys, name: str, **options: Any) -> str:
    made = make_key(name, **options)
    assert keys.add(made.stored)
    return made.text


@pytest.fixture(scope="module")
def known(keys: RedisKeys) -> dict[str, str]:
    return {
        "plain": add(keys, "plain"),
        "scoped": add(keys, "scoped", services=("departure",), personal=True),
        "slow": add(keys, "slow", requests_per_second=2),
    }


@pytest.fixture(scope="module")
def server(repo: Path, known: dict[str, str]) -> Iterator[Server]:
    with millrace(repo, "--with-keys") as running:
        yield running


def client(server: Server, key: str | None) -> Client:
    return Client(server.url, key=key, timeout=30)


def test_values_statuses_and_forms(server: Server, known: dict[str, str]) -> None:
    with client(server, known["plain"]) as asking:
        found = asking.get_online_features(["weather:temp", "weather:sky"], entities=ENTITIES)
    assert found.to_dict() == {**ENTITIES, "temp": [39.25, None, None, None], "sky": ["clear", None, None, None]}
    assert found.statuses["temp"] == [Status.PRESENT, Status.NULL_VALUE, Status.OUTSIDE_MAX_AGE, Status.NOT_FOUND]
    assert [moment is None for moment in found.event_timestamps["temp"]] == [False, False, False, True]
    np.testing.assert_array_equal(found.to_numpy(["temp"]), [[39.25], [np.nan], [np.nan], [np.nan]])


def test_many_at_once_on_pooled_connections(server: Server, known: dict[str, str]) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(server.url, key=known["scoped"], timeout=30, connections=4) as asking:
            calls = [
                asking.get_online_features(feature_service="departure", entities={"origin": ["EWR"]})
                for _ in range(200)
            ]
            return [found.values["name"] for found in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [["Newark"]] * 200


def test_refusals(server: Server, known: dict[str, str]) -> None:
    with client(server, None) as asking, pytest.raises(Unauthorized, match="Authorization: Bearer"):
        asking.get_online_features(["weather:temp"], entities=ENTITIES)
    with client(server, known["plain"]) as asking:
        for spelled in ("airports", "airports@", "airports@latest", "airports@v0", "airports@V00"):
            with pytest.raises(Forbidden, match=f"{spelled}:name is personal data"):
                asking.get_online_features([f"{spelled}:name"], entities=ENTITIES)
        with pytest.raises(Forbidden, match="airports:name is personal data"):
            asking.get_online_features(feature_service="departure", entities=ENTITIES)
        with pytest.raises(InvalidRequest, match="tmp"):
            asking.get_online_features(["weather:tmp"], entities=ENTITIES)
    with client(server, known["scoped"]) as asking, pytest.raises(Forbidden, match="feature service departure"):
        asking.get_online_features(["weather:temp"], entities=ENTITIES)
    with client(server, known["slow"]) as asking, pytest.raises(TooManyRequests, match="2 requests a second") as slow:
        for _ in range(100):
            asking.get_online_features(["weather:temp"], entities=ENTITIES)
    assert slow.value.retry_after == 1.0


def test_a_revoked_key_is_refused_within_seconds(server: Server, keys: RedisKeys) -> None:
    text = add(keys, "passing")
    with client(server, text) as asking:
        for _ in range(10_000):
            try:
                asking.get_online_features(["weather:temp"], entities=ENTITIES)
                break
            except Unauthorized:
                continue
        keys.remove("passing")
        with pytest.raises(Unauthorized):
            for _ in range(100_000):
                asking.get_online_features(["weather:temp"], entities=ENTITIES)


def test_nothing_of_it_is_in_the_log(server: Server, known: dict[str, str]) -> None:
    log = server.output.read_text()
    assert "event=request" in log and "status=429" in log and "status=403" in log
    assert not [text for text in ("Newark", "EWR", *known.values()) if text in log]


def test_a_store_that_is_away_is_unavailable(server: Server, store: RedisServer, known: dict[str, str]) -> None:
    """The last test here: what the store held is gone."""
    store.stop()
    with client(server, known["plain"]) as asking, pytest.raises(Unavailable, match="503: Redis is unavailable"):
        for _ in range(1_000):
            asking.get_online_features(["weather:temp"], entities=ENTITIES)
