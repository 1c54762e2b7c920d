"""The second feature repo on the real stack: two databases of its own, filled but for rows."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from millrace.stack.endpoints import Endpoints
from tests.integration.database import Database, new_database
from tests.integration.deployed import Deployed, deployed, own_copy
from tests.integration.test_connectors_types import CITEXT
from tests.redis_server import RedisServer
from tests.waiting import waited

REPO = Path(__file__).parents[1] / "repos" / "bazaar"


@dataclass(frozen=True)
class Bazaar:
    """The repo, and its databases through connections that commit by themselves."""

    repo: Deployed
    shop: psycopg.Connection[Any]
    depot: psycopg.Connection[Any]

    def name(self, source: str) -> str:
        """What a source, such as `shop`, or a topic, such as `shop.public.goods`, is called in this copy."""
        return f"{self.repo.project}_{source}"

    def settle(self) -> None:
        """Return once everything that was committed in the databases before is through."""
        mark = uuid.uuid4().hex
        self.shop.execute(
            "insert into orders values (extract(epoch from clock_timestamp()) * 1e6, %s, 1, 'open', 'clock', now())",
            [mark],
        )
        self.depot.execute("insert into yard.stock values (%s, 0, 1, 0, now())", [mark])
        self._wait("customer_last_order", "note", {"customer": mark})
        self._wait("stock_level", "level", {"warehouse": mark, "sku": 0})
        self.repo.drain()

    def _wait(self, view: str, feature: str, key: dict[str, Any]) -> None:
        waited(lambda: self.repo.read(view, [feature], [key])[0][feature], f"{view} of {key} online")


@contextmanager
def bazaar(stack: Endpoints, folder: Path, redis: RedisServer) -> Iterator[Bazaar]:
    """The repo in `folder` with new databases: shop, depot and vectors."""
    path = folder / "bazaar"
    project = own_copy(REPO, path, "bazaar")
    url = stack.postgres
    with (
        new_database(url) as shop,
        new_database(url) as depot,
        new_database(url) as vectors,
        _filled(shop, "shop.sql") as shop_connection,
        _filled(depot, "depot.sql") as depot_connection,
        _connected(vectors),
    ):
        variables = {"MILLRACE_VECTORS": vectors.url, "BAZAAR_SHOP": shop.dsn, "BAZAAR_DEPOT": depot.dsn}
        with deployed(stack, path, project, redis, variables) as repo:
            yield Bazaar(repo, shop_connection, depot_connection)


@contextmanager
def _connected(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
        yield connection


@contextmanager
def _filled(database: Database, script: str) -> Iterator[psycopg.Connection[Any]]:
    with _connected(database) as connection:
        citext = connection.execute("select from pg_available_extensions where name = 'citext'").fetchone()
        connection.execute("create extension citext" if citext else CITEXT)
        connection.execute((REPO / script).read_text())
        yield connection
