"""TRUNCATE on the real stack: topics of four partitions, two workers, records read long after they were written."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.stack.endpoints import Endpoints
from stores.delta import DeltaLake
from tests.integration.shop import Shop, shop

FILL = (
    "insert into customers select i, 'c' || i, 'gold', i from generate_series(100, 400) i",
    "insert into orders select i, 100 + i % 300, i, now() - i * interval '1 minute' from generate_series(100, 900) i",
    "update customers set credit = credit + 1 where id >= 300",
)
AFTER = (
    "insert into customers values (100, 'again', 'silver', 7), (5000, 'new', 'gold', 8)",
    "insert into orders values (900, 5000, 3.5, now()), (5000, 100, 4.5, now())",
)


@pytest.fixture
def market(stack: Endpoints, tmp_path: Path) -> Iterator[Shop]:
    with shop(stack, tmp_path, partitions=4) as made:
        made.repo.apply()
        yield made


def run(market: Shop, *statements: str) -> None:
    for statement in statements:
        market.sql.execute(statement)


def truncates(lake: DeltaLake, topic: str) -> int:
    return lake.scan(f"changes/{topic}", ["_op"]).read_all()["_op"].to_pylist().count("t")


def test_a_truncate_of_two_tables_over_four_partitions(market: Shop) -> None:
    run(market, *FILL, "truncate customers cascade", *AFTER)
    with market.repo.worker(), market.repo.worker():
        market.settle()
        assert market.check()["entities"] == 5  # two and two, and the mark
        for topic in ("customers", "orders"):
            assert truncates(market.repo.lake(), f"{market.name}.public.{topic}") == 1
        run(market, "update orders set amount = 1", "truncate orders", "truncate customers cascade", *AFTER, FILL[2])
        market.settle()
        assert market.check()["entities"] == 5
        assert market.repo.read("customer_facts", ["tier"], [{"id": 100}, {"id": 300}]) == [
            {"tier": "silver"},
            {"tier": None},
        ]
        assert market.repo.read("last_order", ["amount"], [{"id": 5000}, {"id": 300}]) == [
            {"amount": 3.5},
            {"amount": None},
        ]
