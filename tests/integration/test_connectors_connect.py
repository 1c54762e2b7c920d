"""The Connect client against a real Kafka Connect with Debezium: what is applied, what is left alone, what is
restarted, and that no silent gap gets past."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from connectors.checks import check
from connectors.connect import ConfigInvalid, Connect, ConnectorFailed, ConnectRefused
from connectors.debezium import connector_config
from connectors.reflect import reflect
from connectors.source import Capture
from tests.integration.capturing import PATIENCE, Captured, captured, new_source, read
from tests.waiting import waited


@pytest.fixture(scope="module")
def connection(database: Any) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create table item (id int primary key, x int)")
        yield connection


@pytest.fixture
def running(stack: Any, database: Any, connection: psycopg.Connection) -> Iterator[Captured]:
    # A failure of the task is not hidden by Debezium's own restarts.
    with captured(stack, new_source(database.dsn, overrides={"errors.max.retries": "0"}), ["public.item"]) as running:
        yield running


def reader_pid(connection: psycopg.Connection, slot: str) -> int | None:
    """The server process that sends the slot's changes: another one after each restart of the task."""
    row = connection.execute("select active_pid from pg_replication_slots where slot_name = %s", [slot]).fetchone()
    return row[0] if row else None


def config(running: Captured, **overrides: str) -> dict[str, str]:
    return connector_config(running.source, running.tables) | overrides


def test_an_unchanged_configuration_restarts_nothing(running: Captured, connection: psycopg.Connection) -> None:
    name, slot = running.source.name, running.source.slot
    pid = waited(lambda: reader_pid(connection, slot), "a reader of the slot")
    assert running.connect.apply(name, config(running)) == "unchanged"
    connection.execute("insert into item values (1, 1)")
    running.records("item", 1)
    assert reader_pid(connection, slot) == pid
    assert running.connect.apply(name, config(running, **{"poll.interval.ms": "2"})) == "updated"
    waited(lambda: reader_pid(connection, slot) not in (None, pid), "another reader of the slot")
    running.connect.wait_running(name, PATIENCE)


def test_what_is_created_stopped_does_not_run_until_it_is_applied(running: Captured) -> None:
    name, connect = running.source.name, running.connect
    assert connect.delete(name)
    for _ in range(2):
        connect.create_stopped(name, config(running))
        state = waited(lambda: connect.state(name), "a connector")
        assert (state.state, state.tasks) == ("STOPPED", ())
    connect.reset(name)
    assert connect.offset_lsn(name) is None
    assert connect.apply(name, config(running)) == "updated"
    connect.wait_running(name, PATIENCE)


def test_errors_by_field(stack: Any, database: Any) -> None:
    source = new_source(database.dsn)
    connect = Connect(stack.connect)
    good = connector_config(source, [])
    bad = good | {"database.password": "wrong", "decimal.handling.mode": "guess", "poll.interval.ms": "soon"}
    with pytest.raises(ConfigInvalid) as caught:
        connect.apply(source.name, bad)
    fields = {error.field for error in caught.value.errors}
    assert {"decimal.handling.mode", "poll.interval.ms"} <= fields
    assert connect.state(source.name) is None
    with pytest.raises(ConfigInvalid) as caught:
        connect.apply(source.name, good | {"database.password": "wrong"})
    assert "password authentication failed" in str(caught.value)
    with pytest.raises(ConnectRefused):
        connect.validate(good | {"connector.class": "no.such.Connector"})
    connect.close()


def test_a_connector_that_is_not_there(stack: Any) -> None:
    connect = Connect(stack.connect)
    assert connect.state("nobody") is None
    assert connect.offset_lsn("nobody") is None
    assert connect.restart_failed("nobody") == ()
    assert connect.delete("nobody") is False
    with pytest.raises(TimeoutError, match="connector nobody is absent after 0 s"):
        connect.wait_running("nobody", 0)
    connect.close()


def test_a_failure_that_passes_is_restarted(running: Captured, connection: psycopg.Connection) -> None:
    name, slot = running.source.name, running.source.slot
    waited(lambda: reader_pid(connection, slot), "a reader of the slot")
    connection.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", [slot])
    failures = waited(running.failures, "a failure of the task")
    assert [failure.retriable for failure in failures] == [True], failures
    state = running.connect.state(name)
    assert state is not None
    assert state.state == "RUNNING"
    assert not state.running
    assert running.connect.restart_failed(name) == ()
    assert running.connect.wait_running(name, PATIENCE).running
    connection.execute("insert into item values (2, 2)")
    waited(lambda: reader_pid(connection, slot), "a reader of the slot")


def test_a_failure_for_good_is_reported(running: Captured, connection: psycopg.Connection) -> None:
    name, slot = running.source.name, running.source.slot
    pid = waited(lambda: reader_pid(connection, slot), "a reader of the slot")
    connection.execute(f"drop publication {running.source.publication}")
    connection.execute("insert into item values (3, 3)")
    connection.execute("select pg_terminate_backend(%s)", [pid])
    waited(running.failures, "a failure of the task")
    running.connect.restart_failed(name)
    failures = waited(
        lambda: [f for f in running.connect.restart_failed(name) if not f.retriable], "a failure for good"
    )
    assert "Publication autocreation is disabled" in failures[0].reason.splitlines()[0]
    with pytest.raises(ConnectorFailed, match="Publication autocreation is disabled"):
        running.connect.wait_running(name, PATIENCE)


def test_a_lost_slot_leaves_no_silent_gap(
    stack: Any, database: Any, running: Captured, connection: psycopg.Connection
) -> None:
    source, connect = running.source, running.connect
    connection.execute("truncate item; insert into item values (1, 1)")
    waited(lambda: connect.offset_lsn(source.name), "a stored position")
    connect.stop(source.name)
    connection.execute("select pg_drop_replication_slot(%s)", [source.slot])
    connection.execute("insert into item values (2, 2)")
    offset = connect.offset_lsn(source.name)
    assert offset is not None

    def slot_errors() -> list[str]:
        findings = check(running.engine, source, [Capture("public.item", False)], offset, fix=True)
        return [f.message for f in findings if f.severity == "error"]

    assert "is gone" in slot_errors()[0]
    connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [source.slot])
    assert "ahead of the connector's stored position" in slot_errors()[0]

    # What the message says to do.
    connect.reset(source.name)
    assert connect.offset_lsn(source.name) is None
    connection.execute("select pg_drop_replication_slot(%s)", [source.slot])
    assert connect.apply(source.name, config(running)) == "updated"
    connect.wait_running(source.name, PATIENCE)
    tables = reflect(running.engine, source, ["public.item"])
    assert {"id": 2, "x": 2} in snapshot_images(stack.kafka, tables[0].topic)


def snapshot_images(kafka: str, topic: str) -> list[Any]:
    images: list[Any] = []
    # How many records came before the snapshot depends on when the connector started.
    for count in range(1, 9):
        images = [r.value and r.value["after"] for r in read(kafka, topic, count)]
        if {"id": 2, "x": 2} in images:
            break
    return images


def test_debezium_itself_refuses_a_slot_that_is_ahead(
    database: Any, running: Captured, connection: psycopg.Connection
) -> None:
    """Connect keeps the position of a deleted connector and no longer tells it, so no check can see the gap."""
    source, connect = running.source, running.connect
    connection.execute("insert into item values (10, 10)")
    waited(lambda: connect.offset_lsn(source.name), "a stored position")
    connect.delete(source.name)
    waited(lambda: reader_pid(connection, source.slot) is None, "a slot without a reader")
    connection.execute("select pg_drop_replication_slot(%s)", [source.slot])
    connection.execute("insert into item values (11, 11)")
    connect.apply(source.name, config(running))
    failures = waited(lambda: getattr(connect.state(source.name), "failures", ()), "a failure of the task")
    assert "no longer available on the server" in failures[0].reason
    assert not failures[0].retriable
