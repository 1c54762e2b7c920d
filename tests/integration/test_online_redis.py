"""The online store on a real Redis: every behaviour of a `FeatureWriter`, and what is Redis' own."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import redis

from stores.entity_keys import entity_keys
from stores.online import RedisAddress, RedisOnline
from stores.rows import FeatureRows, WriteResult, rows_schema
from stores.view import Feature, View
from tests.feature_changes import EPOCH, Change, none_remains, rows, view
from tests.feature_writer_suite import FeatureWriterSuite, Store, by_inspection, entity, undecided
from tests.redis_server import RedisServer

RETENTION = 3_600

state, other, event = view("state", "state"), view("other", "state"), view("event", "event")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer().start()
    yield running
    running.stop()


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """What stands in Redis, by a client of its own; emptied before each test."""
    client = redis.Redis(port=server.port)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def online(server: RedisServer, raw: redis.Redis) -> Iterator[RedisOnline]:
    store = RedisOnline(RedisAddress.parse(server.connection_string), RETENTION)
    yield store
    store.close()


def seconds_left(client: redis.Redis, key: bytes) -> int:
    """Until the key expires."""
    left: Any = client.ttl(key)  # redis-py's types let it be one to await
    return int(left)


class TestRedisOnline(FeatureWriterSuite):
    @pytest.fixture
    def store(self, online: RedisOnline) -> Store:
        return Store(online, by_inspection(online))


def key_of(view: View, one: int) -> bytes:
    (key,) = entity_keys(view).encode(pa.table({"id": [one]})).to_pylist()
    assert isinstance(key, bytes)
    return key


def ids(*some: int) -> pa.Table:
    return pa.table({"id": pa.array(some, pa.int64())})


def plain(view: View, one: int, minute: float, x: int) -> pa.Table:
    """A row that knows no log position."""
    return plain_at(view, one, EPOCH + timedelta(minutes=minute), x)


def plain_at(view: View, one: int, at: datetime, x: int) -> pa.Table:
    known = [view.join_keys[0].name, *(feature.name for feature in view.features), "event_timestamp"]
    schema = pa.schema([rows_schema(view).field(name) for name in known])
    return pa.Table.from_pylist([{"id": one, "x": x, "name": "plain", "event_timestamp": at}], schema)


def x_of(store: RedisOnline, view: View, one: int) -> int | None:
    found: int | None = store.read([view], ids(one))[0]["x"].to_pylist()[0]
    return found


class TestReading:
    def test_all_views_of_an_entity_at_once(self, online: RedisOnline) -> None:
        online.write(
            [
                rows(state, Change(1, lsn=1, x=10, minute=1), Change(2, lsn=1, x=None, name=None)),
                rows(event, Change(1, lsn=1, x=11), Change(3, lsn=1, x=31)),
            ]
        )
        first, second = online.read([state, event], ids(1, 2, 3, 4))
        assert first.to_pydict() == {
            "x": [10, None, None, None],
            "name": ["a name", None, None, None],
            "event_timestamp": [EPOCH + timedelta(minutes=1), EPOCH, None, None],
            "_present": [True, True, False, False],
        }
        assert second["x"].to_pylist() == [11, None, 31, None]
        assert second["_present"].to_pylist() == [True, False, True, False]
        assert [column.type for column in first.columns[:2]] == [pa.int64(), pa.string()]

    def test_no_entities(self, online: RedisOnline) -> None:
        assert [table.num_rows for table in online.read([state, event], ids())] == [0, 0]
        assert online.inspect(state, ids()).num_rows == 0

    def test_more_entities_than_one_round_trip_takes(self, online: RedisOnline) -> None:
        many = range(2_500)
        online.write([rows(state, *(Change(one, lsn=1, x=one) for one in many))])
        (found,) = online.read([state], ids(*many))
        assert found["x"].to_pylist() == list(many)

    def test_views_with_other_join_keys_are_read_apart(self, online: RedisOnline) -> None:
        apart = replace(other, join_keys=(Feature("id", 3, pa.int32()),))
        with pytest.raises(ValueError, match="'state' and 'other' have different join keys"):
            online.read([state, apart], ids(1))

    def test_a_view_without_entities(self, online: RedisOnline) -> None:
        total = View("suite", "total", "total", "state", (), (Feature("x", 4, pa.int64()),))
        table = rows(state, Change(1, lsn=1, x=5)).table.drop_columns(["id", "name"])
        online.write([FeatureRows(total, table)])
        (found,) = online.read([total], pa.table({"any": [0, 0]}))
        assert found["x"].to_pylist() == [5, 5]
        (scanned,) = online.scan(total)
        assert (scanned.num_rows, scanned["x"].to_pylist()) == (1, [5])


class TestScanning:
    def test_every_entity_of_the_view_and_no_other(self, online: RedisOnline) -> None:
        """Glob characters in names, projects that end alike, other key types and views are told apart."""
        star = replace(state, project="pr*d[x]")
        alike = replace(state, project="a" + star.project)
        numbers = replace(state, project=star.project, join_keys=(Feature("id", 3, pa.int32()),))
        for project_view in (star, alike):
            changes = [Change(one, lsn=one, x=one) for one in range(1, 1_500)]
            online.write([rows(project_view, *changes)])
        small = rows(state, Change(7, lsn=1, x=-7)).table.cast(rows_schema(numbers))
        online.write([FeatureRows(numbers, small), rows(replace(other, project=star.project), Change(-1, lsn=1))])
        online.write([rows(star, Change(1, lsn=2_000, deleted=True))])
        found = pa.concat_tables(online.scan(star))
        assert sorted(found["id"].to_pylist()) == list(range(1, 1_500))
        by_id = {row["id"]: row for row in found.to_pylist()}
        assert (by_id[2]["x"], by_id[2]["_lsn"], by_id[2]["_present"]) == (2, 2, True)
        assert (by_id[1]["x"], by_id[1]["_lsn"], by_id[1]["_present"]) == (None, 2_000, False)
        assert [table["x"].to_pylist() for table in online.scan(numbers)] == [[-7]]

    def test_versions_of_an_event_view(self, online: RedisOnline) -> None:
        online.write([rows(event, Change(1, row=5, minute=2, lsn=9, x=1))])
        online.write([rows(event, Change(1, row=5, minute=1, lsn=10, x=2))])
        (found,) = online.scan(event)
        micros = int((EPOCH + timedelta(minutes=1)).timestamp() * 1_000_000)
        (row,) = found.select(["_order", "_lsn", "_row", "_undecided"]).to_pylist()
        assert row == {"_order": micros, "_lsn": 10, "_row": (5).to_bytes(16), "_undecided": True}

    def test_a_binary_key_with_every_byte(self, online: RedisOnline) -> None:
        name = "*[?]\\^-" * 6  # 42 bytes: the length is an asterisk too
        strange = replace(state, join_keys=(Feature(name, 1, pa.binary()),))
        keys = [bytes(range(256)), b"*", b"\\", b"", b"\r\n$5\r\n"]
        table = rows(state, *(Change(1, lsn=1, x=place) for place in range(len(keys)))).table
        table = table.rename_columns([name, *table.column_names[1:]]).set_column(0, name, pa.array(keys, pa.binary()))
        online.write([FeatureRows(strange, table)])
        found = pa.concat_tables(online.scan(strange))
        assert dict(zip(found[name].to_pylist(), found["x"].to_pylist(), strict=True)) == dict(
            zip(keys, range(5), strict=True)
        )


class TestDropping:
    def test_one_view_goes_and_the_others_stay(self, online: RedisOnline, raw: redis.Redis) -> None:
        online.write([rows(state, *(Change(one, lsn=1, x=one) for one in (1, 2)))])
        online.write([rows(other, Change(1, lsn=1, x=-1))])
        assert online.drop(state) == 2
        assert list(online.scan(state)) == []
        assert x_of(online, other, 1) == -1
        assert raw.dbsize() == 1
        assert online.drop(state) == 0

    def test_a_hash_left_with_versions_expires(self, online: RedisOnline, raw: redis.Redis) -> None:
        online.write([rows(state, Change(1, lsn=1, x=1)), rows(other, Change(1, lsn=1, deleted=True))])
        assert raw.ttl(key_of(state, 1)) == -1
        online.drop(state)
        assert 0 < seconds_left(raw, key_of(state, 1)) <= RETENTION


class TestRetention:
    def test_only_a_hash_without_features_expires(self, online: RedisOnline, raw: redis.Redis) -> None:
        key = key_of(state, 1)
        online.write([rows(state, Change(1, lsn=1, x=1)), rows(other, Change(1, lsn=1, x=1))])
        online.write([rows(state, Change(1, lsn=2, deleted=True))])
        assert raw.ttl(key) == -1
        online.write([rows(other, Change(1, lsn=2, deleted=True))])
        assert 0 < seconds_left(raw, key) <= RETENTION
        online.write([rows(state, Change(1, lsn=1, x=1))])  # refused
        assert 0 < seconds_left(raw, key) <= RETENTION
        online.write([rows(state, Change(1, lsn=3, x=3))])
        assert raw.ttl(key) == -1

    def test_a_plain_update_brings_features_back(self, online: RedisOnline, raw: redis.Redis) -> None:
        online.write([rows(state, Change(1, lsn=2, deleted=True))])
        online.update_plain(state, plain(state, 1, minute=1, x=1))
        assert raw.ttl(key_of(state, 1)) == -1

    def test_a_view_dropped_by_feast_and_deleted_elsewhere(self, online: RedisOnline, raw: redis.Redis) -> None:
        """Feast's own removal of a view leaves our version behind: a later put must not be left to expire."""
        online.write([rows(state, Change(1, lsn=1, x=1)), rows(other, Change(1, lsn=1, x=1))])
        key = key_of(state, 1)
        fields: Any = raw.hkeys(key)  # type: ignore[arg-type]  # to redis-py's types a hash's key is a str
        feasts = (field for field in fields if b"other" not in field and field[:3] != b"_v:")
        raw.hdel(key, *feasts)  # type: ignore[arg-type]  # as above
        online.write([rows(other, Change(1, lsn=2, deleted=True))])
        assert seconds_left(raw, key) > 0
        online.write([rows(state, Change(1, lsn=2, x=2))])
        assert raw.ttl(key) == -1


class TestPlainUpdates:
    def test_the_newer_event_time_wins(self, online: RedisOnline) -> None:
        for minute, x, applied in ((5, 1, 1), (4, 2, 0), (6, 3, 1), (6 - 1 / 60_000_000, 4, 0)):
            assert online.update_plain(state, plain(state, 1, minute, x)).applied == applied
        assert x_of(online, state, 1) == 3

    def test_with_the_same_event_time_only_where_nothing_is_streamed(self, online: RedisOnline) -> None:
        online.update_plain(state, plain(state, 1, 5, 1))
        assert online.update_plain(state, plain(state, 1, 5, 2)).applied == 1
        online.write([rows(state, Change(1, lsn=1, minute=5, x=3))])
        assert online.update_plain(state, plain(state, 1, 5, 4)).refused == 1
        assert online.update_plain(state, plain(state, 1, 5 + 1 / 60_000_000, 5)).applied == 1
        assert x_of(online, state, 1) == 5

    def test_a_deleted_entity_comes_back_only_by_a_newer_row(self, online: RedisOnline) -> None:
        online.write([rows(state, Change(1, lsn=1, minute=5, x=1))])
        online.write([rows(state, Change(1, lsn=2, minute=9, deleted=True))])
        for minute, x, applied in ((7, 2, 0), (9, 3, 0), (10, 4, 1)):
            assert online.update_plain(state, plain(state, 1, minute, x)).applied == applied
        assert x_of(online, state, 1) == 4

    def test_versions_stay_as_they_are(self, online: RedisOnline) -> None:
        online.write([rows(state, Change(1, lsn=7, minute=5, x=1))])
        online.update_plain(state, plain(state, 1, 10, 2))
        assert online.inspect(state, ids(1))["_lsn"].to_pylist() == [7]
        online.write([rows(state, Change(1, lsn=6, minute=20, x=3))])
        assert x_of(online, state, 1) == 2
        online.write([rows(state, Change(1, lsn=8, minute=1, x=4))])
        assert x_of(online, state, 1) == 4

    def test_event_times_before_1970_and_at_it(self, online: RedisOnline) -> None:
        moment = datetime(1250, 1, 1, tzinfo=UTC)
        zero, step = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
        steps = [(moment, 1), (moment - step, 0), (moment + step, 1), (zero - step, 1), (zero - 2 * step, 0)]
        steps += [(zero, 1), (zero - step, 0), (zero + step, 1), (datetime(9999, 1, 1, tzinfo=UTC), 1)]
        for x, (at, applied) in enumerate(steps):
            assert online.update_plain(state, plain_at(state, 1, at, x)).applied == applied, at
        assert x_of(online, state, 1) == len(steps) - 1

    def test_several_rows_of_an_entity(self, online: RedisOnline) -> None:
        batch = pa.concat_tables([plain(state, 1, 5, 1), plain(state, 1, 7, 2), plain(state, 1, 6, 3)])
        assert online.update_plain(state, batch) == WriteResult(2, 1)
        assert online.update_plain(state, batch.slice(0, 0)) == WriteResult(0, 0)
        assert x_of(online, state, 1) == 2


class TestSizes:
    def test_a_view_with_more_features_than_one_hset_takes(self, online: RedisOnline) -> None:
        features = tuple(Feature(f"f{number}", 4, pa.int64()) for number in range(2_100))
        wide = replace(state, features=features)
        columns: dict[str, Any] = {f"f{number}": [number] for number in range(2_100)}
        meta = rows(state, Change(1, lsn=1)).table
        table = pa.table({"id": [1], **columns, **{f.name: meta[f.name] for f in list(rows_schema(wide))[2_101:]}})
        assert online.write([FeatureRows(wide, table.cast(rows_schema(wide)))]).applied == 1
        (found,) = online.read([wide], ids(1))
        assert [found[name].to_pylist() for name in columns] == list(columns.values())
        gone = table.set_column(table.column_names.index("_deleted"), "_deleted", pa.array([True]))
        online.write([FeatureRows(wide, gone.cast(rows_schema(wide)))])
        assert online.read([wide], ids(1))[0].select(list(columns)).to_pylist() == [dict.fromkeys(columns)]

    def test_more_rows_of_one_entity_than_one_call_takes(self, online: RedisOnline) -> None:
        hot = [Change(1, lsn=lsn, x=lsn, row=lsn, minute=(lsn * 7_919) % 12_000) for lsn in range(12_000)]
        result = online.write([rows(event, *hot)])
        assert result.applied + result.refused == 12_000
        assert x_of(online, event, 1) == max(hot, key=lambda change: change.order).x

    def test_values_of_megabytes(self, online: RedisOnline) -> None:
        many = [Change(one, lsn=1, x=one, name="x" * 2_000_000) for one in range(12)]
        assert online.write([rows(state, *many)]).applied == 12
        (found,) = online.read([state], ids(*range(12)))
        assert [len(name) for name in found["name"].to_pylist()] == [2_000_000] * 12


def test_versions_of_a_batch_of_several_views(online: RedisOnline) -> None:
    """Puts, deletes and refusals of several views in one call each, counted and reported apart."""
    online.write([rows(event, Change(1, row=1, minute=9, lsn=1, x=1), Change(2, row=1, minute=9, lsn=1, x=1))])
    result = online.write(
        [
            rows(state, Change(1, lsn=5, x=5), Change(1, lsn=4, x=4), Change(2, lsn=5, deleted=True)),
            rows(event, Change(1, row=1, lsn=5, deleted=True), Change(2, row=2, minute=1, lsn=5, x=2)),
            rows(other, Change(1, lsn=1, x=7)),
            rows(event, Change(1, row=3, minute=3, lsn=6, x=3)),
        ]
    )
    assert (result.applied, result.refused, undecided(result, event)) == (6, 1, [1])
    assert [x_of(online, one, 1) for one in (state, event, other)] == [5, 3, 7]
    assert [x_of(online, one, 2) for one in (state, event, other)] == [None, 1, None]
    assert online.decide(none_remains(event, 1)).undecided == ()
    assert online.inspect(event, ids(1))["_undecided"].to_pylist() == [True]  # row 3 is known here only
    online.decide(rows(event, Change(1, row=3, minute=3, lsn=6, x=3)))
    assert online.inspect(event, ids(1))["_undecided"].to_pylist() == [False]


def test_threads_that_write_the_same_entities(online: RedisOnline) -> None:
    ours = [entity() for _ in range(20)]

    def write(start: int) -> None:
        for lsn in [*range(start, 40, 4)][:: -1 if start % 2 else 1]:
            online.write([rows(state, *(Change(one, lsn=lsn, x=lsn) for one in ours))])

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = online.read([state], ids(*ours))
    assert found["x"].to_pylist() == [39] * len(ours)
