"""Where Redis is, and which names a hash has for a view."""

from dataclasses import replace

import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _mmh3

from stores.errors import StoreRefused
from stores.fields import check_collisions, fields_of
from stores.online import RedisAddress, RedisOnline
from stores.view import Feature, View


def view(name: str, *features: str, online_name: str | None = None, key_type: int = 4) -> View:
    fields = tuple(Feature(feature, 4, pa.int64()) for feature in features)
    return View("prod", name, online_name or name, "state", (Feature("id", key_type, pa.int64()),), fields)


def test_a_connection_string_is_read_as_feast_reads_it() -> None:
    address = RedisAddress.parse("redis.internal:6380,db=2,ssl=true,username=feast,password=01=2")
    assert (address.host, address.port) == ("redis.internal", 6380)
    assert dict(address.options) == {"db": 2, "ssl": True, "username": "feast", "password": "01=2"}
    assert RedisAddress.parse("localhost") == RedisAddress("localhost", 6379)


def test_an_address_does_not_tell_its_password() -> None:
    assert str(RedisAddress.parse("redis:6379,password=secret")) == "redis:6379"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redis1:6379,redis2:6379", "names 2 hosts"),
        ("db=1", "names no host"),
        ("", "names no host"),
        ("redis:port", "is not host:port"),
        (":6379", "is not host:port"),
        ("redis://:secret@redis:6379", "is not host:port"),
    ],
)
def test_a_connection_string_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RedisAddress.parse(text)
    assert "secret" not in str(caught.value)


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="retry_on_fire"):
        RedisOnline(RedisAddress.parse("localhost:6379,retry_on_fire=1"), 60)


def test_fields_are_feasts() -> None:
    fields = fields_of(view("planes", "seats", "Größe", online_name="planes_v2"))
    assert fields.features == (_mmh3("planes_v2:seats"), _mmh3("planes_v2:Größe"))
    assert fields.timestamp == b"_ts:planes_v2"
    assert fields.version == b"_v:planes_v2"


def test_two_features_with_one_field_are_refused() -> None:
    one, two = "f27795", "f67000"  # found by search: murmur3_32 of 'planes:f27795' and 'planes:f67000'
    assert _mmh3(f"planes:{one}") == _mmh3(f"planes:{two}")
    with pytest.raises(StoreRefused, match="'planes:f27795' and 'planes:f67000' have the same field"):
        check_collisions([view("planes", one, "seats", two)])


def test_two_views_with_one_name_online_are_refused() -> None:
    version = view("planes", "seats", online_name="planes_v2")
    with pytest.raises(StoreRefused, match="the version of 'planes' and the version of 'planes_v2'"):
        check_collisions([version, view("planes_v2", "seats")])


def test_views_of_different_hashes_cannot_collide() -> None:
    one, two = view("planes", "f27795"), view("planes", "f67000")
    check_collisions([one, replace(two, project="other")])
    check_collisions([one, view("planes", "f67000", key_type=2)])
    check_collisions([one, replace(two, join_keys=(Feature("tail", 4, pa.int64()),))])
    check_collisions([])
