"""`millrace serve` over replicas of Redis: by turns, around those that are away or cut off, the primary last."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from feast import FeatureStore

from tests.integration.serving_repo import make_repo, millrace, until
from tests.redis_server import RedisServer

TEMP = {"features": ["weather:temp"], "entities": {"origin": ["EWR"]}}


@pytest.fixture
def primary() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture
def replicas(primary: RedisServer) -> Iterator[list[RedisServer]]:
    options = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-timeout", "2", "--repl-diskless-sync-delay", "0")
    with ExitStack() as running:
        started = [RedisServer(options).start() for _ in range(2)]
        for server in started:
            running.callback(server.stop)
        yield started


@pytest.fixture
def store(primary: RedisServer, tmp_path: Path) -> FeatureStore:
    return make_repo(tmp_path, primary.port)


def hmgets(server: RedisServer) -> int:
    with redis.Redis(port=server.port) as client:
        return int(client.info("commandstats").get("cmdstat_hmget", {"calls": 0})["calls"])


def follows(server: RedisServer) -> bool:
    with redis.Redis(port=server.port) as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def test_a_replica_that_starts_without_its_primary_is_not_asked(
    primary: RedisServer, replicas: list[RedisServer], store: FeatureStore
) -> None:
    until(lambda: all(map(follows, replicas)))
    with millrace(Path(store.repo_path), replicas=replicas[0].connection_string) as server:
        until(lambda: server.features(**TEMP)[0] == 200 and hmgets(replicas[0]) > 0)
        replicas[0].stop()
        replicas[0].options = ()
        replicas[0].start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert server.features(**TEMP)[1]["results"][1]["values"] == [39.25]
        assert hmgets(replicas[0]) == 0


def test_reads_go_to_the_replicas_by_turns_and_around_those_that_fail(
    primary: RedisServer, replicas: list[RedisServer], store: FeatureStore
) -> None:
    until(lambda: all(map(follows, replicas)))
    addresses = ",".join(server.connection_string for server in replicas)
    with millrace(Path(store.repo_path), replicas=addresses) as server:

        def answered(times: int) -> bool:
            return all(server.features(**TEMP)[1]["results"][1]["values"] == [39.25] for _ in range(times))

        until(lambda: answered(2) and all(hmgets(replica) > 0 for replica in replicas))
        asked = hmgets(primary)
        before = [hmgets(replica) for replica in replicas]
        assert answered(20)
        shares = [hmgets(replica) - count for replica, count in zip(replicas, before, strict=True)]
        assert sum(shares) == 20 and min(shares) >= 8
        assert hmgets(primary) == asked

        replicas[0].stop()
        assert answered(20)
        assert hmgets(primary) == asked
        replicas[1].stop()
        assert answered(20)
        assert hmgets(primary) > asked
        assert server.ask("/ready")[0] == 200

        replicas[0].start()
        until(lambda: follows(replicas[0]))
        until(lambda: hmgets(replicas[0]) > 0 or not answered(1))
        primary.stop()
        # The replica still answers, but of what the primary once had: nobody is told that it is current.
        until(lambda: server.features(**TEMP)[0] == 503)
        assert server.features(**TEMP)[1]["error"] == "store_unavailable"
        assert server.ask("/ready")[0] == 503
