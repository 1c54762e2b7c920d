"""Redis down, full, busy or wrong: the error says to wait or to stop, and afterwards everything works."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
import redis

from stores.errors import StoreRefused, StoreUnavailable
from stores.online import RedisAddress, RedisOnline
from stores.view import Feature
from tests.feature_changes import Change, rows, view
from tests.redis_server import RedisServer

state = view("state", "state")
ROWS = rows(state, *(Change(one, lsn=1, x=one) for one in range(100)))
KEYS = pa.table({"id": pa.array([7], pa.int64())})


@pytest.fixture
def server() -> Iterator[RedisServer]:
    running = RedisServer(options=("--lua-time-limit", "20")).start()
    yield running
    running.stop()


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis(port=server.port)
    yield client
    client.close()


@pytest.fixture
def online(server: RedisServer) -> Iterator[RedisOnline]:
    store = RedisOnline(RedisAddress.parse(f"{server.connection_string},socket_timeout=1"), 60)
    store.write([ROWS])
    yield store
    store.close()


def works(online: RedisOnline) -> bool:
    online.ping()
    online.write([ROWS])
    return online.read([state], KEYS)[0]["x"].to_pylist() == [7]


def test_a_server_that_is_down_and_comes_back_empty(server: RedisServer, online: RedisOnline) -> None:
    server.stop()
    for call in (online.ping, lambda: online.write([ROWS]), lambda: online.read([state], KEYS)):
        with pytest.raises(StoreUnavailable, match=f"Redis is unavailable: 127.0.0.1:{server.port}"):
            call()
    server.start()
    assert works(online)


def test_a_server_that_was_restarted_between_two_calls(server: RedisServer, online: RedisOnline) -> None:
    server.stop()
    server.start()
    assert works(online)


def test_connections_that_the_server_has_closed(raw: redis.Redis, online: RedisOnline) -> None:
    raw.client_kill_filter(_type="normal", skipme=True)
    assert works(online)


def test_scripts_that_redis_has_forgotten(raw: redis.Redis, online: RedisOnline) -> None:
    raw.script_flush()
    assert works(online)
    raw.script_flush()
    assert online.drop(state) == 100


def test_a_full_server(raw: redis.Redis, online: RedisOnline) -> None:
    raw.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="OOM command not allowed"):
        online.write([ROWS])
    raw.config_set("maxmemory", 0)
    assert works(online)


def test_a_replica(raw: redis.Redis, online: RedisOnline) -> None:
    raw.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="READONLY"):
        online.write([ROWS])
    raw.replicaof("NO", "ONE")
    assert works(online)


def test_a_server_that_runs_a_script(server: RedisServer, raw: redis.Redis, online: RedisOnline) -> None:
    def spin() -> None:
        with pytest.raises(redis.ResponseError):
            redis.Redis(port=server.port).eval("while true do end", 0)

    spinning = threading.Thread(target=spin)
    spinning.start()
    wait_until_busy(raw)
    with pytest.raises(StoreUnavailable, match="BUSY"):
        online.write([ROWS])
    raw.script_kill()
    spinning.join()
    assert works(online)


def wait_until_busy(raw: redis.Redis) -> None:
    for _ in range(500):
        try:
            raw.ping()
        except redis.ResponseError:
            return
        time.sleep(0.01)
    raise RuntimeError("the script does not run")


def test_a_server_that_does_not_answer(raw: redis.Redis, online: RedisOnline) -> None:
    raw.client_pause(1_500)
    with pytest.raises(StoreUnavailable, match="timed out"):
        online.write([ROWS])
    raw.client_unpause()
    assert works(online)


def test_too_many_clients(server: RedisServer, raw: redis.Redis) -> None:
    raw.config_set("maxclients", 1)
    fresh = RedisOnline(RedisAddress.parse(server.connection_string), 60)
    with pytest.raises(StoreUnavailable, match="max number of clients"):
        fresh.ping()
    raw.config_set("maxclients", 100)
    assert works(fresh)


def test_a_password(raw: redis.Redis, server: RedisServer, online: RedisOnline) -> None:
    raw.config_set("requirepass", "1234")
    for options in ("", ",password=wrong"):
        stranger = RedisOnline(RedisAddress.parse(server.connection_string + options), 60)
        with pytest.raises(StoreRefused, match=r"NOAUTH|WRONGPASS|invalid username-password|Authentication"):
            stranger.ping()
    assert works(RedisOnline(RedisAddress.parse(f"{server.connection_string},password=1234"), 60))


def test_a_database_that_does_not_exist(server: RedisServer) -> None:
    with pytest.raises(StoreRefused, match="out of range"):
        RedisOnline(RedisAddress.parse(f"{server.connection_string},db=99"), 60).ping()


def test_databases_are_apart(server: RedisServer, online: RedisOnline) -> None:
    second = RedisOnline(RedisAddress.parse(f"{server.connection_string},db=1"), 60)
    assert second.read([state], KEYS)[0]["_present"].to_pylist() == [False]


def test_a_key_that_is_no_hash(raw: redis.Redis, online: RedisOnline) -> None:
    (key,) = (key for key in raw.scan_iter() if key.endswith(b"\x07" + bytes(7) + b"suite"))
    raw.set(key, "something else")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        online.write([ROWS])
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        online.read([state], KEYS)
    raw.delete(key)
    assert works(online)


def test_a_value_of_another_type(raw: redis.Redis, online: RedisOnline) -> None:
    declared = replace(state, features=(state.features[0], Feature("name", 4, pa.int64())))
    with pytest.raises(StoreRefused, match=r"feature 'state:name' in Redis: .*declared type INT64"):
        online.read([declared], KEYS)
    assert works(online)
