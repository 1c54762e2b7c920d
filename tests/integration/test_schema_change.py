"""Changes of a captured table's schema on the real stack, with a worker running: carried on, or held with a message
that names the views it hurts; never null in silence and never lost."""

from collections.abc import Iterator
from typing import Any

import pytest

from millrace.anew import noted
from millrace.stack.endpoints import Endpoints
from tests.integration.deployed import Running
from tests.integration.shop import Shop, shop
from tests.waiting import waited


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("shop"), partitions=2) as made:
        made.sql.execute("alter table customers add visits integer not null default 0, add note varchar(5)")
        features = made.repo.path / "features.py"
        field = 'Field(name="credit", dtype=Float64),'
        features.write_text(features.read_text().replace(field, f'{field} Field(name="visits", dtype=Int64),'))
        made.repo.apply()
        yield made


def kept(market: Shop, id_: int) -> dict[str, Any]:
    """The newest change of a customer in the lake."""
    rows = market.repo.lake().scan(f"changes/{market.name}.public.customers").read_all().to_pylist()
    return max((row for row in rows if row["id"] == id_), key=lambda row: (row["_lsn"], row["_offset"]))


def held(market: Shop, worker: Running) -> str:
    """Why the customers are held."""
    topic = f"{market.name}.public.customers"
    return str(waited(lambda: worker.health()[1].get("paused", {}).get(topic), "a held topic"))


def applied(market: Shop, worker: Running) -> dict[str, Any]:
    """Apply, and return once the worker has started anew, if that is what it does, and is through."""
    done = market.repo.apply()
    declared = noted(market.repo.lake(), market.repo.project)
    waited(lambda: worker.health()[1].get("declared") == declared, "the worker to go by what was applied")
    market.settle()
    waited(lambda: worker.health()[1].get("paused") == {}, "the worker to go on with all tables")
    return done


def orders_go_on(market: Shop) -> None:
    market.sql.execute("insert into orders select max(order_id) + 1, 2, max(order_id) + 1, now() from orders")
    (newest,) = market.sql.execute("select max(order_id)::float8 from orders").fetchone() or (None,)
    waited(lambda: market.repo.read("last_order", ["amount"], [{"id": 2}]) == [{"amount": newest}], "an order online")


def test_a_column_that_is_added_reaches_the_lake_after_apply(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table customers add city text")
    market.sql.execute("update customers set city = 'early' where id = 1")
    market.settle()
    topic = f"{market.name}.public.customers"
    status = market.repo.command("status", code=1)
    assert status["altered"] == {topic: {"added": ["city"], "retyped": {}}}
    assert status["problems"] == [
        f"{topic}: column city was added and is not captured: run millrace apply, then millrace resnapshot {topic} for "
        "the values that it has already"
    ]
    assert applied(market, worker)["to_resnapshot"] == [topic]
    assert market.repo.command("status")["problems"] == []
    market.sql.execute("update customers set city = 'late' where id = 2")
    market.settle()
    waited(lambda: kept(market, 2).get("city") == "late", "the new column in the lake")
    assert kept(market, 1)["city"] is None
    market.repo.command("resnapshot", f"{market.name}.public.customers")
    assert kept(market, 1)["city"] == "early"
    market.check()


def test_a_column_that_is_widened(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table customers alter visits type bigint, alter note type text")
    market.sql.execute("update customers set visits = 7, note = 'longer than before' where id = 1")
    market.settle()
    assert market.repo.command("status")["problems"] == []
    assert market.repo.read("customer_facts", ["visits"], [{"id": 1}]) == [{"visits": 7}]
    assert kept(market, 1)["note"] == "longer than before"
    market.sql.execute("update customers set visits = 3000000000 where id = 1")
    why = held(market, worker)
    assert "column visits was integer when it was applied and is bigint now" in why and "view customer_facts" in why
    orders_go_on(market)
    applied(market, worker)
    assert market.repo.read("customer_facts", ["visits"], [{"id": 1}]) == [{"visits": 3_000_000_000}]
    assert kept(market, 1)["visits"] == 3_000_000_000
    assert market.repo.command("letters", "list")["count"] == 0
    market.check()


def test_a_column_that_is_narrowed_or_must_not_be_null(market: Shop, worker: Running) -> None:
    market.sql.execute("update customers set visits = 8, credit = 1 where visits > 5 or credit is null")
    market.sql.execute(
        "alter table customers alter visits type integer, alter credit set default 0, alter credit set not null"
    )
    market.sql.execute("update customers set visits = 9 where id = 1")
    market.settle()
    assert kept(market, 1)["visits"] == 9
    (why,) = market.repo.command("status", code=1)["problems"]
    assert "column visits was bigint when it was applied and is integer now, and no change tells which values" in why
    assert why.endswith("until then customer_facts may serve the old ones")
    applied(market, worker)
    assert market.repo.command("status")["problems"] == []
    market.sql.execute("update customers set visits = 10 where id = 1")
    market.settle()
    assert market.repo.read("customer_facts", ["visits"], [{"id": 1}]) == [{"visits": 10}]
    market.check()


def test_a_column_that_no_view_reads_is_dropped(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table customers drop column note")
    market.sql.execute("update customers set visits = 11 where id = 1")
    market.settle()
    assert kept(market, 1)["visits"] == 11 and kept(market, 1)["note"] is None
    applied(market, worker)
    market.check()


def test_a_column_that_a_view_reads_is_renamed(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table customers rename tier to level")
    market.sql.execute("update customers set level = 'bronze' where id = 1")
    why = held(market, worker)
    assert "no column tier any more, which view customer_facts, contract public.customers read" in why
    assert market.repo.read("customer_facts", ["tier"], [{"id": 1}]) == [{"tier": "silver"}]
    orders_go_on(market)
    assert "tier" in market.repo.refused("apply")
    market.sql.execute("alter table customers rename level to tier")
    market.sql.execute("update customers set tier = 'gold' where id = 2")
    market.repo.apply()
    market.settle()
    market.repo.command("resnapshot", f"{market.name}.public.customers")
    assert market.repo.read("customer_facts", ["tier"], [{"id": 1}, {"id": 2}]) == [
        {"tier": "bronze"},
        {"tier": "gold"},
    ]
    market.check()


def test_a_table_that_is_dropped_and_made_again(market: Shop, worker: Running) -> None:
    topic = f"{market.name}.public.customers"
    market.settle()
    market.sql.execute("alter table orders drop constraint orders_customer_id_fkey")
    columns = market.sql.execute(
        "select string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum) "
        "from pg_attribute where attrelid = 'customers'::regclass and attnum > 0 and not attisdropped"
    ).fetchone()
    assert columns is not None
    market.sql.execute("drop table customers")
    problems = market.repo.command("status", code=1)["problems"]
    assert any(f"{topic} was dropped: customer_facts" in problem for problem in problems), problems
    market.sql.execute(f"create table customers ({columns[0]}, primary key (id))")
    market.sql.execute("insert into customers (id, name, tier, visits, credit) values (7, 'Edsger', 'gold', 1, 1)")
    problems = market.repo.command("status", code=1)["problems"]
    told = [problem for problem in problems if f"{topic} was dropped and made again" in problem]
    assert told and "customer_facts" in told[0], problems
    assert market.repo.apply()["made_again"] == [topic]
    report = market.repo.command("resnapshot", topic)["tables"][topic]
    assert report["rows"] == 1 and report["deleted"] >= 3
    assert market.repo.read("customer_facts", ["name"], [{"id": 7}, {"id": 1}]) == [{"name": "Edsger"}, {"name": None}]
    market.check()
    assert market.repo.apply()["made_again"] == []
