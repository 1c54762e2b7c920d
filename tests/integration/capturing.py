"""A captured source for a test: reflected, checked, its connector running on the real stack."""

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition
from sqlalchemy import Engine

from connectors.checks import check
from connectors.connect import Connect, Failure
from connectors.debezium import connector_config
from connectors.reflect import reflect
from connectors.source import Capture, Source
from connectors.table import Table

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """A raw message of a topic, its JSON parsed."""

    key: Any
    value: Any
    headers: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Captured:
    """A source whose connector runs."""

    source: Source
    engine: Engine
    tables: tuple[Table, ...]
    connect: Connect
    kafka: str

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def records(self, name: str, count: int) -> list[Record]:
        """The first `count` messages of a table's topic."""
        return read(self.kafka, self.table(name).topic, count)

    def failures(self) -> tuple[Failure, ...]:
        """Of the connector's tasks."""
        state = self.connect.state(self.source.name)
        assert state is not None
        return state.failures


def new_source(url: str, **fields: Any) -> Source:
    """A source with names of its own."""
    name = f"s{uuid.uuid4().hex[:10]}"
    return Source(**{"name": name, "url": url, "slot": name, "publication": name, **fields})


@contextlib.contextmanager
def captured(stack: Any, source: Source, tables: Sequence[str], *, full_identity: bool = False) -> Iterator[Captured]:
    """Capture tables the way `millrace apply` does; delete the connector afterwards."""
    connect = Connect(stack.connect)
    engine = source.engine()
    try:
        findings = check(engine, source, [Capture(t, full_identity) for t in tables], None, fix=True)
        errors = [finding.message for finding in findings if finding.severity == "error"]
        assert not errors, errors
        reflected = reflect(engine, source, tables)
        connect.apply(source.name, connector_config(source, reflected))
        connect.wait_running(source.name, PATIENCE)
        yield Captured(source, engine, reflected, connect, stack.kafka)
    finally:
        connect.delete(source.name)
        connect.close()
        engine.dispose()


def read(kafka: str, topic: str, count: int) -> list[Record]:
    """The first `count` messages of a topic of one partition, tombstones included."""
    settings = {"bootstrap.servers": kafka, "group.id": "raw", "fetch.wait.max.ms": 5, "enable.auto.commit": False}
    consumer = Consumer(settings)
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE
    try:
        while topic not in consumer.list_topics(timeout=10).topics and time.monotonic() < deadline:
            time.sleep(0.1)
        consumer.assign([TopicPartition(topic, 0, 0)])
        while len(records) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if error := message.error():
                assert error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART, error
                continue
            key, value = message.key(), message.value()
            headers = dict(message.headers() or [])
            records.append(Record(key and orjson.loads(key), value and orjson.loads(value), headers))
    finally:
        consumer.close()
    assert len(records) == count, f"{topic} has {len(records)} messages, not {count}"
    return records
