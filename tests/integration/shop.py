"""The starting repo on the real stack, with a database and a Redis of its own: customers (a state view) and
orders (an event view)."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from connectors.source import default_signal_table, default_slot
from millrace import template
from millrace.stack.endpoints import Endpoints
from tests.integration.database import Database, new_database
from tests.integration.deployed import Deployed, deployed, own_copy
from tests.redis_server import RedisServer
from tests.waiting import waited

MARK = 1_000_000
"""Customers from this number on only mark moments."""

FILL = (
    "insert into customers select i, 'c' || i, 'gold', i from generate_series(100, 3000) i",
    "insert into orders select i, 100 + i % 300, i, now() - i * interval '1 minute' from generate_series(100, 2900) i",
)

SCORES = """
scores = cdc_source("{source}.public.scores")
customer_score = FeatureView(
    name="customer_score",
    entities=[customer],
    source=scores,
    schema=[Field(name="id", dtype=Int64), Field(name="score", dtype=Float64)],
)
"""
"""A view of a table beside them, to follow the declarations."""


@dataclass
class Shop:
    """The repo, and its database through a connection that commits by itself."""

    repo: Deployed
    name: str
    database: Database
    sql: psycopg.Connection[Any]
    marks: int = MARK

    @property
    def slot(self) -> str:
        """The slot, and the publication, of its connector."""
        return default_slot(f"{self.repo.project}_{self.name}")

    @property
    def signal_table(self) -> str:
        """Where its connector is asked for snapshots."""
        return default_signal_table(self.slot)

    def settle(self) -> None:
        """Return once everything that was committed in the database before is through."""
        self.marks += 1
        self.sql.execute("insert into customers (id, name, tier) values (%s, 'mark', 'bronze')", [self.marks])
        key = {"id": self.marks}
        waited(lambda: self.repo.read("customer_facts", ["name"], [key]) == [{"name": "mark"}], "a mark online")
        self.repo.drain()

    def check(self) -> dict[str, Any]:
        """`millrace verify` finds nothing that differs; returns its report."""
        report = self.repo.command("verify")
        assert report["mismatches"] == 0, report
        return report


@contextmanager
def shop(stack: Endpoints, folder: Path, partitions: int = 2) -> Iterator[Shop]:
    """The repo in `folder`, not yet applied, over the starting repo's tables and rows."""
    template.write(folder / "init")
    path = folder / f"repo{uuid.uuid4().hex[:4]}"
    name = own_copy(folder / "init", path, "shop")
    yaml = path / "millrace.yaml"
    yaml.write_text(yaml.read_text().replace("partitions: 2", f"partitions: {partitions}"))
    redis = RedisServer().start()
    try:
        with new_database(stack.postgres) as database, psycopg.connect(database.dsn, autocommit=True) as sql:
            sql.execute((path / "schema.sql").read_text())
            url = {f"MILLRACE__SOURCES__{name.upper()}__URL": database.dsn}
            with deployed(stack, path, name, redis, url) as repo:
                yield Shop(repo, name, database, sql)
    finally:
        redis.stop()


@contextmanager
def filled_shop(stack: Endpoints, folder: Path, declared: str = "") -> Iterator[Shop]:
    """A shop with thousands of customers and orders, applied; `declared` follows its declarations, with the name of
    the source for `{source}`."""
    with shop(stack, folder) as made:
        for statement in FILL:
            made.sql.execute(statement)
        features = made.repo.path / "features.py"
        features.write_text(features.read_text() + declared.format(source=made.name))
        made.repo.apply()
        yield made
