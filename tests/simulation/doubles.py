"""The in-memory stores and broker as one process of the simulation sees them: each call may fail, wait or kill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from stores.lake import AppendResult, Snapshot, TopicPartition
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import FeatureRows, WriteResult
from stores.view import View
from streams.broker import Rebalanced
from streams.embedders import TextRefused
from streams.memory import MemoryBroker, MemoryConsumer, MemoryProducer
from streams.messages import Headers, Partition, Records
from tests.simulation.faults import Process
from tests.simulation.shop import GROUP, LENGTH, PARTITIONS


class MemoryVectors(MemoryOnline):
    """The vector store: it also finds vectors by the hash of their text."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, np.ndarray] = {}

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        for rows in batches:
            assert rows.view.vector is not None
            if "_text_hash" not in rows.table.column_names:
                continue  # deletes by a truncate
            vectors = rows.table[rows.view.vector.name].to_pylist()
            for key, vector in zip(rows.table["_text_hash"].to_pylist(), vectors, strict=True):
                if vector is not None:
                    self._known[key] = np.array(vector, np.float32)
        return super().write(batches)

    def embedded(self, view: View, hashes: Sequence[bytes]) -> Mapping[bytes, np.ndarray]:
        """As `streams.embed.KnownVectors`."""
        return {key: self._known[key] for key in hashes if key in self._known}


@dataclass(frozen=True, slots=True)
class Online:
    """`FeatureWriter`; a batch is written in two parts, between which anything may happen."""

    process: Process
    store: str
    inner: MemoryOnline

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        first, second = self._cut(batches)
        result = self.process.call(self.store, _told("write", first), lambda: self.inner.write(first))
        if not second:
            return result
        more = self.process.call(self.store, _told("write", second), lambda: self.inner.write(second))
        return _sum(result, more)

    def decide(self, rows: FeatureRows) -> WriteResult:
        first, second = self._cut([rows])
        result = WriteResult(0, 0)
        for part in (*first, *second):
            done = self.process.call(self.store, _told("decide", [part]), partial(self.inner.decide, part))
            result = _sum(result, done)
        return result

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        return self.process.call(self.store, f"inspect {view.name}", lambda: self.inner.inspect(view, keys))

    def scan(self, view: View) -> Iterator[pa.Table]:
        return self.process.call(self.store, f"scan {view.name}", lambda: self.inner.scan(view))

    def embedded(self, view: View, hashes: Sequence[bytes]) -> Mapping[bytes, np.ndarray]:
        assert isinstance(self.inner, MemoryVectors)
        return self.process.call(self.store, "known vectors", lambda: self.inner.embedded(view, hashes))  # type: ignore[attr-defined]

    def ping(self) -> None:
        self.process.call(self.store, "ping", self.inner.ping)

    def _cut(self, batches: Sequence[FeatureRows]) -> tuple[list[FeatureRows], list[FeatureRows]]:
        random = self.process.scheduler.random
        if random.random() < 0.7:
            return list(batches), []
        at = random.randint(0, sum(rows.table.num_rows for rows in batches))
        first, second = [], []
        for rows in batches:
            here = max(0, min(at, rows.table.num_rows))
            at -= rows.table.num_rows
            first += [FeatureRows(rows.view, rows.table.slice(0, here))] if here else []
            second += [FeatureRows(rows.view, rows.table.slice(here))] if here < rows.table.num_rows else []
        return first, second


def _sum(one: WriteResult, other: WriteResult) -> WriteResult:
    return WriteResult(one.applied + other.applied, one.refused + other.refused, one.undecided + other.undecided)


def _told(verb: str, batches: Sequence[FeatureRows]) -> str:
    told = []
    for rows in batches:
        keys = rows.table[rows.view.join_keys[0].name].to_pylist()
        lsns, gone = rows.table["_lsn"].to_pylist(), rows.table["_deleted"].to_pylist()
        marks = [f"{k}@{'-' if d else ''}{n}" for k, n, d in zip(keys, lsns, gone, strict=True)]
        told.append(f"{rows.view.name} {' '.join(marks)}")
    return f"{verb} {'; '.join(told)}"


@dataclass(frozen=True, slots=True)
class Lake:
    """`stores.lake.Lake`, as far as workers and backfills use it."""

    process: Process
    inner: MemoryLake
    root: str = "memory"

    def exists(self, name: str) -> bool:
        return self._call(f"exists {name}", lambda: self.inner.exists(name))

    def create(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        self._call(f"create {name}", lambda: self.inner.create(name, schema, properties))

    def append(self, name: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> AppendResult:
        # In an order of its own: heights come from a grouping, whose rows have none.
        at = dict(sorted((place[1], offset) for place, offset in offsets.items()))
        what = f"append {rows.num_rows} rows to {name} up to {at}"
        return self._call(what, lambda: self.inner.append(name, rows, offsets))

    def append_once(self, name: str, rows: pa.Table, job: str, number: int) -> bool:
        what = f"append {rows.num_rows} rows to {name} as number {number} of {job}"
        return self._call(what, lambda: self.inner.append_once(name, rows, job, number))

    def commits(self, name: str, job: str) -> int:
        return self._call(f"commits of {job} to {name}", lambda: self.inner.commits(name, job))

    def advance(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._call(f"advance {name}", lambda: self.inner.advance(name, offsets))

    def next_offset(self, name: str, topic: str, partition: int) -> int | None:
        return self._call(f"next offset of {name}", lambda: self.inner.next_offset(name, topic, partition))

    def snapshot(self, name: str) -> Snapshot:
        return self._call(f"snapshot {name}", lambda: self.inner.snapshot(name))

    def added(self, name: str, version: int) -> Snapshot:
        return self._call(f"added to {name}", lambda: self.inner.added(name, version))

    def properties(self, name: str) -> Mapping[str, str]:
        return self._call(f"properties of {name}", lambda: self.inner.properties(name))

    def version(self, name: str) -> int:
        return self._call(f"version of {name}", lambda: self.inner.version(name))

    def files(self, name: str) -> int:
        return self.inner.files(name)

    def scan(
        self, name: str, columns: list[str] | None = None, filter: ds.Expression | None = None
    ) -> pa.RecordBatchReader:
        return self._call(f"scan {name}", lambda: self.inner.scan(name, columns, filter))

    def compact(self, name: str, *, look_inside: bool = False) -> int:
        return self._call(f"compact {name}", lambda: self.inner.compact(name, look_inside=look_inside))

    def _call(self, what: str, effect: Callable[[], Any]) -> Any:
        return self.process.call("lake", what, effect)


@dataclass(frozen=True, slots=True)
class Model:
    """An `Embedder` whose vectors are a function of the text; it refuses texts that name a reason."""

    process: Process
    model: str = "simulated"
    length: int = LENGTH

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.process.call("model", f"embed {len(texts)} texts", lambda: self._embed(texts))

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        for position, text in enumerate(texts):
            if "refuse" in text:
                raise TextRefused(position, "it says so")
        return vectors_of(texts)


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """The vectors of texts."""
    return np.array([[crc32(f"{n}{text}".encode()) % 1000 for n in range(LENGTH)] for text in texts], np.float32)


@dataclass(frozen=True, slots=True)
class Producer:
    """`streams.broker.Producer` of one process."""

    process: Process
    inner: MemoryProducer

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self.inner.send(topic, key, value, headers)

    def flush(self) -> None:
        self.process.call("broker", "flush the producer", self.inner.flush)


class Member(MemoryConsumer):
    """`streams.broker.Consumer`: a member of the group, which learns of rebalances when it polls."""

    def __init__(self, process: Process, broker: MemoryBroker, group: "Group") -> None:
        super().__init__(broker, GROUP, process.scheduler.sleep)
        self.process = process
        self.group = group
        self.orders: list[Callable[[], None]] = []
        self.left = False
        self.unaware: set[Partition] = set()
        # What it then leaves behind in an event view, nobody knows of: docs/architecture.md says so.
        process.mortal = lambda: not self.unaware
        self._joined = True  # the group assigns

    def subscribe(self, topics: Sequence[str], assigned: Rebalanced, revoked: Rebalanced, lost: Rebalanced) -> None:
        super().subscribe(topics, assigned, revoked, lost)
        self.group.members.append(self)

    def poll(self, timeout: float, limit: int) -> list[Records]:
        self.process.step("member", "poll")
        while self.orders:
            self.orders.pop(0)()
        random = self.process.scheduler.random
        slow = {p for p in self._positions if random.random() < 0.3} - self._paused
        self._paused |= slow
        try:
            polled = super().poll(timeout, min(limit, random.choice((1, 2, 5, 20))))
        finally:
            self._paused -= slow
        for records in polled:
            places = " ".join(f"{p}:{o}" for p, o in zip(records.partitions, records.offsets, strict=True))
            self.process.scheduler.say(f"polled {records.topic} {places}")
        return polled

    def span(self, partition: Partition) -> tuple[int, int]:
        return self.process.call("broker", f"span of {partition}", lambda: super(Member, self).span(partition))

    def committed(self, partition: Partition) -> int | None:
        return self.process.call("broker", "committed", lambda: super(Member, self).committed(partition))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self.process.call("broker", f"commit {_places(offsets)}", lambda: self._commit(offsets))

    def close(self) -> None:
        """Leave the group; as librdkafka does, tell the worker of what it gives up first."""
        self.process.step("member", "close")
        while self.orders:
            self.orders.pop(0)()
        if self._positions:
            self.revoke(sorted(self._positions))
        self.left = True

    def _commit(self, offsets: Mapping[Partition, int]) -> None:
        mine = {p: offset for p, offset in offsets.items() if p in self._positions}
        if any(self.group.owners.get(p) is not self for p in mine):
            self.process.fail("broker", "commit of a fenced member")
        super().commit(mine)

    def lose(self, partition: Partition) -> None:
        """Learn that another member took the partition over."""
        if partition in self.unaware:
            self.process.scheduler.say(f"lost {partition}")
            self.unaware.discard(partition)
            self.revoke([partition], lost=True)

    @property
    def gone(self) -> bool:
        return self.left or self.process.dead


def _places(offsets: Mapping[Partition, int]) -> str:
    return ", ".join(f"{p}={offset}" for p, offset in sorted(offsets.items()))


@dataclass(slots=True)
class Group:
    """The coordinator of the consumer group."""

    broker: MemoryBroker
    owners: dict[Partition, Member | None] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owners = {
            Partition(topic, n): None
            for topic, count in PARTITIONS.items()
            if "letters" not in topic
            for n in range(count)
        }

    def settle(self, choose: Callable[[Sequence[Member]], Member]) -> None:
        """Give what nobody owns, or who is gone owned, to a member."""
        live = [member for member in self.members if not member.gone]
        for partition, owner in self.owners.items():
            if live and (owner is None or owner.gone):
                self._give(partition, choose(live))

    def move(self, partition: Partition, to: Member) -> None:
        """A rebalance as it should be: the owner hands over, then the next one begins."""
        owner = self.owners[partition]
        if owner is None or owner.gone or owner is to:
            return

        def hand_over() -> None:
            if self.owners[partition] is owner:
                owner.process.scheduler.say(f"revoked {partition}")
                owner.revoke([partition])
            if self.owners[partition] is owner:  # it may have taken so long that another was given it
                self.owners[partition] = None

        owner.orders.append(hand_over)

    def steal(self, partition: Partition, to: Member, later: Callable[[Callable[[], None]], None]) -> None:
        """A member that did not answer in time: another reads on while it still believes to own the partition."""
        owner = self.owners[partition]
        if owner is None or owner.gone or owner is to or partition not in owner._positions:
            return
        self._give(partition, to)
        owner.unaware.add(partition)
        later(lambda: owner.orders.append(lambda: owner.lose(partition)))

    def _give(self, partition: Partition, to: Member) -> None:
        self.owners[partition] = to

        def begin() -> None:
            to.lose(partition)
            if self.owners[partition] is to:
                to.process.scheduler.say(f"assigned {partition}")
                to.assign([partition])

        to.orders.append(begin)
