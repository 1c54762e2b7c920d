"""`/ready` before stores that hang, fail and come back: which of them requests can be answered without."""

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from serving import pages
from serving.counts import Counts
from serving.metrics import Metrics
from serving.pages import Answers, Ready, Scrape, Stores
from stores.errors import StoreUnavailable

REDIS: Any = SimpleNamespace(ready=True)


def registry(only_vectors: bool = False, taken: bool = True) -> Any:
    return SimpleNamespace(taken=taken, current=SimpleNamespace(only_vectors=only_vectors))


class Vectors:
    """A vector store that answers a ping once it is let `go`, and then as `away` says."""

    def __init__(self) -> None:
        self.go, self.pings, self.away = threading.Event(), 0, False

    def ping(self) -> None:
        self.pings += 1
        self.go.wait(60)
        if self.away:
            raise StoreUnavailable("pgvector", "away")


@pytest.fixture
def vectors() -> Vectors:
    return Vectors()


@pytest.fixture
def ready(vectors: Vectors) -> Ready:
    return Ready("nyc", Stores(registry(only_vectors=True), REDIS, Answers(vectors.ping)))


def test_a_store_that_hangs_takes_no_thread_from_the_requests(
    ready: Ready, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On-demand views are computed in asyncio's own threads, here two."""
    monkeypatch.setattr(pages, "PING_SECONDS", 0.05)
    monkeypatch.setattr(pages, "KEPT_SECONDS", 0.0)

    async def probed() -> tuple[list[int], int, int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        statuses = [(await ready("")).status for _ in range(6)]
        async with asyncio.timeout(30):
            computed = await asyncio.to_thread(lambda: 42)
        pings = vectors.pings
        vectors.go.set()
        while (await ready("")).status != 200:
            await asyncio.sleep(0.01)
        return statuses, computed, pings

    statuses, computed, pings = asyncio.run(probed())
    assert statuses == [503] * 6 and computed == 42
    assert pings == 1


def test_a_ping_on_a_connection_that_nobody_ends_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, seconds in (("PING_SECONDS", 0.05), ("KEPT_SECONDS", 0.0), ("HUNG_SECONDS", 0.2)):
        monkeypatch.setattr(pages, name, seconds)
    never, pings = threading.Event(), itertools.count()

    def ping() -> None:
        if next(pings) == 0:
            never.wait(60)

    answers = Answers(ping)

    async def probed() -> None:
        assert not await answers.now()
        async with asyncio.timeout(30):
            while not await answers.now():
                await asyncio.sleep(0.01)

    try:
        asyncio.run(probed())
    finally:
        never.set()


def test_probes_at_once_are_one_question_and_its_answer_is_kept(ready: Ready, vectors: Vectors) -> None:
    async def probed() -> list[int]:
        waiting = [asyncio.create_task(ready("")) for _ in range(5)]
        await asyncio.sleep(0)
        vectors.go.set()
        return [answer.status for answer in await asyncio.gather(*waiting)] + [(await ready("")).status]

    assert asyncio.run(probed()) == [200] * 6
    assert vectors.pings == 1


def test_what_is_away_is_named_and_seen_again(ready: Ready, vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "KEPT_SECONDS", 0.0)
    vectors.away = True
    vectors.go.set()

    async def probed() -> list[bytes]:
        bodies = [(await ready("")).body]
        vectors.away = False
        return [*bodies, (await ready("")).body]

    away, back = asyncio.run(probed())
    assert b"pgvector does not answer" in away and b'"ready"' in back


def told(stores: Stores) -> tuple[int, Any]:
    answer = asyncio.run(Ready("nyc", stores)(""))
    return answer.status, orjson.loads(answer.body)


def away() -> None:
    raise StoreUnavailable("pgvector", "away")


def test_features_in_redis_are_answered_without_the_vector_store() -> None:
    stores = {"registry": "up", "redis": "up", "pgvector": "away"}
    assert told(Stores(registry(), REDIS, Answers(away))) == (
        200,
        {"status": "degraded", "project": "nyc", "stores": stores},
    )
    status, body = told(Stores(registry(only_vectors=True), REDIS, Answers(away)))
    assert (status, body["error"], body["stores"]) == (503, "not_ready", stores)


@pytest.mark.parametrize(
    ("taken", "redis", "detail"), [(False, True, "the registry could"), (True, False, "Redis does")]
)
def test_nothing_is_answered_without_registry_and_redis(taken: bool, redis: bool, detail: str) -> None:
    reads: Any = SimpleNamespace(ready=redis)
    status, body = told(Stores(registry(taken=taken), reads, Answers(lambda: None)))
    assert (status, body["error"]) == (503, "not_ready") and body["detail"].startswith(detail)
    assert body["stores"] == {
        "registry": "up" if taken else "away",
        "redis": "up" if redis else "away",
        "pgvector": "up",
    }


@pytest.mark.parametrize("known", [False, True])
def test_nobody_is_answered_before_the_keys_were_read(known: bool) -> None:
    keys: Any = SimpleNamespace(known=known)
    status, body = told(Stores(registry(), REDIS, None, keys))
    assert status == (200 if known else 503)
    assert body["stores"] == {"registry": "up", "redis": "up", "keys": "up" if known else "away"}
    if not known:
        assert body["detail"] == "the API keys could not be read yet"


def test_a_scrape_says_which_store_answers() -> None:
    answer = asyncio.run(Scrape(Metrics(Counts(1)), Stores(registry(), REDIS, Answers(away)))(""))
    assert b'millrace_store_up{store="redis"} 1.0\n' in answer.body
    assert b'millrace_store_up{store="pgvector"} 0.0\n' in answer.body
