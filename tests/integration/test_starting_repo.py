"""What `millrace init` makes, as it is: it applies, runs, serves and agrees with PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from millrace.cli import millrace
from millrace.stack.endpoints import Endpoints
from streams.decide import changes_table
from tests.integration.database import Database
from tests.integration.deployed import Deployed, deployed, own_copy
from tests.redis_server import RedisServer
from tests.waiting import waited

KEY = ["-e", "id=1"]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def shop(stack: Endpoints, database: Database, redis: RedisServer, tmp_path: Path) -> Iterator[Deployed]:
    """A starting repo, its database made as its README says."""
    made = CliRunner().invoke(millrace, ["init", str(tmp_path / "init"), "--json"])
    assert made.exit_code == 0, made.output
    path = tmp_path / "repo"
    name = own_copy(tmp_path / "init", path, "shop")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop schema public cascade; create schema public")
        connection.execute((path / "schema.sql").read_text())
    with deployed(stack, path, name, redis, {f"MILLRACE__SOURCES__{name.upper()}__URL": database.dsn}) as repo:
        yield repo


def test_the_starting_repo_applies_and_runs(shop: Deployed, database: Database) -> None:
    assert shop.apply()["views"] == {"customer_facts": "state", "last_order": "event"}
    assert shop.command("status", code=1)["snapshots"] == {}
    with shop.worker() as worker, psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("update customers set tier = 'gold' where id = 1")
        waited(lambda: shop.read("customer_facts", ["tier"], [{"id": 1}]) == [{"tier": "gold"}], "the change online")
        shop.drain()
        found = shop.command("lookup", "model", *KEY)["features"]
        assert {name: feature["value"] for name, feature in found.items()} == {
            "customer_facts__name": "Ada",
            "customer_facts__tier": "gold",
            "customer_facts__credit": 100.0,
            "last_order__amount": 12.0,
        }
        verified = shop.command("verify")
        assert (verified["entities"], verified["mismatches"]) == (4, 0)
        assert worker.terminate() == 0


def test_a_renamed_column_hides_the_primary_key_and_an_excluded_one_stays_at_home(
    shop: Deployed, database: Database
) -> None:
    settings = shop.path / "millrace.yaml"
    excluding = "    connector: {column.exclude.list: 'public.orders.note'}\n    partitions: "
    settings.write_text(settings.read_text().replace("    partitions: ", excluding, 1))
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("alter table orders rename order_id to id")
        connection.execute("alter table orders add column note text default 'secret'")
        assert shop.apply()["views"] == {"customer_facts": "state", "last_order": "event"}
        with shop.worker() as worker:
            waited(lambda: shop.read("last_order", ["amount"], [{"id": 1}]) == [{"amount": 12.0}], "the snapshot")
            connection.execute("delete from orders where id = 11")
            waited(lambda: shop.read("last_order", ["amount"], [{"id": 1}]) == [{"amount": 25.5}], "the order before")
            connection.execute("update orders set customer_id = 1 where id = 12")
            waited(lambda: shop.read("last_order", ["amount"], [{"id": 1}]) == [{"amount": 80.0}], "the order moved")
            assert shop.read("last_order", ["amount"], [{"id": 2}]) == [{"amount": None}]
            shop.drain()
            verified = shop.command("verify")
            assert (verified["entities"], verified["mismatches"]) == (3, 0)
            assert "note" not in shop.lake().snapshot(changes_table(f"{shop.project}.public.orders")).schema.names
            assert worker.terminate() == 0
