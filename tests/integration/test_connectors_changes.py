"""Every operation as Debezium really sends it under our settings, and unchanged TOASTed values."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from connectors.encodings import decode, is_placeholder
from tests.integration.capturing import Record, captured, new_source
from tests.waiting import waited


@pytest.fixture(scope="module")
def connection(database: Any) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
        yield connection


def parts(record: Record) -> tuple[Any, ...]:
    """(op, key, before, after) of a record, or of a tombstone (None, key)."""
    if record.value is None:
        return None, record.key
    return record.value["op"], record.key, record.value["before"], record.value["after"]


def test_each_operation(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table operations (id int primary key, x int)")
    connection.execute("insert into operations values (1, 1)")
    with captured(stack, new_source(database.dsn), ["public.operations"]) as running:
        assert [parts(r) for r in running.records("operations", 1)] == [("r", {"id": 1}, None, {"id": 1, "x": 1})]
        connection.execute("insert into operations values (2, 2), (3, 3)")
        connection.execute("update operations set x = 20 where id = 2")
        connection.execute("delete from operations where id = 3")
        connection.execute("update operations set id = 4 where id = 2")
        connection.execute("truncate operations")
        records = running.records("operations", 10)
        assert [parts(r) for r in records[1:]] == [
            ("c", {"id": 2}, None, {"id": 2, "x": 2}),
            ("c", {"id": 3}, None, {"id": 3, "x": 3}),
            ("u", {"id": 2}, None, {"id": 2, "x": 20}),
            ("d", {"id": 3}, {"id": 3, "x": None}, None),
            (None, {"id": 3}),
            ("d", {"id": 2}, {"id": 2, "x": None}, None),
            (None, {"id": 2}),
            ("c", {"id": 4}, None, {"id": 4, "x": 20}),
            ("t", None, None, None),
        ]
        assert set(records[6].headers) == {"__debezium.newkey"}
        assert set(records[8].headers) == {"__debezium.oldkey"}
        lsns = [r.value["source"]["lsn"] for r in records if r.value]
        assert lsns == sorted(lsns)


def test_topics_have_the_declared_partitions(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table spread (id int primary key); insert into spread values (1)")
    with captured(stack, new_source(database.dsn, partitions=3), ["public.spread"]) as running:
        topic = running.table("spread").topic
        waited(lambda: len(partitions(stack.kafka, topic)) == 3, "a topic of three partitions")


def partitions(kafka: str, topic: str) -> dict[int, Any]:
    found: dict[int, Any] = (
        AdminClient({"bootstrap.servers": kafka}).list_topics(topic, timeout=10).topics[topic].partitions
    )
    return found


def test_a_full_identity_carries_the_old_row(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table whole (id int primary key, x int)")
    with captured(stack, new_source(database.dsn), ["public.whole"], full_identity=True) as running:
        connection.execute("insert into whole values (1, 1)")
        connection.execute("update whole set x = 2")
        connection.execute("delete from whole")
        records = running.records("whole", 4)
        assert [parts(r) for r in records[1:3]] == [
            ("u", {"id": 1}, {"id": 1, "x": 1}, {"id": 1, "x": 2}),
            ("d", {"id": 1}, {"id": 1, "x": 2}, None),
        ]


def test_partitions_are_captured_as_their_table(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute(
        "create table parted (id int primary key, x text) partition by range (id);"
        "create table parted_low partition of parted for values from (0) to (10);"
        "create table parted_high partition of parted for values from (10) to (20);"
        "insert into parted values (1, 'a'), (11, 'b')"
    )
    with captured(stack, new_source(database.dsn), ["public.parted"], full_identity=True) as running:
        connection.execute("update parted set id = 12 where id = 1")
        records = running.records("parted", 5)
        assert sorted(r.value["after"]["id"] for r in records[:2]) == [1, 11]
        assert [parts(r)[:2] for r in records[2:]] == [("d", {"id": 1}), (None, {"id": 1}), ("c", {"id": 12})]


def test_an_incremental_snapshot_answers_a_signal(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table again (id int primary key); insert into again values (1)")
    with captured(stack, new_source(database.dsn), ["public.again"]) as running:
        running.records("again", 1)
        connection.execute(
            "insert into millrace_signal values ('once', 'execute-snapshot', %s)",
            ['{"data-collections": ["public.again"], "type": "incremental"}'],
        )
        last = running.records("again", 2)[-1]
        assert parts(last) == ("r", {"id": 1}, None, {"id": 1})
        assert last.value["source"]["snapshot"] == "incremental"


def test_an_incremental_snapshot_goes_on_from_moments(
    stack: Any, database: Any, connection: psycopg.Connection
) -> None:
    """A chunk is of 1,024 rows; the next one begins after the key of its last."""
    connection.execute(
        "create table moments (at timestamptz, local timestamp, clock time, primary key (at, local, clock));"
        "insert into moments select '2020-01-01 00:00:00.123456+02'::timestamptz + i / 500 * interval '61 minutes',"
        " '2020-01-01 00:00:00.5'::timestamp + i / 40 * interval '1 day', '00:00:00.25'::time + i * interval '7 s'"
        " from generate_series(1, 2100) i"
    )
    with captured(stack, new_source(database.dsn), ["public.moments"]) as running:
        first = [tuple(record.key.items()) for record in running.records("moments", 2100)]
        connection.execute(
            "insert into millrace_signal values ('moments', 'execute-snapshot', %s)",
            ['{"data-collections": ["public.moments"], "type": "incremental"}'],
        )
        again = running.records("moments", 4200)[2100:]
        assert {record.value["source"]["snapshot"] for record in again} == {"incremental"}
        assert sorted(tuple(record.key.items()) for record in again) == sorted(first)


def test_a_heartbeat_moves_the_slot_of_an_idle_source(
    stack: Any, database: Any, connection: psycopg.Connection
) -> None:
    connection.execute("create table idle (id int primary key)")
    source = new_source(database.dsn, overrides={"heartbeat.interval.ms": "200"})
    with captured(stack, source, ["public.idle"]) as running:
        query = "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
        before = connection.execute(query, [source.slot]).fetchone()
        waited(lambda: connection.execute(query, [source.slot]).fetchone() != before, "a slot that moved")
        assert connection.execute("select source from millrace_heartbeat where source = %s", [source.name]).fetchone()
        assert running.connect.offset_lsn(source.name)


# By type, a value large enough to be stored out of line.
LARGE = {
    "text": "repeat('é', 3000)",
    "varchar": "repeat('x', 4000)",
    "bytea": "decode(repeat('ab', 4000), 'hex')",
    "json": "to_json(repeat('x', 4000))",
    "jsonb": "to_jsonb(repeat('x', 4000))",
    "numeric": "repeat('1', 9000)::numeric",
    "integer[]": "array_fill(7, array[2500])",
    "bigint[]": "array_fill(7::bigint, array[2500])",
    "text[]": "array_fill('ab'::text, array[2500])",
    "uuid[]": "array_fill(gen_random_uuid(), array[2500])",
    "date[]": "array_fill(date '2020-01-01', array[2500])",
    "bytea[]": "array_fill('ab'::bytea, array[2500])",
    "jsonb[]": "array_fill('{}'::jsonb, array[2500])",
}
# Those whose unchanged value Debezium cannot name: it would fail.
WITHOUT_PLACEHOLDER = {
    "real[]": "array_fill(1.5::real, array[2500])",
    "boolean[]": "array_fill(true, array[2500])",
    "timestamptz[]": "array_fill(timestamptz '2020-01-01 00:00+00', array[2500])",
    "vector": "array_fill(1.5::real, array[1500])::vector",
    "halfvec": "array_fill(1.5::real, array[3000])::halfvec",
}


def make(connection: psycopg.Connection, name: str, types: dict[str, str]) -> None:
    columns = [f"c{i}" for i in range(len(types))]
    spec = ", ".join(f"{column} {kind}" for column, kind in zip(columns, types, strict=True))
    connection.execute(f"create table {name} (id int primary key, x int, {spec})")
    for column in columns:
        connection.execute(f"alter table {name} alter {column} set storage external")


def insert_and_touch(connection: psycopg.Connection, name: str, types: dict[str, str]) -> None:
    """One row a type, then an update that leaves the large value alone."""
    for number, value in enumerate(types.values()):
        connection.execute(f"insert into {name} (id, x, c{number}) values ({number}, 0, {value})")
        connection.execute(f"update {name} set x = 1 where id = {number}")


def test_every_placeholder_is_recognised(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    make(connection, "toasted", LARGE)
    with captured(stack, new_source(database.dsn), ["public.toasted"]) as running:
        insert_and_touch(connection, "toasted", LARGE)
        images = [r.value["after"] for r in running.records("toasted", 2 * len(LARGE))]
        for number in range(len(LARGE)):
            column = running.table("toasted").column(f"c{number}")
            assert column.toastable
            values = [image[column.name] for image in images]
            touched = [i == 2 * number + 1 for i in range(len(values))]
            found = is_placeholder(values, column)
            assert found is not None
            assert found.to_pylist() == touched, column
            whole = [None if unchanged else value for value, unchanged in zip(values, touched, strict=True)]
            assert decode(whole, column).null_count == len(values) - 1


def test_a_full_identity_leaves_no_placeholder(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    types = LARGE | WITHOUT_PLACEHOLDER
    make(connection, "untoasted", types)
    with captured(stack, new_source(database.dsn), ["public.untoasted"], full_identity=True) as running:
        insert_and_touch(connection, "untoasted", types)
        images = [r.value["after"] for r in running.records("untoasted", 2 * len(types))]
        for number in range(len(types)):
            column = running.table("untoasted").column(f"c{number}")
            inserted, touched = (images[2 * number + i][column.name] for i in (0, 1))
            assert inserted is not None
            assert touched == inserted, column
            decode([inserted, touched], column)


def test_a_record_of_5_mb_passes(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table large (id int primary key, body text)")
    with captured(stack, new_source(database.dsn), ["public.large"], full_identity=True) as running:
        connection.execute("insert into large values (1, repeat('x', 5000000))")
        (record,) = running.records("large", 1)
        assert len(record.value["after"]["body"]) == 5_000_000


def test_what_has_no_placeholder_stops_the_task(stack: Any, database: Any, connection: psycopg.Connection) -> None:
    connection.execute("create table unnamed (id int primary key, x int, v vector)")
    connection.execute("alter table unnamed alter v set storage external")
    with captured(stack, new_source(database.dsn), ["public.unnamed"]) as running:
        assert is_placeholder([[1.0]], running.table("unnamed").column("v")) is None
        connection.execute(f"insert into unnamed values (1, 0, {WITHOUT_PLACEHOLDER['vector']})")
        connection.execute("update unnamed set x = 1")
        failures = waited(running.failures, "a failure of the task")
        assert not failures[0].retriable
        assert "public.unnamed.v" in failures[0].reason
        assert f"millrace recover {running.source.name}" in failures[0].reason
        assert running.connect.restart_failed(running.source.name) == failures
