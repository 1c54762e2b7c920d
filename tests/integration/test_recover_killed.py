"""`resnapshot` and `recover` killed half-way by SIGKILL and run again: nothing missing, nothing doubled."""

import json
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
from psycopg.pq import ExecStatus

from connectors.connect import Connect
from millrace.stack.endpoints import Endpoints
from stores.query import session
from streams.decide import changes_table
from tests.integration.deployed import Running
from tests.integration.shop import Shop, filled_shop
from tests.integration.test_recover import tables, traffic
from tests.waiting import PATIENCE, waited


@dataclass
class Gap:
    """Changes that nobody hears, each time of other rows. Every kind leaves something that only the end of a
    `resnapshot` or `recover` mends: rows that are gone, and orders, the newest of their customers, that moved."""

    number: int = 0

    def statements(self) -> tuple[str, ...]:
        """The next ones, on `GONE` customers and `MOVED` orders."""
        self.number += 1
        customer, order, new = 2000 + 20 * self.number, 100 + 5 * self.number, 4000 + self.number
        return (
            f"delete from customers where id between {customer} and {customer + GONE - 1}",
            f"delete from orders where order_id between {customer + 400} and {customer + 410}",
            f"update orders set customer_id = 3000 where order_id between {order} and {order + MOVED - 1}",
            f"update customers set tier = 'silver' where id between {customer - 1500} and {customer - 1490}",
            f"insert into customers values ({new}, 'unheard', 'gold', 1)",
            f"insert into orders values ({new}, {new}, 4.5, now())",
        )


GONE, MOVED = 15, 3


@dataclass
class Begun:
    """A command in a process of its own."""

    process: subprocess.Popen[bytes]
    errors: Path

    def says(self, what: str) -> None:
        """Return once its stderr has this."""

        def said() -> bool:
            assert self.process.poll() is None, f"ended without {what!r}: {self.errors.read_text()}"
            return what in self.errors.read_text()

        waited(said, f"{what!r} on stderr")

    def answer(self) -> dict[str, Any]:
        """Its report, once it has ended well."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self.errors.read_text()
        answer: dict[str, Any] = json.loads(output)
        return answer

    def kill(self) -> None:
        assert self.process.poll() is None, self.errors.read_text()
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL


@contextmanager
def begun(market: Shop, *arguments: str) -> Iterator[Begun]:
    """A command that has begun; killed at the end of the block if it has not ended."""
    errors = market.repo.stack_folder / f"{arguments[0]}-{uuid.uuid4().hex[:4]}.log"
    with errors.open("wb") as output:
        process = subprocess.Popen(market.repo.process(*arguments), stdout=subprocess.PIPE, stderr=output)
    try:
        yield Begun(process, errors)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with filled_shop(stack, tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def gap() -> Gap:
    return Gap()


def unheard(market: Shop, gap: Gap, *more: str) -> None:
    """Changes while the tables are out of the publication."""
    market.sql.execute(f"alter publication {market.slot} drop table customers, orders")
    for statement in (*gap.statements(), *more):
        market.sql.execute(statement)
    market.sql.execute(f"alter publication {market.slot} add table customers, orders")


def unread(market: Shop, gap: Gap) -> None:
    """Changes while the connector is stopped; it stays so."""
    Connect(market.repo.stack.connect).stop(market.name)
    for statement in gap.statements():
        market.sql.execute(statement)


@contextmanager
def stopped(running: Running) -> Iterator[None]:
    """The worker's process stands still during the block."""
    running.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.process.send_signal(signal.SIGCONT)


@contextmanager
def locked(market: Shop, table: str) -> Iterator[None]:
    """Nobody reads the table during the block."""
    with psycopg.connect(market.database.dsn) as holder:
        holder.execute(f"lock table {table} in access exclusive mode")
        yield
        holder.rollback()


def blocked(market: Shop, application: str) -> bool:
    """Whether a client of that name waits for a lock."""
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name ~ %s"
    return bool(market.sql.execute(waiting, [application]).fetchone() != (0,))


def doubled(market: Shop) -> list[tuple[Any, ...]]:
    """The changes that stand in the lake more than once."""
    found: list[tuple[Any, ...]] = []
    for topic, key in zip(tables(market), ("id", "order_id"), strict=True):
        with session(data=market.repo.lake().snapshot(changes_table(topic)).data) as connection:
            found += connection.sql(
                f"select {key}, _op, _lsn, count(*) as times from data group by all having times > 1"
            ).fetchall()
    return found


def as_it_should_be(market: Shop) -> None:
    market.settle()
    market.check()
    assert doubled(market) == []


def asked(market: Shop) -> bool:
    """Whether a signal asks for a snapshot."""
    signals = f"select count(*) from {market.signal_table} where id like 'millrace-%'"
    return bool(market.sql.execute(signals).fetchone() != (0,))


def resume(market: Shop) -> None:
    urlopen(Request(f"{market.repo.stack.connect}/connectors/{market.name}/resume", method="PUT")).close()


def test_killed_once_the_signal_is_written_and_again_while_chunks_are_read(
    market: Shop, worker: Running, gap: Gap
) -> None:
    """The second and the third run find the snapshot of the first one under way."""
    unheard(market, gap)
    Connect(market.repo.stack.connect).stop(market.name)
    with begun(market, "resnapshot", *tables(market)) as command:
        waited(lambda: asked(market), "the signal")
        command.kill()
    with traffic(market), locked(market, "orders"):
        resume(market)
        with begun(market, "resnapshot", *tables(market)) as command:
            waited(lambda: blocked(market, "Debezium"), "a chunk that waits")
            command.says("an earlier snapshot")
            command.kill()
    report = market.repo.command("resnapshot", *tables(market))["tables"]
    assert report[tables(market)[0]]["deleted"] == GONE
    as_it_should_be(market)


def test_killed_before_a_table_is_reconciled(market: Shop, worker: Running, gap: Gap) -> None:
    """Customers are reconciled, of orders nothing was sent."""
    unheard(market, gap)
    with begun(market, "resnapshot", *tables(market)) as command:
        waited(lambda: asked(market), "the signal")
        with stopped(worker):
            command.says("waiting for the workers")
            with locked(market, "orders"):
                worker.process.send_signal(signal.SIGCONT)
                waited(lambda: blocked(market, "millrace"), "the command to compare keys")
                command.kill()
    report = market.repo.command("resnapshot", *tables(market))["tables"]
    assert report[tables(market)[0]]["deleted"] == 0
    as_it_should_be(market)


def test_one_that_failed_is_run_again(market: Shop, worker: Running, gap: Gap) -> None:
    """Debezium's own query for a chunk fails, and the table after it is read all the same."""
    customers, orders = tables(market)
    unheard(market, gap)
    Connect(market.repo.stack.connect).stop(market.name)
    with begun(market, "resnapshot", orders, customers) as command:
        waited(lambda: asked(market), "the signal")
        with locked(market, "orders"):
            resume(market)
            waited(lambda: blocked(market, "Debezium"), "a chunk that waits")
            cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'"
            market.sql.execute(cancel + " and application_name like 'Debezium%'")
        assert command.process.wait(60) == 1
        assert "public.orders: SQL_EXCEPTION" in command.errors.read_text()
    report = market.repo.command("resnapshot", customers, orders)["tables"]
    assert (report[customers]["deleted"], report[orders]["moved"] >= MOVED) == (GONE, True)
    as_it_should_be(market)


def test_a_source_killed_once_its_position_is_forgotten_and_again_before_its_new_slot_is_made(
    market: Shop, worker: Running, gap: Gap
) -> None:
    """The connector had been deleted; its old slot is there still."""
    connector = Connect(market.repo.stack.connect)
    connector.stop(market.name)
    connector.delete(market.name)
    for statement in gap.statements():
        market.sql.execute(statement)
    with slot_held(market), begun(market, "recover", market.name) as command:
        command.says("is still read by pid")
        command.kill()
    assert connector.offset_lsn(market.name) is None
    with locked(market, market.signal_table), begun(market, "recover", market.name) as command:
        waited(lambda: not slots(market), "the slot to be dropped")
        waited(lambda: blocked(market, "millrace"), "the command to look for earlier requests")
        command.kill()
    recovered(market)


def test_a_source_killed_while_its_snapshot_is_taken(market: Shop, worker: Running, gap: Gap) -> None:
    unread(market, gap)
    with begun(market, "recover", market.name) as command, ExitStack() as lock:
        waited(lambda: not slots(market), "the old slot to be dropped")
        waited(lambda: slots(market), "the new slot")
        lock.enter_context(locked(market, "orders"))
        assert "one resnapshot or recover of a source at a time" in market.repo.refused("recover", market.name)
        assert not begun_and_never_ended(market)
        waited(
            lambda: blocked(market, "Debezium") or blocked(market, "millrace"), "the snapshot, or the command, to wait"
        )
        read = not blocked(market, "Debezium")  # the lock came too late, and customers are reconciled
        command.kill()
        waited(lambda: begun_and_never_ended(market), "status to tell of it")
    recovered(market, deleted=0 if read else GONE)
    assert not begun_and_never_ended(market)


def test_a_source_killed_before_a_table_is_reconciled(market: Shop, worker: Running, gap: Gap) -> None:
    unread(market, gap)
    with begun(market, "recover", market.name) as command:
        waited(lambda: not slots(market), "the old slot to be dropped")
        with stopped(worker):
            command.says("waiting for the workers")
            with locked(market, "orders"):
                worker.process.send_signal(signal.SIGCONT)
                waited(lambda: blocked(market, "millrace"), "the command to compare keys")
                command.kill()
    recovered(market, deleted=0)


def test_an_earlier_request_of_which_nothing_is_told_any_more(market: Shop, worker: Running) -> None:
    """Notifications expire; Debezium knows no such signal, so that none come of it at all."""
    market.sql.execute(f"insert into {market.signal_table} values ('millrace-old', 'no-such-thing', '{{}}')")
    market.repo.command("resnapshot", tables(market)[1])
    assert not asked(market)


def begun_and_never_ended(market: Shop) -> bool:
    """Whether `millrace status` tells that a command was killed."""
    state = market.repo.process("status")
    answer = json.loads(subprocess.run(state, capture_output=True, check=False).stdout)
    return any("was begun and never ended" in problem for problem in answer["problems"])


def test_what_workers_have_not_taken_of_a_killed_resnapshot_is_not_taken_for_newer(
    market: Shop, worker: Running, gap: Gap
) -> None:
    """Its rows have no LSN of their own: after the next base they would count as read by the next snapshot."""
    move = "update orders set customer_id = %s where order_id = 150"
    unheard(market, gap, move % 2998)
    with begun(market, "resnapshot", *tables(market)) as command:
        waited(lambda: asked(market), "the signal")
        with stopped(worker):
            command.says("waiting for the workers")
            command.kill()
            Connect(market.repo.stack.connect).stop(market.name)
            market.sql.execute(move % 2999)
            with begun(market, "recover", market.name) as again:
                again.says("waiting for the workers")
                worker.process.send_signal(signal.SIGCONT)
                again.answer()
    as_it_should_be(market)


def recovered(market: Shop, deleted: int = GONE) -> None:
    """Run again it ends, and reconciles what is still to be."""
    report = market.repo.command("recover", market.name)["tables"]
    assert report[tables(market)[0]]["deleted"] == deleted
    as_it_should_be(market)


def slots(market: Shop) -> bool:
    """Whether the source has its slot, ready to be read from."""
    ready = "select count(*) from pg_replication_slots where slot_name = %s and confirmed_flush_lsn is not null"
    return bool(market.sql.execute(ready, [market.slot]).fetchone() != (0,))


@contextmanager
def slot_held(market: Shop) -> Iterator[None]:
    """Another client reads the slot during the block."""
    name = market.slot
    options = f"(proto_version '1', publication_names '{name}')"
    with psycopg.connect(market.database.dsn, replication="database", autocommit=True) as client:
        reading = client.pgconn.exec_(f"START_REPLICATION SLOT {name} LOGICAL 0/0 {options}".encode())
        assert reading.status == ExecStatus.COPY_BOTH, reading.error_message
        yield
        client.pgconn.finish()
