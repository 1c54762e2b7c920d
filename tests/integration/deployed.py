"""A feature repo on the real stack: its commands, its workers, and what they serve."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
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
from stores.delta import DeltaLake
from tests.redis_server import RedisServer
from tests.waiting import waited


def own_copy(source: Path, target: Path, word: str) -> str:
    """Copy a repo with `word`, which begins its project's and its sources' names, made unique, so that one stack
    can have it several times; returns what `word` became."""
    name = f"{word}{uuid.uuid4().hex[:8]}"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*target.glob("*.py"), *target.glob("*.yaml")):
        path.write_text(path.read_text().replace(word, name))
    return name


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
        except (OSError, ValueError):  # no note, nobody there, or one that is just leaving
            return 0, {}

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass(frozen=True)
class Deployed:
    """A feature repo on the stack; its settings are in the environment of this process."""

    path: Path
    stack_folder: Path
    project: str
    stack: Endpoints
    redis: RedisServer

    @property
    def store(self) -> FeatureStore:
        """Feast's own SDK on the repo."""
        return FeatureStore(repo_path=str(self.path))

    def view(self, name: str) -> FeatureView:
        """A feature view of the registry, of whatever class."""
        return self.store.registry.get_any_feature_view(name, self.project)

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

    def apply(self) -> dict[str, Any]:
        """What `millrace apply` answers, as a process of its own: it imports the repo's modules."""
        done = subprocess.run(self.process("apply"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def refused(self, *arguments: str) -> str:
        """What a command says that ends with exit code 1."""
        done = subprocess.run(self.process(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        return done.stderr.splitlines()[-1]

    @contextmanager
    def worker(self) -> Iterator[Running]:
        """A worker, once it has its partitions; killed afterwards if it still runs."""
        log = self.stack_folder / f"worker-{uuid.uuid4().hex[:4]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(self.process("run"), stdout=output, stderr=output)
        running = Running(process, log, self.stack_folder / "workers" / self.project / str(process.pid))
        try:
            waited(lambda: running.health()[1].get("partitions"), "a worker that owns partitions")
            yield running
        finally:
            process.kill()
            process.wait()

    def read(self, view: str, features: Sequence[str], keys: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What Feast's SDK serves of the entities, in their order."""
        return served(self.store, view, features, keys)

    def drain(self) -> None:
        """Return once the workers have committed all that the topics hold."""
        repo = open_repo(self.path, self.stack_folder)
        names = sorted({declared.topic for declared in repo.declared()})
        broker = topics(repo)
        waited(
            lambda: all(mine == end for mine, end in broker.committed(repo.group, names).values()),
            "everything committed",
        )

    @contextmanager
    def redis_client(self) -> Iterator[Redis]:
        """A connection to the online store."""
        with Redis(port=self.redis.port) as client:
            yield client

    def lake(self) -> DeltaLake:
        """The lake of the repo."""
        return DeltaLake(os.environ["MILLRACE_LAKE"])

    def produce(self, topic: str, key: dict[str, Any], value: bytes) -> None:
        """A raw record, past Debezium."""
        producer = Producer({"bootstrap.servers": self.stack.kafka, "message.max.bytes": 16 * 1024 * 1024})
        producer.produce(topic, value, json.dumps(key).encode())
        assert producer.flush(30) == 0


@contextmanager
def deployed(
    stack: Endpoints, path: Path, project: str, redis: RedisServer, variables: Mapping[str, str]
) -> Iterator[Deployed]:
    """The repo in `path` with a registry and a lake of its own beside it, and `variables` in the environment; its
    connectors and topics are deleted afterwards."""
    stack_folder, lake = path.parent / "stack", path.parent / "lake"
    stack_folder.mkdir()
    lake.mkdir()
    environment = {
        **stack.environment(),
        "MILLRACE_REDIS": redis.connection_string,
        "MILLRACE_LAKE": str(lake),
        "MILLRACE_REGISTRY": str(path.parent / "registry.db"),
        **variables,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        made = Deployed(path, stack_folder, project, stack, redis)
        try:
            yield made
        finally:
            _forget(made)


def _forget(repo: Deployed) -> None:
    connect = Connect(repo.stack.connect)
    for source in open_repo(repo.path, repo.stack_folder).settings.sources:
        if connect.state(source) is not None:
            connect.reset(source)
            connect.delete(source)
    connect.close()
    admin = AdminClient({"bootstrap.servers": repo.stack.kafka})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(repo.project)]
    for deleted in admin.delete_topics(mine).values() if mine else ():
        deleted.result(10)


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
