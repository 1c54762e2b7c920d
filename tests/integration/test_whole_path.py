"""The whole path with the second feature repo: two real databases, Debezium, Kafka, contracts, stores, Feast.

One apply and one worker serve all tests; rows stand before the capture begins and change while it runs.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from psycopg.rows import dict_row

from millrace.stack.endpoints import Endpoints
from tests.integration import bazaar_rows as rows
from tests.integration.bazaar import Bazaar, Running, bazaar
from tests.integration.database import new_database
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps what it holds over a restart."""
    folder = tmp_path_factory.mktemp("redis")
    server = RedisServer(("--appendonly", "yes", "--dir", str(folder))).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def market(stack: Endpoints, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    """The repo, applied by the command, over databases that hold rows already."""
    url = stack.postgres
    with new_database(url) as shop, new_database(url) as depot, new_database(url) as vectors:
        folder = tmp_path_factory.mktemp("bazaar")
        with bazaar(stack, folder, (shop, depot, vectors), redis) as made, pytest.MonkeyPatch.context() as patch:
            for name, value in made.environment.items():
                patch.setenv(name, value)
            for statement in rows.BEFORE_SHOP:
                made.shop.execute(statement)
            for statement in rows.BEFORE_DEPOT:
                made.depot.execute(statement)
            yield made


@pytest.fixture(scope="module")
def applied(market: Bazaar) -> dict[str, Any]:
    """What `millrace apply` answered."""
    done = subprocess.run(market.process("apply"), capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def worker(market: Bazaar, applied: dict[str, Any]) -> Iterator[Running]:
    """A worker for the whole module."""
    with market.worker() as running:
        yield running


@pytest.fixture(scope="module")
def traded(market: Bazaar, worker: Running) -> Bazaar:
    """The bazaar after its changes, good and bad, are through."""
    market.settle()
    for statement in (*rows.LIVE_SHOP, *rows.BAD_SHOP.values()):
        market.shop.execute(statement)
    for statement in (*rows.LIVE_DEPOT, *rows.BAD_DEPOT.values()):
        market.depot.execute(statement)
    for record in rows.BAD_RECORDS.values():
        market.produce("shop.public.orders", {"id": 900}, record)
    market.settle()
    return market


def wanted(market: Bazaar, view: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A view's entities in PostgreSQL: their join keys, and their features as Feast serves them."""
    truth = rows.TRUTH[view]
    connection = market.depot if truth.depot else market.shop
    found = connection.cursor(row_factory=dict_row).execute(truth.query).fetchall()
    kinds = {field.name: field.dtype for field in market.view(view).features}
    keys = [{name: row.pop(name) for name in truth.keys} for row in found]
    values = [{name: rows.as_served(value, kinds[name]) for name, value in row.items()} for row in found]
    return keys, values


def test_apply_says_what_it_did(market: Bazaar, applied: dict[str, Any]) -> None:
    kinds = {view: truth.kind for view, truth in rows.TRUTH.items()}
    assert applied["views"] == {**kinds, "goods_search": "state"}
    assert applied["connectors"] == {f"{market.project}_shop": "created", f"{market.project}_depot": "created"}
    assert market.topic("shop.public.Order_Lines") in applied["topics_made"]
    assert any("yard.stock REPLICA IDENTITY FULL" in message for message in applied["fixed"])


@pytest.mark.parametrize("view", rows.TRUTH)
def test_feast_serves_what_postgresql_holds(traded: Bazaar, view: str) -> None:
    keys, values = wanted(traded, view)
    assert keys
    np.testing.assert_equal(traded.read(view, list(values[0]), keys), values)
