"""The second feature repo on the real stack: two databases of its own, applied, with a worker that runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from feast import FeatureStore, FeatureView
from redis import Redis

from connectors.connect import Connect
from millrace.cli import millrace
from millrace.repo import open_repo
from millrace.stack.endpoints import Endpoints
from millrace.wiring import topics
from stores.lake import DeltaLake
from tests.integration.database import Database
from tests.integration.test_connectors_types import CITEXT
from tests.redis_server import RedisServer

PATIENCE = 180.0
REPO = Path(__file__).parents[1] / "repos" / "bazaar"


def copied(folder: Path) -> tuple[Path, str]:
    """The repo, copied into `folder` with names of its own, so that a stack can have it several times; and its
    project's name."""
    project = f"bazaar{uuid.uuid4().hex[:8]}"
    target = folder / "bazaar"
    shutil.copytree(REPO, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*target.glob("*.py"), *target.glob("*.yaml")):
        path.write_text(path.read_text().replace("bazaar", project))
    return target, project


def fill(database: Database, script: str) -> None:
    """Run a script of the repo in a new database."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
        citext = connection.execute("select from pg_available_extensions where name = 'citext'").fetchone()
        connection.execute("create extension citext" if citext else CITEXT)
        connection.execute((REPO / script).read_text())


def waited(what: Callable[[], Any], why: str) -> Any:
    """The first truthy result of `what`; fails with `why` when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not (result := what()):
        assert time.monotonic() < deadline, f"{why} did not happen within {PATIENCE:g} s"
        time.sleep(0.1)
    return result


@dataclass(frozen=True)
class Running:
    """A worker's process."""

    process: subprocess.Popen[bytes]
    log: Path
    note: Path

    def health(self) -> tuple[int, dict[str, Any]]:
        """What GET /health answers: status and state; (0, {}) before it listens."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urlopen(self.note.read_text(), timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as waiting:
            return waiting.code, json.loads(waiting.read())
        except (FileNotFoundError, ValueError, URLError):
            return 0, {}

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; the exit code and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - began


@dataclass(frozen=True)
class Bazaar:
    """The repo with everything around it. Changes are made through `shop` and `depot`, which commit by themselves."""

    path: Path
    stack_folder: Path
    project: str
    environment: dict[str, str]
    kafka: str
    shop: psycopg.Connection[Any]
    depot: psycopg.Connection[Any]
    redis: RedisServer

    @property
    def store(self) -> FeatureStore:
        """Feast's own SDK on the repo."""
        return FeatureStore(repo_path=str(self.path))

    def view(self, name: str) -> FeatureView:
        """A feature view of the registry, of whatever class."""
        return self.store.registry.get_any_feature_view(name, self.project)

    def topic(self, table: str) -> str:
        """The topic of `<database>.<schema>.<table>`."""
        return f"{self.project}_{table}"

    def command(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The JSON that a command answers, which ends with the exit code."""
        options = ["--repo", str(self.path), "--stack", str(self.stack_folder), "--json"]
        result = CliRunner().invoke(millrace, [*arguments, *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer

    def process(self, *arguments: str) -> list[str]:
        """The command line of a process of its own."""
        options = ["--repo", str(self.path), "--stack", str(self.stack_folder), "--json"]
        return [sys.executable, "-m", "millrace.cli", *arguments, *options]

    @contextmanager
    def worker(self) -> Iterator[Running]:
        """A worker, once it has its partitions; killed afterwards if it still runs."""
        log = self.stack_folder / f"worker-{uuid.uuid4().hex[:4]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.process("run"), stdout=output, stderr=output, env={**os.environ, **self.environment}
            )
        running = Running(process, log, self.stack_folder / "workers" / str(process.pid))
        try:
            waited(lambda: running.health()[1].get("partitions"), "a worker that owns partitions")
            yield running
        finally:
            process.kill()
            process.wait()

    def read(self, view: str, features: Sequence[str], keys: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What Feast's SDK serves of the entities, in their order."""
        return served(self.store, view, features, keys)

    def settle(self) -> None:
        """Return once everything that was committed in the databases before is through."""
        mark = uuid.uuid4().hex
        self.shop.execute(
            "insert into orders values (extract(epoch from clock_timestamp()) * 1e6, %s, 1, 'open', 'clock', now())",
            [mark],
        )
        self.depot.execute("insert into yard.stock values (%s, 0, 1, 0, now())", [mark])
        waited(
            lambda: self.read("customer_last_order", ["note"], [{"customer": mark}])[0]["note"] == "clock",
            "the last change of the shop online",
        )
        waited(
            lambda: self.read("stock_level", ["level"], [{"warehouse": mark, "sku": 0}])[0]["level"] is not None,
            "the last change of the depot online",
        )
        self.drain()

    def drain(self) -> None:
        """Return once the workers have committed all that the topics hold."""
        repo = open_repo(self.path, self.stack_folder)
        names = sorted({declared.topic for declared in repo.declared()})
        broker = topics(repo)
        waited(
            lambda: all(max(mine, 0) == end for mine, end in broker.committed(repo.group, names).values()),
            "everything committed",
        )

    @contextmanager
    def redis_client(self) -> Iterator[Redis]:
        """A connection to the online store."""
        with Redis(port=self.redis.port) as client:
            yield client

    def lake(self) -> DeltaLake:
        """The lake of the repo."""
        return DeltaLake(self.environment["MILLRACE_LAKE"])

    def produce(self, table: str, key: dict[str, Any] | None, value: bytes) -> None:
        """A raw record, past Debezium."""
        producer = Producer({"bootstrap.servers": self.kafka, "message.max.bytes": 16 * 1024 * 1024})
        producer.produce(self.topic(table), value, json.dumps(key).encode() if key else None)
        assert producer.flush(30) == 0


@contextmanager
def bazaar(
    stack: Endpoints, folder: Path, databases: tuple[Database, Database, Database], redis: RedisServer
) -> Iterator[Bazaar]:
    """The repo with its databases (shop, depot, vectors) filled but for rows, its connectors deleted afterwards."""
    shop, depot, vectors = databases
    path, project = copied(folder)
    fill(shop, "shop.sql")
    fill(depot, "depot.sql")
    stack_folder = folder / "stack"
    lake = folder / "lake"
    stack_folder.mkdir()
    lake.mkdir()
    environment = {
        **stack.environment(),
        "MILLRACE_REDIS": redis.connection_string,
        "MILLRACE_VECTORS": vectors.url,
        "MILLRACE_LAKE": str(lake),
        "MILLRACE_REGISTRY": str(folder / "registry.db"),
        "BAZAAR_SHOP": shop.dsn,
        "BAZAAR_DEPOT": depot.dsn,
    }
    with (
        psycopg.connect(vectors.dsn, autocommit=True) as connection,
        psycopg.connect(shop.dsn, autocommit=True) as shop_connection,
        psycopg.connect(depot.dsn, autocommit=True) as depot_connection,
    ):
        connection.execute("create extension vector")
        connect = Connect(stack.connect)
        try:
            yield Bazaar(
                path, stack_folder, project, environment, stack.kafka, shop_connection, depot_connection, redis
            )
        finally:
            for source in (f"{project}_shop", f"{project}_depot"):
                if connect.state(source) is not None:
                    connect.reset(source)
                    connect.delete(source)
            connect.close()
            forget(stack.kafka, project)


def served(
    store: FeatureStore, view: str, features: Sequence[str], keys: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What a feature store serves of the entities, in their order."""
    references = [f"{view}:{feature}" for feature in features]
    found = store.get_online_features(features=references, entity_rows=list(keys)).to_dict()
    return [{name: _plain(found[name][i]) for name in features} for i in range(len(keys))]


def _plain(value: Any) -> Any:
    """Decimals as text: as such NaN is equal to nothing, and 1.0 to 1."""
    return str(value) if isinstance(value, Decimal) else value


def forget(kafka: str, project: str) -> None:
    """Delete the topics of a project."""
    admin = AdminClient({"bootstrap.servers": kafka})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(project)]
    for deleted in admin.delete_topics(mine).values() if mine else ():
        deleted.result(10)
