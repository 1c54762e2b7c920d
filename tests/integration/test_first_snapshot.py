"""A source's first snapshot is cut off and begun anew: what was deleted in between is told of, and mended."""

from contextlib import suppress

import pytest

from millrace.stack.endpoints import Endpoints
from streams.broker import BrokerUnavailable
from streams.kafka import KafkaTopics
from tests.integration.shop import shop
from tests.integration.test_recover_killed import begun
from tests.waiting import waited

SLOWLY = """
    connector:
      snapshot.select.statement.overrides: public.orders
      snapshot.select.statement.overrides.public.orders: select * from public.orders where pg_sleep(2) is not null
"""
"""Debezium reads customers first, and an order every two seconds."""

CUT_OFF = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep' and pid <> pg_backend_pid()"


def test_rows_that_were_deleted_between_its_two_readings(
    stack: Endpoints, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Customers were read when the connection broke, at which the task starts anew; changes are streamed from its
    second reading on."""
    with shop(stack, tmp_path_factory.mktemp("shop")) as market:
        yaml = market.repo.path / "millrace.yaml"
        yaml.write_text(yaml.read_text().replace("    partitions: 2", f"{SLOWLY}    partitions: 2"))
        market.sql.execute("insert into customers values (3, 'Carl', 'gold', 1), (4, 'Last', 'gold', 1)")
        customers = f"{market.name}.public.customers"

        def read() -> bool:
            with suppress(BrokerUnavailable):  # the topic has just been made
                offsets = KafkaTopics(stack.kafka).committed("nobody", [customers])
                return sum(end for _, end in offsets.values()) == 3  # Debezium keeps the last row of a table back
            return False

        with begun(market, "apply") as command:
            waited(read, "customers to be read")
            market.sql.execute("delete from customers where id = 3")
            # An order may not be read yet: customers are, as soon as their records came.
            waited(lambda: market.sql.execute(CUT_OFF).rowcount, "orders to be read")
            command.answer()
        with market.repo.worker():
            market.settle()
            assert market.repo.read("customer_facts", ["name"], [{"id": 3}]) == [{"name": "Carl"}]
            problems = market.repo.command("status", code=1)["problems"]
            assert [problem.split("Run ")[-1] for problem in problems] == [f"millrace resnapshot {customers}"]
            assert market.repo.command("resnapshot", customers)["tables"][customers]["deleted"] == 1
            assert market.repo.read("customer_facts", ["name"], [{"id": 3}]) == [{"name": None}]
            assert market.repo.command("status")["problems"] == []
            market.check()
