"""A partitioned table on the real stack: rows that move between entities in a partition whose REPLICA IDENTITY is not
FULL, and partitions that are dropped."""

from collections.abc import Iterator

import pytest

from millrace.stack.endpoints import Endpoints
from tests.integration.deployed import Running
from tests.integration.shop import Shop, shop

TABLE = """
create table parted (order_id bigint primary key, customer_id bigint not null, amount float8 not null,
                     placed_at timestamptz not null, status text not null default 'new') partition by range (order_id);
create table parted_old partition of parted for values from (0) to (100);
create table parted_now partition of parted for values from (100) to (200);
insert into parted select * from orders;
drop table orders;
alter table parted rename to orders;
"""


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("shop")) as made:
        made.sql.execute(TABLE)
        made.repo.apply()
        yield made


def amounts(market: Shop) -> list[float | None]:
    """The last orders of the first two customers."""
    found = market.repo.read("last_order", ["amount"], [{"id": 1}, {"id": 2}])
    return [row["amount"] for row in found]


def test_rows_of_a_new_partition_leave_where_they_were(market: Shop, worker: Running) -> None:
    """It does not inherit REPLICA IDENTITY: updates come without old values, deletes with the key alone."""
    assert amounts(market) == [12, 80]
    market.sql.execute("create table parted_new partition of orders for values from (200) to (300)")
    market.sql.execute("insert into orders select 200 + i, 1, 200 + i, now() from generate_series(1, 2) i")
    market.settle()
    assert amounts(market) == [202, 80]
    market.sql.execute("update orders set customer_id = 2 where order_id = 202")
    market.settle()
    assert amounts(market) == [201, 202]
    market.sql.execute("delete from orders where order_id in (201, 202)")
    market.settle()
    assert amounts(market) == [12, 80]
    market.check()


def test_the_rows_of_a_dropped_partition_are_told_of_and_reconciled(market: Shop, worker: Running) -> None:
    topic = f"{market.name}.public.orders"
    market.settle()
    market.sql.execute("drop table parted_old")
    problems = market.repo.command("status", code=1)["problems"]
    told = [problem for problem in problems if f"{topic} lost partitions (parted_old)" in problem]
    assert told and "last_order" in told[0], problems
    market.repo.apply()
    assert told[0] in market.repo.command("status", code=1)["problems"]
    assert amounts(market) == [12, 80]
    report = market.repo.command("resnapshot", topic)["tables"][topic]
    assert report["deleted"] == 3
    assert amounts(market) == [None, None]
    market.check()
    assert not [problem for problem in market.repo.command("status")["problems"] if "partitions" in problem]
