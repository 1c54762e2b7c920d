"""What `millrace init` makes, as it is: it applies, runs, serves and agrees with PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from millrace.cli import millrace
from millrace.stack.endpoints import Endpoints
from tests.integration.database import Database
from tests.integration.deployed import Deployed, deployed, own_copy, waited
from tests.redis_server import RedisServer

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
        assert worker.terminate()[0] == 0
