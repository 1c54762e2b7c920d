"""The settings of every service, in one place: `millrace up` uses them, docker-compose.yml agrees with them.

Only what does not depend on where a service runs stands here; addresses, ports and folders are added by
whoever starts it (the modules beside this one, or docker-compose.yml).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

POSTGRES_VERSION: Final = "18"
KAFKA_VERSION: Final = "4.3.0"
DEBEZIUM_VERSION: Final = "3.6.3.Final"
REDIS_VERSION: Final = "8"
"""The image's major version; the local stack takes the `redis-server` it finds, 6.2 or newer."""

JAVA_MINIMUM: Final = 17
"""Kafka 4 brokers and Connect need Java 17 (https://kafka.apache.org/43/documentation.html#java)."""

LARGEST_RECORD_BYTES: Final = 16 * 1024 * 1024
"""A row of several MB must pass: the same bound stands in the producer, the topic and the replica fetch."""

DATABASE: Final = "millrace"
"""The database for vectors, created with the extension `vector`; also the name of the superuser role."""

POSTGRES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wal_level": "logical",
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        # A slot that nobody reads may not fill the disk: beyond this it is invalidated, and says so.
        "max_slot_wal_keep_size": "4GB",
        "max_connections": "100",
        # A search looks at thousands of pages: 100,000 vectors of 256 dimensions and their index are 320 MB.
        "shared_buffers": "512MB",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
)

POSTGRES_INITDB: Final = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")
"""How the data are created: one order of text everywhere, whatever the machine's locale."""

KAFKA: Final[Mapping[str, str]] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        # A topic exists because it was declared, with its partitions: a misspelt name is an error.
        "auto.create.topics.enable": "false",
        "message.max.bytes": str(LARGEST_RECORD_BYTES),
        "replica.fetch.max.bytes": str(LARGEST_RECORD_BYTES),
        "log.retention.hours": "168",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
)

CONNECT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "group.id": "millrace-connect",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "config.storage.topic": "connect-configs",
        "config.storage.replication.factor": "1",
        "offset.storage.topic": "connect-offsets",
        "offset.storage.replication.factor": "1",
        "offset.storage.partitions": "1",
        "status.storage.topic": "connect-status",
        "status.storage.replication.factor": "1",
        "status.storage.partitions": "1",
        "offset.flush.interval.ms": "1000",
        # One worker: when it comes back there is nobody to wait for.
        "scheduled.rebalance.max.delay.ms": "0",
        # Connect stops its tasks once the broker is away for a heartbeat interval, and what they have not sent by then
        # is read again, but for the second half of a key change (docs/operations.md, "A changed primary key").
        "heartbeat.interval.ms": "8000",
        "session.timeout.ms": "12000",
        "connector.client.config.override.policy": "All",
        "producer.max.request.size": str(LARGEST_RECORD_BYTES),
        "plugin.discovery": "service_load",
    }
)

REDIS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "appendonly": "yes",
        "appendfsync": "everysec",
        # The append-only file is the state; snapshots beside it would be written for nothing.
        "save": "",
        # A rewrite forks Redis and takes a core for seconds: not for less than this.
        "auto-aof-rewrite-min-size": "1073741824",
        # A feature that was written may not vanish because memory is short: the write fails instead.
        "maxmemory-policy": "noeviction",
    }
)

JAVA_OPTIONS: Final = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")
"""Of the broker and of the Connect worker. A process without memory ends, so that it is seen to be dead."""
