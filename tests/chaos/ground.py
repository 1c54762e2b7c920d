"""What a run stands on: a stack of its own in a new folder, the repo of tests/repos/chaos applied, workers."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from feast import FeatureStore, RepoConfig

from connectors.connect import Connect
from millrace.stack import daemon
from millrace.stack.endpoints import Endpoints
from millrace.stack.jars import default_jars
from millrace.stack.record import Record
from millrace.stack.stack import Stack
from tests.chaos.workers import ROOT, Workers

REPO = ROOT / "tests" / "repos" / "chaos"
PROJECT = "chaos"
GROUP = f"millrace.{PROJECT}"
LETTERS = f"{PROJECT}.letters"
SOURCES = ("chaos_bank", "chaos_depot")
TOPICS = {
    "accounts": "chaos_bank.public.accounts",
    "trades": "chaos_bank.public.trades",
    "articles": "chaos_bank.public.articles",
    "stock": "chaos_depot.public.stock",
}
PARTITIONS = {"accounts": 3, "trades": 3, "articles": 3, "stock": 1}


ANSWER_SECONDS = 15


@dataclass
class Ground:
    """A running deployment; `volume` holds the lake as a mount point holds a volume."""

    folder: Path
    stack: Stack
    endpoints: Endpoints
    database: str
    keep: bool = False
    workers: Workers = field(init=False)

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def lake(self) -> Path:
        return self.volume / "lake"

    @property
    def connect(self) -> Connect:
        return Connect(self.endpoints.connect, patience=60.0)

    @property
    def admin(self) -> AdminClient:
        """A new client: one that saw the broker restart keeps failing to list offsets."""
        return AdminClient({"bootstrap.servers": self.endpoints.kafka, "log_level": 0})

    def feast(self) -> FeatureStore:
        """The Feast SDK with Feast's own Redis store over what millrace wrote, and joins over the lake."""
        return FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                registry=str(self.folder / "registry.db"),
                online_store={"type": "redis", "connection_string": self.endpoints.redis},
                offline_store={"type": "stores.feast_offline.LakeOfflineStore", "path": str(self.lake)},
                entity_key_serialization_version=3,
            )
        )

    def redis(self) -> redis.Redis:
        """A connection to the online store."""
        host, port = self.endpoints.redis.split(":")
        return redis.Redis(host=host, port=int(port))

    def kill_service(self, name: str) -> None:
        """SIGKILL a service of the stack with all its processes."""
        killed = Record(self.folder / "stack").daemons()[name]
        os.killpg(killed.pid, signal.SIGKILL)
        while daemon.is_alive(killed):
            time.sleep(0.02)

    def revive(self) -> None:
        """Start the services that are dead."""
        self.stack.up()

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of every partition of the tables' topics; asked again while a broker that was killed comes back."""
        deadline = time.monotonic() + 4 * ANSWER_SECONDS
        while True:
            try:
                return self._ends()
            except (KafkaException, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _ends(self) -> dict[tuple[str, int], int]:
        wanted = [TopicPartition(TOPICS[t], n) for t, count in PARTITIONS.items() for n in range(count)]
        admin = self.admin
        answers = admin.list_offsets({p: OffsetSpec.latest() for p in wanted}, request_timeout=ANSWER_SECONDS)
        return {(p.topic, p.partition): future.result(ANSWER_SECONDS).offset for p, future in answers.items()}

    def committed(self) -> dict[tuple[str, int], int]:
        """The group's committed offsets, 0 where there is none."""
        wanted = [TopicPartition(TOPICS[t], n) for t, count in PARTITIONS.items() for n in range(count)]
        request = ConsumerGroupTopicPartitions(GROUP, wanted)
        admin = self.admin
        answers = admin.list_consumer_group_offsets([request], request_timeout=ANSWER_SECONDS)
        answer = answers[GROUP].result(ANSWER_SECONDS)
        return {(p.topic, p.partition): max(p.offset, 0) for p in answer.topic_partitions}

    def reached(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """Whether the group has committed up to these ends; False while the broker does not answer."""
        try:
            committed = self.committed()
        except (KafkaException, TimeoutError):
            return False
        return all(committed[place] >= end for place, end in ends.items())


@contextmanager
def ground(workers: int) -> Iterator[Ground]:
    """A new deployment with so many workers, stopped afterwards, and removed unless it says `keep`."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    folder.chmod(0o755)  # PostgreSQL's user has to pass
    stack = Stack(folder / "stack", Path(os.environ.get("MILLRACE_JARS", default_jars())), brief=True)
    made: Ground | None = None
    before = dict(os.environ)
    try:
        endpoints = stack.up()
        dsn = endpoints.postgres.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(f"{dsn}/postgres", autocommit=True) as server:
            server.execute("create database shop")
        with psycopg.connect(f"{dsn}/shop") as connection:
            connection.execute((REPO / "tables.sql").read_text())
        made = Ground(folder, stack, endpoints, f"{dsn}/shop")
        made.lake.mkdir(parents=True)
        os.environ |= {
            **endpoints.environment(),
            "CHAOS_DATABASE": made.database,
            "MILLRACE_LAKE": str(made.lake),
            "MILLRACE_REGISTRY": str(folder / "registry.db"),
        }
        made.workers = Workers(folder, REPO, folder / "stack")
        try:
            made.workers.command("apply")
            for number in range(workers):
                made.workers.start(f"w{number}")
            yield made
        finally:
            made.workers.close()
    finally:
        with suppress(FileNotFoundError):
            (folder / "volume").chmod(0o755)
        stack.down()
        os.environ.clear()
        os.environ.update(before)
        if made is None or not made.keep:
            shutil.rmtree(folder)
