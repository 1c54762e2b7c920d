"""The broker in memory: the same Protocols, no threads, no network. For tests and simulations."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from streams.broker import BrokerUnavailable, Rebalanced
from streams.messages import Headers, Partition, Records

MEMBER = "memory"
"""The client's id of each consumer."""


@dataclass(frozen=True, slots=True)
class _Stored:
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class MemoryBroker:
    """Topics, their records and committed offsets. `available` False makes every call fail, as a broker that
    is down does; `expired` gives the first offset that retention left of a partition, `members` has the clients' ids of
    each group's consumers."""

    partitions: dict[str, int] = field(default_factory=dict)
    available: bool = True
    log: dict[Partition, list[_Stored]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[tuple[str, Partition], int] = field(default_factory=dict)
    expired: dict[Partition, int] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def append(
        self, partition: Partition, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> int:
        """Add a record; returns its offset."""
        self.check()
        self.log[partition].append(_Stored(key, value, headers or {}))
        return len(self.log[partition]) - 1

    def check(self) -> None:
        """Raises `BrokerUnavailable` while the broker is away."""
        if not self.available:
            raise BrokerUnavailable("the broker in memory is away")

    def all(self, topic: str) -> list[Partition]:
        """A topic's partitions."""
        return [Partition(topic, number) for number in range(self.partitions.get(topic, 1))]


class MemoryConsumer:
    """`streams.broker.Consumer` over a `MemoryBroker`. Assignments are made by `assign` and `revoke`; without
    them the first poll assigns every partition."""

    def __init__(self, broker: MemoryBroker, group: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._broker = broker
        self._group = group
        self._sleep = sleep
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._topics: list[str] = []
        self._joined = False

    @property
    def unavailable(self) -> str | None:
        return None if self._broker.available else "the broker in memory is away"

    def subscribe(self, topics: Sequence[str], assigned: Rebalanced, revoked: Rebalanced, lost: Rebalanced) -> None:
        self._topics = list(topics)
        self._broker.members[self._group].append(MEMBER)
        self._assigned, self._revoked, self._on_lost = assigned, revoked, lost

    def assign(self, partitions: Collection[Partition]) -> None:
        """Give this member partitions, as a rebalance does."""
        self._joined = True
        self._assigned(partitions)
        for partition in partitions:
            committed = self._broker.offsets.get((self._group, partition), 0)
            self._positions[partition] = max(committed, self._broker.expired.get(partition, 0))

    def revoke(self, partitions: Collection[Partition], *, lost: bool = False) -> None:
        """Take partitions away, with notice or, `lost`, after the fact."""
        (self._on_lost if lost else self._revoked)(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self._paused.discard(partition)

    def poll(self, timeout: float, limit: int) -> list[Records]:
        if not self._joined:
            self.assign([p for topic in self._topics for p in self._broker.all(topic)])
        polled: dict[str, list[tuple[int, int, _Stored]]] = defaultdict(list)
        for partition in sorted(self._positions):
            if partition in self._paused or limit <= 0 or not self._broker.available:
                continue
            # As librdkafka does with `auto.offset.reset`: without a word.
            start, first = self._positions[partition], self._broker.expired.get(partition, 0)
            if not first <= start <= len(self._broker.log[partition]):
                start = first
            stored = self._broker.log[partition][start : start + limit]
            limit -= len(stored)
            self._positions[partition] = start + len(stored)
            polled[partition.topic] += [(partition.number, start + i, record) for i, record in enumerate(stored)]
        if not any(polled.values()):
            self._sleep(timeout)
        return [
            Records(
                topic,
                [number for number, _, _ in rows],
                [offset for _, offset, _ in rows],
                [record.key for _, _, record in rows],
                [record.value for _, _, record in rows],
                {i: record.headers for i, (_, _, record) in enumerate(rows) if record.headers},
            )
            for topic, rows in polled.items()
            if rows
        ]

    def pause(self, partitions: Collection[Partition]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        self._paused -= set(partitions)

    def span(self, partition: Partition) -> tuple[int, int]:
        self._broker.check()
        return self._broker.expired.get(partition, 0), len(self._broker.log[partition])

    def committed(self, partition: Partition) -> int | None:
        self._broker.check()
        return self._broker.offsets.get((self._group, partition))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self._broker.check()
        for partition, offset in offsets.items():
            if partition in self._positions:
                self._broker.offsets[self._group, partition] = offset

    def lag(self) -> Mapping[Partition, int]:
        return {p: len(self._broker.log[p]) - position for p, position in self._positions.items()}

    def close(self) -> None:
        self._positions.clear()
        if MEMBER in self._broker.members[self._group]:
            self._broker.members[self._group].remove(MEMBER)


class MemoryFollower:
    """`streams.broker.Follower` over a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker = broker
        self._partition = Partition(topic, 0)
        self._position = len(broker.log[self._partition])

    def poll(self) -> list[Records]:
        stored = self._broker.log[self._partition][self._position :] if self._broker.available else []
        if not stored:
            return []
        offsets = range(self._position, self._position + len(stored))
        self._position += len(stored)
        return [
            Records(
                self._partition.topic,
                [0] * len(stored),
                offsets,
                [record.key for record in stored],
                [record.value for record in stored],
            )
        ]

    def close(self) -> None:
        self._position = len(self._broker.log[self._partition])


class MemoryProducer:
    """`streams.broker.Producer`: records are durable at `flush`, and lost if it never comes."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queued: list[tuple[Partition, bytes | None, bytes | None, Headers]] = []

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self._broker.check()
        number = crc32(key or b"") % self._broker.partitions.get(topic, 1)
        self._queued.append((Partition(topic, number), key, value, headers))

    def flush(self) -> None:
        self._broker.check()
        for partition, key, value, headers in self._queued:
            self._broker.append(partition, key, value, headers)
        self._queued.clear()


class MemoryTopics:
    """`streams.broker.Topics` over a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def ping(self) -> None:
        self._broker.check()

    def ensure(self, topics: Mapping[str, int], settings: Mapping[str, str]) -> Sequence[str]:
        self._broker.check()
        made = [topic for topic in topics if topic not in self._broker.partitions]
        self._broker.partitions.update({topic: topics[topic] for topic in made})
        return made

    def read(self, topic: str, start: int = 0) -> Iterator[Records]:
        self._broker.check()
        for partition in self._broker.all(topic):
            stored = self._broker.log[partition][start:]
            if stored:
                yield Records(
                    topic,
                    [partition.number] * len(stored),
                    list(range(start, start + len(stored))),
                    [record.key for record in stored],
                    [record.value for record in stored],
                    {i: record.headers for i, record in enumerate(stored) if record.headers},
                )

    def members(self, group: str) -> Sequence[str]:
        self._broker.check()
        return list(self._broker.members[group])

    def committed(self, group: str, topics: Sequence[str]) -> Mapping[Partition, tuple[int, int]]:
        self._broker.check()
        return {
            p: (max(self._broker.expired.get(p, 0), self._broker.offsets.get((group, p), -1)), len(self._broker.log[p]))
            for topic in topics
            for p in self._broker.all(topic)
        }
