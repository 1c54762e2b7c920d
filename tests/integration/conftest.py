"""One real stack for the whole integration session, and a database of its own for each test module."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.stack.endpoints import Endpoints
from millrace.stack.jars import default_jars
from millrace.stack.stack import Stack
from tests.integration.database import Database, new_database
from tests.integration.deployed import Running
from tests.integration.serving_repo import make_repo
from tests.integration.shop import Shop
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def jars() -> Path:
    """The folder of Kafka's and Debezium's jars."""
    return Path(os.environ.get("MILLRACE_JARS", default_jars()))


@pytest.fixture(scope="session")
def stack(jars: Path) -> Iterator[Endpoints]:
    """A running stack: a new one, or with MILLRACE_TEST_STACK=<folder> the one that runs there already."""
    if running := os.environ.get("MILLRACE_TEST_STACK"):
        yield Stack(Path(running), jars).endpoints()
        return
    folder = Path(tempfile.mkdtemp(prefix="millrace-stack-"))
    # mkdtemp's 0700 would keep PostgreSQL, which never runs as root, out of the folder.
    folder.chmod(0o755)
    local = Stack(folder, jars, brief=True)
    try:
        yield local.up()
    finally:
        local.down()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def database(stack: Endpoints) -> Iterator[Database]:
    """A new empty database, dropped afterwards with its connections and replication slots."""
    with new_database(stack.postgres) as made:
        yield made


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repo with a view of every kind that is served, over a Redis of its own."""
    folder = tmp_path_factory.mktemp("served")
    store = RedisServer().start()
    make_repo(folder, store.port)
    yield folder
    store.stop()


@pytest.fixture(scope="module")
def worker(market: Shop) -> Iterator[Running]:
    """A worker of the module's `market`, once all that stood there before is online and verified."""
    with market.repo.worker() as running:
        market.settle()
        market.check()
        yield running
