"""Keys and limits in a real Redis: made, revoked, and held by several processes at once."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis

from serving.access import Caller, Forbidden, TooMany, Unauthorized
from serving.keys import KeyedAccess, make_key
from serving.limits import Bucket
from stores.access_keys import RedisKeys, Spent
from stores.errors import StoreRefused, StoreUnavailable
from stores.online import RedisAddress, RedisOnline
from tests.admitted import admit
from tests.redis_server import RedisServer

HAMMER = """
import json, sys, time
from serving.access import TooMany
from serving.keys import KeyedAccess
from stores.access_keys import RedisKeys
from stores.online import RedisAddress, RedisOnline
address, key, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
access = KeyedAccess(RedisKeys(RedisOnline(RedisAddress.parse(address), 3600), "nyc"), "nyc")
access.start()
begun, admitted, refused = time.monotonic(), 0, 0
while time.monotonic() - begun < seconds:
    try:
        access.charge(access.identify(key), 1)
        admitted += 1
    except TooMany:
        refused += 1
        time.sleep(0.002)
access.close()
print(json.dumps([admitted, refused, time.monotonic() - begun]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture
def keys(server: RedisServer) -> RedisKeys:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return RedisKeys(RedisOnline(RedisAddress.parse(server.connection_string), 3_600), "nyc")


def test_a_key_opens_what_it_was_made_for(keys: RedisKeys) -> None:
    model = make_key("model", services=("delays",), personal=True)
    assert keys.add(model.stored)
    assert not keys.add(make_key("model").stored)
    access = KeyedAccess(keys, "nyc")
    access.refresh()
    assert admit(access, access.identify(model.text), "nyc", "delays", 10) == Caller("model", personal=True)
    with pytest.raises(Forbidden, match="key 'model' is for feature service delays, not for 'prices'"):
        admit(access, access.identify(model.text), "nyc", "prices", 1)
    with pytest.raises(Forbidden, match="one by one"):
        admit(access, access.identify(model.text), "nyc", None, 1)
    with pytest.raises(Forbidden, match="of project 'nyc'"):
        admit(access, access.identify(model.text), "other", "delays", 1)


def test_a_key_is_charged_apart_from_what_it_reaches(keys: RedisKeys) -> None:
    model = make_key("model", services=("delays",), requests_per_second=3, entities_per_second=10)
    keys.add(model.stored)
    access = KeyedAccess(keys, "nyc")
    access.refresh()
    key_id = access.identify(model.text)
    assert access.name(key_id) == "model"
    for _ in range(50):
        assert access.reach(key_id, "nyc", "delays") == Caller("model", personal=False)
        with pytest.raises(Forbidden):
            access.reach(key_id, "nyc", "prices")
    access.charge(key_id, 0)
    access.charge(key_id, 10)
    for _ in range(3):
        with pytest.raises(TooMany, match="key 'model' is limited to 3 requests a second and 10 entities") as refused:
            access.charge(key_id, 1)
        assert refused.value.caller == "model" and refused.value.retry_after > 0
    assert keys.remove("model")
    access.refresh()
    assert access.name(key_id) == ""
    access.charge(key_id, 1)


def test_what_is_no_key_is_refused(keys: RedisKeys) -> None:
    model = make_key("model")
    keys.add(model.stored)
    access = KeyedAccess(keys, "nyc")
    with pytest.raises(StoreUnavailable, match="could not be read yet"):
        admit(access, access.identify(model.text), "nyc", None, 1)
    access.refresh()
    wrong = [None, "", "mr_", model.text[:-1], model.text + "A", model.text[:-1] + "\udcff", make_key("model").text]
    other_secret = model.text[:20] + make_key("x").text[20:]
    for text in (*wrong, other_secret):
        with pytest.raises(Unauthorized) as refused:
            admit(access, access.identify(text), "nyc", None, 1)
        assert model.text[20:] not in str(refused.value)


def test_nothing_stored_gives_the_key_away(keys: RedisKeys, server: RedisServer) -> None:
    model = make_key("model")
    keys.add(model.stored)
    with redis.Redis(port=server.port) as client:
        stored = client.hget("millrace:keys:nyc", "model")
    assert model.text[20:].encode() not in stored
    assert keys.all() == [model.stored]


def test_a_revoked_key_ends_in_every_process(keys: RedisKeys) -> None:
    model = make_key("model")
    keys.add(model.stored)
    two = [KeyedAccess(keys, "nyc") for _ in range(2)]
    for access in two:
        access.refresh()
        admit(access, access.identify(model.text), "nyc", None, 1)
    assert keys.remove("model")
    assert not keys.remove("model")
    for access in two:
        access.refresh()
        with pytest.raises(Unauthorized):
            admit(access, access.identify(model.text), "nyc", None, 1)


def test_keys_of_a_project_are_not_those_of_another(keys: RedisKeys, server: RedisServer) -> None:
    model = make_key("model")
    keys.add(model.stored)
    other = RedisKeys(RedisOnline(RedisAddress.parse(server.connection_string), 3_600), "other")
    assert other.all() == []


def test_an_unreadable_key_is_named(keys: RedisKeys, server: RedisServer) -> None:
    with redis.Redis(port=server.port) as client:
        client.hset("millrace:keys:nyc", "odd", "{}")
    with pytest.raises(StoreRefused, match=r"API key 'odd'.*millrace keys revoke odd"):
        keys.all()


ODD = [
    "{}",
    "",
    "\udcff",
    "[]",
    "[" * 100_000,
    json.dumps({"id": "00" * 8, "sha256": "00" * 32}),
    json.dumps({"id": 5, "sha256": "00" * 32, "services": []}),
    json.dumps({"id": "00" * 8, "sha256": "no digest", "services": []}),
    json.dumps({"id": "00" * 8, "sha256": "00" * 32, "services": "delays"}),
    json.dumps({"id": "00" * 8, "sha256": "00" * 32, "services": [], "requests_per_second": "many"}),
    json.dumps({"id": "00" * 8, "sha256": "00" * 32, "services": [], "requests_per_second": float("nan")}),
    json.dumps({"id": "00" * 8, "sha256": "00" * 32, "services": [], "until": "2027-01-01"}),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_unreadable_key_keeps_no_revocation_from_the_servers(
    keys: RedisKeys, server: RedisServer, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a restarted server from who has a key; it admits nobody itself, and is named once."""
    revoked, stays = make_key("revoked"), make_key("stays")
    for made in (revoked, stays):
        keys.add(made.stored)
    running, restarted = KeyedAccess(keys, "nyc"), KeyedAccess(keys, "nyc")
    running.refresh()
    admit(running, running.identify(revoked.text), "nyc", None, 1)
    with redis.Redis(port=server.port) as client:
        client.hset("millrace:keys:nyc", "odd", odd.encode("utf-8", "surrogateescape"))
    keys.remove("revoked")
    for access in (running, restarted):
        caplog.clear()
        for _ in range(2):
            access.refresh()
        with pytest.raises(Unauthorized):
            access.identify(revoked.text)
        assert admit(access, access.identify(stays.text), "nyc", None, 1).name == "stays"
        (told,) = caplog.messages
        assert "API key 'odd'" in told and "millrace keys revoke odd" in told


def test_a_key_that_becomes_unreadable_admits_nobody(keys: RedisKeys, server: RedisServer) -> None:
    model = make_key("model")
    keys.add(model.stored)
    access = KeyedAccess(keys, "nyc")
    access.refresh()
    with redis.Redis(port=server.port) as client:
        client.hset("millrace:keys:nyc", "model", "{")
    access.refresh()
    with pytest.raises(Unauthorized):
        access.identify(model.text)


def test_buckets_are_shared_refilled_and_may_be_overdrawn(keys: RedisKeys, server: RedisServer) -> None:
    assert keys.spend([Spent("a:requests", 0.001, 0), Spent("b:entities", 100, 40)]) == [1.0, 60.0]
    (left,) = keys.spend([Spent("b:entities", 100, 560)])
    assert -500 <= left < -400
    with redis.Redis(port=server.port) as client:
        assert 0 < client.ttl("millrace:limits:nyc") <= 3_600


@pytest.mark.parametrize("rate", [100 / 3, 1e6 + 0.1, 2.0000004])
def test_a_full_bucket_is_as_full_in_redis_as_in_a_process(keys: RedisKeys, rate: float) -> None:
    """A process admits what costs more than a full bucket once it is told of a full one."""
    full = Bucket("a:entities", rate).full
    assert [keys.spend([Spent("a:entities", rate, 0)]) for _ in range(2)] == [[full], [full]]


def test_two_processes_hold_one_limit(keys: RedisKeys, server: RedisServer) -> None:
    """Both are hammered: together they admit the rate over the time, and at most one second's worth each beside."""
    rate, seconds = 200, 4.0
    model = make_key("model", requests_per_second=rate)
    keys.add(model.stored)
    command = [sys.executable, "-c", HAMMER, server.connection_string, model.text, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    results = [json.loads(process.communicate()[0]) for process in running]
    admitted = sum(result[0] for result in results)
    longest = max(result[2] for result in results)
    assert all(result[0] > 0 and result[1] > 0 for result in results)
    assert admitted <= rate * (longest + 1) + 2 * rate
    assert admitted >= rate * seconds / 2
    with pytest.raises(TooMany) as refused:
        _admit_until_refused(keys, model.text)
    assert refused.value.retry_after > 0


def _admit_until_refused(keys: RedisKeys, text: str) -> None:
    access = KeyedAccess(keys, "nyc")
    access.refresh()
    for _ in range(1_000):
        admit(access, access.identify(text), "nyc", None, 1)


def test_the_thread_brings_a_new_key_and_survives_an_outage() -> None:
    server = RedisServer().start()
    store = RedisKeys(RedisOnline(RedisAddress.parse(server.connection_string), 3_600), "nyc")
    access = KeyedAccess(store, "nyc")
    access.start()
    try:
        model = make_key("model")
        store.add(model.stored)
        _until_admitted(access, model.text)
        server.stop()
        admit(access, access.identify(model.text), "nyc", None, 1)
        server.start()
        later = make_key("later")
        store.add(later.stored)
        _until_admitted(access, later.text)
        with pytest.raises(Unauthorized):
            admit(access, access.identify(model.text), "nyc", None, 1)
    finally:
        access.close()
        server.stop()


def _until_admitted(access: KeyedAccess, text: str) -> None:
    for _ in range(600):
        try:
            admit(access, access.identify(text), "nyc", None, 1)
            return
        except Unauthorized:
            time.sleep(0.05)
    raise AssertionError("the key was never admitted")
