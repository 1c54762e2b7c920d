"""`millrace serve` while things break: Redis killed or slow, too many requests, a stop under load, an apply."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.types import Int64

from millrace.client import Client, ClientError
from tests.integration import serving_definitions as declared
from tests.integration.serving_repo import NOW, Server, make_repo, millrace, new_key, until, write_rows
from tests.redis_server import RedisServer

TEMP: dict[str, Any] = {"features": ["weather:temp"], "entities": {"origin": ["EWR"]}}


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def store(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_repo(tmp_path_factory.mktemp("served"), redis_server.port)


@pytest.fixture(scope="module")
def server(store: FeatureStore) -> Iterator[Server]:
    with millrace(Path(store.repo_path)) as running:
        yield running


@contextmanager
def frozen(redis_server: RedisServer) -> Iterator[None]:
    """Redis accepts connections and answers nothing."""
    assert redis_server.process is not None
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)


def value(server: Server) -> Any:
    status, answer = server.features(**TEMP)
    return answer["results"][1]["values"] if status == 200 else None


def test_redis_killed_and_started_again(server: Server, store: FeatureStore, redis_server: RedisServer) -> None:
    assert value(server) == [39.25]
    redis_server.stop()
    status, answer, headers = server.exchange("/get-online-features", TEMP)
    assert (status, answer["error"], headers["retry-after"]) == (503, "store_unavailable", "1")
    assert server.ask("/ready")[0] == 503
    assert server.ask("/health")[0] == 200
    redis_server.start()
    until(lambda: server.ask("/ready")[0] == 200)
    write_rows(store)
    assert value(server) == [39.25]


def test_a_server_with_keys_starts_before_its_redis(store: FeatureStore, redis_server: RedisServer) -> None:
    repo = Path(store.repo_path)
    redis_server.stop()
    with millrace(repo, "--with-keys") as server:
        status, answer, headers = server.exchange("/get-online-features", TEMP)
        assert (status, answer["error"], headers["retry-after"]) == (503, "store_unavailable", "1")
        redis_server.start()
        write_rows(store)
        key = {"authorization": f"Bearer {new_key(repo, 'early')}"}
        until(lambda: server.ask("/get-online-features", TEMP, key)[0] == 200)
        assert server.ask("/get-online-features", TEMP)[0] == 401


def test_a_slow_redis_is_left_alone_until_it_answers(server: Server, redis_server: RedisServer) -> None:
    with frozen(redis_server):
        assert server.features(**TEMP)[0] == 503
        status, answer = server.features(**TEMP)  # the breaker is open: nothing is asked of Redis
        assert (status, answer["error"]) == (503, "store_unavailable")
        assert server.ask("/ready")[0] == 503
    until(lambda: value(server) == [39.25])


def test_an_apply_is_served_and_fails_no_request(server: Server, store: FeatureStore) -> None:
    statuses: list[int] = []
    stop = False

    def ask() -> None:
        while not stop:
            statuses.append(server.features(**TEMP)[0])

    gusts = FeatureView(
        name="gusts",
        entities=[declared.origin],
        schema=[declared.ORIGIN, Field(name="gust", dtype=Int64)],
        source=declared.source("gusts"),
    )
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        assert server.features(features=["gusts:gust"], entities={"origin": ["EWR"]})[0] == 404
        store.apply([gusts])
        store.write_to_online_store("gusts", pd.DataFrame({"origin": ["EWR"], "gust": [9], "event_timestamp": [NOW]}))
        answer = until(lambda: _ok(server.features(features=["gusts:gust"], entities={"origin": ["EWR"]})))
        stop = True
        for future in asking:
            future.result()
    assert answer["results"][1]["values"] == [9]
    assert set(statuses) == {200}


def _ok(answer: tuple[int, Any]) -> Any:
    return answer[1] if answer[0] == 200 else None


def test_beyond_the_queue_requests_are_turned_away(store: FeatureStore, redis_server: RedisServer) -> None:
    """Of six requests one is worked on, two wait, and three are told so at once."""
    with (
        millrace(Path(store.repo_path), concurrency=1, queue=2, store_seconds=30, request_seconds=30) as server,
        ThreadPoolExecutor(6) as pool,
    ):
        with frozen(redis_server):
            asked = [pool.submit(server.exchange, "/get-online-features", TEMP) for _ in range(6)]
            until(lambda: sum(request.done() for request in asked) == 3)
            for status, answer, headers in _done(asked):
                assert (status, answer["error"], headers["retry-after"]) == (503, "overloaded", "1")
        accepted = [request.result() for request in asked if request.result()[0] != 503]
        assert [answer["results"][1]["values"] for _, answer, _ in accepted] == [[39.25]] * 3


def _done(asked: list[Future[Any]]) -> list[Any]:
    return [request.result() for request in asked if request.done()]


def test_a_stop_answers_what_was_accepted(store: FeatureStore, redis_server: RedisServer) -> None:
    with (
        millrace(Path(store.repo_path), store_seconds=30, request_seconds=30) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        assert server.process is not None
        with frozen(redis_server):
            asked = [pool.submit(server.features, **TEMP) for _ in range(8)]
            until(lambda: _connections(server.port) >= 8)
            time.sleep(0.5)  # for the requests to follow their connections
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not _listens(server.port))
        assert [request.result()[0] for request in asked] == [200] * 8
        assert server.process.wait(20) == 0


def test_killed_it_leaves_nobody_on_its_port(store: FeatureStore) -> None:
    with millrace(Path(store.repo_path), drain_seconds=1) as server:
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not _listens(server.port))


def test_a_restart_through_two_processes_on_one_port_loses_no_request(store: FeatureStore) -> None:
    """A new server takes its place on the port before the old one leaves it; clients ask all the time, some on
    connections that they keep, and never twice, some on a new one each."""
    stop = threading.Event()

    def ask(once: Callable[[int], Any], port: int) -> tuple[int, list[str]]:
        answered, failed = 0, []
        while not stop.is_set():
            try:
                answered += once(port) == [39.25]
            except (ClientError, HTTPException, OSError) as error:
                failed.append(repr(error))
            time.sleep(0.005)
        return answered, failed

    with millrace(Path(store.repo_path)) as old, ThreadPoolExecutor(5) as pool:
        ways = (_Kept().ask, _Kept().ask, _Kept().ask, _by_a_new_one, _by_a_new_one)
        asking = [pool.submit(ask, once, old.port) for once in ways]
        with millrace(Path(store.repo_path), at=old.port) as new:
            until(lambda: _listeners(old.port) == 2, seconds=90)
            time.sleep(0.5)
            assert old.stop() == 0
            time.sleep(0.5)
            assert _listeners(old.port) == 1
            stop.set()
            told = [future.result() for future in asking]
            assert new.process is not None and new.process.poll() is None
    assert [failed for _, failed in told] == [[]] * 5
    assert min(answered for answered, _ in told) > 20


class _Kept:
    """A plain client: after an answer that says that its connection ends it opens another, and asks nothing again."""

    def __init__(self) -> None:
        self._connection: HTTPConnection | None = None

    def ask(self, port: int) -> Any:
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.request("POST", "/get-online-features", json.dumps(TEMP))
        with self._connection.getresponse() as response:
            return json.loads(response.read())["results"][1]["values"]


def _by_a_new_one(port: int) -> Any:
    with Client(f"http://127.0.0.1:{port}", timeout=10) as client:
        return client.get_online_features(**TEMP).values["temp"]


def _listeners(port: int) -> int:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(f[1].endswith(f":{port:04X}") and f[3] == "0A" for f in fields)


def _connections(port: int) -> int:
    """Established connections of a server, from the kernel's table."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(f[1].endswith(f":{port:04X}") and f[3] == "01" for f in fields)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
