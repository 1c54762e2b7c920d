"""Changes that nobody heard, on the real stack: a table read anew, and a slot lost, with everything running."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest

from connectors.connect import Connect
from millrace.stack.endpoints import Endpoints
from streams.decide import changes_table
from streams.redelivered import FIRST
from tests.integration.deployed import Running
from tests.integration.shop import Shop, filled_shop
from tests.waiting import waited

UNHEARD = (
    "delete from orders where order_id between 200 and 260",
    "delete from customers where id between 2000 and 2050",
    "update orders set customer_id = 3000 where order_id in (110, 120)",
    "update customers set tier = 'silver' where id between 500 and 520",
    "insert into customers values (4000, 'unheard', 'gold', 1)",
    "insert into orders values (4000, 4000, 4.5, now())",
)

LAST_COMMITTED = """
by_commits = cdc_source("{source}.public.orders", field_mapping={{"customer_id": "id"}}, name="by_commits")
last_committed = FeatureView(
    name="last_committed",
    entities=[customer],
    source=by_commits,
    ttl=timedelta(days=30),
    schema=[Field(name="id", dtype=Int64), Field(name="amount", dtype=Float64)],
)
"""
"""An event view without an event time: its newest row is the one that was committed last."""


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with filled_shop(stack, tmp_path_factory.mktemp("shop"), LAST_COMMITTED) as made:
        yield made


def without_slot(market: Shop) -> Connect:
    """Stop the connector and drop its slot; Connect, to ask further."""
    connect = Connect(market.repo.stack.connect)
    connect.stop(market.name)
    gone = "select count(*) from pg_replication_slots where slot_name = %s and active"
    waited(lambda: market.sql.execute(gone, [market.slot]).fetchone() == (0,), "nobody reads the slot")
    market.sql.execute("select pg_drop_replication_slot(%s)", [market.slot])
    return connect


@contextmanager
def traffic(market: Shop) -> Iterator[None]:
    """Changes of many kinds, without pause, until the block ends."""
    stop = threading.Event()

    def body() -> None:
        with psycopg.connect(market.database.dsn, autocommit=True) as sql:
            for i in range(1_000_000):
                if stop.wait(0.02):
                    return
                id_ = 600 + i % 400
                sql.execute("update customers set credit = credit + 1 where id = %s", [id_])
                sql.execute("delete from orders where order_id = %s", [id_ + 1000])
                sql.execute("insert into orders values (%s, %s, %s, now())", [id_ + 1000, 100 + i % 50, i])

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tables(market: Shop) -> tuple[str, str]:
    return f"{market.name}.public.customers", f"{market.name}.public.orders"


def test_a_table_is_read_anew_beside_live_traffic(market: Shop, worker: Running) -> None:
    customers, orders = tables(market)
    market.sql.execute(f"alter publication {market.slot} drop table customers, orders")
    for statement in UNHEARD:
        market.sql.execute(statement)
    market.sql.execute(f"alter publication {market.slot} add table customers, orders")
    assert market.repo.command("verify", "--wait", "1", code=1)["mismatches"] > 100
    with traffic(market):
        report: dict[str, Any] = market.repo.command("resnapshot", customers, orders)["tables"]
    assert report[customers]["deleted"] == 51
    assert 61 <= report[orders]["deleted"] <= 62  # one that the traffic deletes as the keys are compared is told twice
    assert report[orders]["moved"] >= 2  # those of the traffic, too, that the snapshot saw before they came
    assert report[customers]["rows"] > 2800
    market.settle()
    market.check()
    again = market.repo.command("resnapshot", customers, orders)["tables"]
    assert [(t["deleted"], t["moved"]) for t in again.values()] == [(0, 0), (0, 0)]
    market.settle()
    market.check()


def test_the_row_that_was_committed_last_is_the_newest_of_what_is_read_anew(market: Shop, worker: Running) -> None:
    """Customer 390 has ten orders, of which the snapshot reads the first one first."""

    def served(amount: float) -> bool:
        return market.repo.read("last_committed", ["amount"], [{"id": 390}]) == [{"amount": amount}]

    market.sql.execute("update orders set amount = 7 where order_id = 290")
    waited(lambda: served(7.0), "the order that was changed last")
    market.repo.command("resnapshot", tables(market)[1])
    market.settle()
    assert served(7.0)
    market.check()


def test_a_log_that_ends_below_what_the_lake_holds_is_refused(market: Shop, worker: Running) -> None:
    """As after its volume was put back: what is read anew would be older than what is there. Once the log has passed
    that, it is newer."""
    customers, orders = tables(market)
    lsn = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
    (now,) = market.sql.execute(lsn).fetchone() or (0,)
    held = now + (1 << 20)
    market.repo.lake().advance(changes_table(orders), {(orders, FIRST - 1): held})
    for command in (("recover", market.name), ("resnapshot", orders)):
        refused = market.repo.refused(*command)
        assert orders in refused and "went back in its log" in refused and "The source database moved" in refused
    assert market.repo.command("status")["problems"] == []  # nothing was begun
    while (market.sql.execute(lsn).fetchone() or (0,))[0] <= held:
        market.sql.execute("update customers set credit = credit where id = 1")
        market.sql.execute("select pg_switch_wal()")
    assert market.repo.command("resnapshot", customers, orders)["tables"][orders]["rows"] > 2000
    market.settle()
    market.check()


def refuses(market: Shop, connect: Connect) -> None:
    """Once resumed the connector fails, and says how to recover."""
    urlopen(Request(f"{market.repo.stack.connect}/connectors/{market.name}/resume", method="PUT")).close()
    failures = waited(lambda: getattr(connect.state(market.name), "failures", ()), "a connector that refuses")
    assert f"millrace recover {market.name}" in failures[0].reason, failures


def test_a_position_that_is_lost_is_refused_and_recovered(market: Shop, worker: Running) -> None:
    """A snapshot alone would leave the rows that were deleted meanwhile, for ever and in silence."""
    connect = Connect(market.repo.stack.connect)
    connect.reset(market.name)
    connect.delete(market.name)
    market.sql.execute("delete from customers where id between 2200 and 2250")
    assert f"millrace recover {market.name}" in market.repo.refused("apply")
    assert connect.state(market.name) is None
    report = market.repo.command("recover", market.name)["tables"]
    assert report[tables(market)[0]]["deleted"] == 51
    market.settle()
    market.check()


def test_a_slot_that_was_invalidated_is_refused_and_recovered(market: Shop, worker: Running) -> None:
    """By a time-out here, as soon as nobody reads it; by WAL that was removed it takes gigabytes of it."""
    connect = Connect(market.repo.stack.connect)
    connect.stop(market.name)
    market.sql.execute("alter system set idle_replication_slot_timeout = '1s'")
    market.sql.execute("select pg_reload_conf()")
    try:
        status = "select wal_status from pg_replication_slots where slot_name = %s"

        def lost() -> bool:
            market.sql.execute("checkpoint")
            return bool(market.sql.execute(status, [market.slot]).fetchone() == ("lost",))

        waited(lost, "the slot to be invalidated")
    finally:
        market.sql.execute("alter system reset idle_replication_slot_timeout")
        market.sql.execute("select pg_reload_conf()")
    market.sql.execute("delete from customers where id between 2300 and 2350")
    assert f"millrace recover {market.name}" in market.repo.refused("apply")
    problems = market.repo.command("status", code=1)["problems"]
    assert any("is lost" in problem and f"millrace recover {market.name}" in problem for problem in problems), problems
    report = market.repo.command("recover", market.name)["tables"]
    assert report[tables(market)[0]]["deleted"] == 51
    market.settle()
    market.check()


def test_a_slot_that_is_gone_with_all_that_apply_made(market: Shop, worker: Running) -> None:
    """As after a dump was put back; `apply` sees the slot first, and mends nothing."""
    without_slot(market)
    market.sql.execute(f"drop publication {market.slot}")
    market.sql.execute(f"drop table {market.signal_table}")
    market.sql.execute("delete from customers where id between 2400 and 2450")
    assert f"millrace recover {market.name}" in market.repo.refused("apply")
    assert market.repo.command("recover", market.name)["tables"][tables(market)[0]]["deleted"] == 51
    market.repo.apply()
    market.settle()
    market.check()


def test_a_slot_that_is_gone_with_a_table(market: Shop, worker: Running) -> None:
    """The source goes on, so that the views of the table can be taken out."""
    connect = without_slot(market)
    market.sql.execute("alter table orders rename to away")
    market.repo.refused("recover", market.name)
    market.sql.execute("alter table away rename to orders")
    state = connect.state(market.name)
    assert state is not None and state.running
    market.repo.command("recover", market.name)
    market.settle()
    market.check()


def test_a_source_that_cannot_be_captured_keeps_its_position(market: Shop, worker: Running) -> None:
    connect = Connect(market.repo.stack.connect)
    market.sql.execute("alter table orders drop constraint orders_pkey")
    try:
        assert "primary key" in market.repo.refused("recover", market.name)
    finally:
        market.sql.execute("alter table orders add primary key (order_id)")
    assert connect.offset_lsn(market.name) is not None
    state = connect.state(market.name)
    assert state is not None and state.running


def test_a_connector_that_was_deleted_goes_on_where_it_was(market: Shop, worker: Running) -> None:
    """Connect keeps its position, and does not tell it of a connector that is not there."""
    connect = Connect(market.repo.stack.connect)
    connect.delete(market.name)
    waited(lambda: connect.state(market.name) is None, "Connect to tell no more of it")
    market.sql.execute("delete from customers where id between 2500 and 2550")
    (problem,) = [p for p in market.repo.command("status", code=1)["problems"] if "does not exist" in p]
    assert problem.endswith("run millrace apply")
    assert market.repo.apply()["connectors"] == {market.name: "updated"}
    market.settle()
    market.check()


def test_two_connectors_by_one_slot_are_refused(market: Shop, worker: Running) -> None:
    """The second one would run, and get nothing."""
    connect = Connect(market.repo.stack.connect)
    config = connect.config(market.name)
    assert config is not None
    other = f"{market.name}_other"
    connect.create_stopped(other, {**config, "name": other, "topic.prefix": other})
    try:
        assert f"connector {other} reads by slot {market.slot} of the same server" in market.repo.refused("apply")
    finally:
        connect.delete(other)
    market.repo.apply()


def test_a_slot_that_is_gone_is_refused_and_recovered(market: Shop, worker: Running) -> None:
    customers, orders = tables(market)
    connect = without_slot(market)
    for statement in (
        "delete from orders where order_id between 300 and 360",
        "delete from customers where id between 2100 and 2150",
        "update orders set customer_id = 2999 where order_id in (111, 121)",
    ):
        market.sql.execute(statement)
    recover = f"millrace recover {market.name}"
    assert recover in market.repo.refused("apply")
    refuses(market, connect)
    assert recover in str(market.repo.command("status", code=1)["problems"])
    market.sql.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [market.slot])
    assert recover in market.repo.refused("apply")
    connect.stop(market.name)
    refuses(market, connect)
    assert recover in str(market.repo.command("status", code=1)["problems"])
    with traffic(market):
        report = market.repo.command("recover", market.name)["tables"]
    assert report[customers]["deleted"] == 51
    assert 61 <= report[orders]["deleted"] <= 62  # one that the traffic deletes as the keys are compared is told twice
    assert report[orders]["moved"] >= 2  # those of the traffic, too, that the snapshot saw before they came
    market.settle()
    market.check()
