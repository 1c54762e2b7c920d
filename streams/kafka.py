"""Kafka by confluent-kafka: the one door to the broker."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from confluent_kafka import OFFSET_END, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import Message as ConfluentMessage
from confluent_kafka import Producer as ConfluentProducer
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicMetadata

from streams.broker import BrokerUnavailable, Rebalanced
from streams.messages import Headers, Partition, Records
from streams.outage import Outage

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 17 * 1024 * 1024
"""Debezium's records have up to 16 MiB (`connectors.debezium`); letters and replays have more headers."""
TIMEOUT_SECONDS, PING_SECONDS = 10.0, 5.0
LAG_SECONDS = 2.0
ASK_SECONDS = 1.0
SAY_SECONDS = 60.0
STALLED_SECONDS = 20.0

# librdkafka would write to stderr itself, a line each failed attempt to connect; what matters comes by `error_cb`.
QUIET = {"log_level": 2}

# KIP-345 and librdkafka's CONFIGURATION.md name the settings; these differ from the defaults for a reason:
# a broker answers a fetch at its first record, fetch.wait.max.ms is how long it may wait for one (and a partition that
# is assigned meanwhile for its first fetch); the queue bounds what a backlog adds to memory, and once it was full the
# next fetch waits for fetch.queue.backoff.ms: by default a second, three times as long as the queue lasts.
CONSUMER = {
    **QUIET,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "fetch.wait.max.ms": 100,
    "fetch.message.max.bytes": 4 * 1024 * 1024,
    "fetch.max.bytes": 2 * MAX_MESSAGE_BYTES,
    "queued.max.messages.kbytes": 12 * 1024,
    "fetch.queue.backoff.ms": 10,
    "session.timeout.ms": 10_000,
    "max.poll.interval.ms": 300_000,
    "topic.metadata.refresh.interval.ms": 5_000,
    "reconnect.backoff.max.ms": 1_000,
}
_Record = tuple[str, bytes | None, bytes | None, Headers]
"""Topic, key, value, headers."""

GATHER_SECONDS = 0.008
"""From one poll that brought records to the next: a poll costs a worker nearly the same for one record as for several,
and more come meanwhile. The first record after a pause does not wait."""

PRODUCER_FLUSH_SECONDS = 35.0  # above message.timeout.ms, after which each record has an answer
PRODUCER = {
    **QUIET,
    "acks": "all",
    # Kafka Connect's own (the Java client's): a replayed letter goes to the partition of its row's other changes.
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
    "linger.ms": 5,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "message.timeout.ms": 30_000,
}


class KafkaConsumer:
    """`streams.broker.Consumer` over one librdkafka consumer, which the group knows by the client's id."""

    def __init__(self, bootstrap_servers: str, group: str, client_id: str = "millrace") -> None:
        own = {"bootstrap.servers": bootstrap_servers, "group.id": group, "client.id": client_id}
        self._consumer = ConfluentConsumer({**own, "error_cb": self._failed, **CONSUMER})
        self._servers = bootstrap_servers
        self._owned: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._down = Outage()
        self._behind: Mapping[Partition, int] = {}
        self._begin: dict[Partition, int] = {}
        self._begins_since: dict[Partition, float] = {}
        self._begun_again: set[Partition] = set()
        self._measure_next = 0.0
        self._drained = 0.0
        self._gathers_until = 0.0

    @property
    def unavailable(self) -> str | None:
        return self._down.words

    def subscribe(self, topics: Sequence[str], assigned: Rebalanced, revoked: Rebalanced, lost: Rebalanced) -> None:
        def on_assign(consumer: ConfluentConsumer, fresh: list[TopicPartition]) -> None:
            partitions = _partitions(fresh)
            self._owned |= partitions
            self._paused -= partitions
            self._begun_again -= partitions
            self._begin = {p: offset for p, offset in self._begin.items() if p not in partitions}
            self._assign(fresh)
            assigned(partitions)  # after, for it may pause some

        def on_revoke(consumer: ConfluentConsumer, gone: list[TopicPartition]) -> None:
            partitions = _partitions(gone)
            revoked(partitions)
            self._owned -= partitions
            consumer.incremental_unassign(gone)

        def on_lost(consumer: ConfluentConsumer, gone: list[TopicPartition]) -> None:
            partitions = _partitions(gone)
            self._owned -= partitions
            lost(partitions)
            consumer.incremental_unassign(gone)

        self._consumer.subscribe(list(topics), on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def poll(self, timeout: float, limit: int) -> list[Records]:
        # consume(n, timeout) waits for n messages or the whole timeout; poll() returns with the first one.
        self._measure_lag()
        time.sleep(max(0.0, min(timeout, self._gathers_until - time.monotonic())))
        first = self._consumer.poll(timeout)
        if first is not None and first.error() is None:
            self._down.heard()
        elif self._down.ask_now:
            self._ask()
        if first is None:
            self._drained = time.monotonic()
            return []
        self._gathers_until = time.monotonic() + GATHER_SECONDS
        messages = [first, *self._consumer.consume(limit - 1, 0)] if limit > 1 else [first]
        if len(messages) < limit:
            self._drained = time.monotonic()
        return _records(messages)

    def pause(self, partitions: Collection[Partition]) -> None:
        self._paused |= set(partitions)
        self._consumer.pause([TopicPartition(*p) for p in partitions if p in self._owned])

    def resume(self, partitions: Collection[Partition]) -> None:
        self._paused -= set(partitions)
        self._consumer.resume([TopicPartition(*p) for p in partitions if p in self._owned])

    def span(self, partition: Partition) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=TIMEOUT_SECONDS)
        except KafkaException as error:
            raise BrokerUnavailable(f"{partition} does not answer: {error.args[0].str()}") from error
        return int(low), int(high)

    def committed(self, partition: Partition) -> int | None:
        try:
            (answer,) = self._consumer.committed([TopicPartition(*partition)], timeout=TIMEOUT_SECONDS)
        except KafkaException as error:
            raise BrokerUnavailable(f"{partition} does not answer: {error.args[0].str()}") from error
        return int(answer.offset) if answer.offset >= 0 else None

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        owned = [TopicPartition(p.topic, p.number, offset) for p, offset in offsets.items() if p in self._owned]
        if not owned:
            return
        try:
            self._consumer.commit(offsets=owned, asynchronous=False)
        except KafkaException as error:
            raise BrokerUnavailable(f"Kafka did not take the offsets: {error.args[0].str()}") from error

    def lag(self) -> Mapping[Partition, int]:
        return self._behind

    def _measure_lag(self) -> None:
        """Once in LAG_SECONDS, in the thread that polls: another could meet the consumer closed."""
        if time.monotonic() < self._measure_next:
            return
        self._measure_next = time.monotonic() + LAG_SECONDS
        owned = sorted(self._owned)
        positions = self._consumer.position([TopicPartition(*p) for p in owned])
        behind: dict[Partition, int] = {}
        begins_since: dict[Partition, float] = {}
        for partition, position in zip(owned, positions, strict=True):
            low, high = self._ends(partition)
            begun = position.offset >= 0
            read = position.offset if begun else self._begins(partition, low)
            behind[partition] = max(0, high - read) if high >= 0 else 0
            if behind[partition] and not begun and partition not in self._paused | self._begun_again:
                begins_since[partition] = self._begins_since.get(partition, time.monotonic())
        self._behind, self._begins_since = behind, begins_since
        if stalled := [p for p, since in begins_since.items() if self._drained - since > STALLED_SECONDS]:
            self._begin_again(stalled)

    def _begin_again(self, stalled: Sequence[Partition]) -> None:
        """librdkafka leaves a partition aside whose committed offset it could not fetch, and one whose start or resume
        met another of its own steps, until it is assigned anew (rdkafka_assignment.c, rdkafka_partition.c). Its place
        in the group stays: nothing of it was read. Once an assignment: what is behind may be a transaction's marker,
        which nobody ever gets."""
        words = "%s did not begin to be read in %.0f s, with %d records to come: begun again"
        for partition in stalled:
            log.warning(
                words, partition, STALLED_SECONDS, self._behind[partition], extra={"event": "partition_stalled"}
            )
        self._consumer.incremental_unassign([TopicPartition(*p) for p in stalled])
        self._assign([TopicPartition(*p) for p in stalled])
        self._begins_since = {}
        self._begun_again |= set(stalled)

    def _assign(self, fresh: list[TopicPartition]) -> None:
        # A partition that was paused when it was lost is paused still when it comes back. Before its fetching starts:
        # of two steps that meet, librdkafka drops one.
        self._consumer.resume(fresh)
        self._consumer.incremental_assign(fresh)

    def _begins(self, partition: Partition, low: int) -> int:
        """Where reading begins, as long as no record has come that tells."""
        if partition not in self._begin and self.unavailable is None:
            with suppress(BrokerUnavailable):
                self._begin[partition] = max(low, self.committed(partition) or 0)
        return self._begin.get(partition, low)

    def _ends(self, partition: Partition) -> tuple[int, int]:
        """A partition's first and next offset, as last fetched; one of which nothing is fetched is asked."""
        place = TopicPartition(*partition)
        low, high = self._consumer.get_watermark_offsets(place, cached=True)
        if (high < 0 or partition in self._paused or partition in self._begins_since) and self.unavailable is None:
            with suppress(KafkaException):
                low, high = self._consumer.get_watermark_offsets(place, timeout=ASK_SECONDS)
        return int(low), int(high)

    def _failed(self, error: KafkaError) -> None:
        """librdkafka's word about its brokers, given inside `poll`; not each outage has one, and no return."""
        if self._down.words is None:
            _report(error)
        self._down.suspected()

    def _ask(self) -> None:
        """Ask the brokers for a sign of life."""
        try:
            self._consumer.list_topics(timeout=ASK_SECONDS)
        except KafkaException as error:
            self._down.silent(f"Kafka at {self._servers} does not answer: {error.args[0].str()}")
        else:
            self._down.heard()

    def close(self) -> None:
        self._consumer.close()


class KafkaFollower:
    """`streams.broker.Follower` over a consumer that joins no group."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        # The group's consumer reports an outage; once is enough.
        settings = {**CONSUMER, "fetch.wait.max.ms": 500, "error_cb": lambda error: None}
        self._consumer = ConfluentConsumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "millrace-follower", **settings}
        )
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_END)])

    def poll(self) -> list[Records]:
        first = self._consumer.poll(0)
        return [] if first is None else _records([first, *self._consumer.consume(100, 0)])

    def close(self) -> None:
        self._consumer.close()


class KafkaProducer:
    """`streams.broker.Producer` over one idempotent librdkafka producer."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = ConfluentProducer({"bootstrap.servers": bootstrap_servers, "error_cb": _report, **PRODUCER})
        self._undelivered: list[_Record] = []
        self._failure = ""

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        answered = partial(self._delivered, (topic, key, value, headers))
        while True:
            try:
                self._producer.produce(topic, value=value, key=key, headers=list(headers.items()), on_delivery=answered)
                return
            except BufferError as full:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"Kafka takes no records for {topic}: {full}") from full
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._FATAL:
                    raise  # waiting does not help: only another producer may send again
                raise BrokerUnavailable(f"Kafka refused a record for {topic}: {_advised(error.args[0])}") from error

    def flush(self) -> None:
        for _ in range(len(self._undelivered)):
            self.send(*self._undelivered[0])
            del self._undelivered[0]
        waiting = self._producer.flush(PRODUCER_FLUSH_SECONDS)
        if waiting or self._undelivered:
            why = self._failure if self._undelivered else "no answer in time"
            raise BrokerUnavailable(f"{waiting + len(self._undelivered)} records are not durable: {why}")

    def _delivered(self, record: _Record, error: KafkaError | None, _: ConfluentMessage) -> None:
        if error is not None:
            self._undelivered.append(record)
            self._failure = f"{record[0]}: {_advised(error)}"


def _advised(error: KafkaError) -> str:
    """What Kafka said, and what people can do where waiting does not help."""
    if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
        return str(error.str())
    return f"{error.str()}: set max.message.bytes of the topic to {MAX_MESSAGE_BYTES}, and it goes on"


class KafkaTopics:
    """`streams.broker.Topics` by the admin API and a consumer that joins no group."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._servers = bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "error_cb": _report, **QUIET})

    def ping(self) -> None:
        try:
            self._admin.list_topics(timeout=PING_SECONDS)
        except KafkaException as error:
            todo = "start it, or mend kafka.bootstrap_servers in millrace.yaml"
            why = f"Kafka at {self._servers} does not answer: {error.args[0].str()}"
            raise BrokerUnavailable(f"{why}; {todo}") from error

    def names(self) -> Collection[str]:
        """The names of all topics. Raises `BrokerUnavailable`."""
        return self._existing().keys()

    def _existing(self) -> dict[str, TopicMetadata]:
        try:
            topics: dict[str, TopicMetadata] = self._admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        except KafkaException as error:
            raise BrokerUnavailable(f"Kafka at {self._servers} does not answer: {error.args[0].str()}") from error
        return topics

    def ensure(self, topics: Mapping[str, int], settings: Mapping[str, str]) -> Sequence[str]:
        existing = self._existing()
        for name, count in topics.items():
            if name in existing and len(existing[name].partitions) < count:
                has = len(existing[name].partitions)
                raise ValueError(
                    f"topic {name} has {has} partitions and {count} are declared: adding partitions would break "
                    f"the order of keys; declare {has}, or make a new source"
                )
        missing = [
            NewTopic(name, num_partitions=count, replication_factor=-1, config=dict(settings))
            for name, count in topics.items()
            if name not in existing
        ]
        if not missing:
            return []
        for name, future in self._admin.create_topics(missing, request_timeout=TIMEOUT_SECONDS).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise BrokerUnavailable(f"topic {name} could not be made: {error.args[0].str()}") from error
        return [topic.topic for topic in missing]

    def read(self, topic: str, start: int = 0) -> Iterator[Records]:
        settings = {**CONSUMER, "enable.partition.eof": True}
        consumer = ConfluentConsumer({"bootstrap.servers": self._servers, "group.id": "millrace-reader", **settings})
        try:
            metadata = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
            if metadata.error is not None:
                return
            ends: dict[int, int] = {}
            for number in metadata.partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_SECONDS)
                if max(low, start) < high:
                    ends[number] = high
            consumer.assign([TopicPartition(topic, number, start) for number in ends])
            ask_at = time.monotonic() + TIMEOUT_SECONDS
            while ends:
                messages = consumer.consume(1_000, 0.2)
                for message in messages:
                    if _next_offset(message) >= ends.get(message.partition(), 0):
                        ends.pop(message.partition(), None)
                yield from _records([message for message in messages if not _is_end(message)])
                if any(message.error() is None for message in messages):
                    ask_at = time.monotonic() + TIMEOUT_SECONDS
                elif time.monotonic() > ask_at:  # of a broker that is away nothing comes, and no error either
                    self._asked(topic, ends)
                    ask_at = time.monotonic() + TIMEOUT_SECONDS
        except KafkaException as error:
            raise BrokerUnavailable(f"topic {topic} cannot be read: {error.args[0].str()}") from error
        finally:
            consumer.close()

    def _asked(self, topic: str, partitions: Iterable[int]) -> None:
        """Return if the leaders of these partitions answer, asked over other connections than a reader's, on which an
        answer would stand behind what is being fetched. Raises `KafkaException`."""
        latest = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}
        for answer in self._admin.list_offsets(latest, request_timeout=TIMEOUT_SECONDS).values():
            answer.result()

    def committed(self, group: str, topics: Sequence[str]) -> Mapping[Partition, tuple[int, int]]:
        consumer = ConfluentConsumer({"bootstrap.servers": self._servers, "group.id": "millrace-reader", **CONSUMER})
        try:
            known = consumer.list_topics(timeout=TIMEOUT_SECONDS).topics
            wanted = [TopicPartition(t, number) for t in topics if t in known for number in known[t].partitions]
            if not wanted:
                return {}
            request = ConsumerGroupTopicPartitions(group, wanted)
            answer = self._admin.list_consumer_group_offsets([request])[group].result()
            offsets = {}
            for p in answer.topic_partitions:
                place = TopicPartition(p.topic, p.partition)
                low, high = consumer.get_watermark_offsets(place, timeout=TIMEOUT_SECONDS)
                # Nothing committed is a negative offset: never, or so long ago that the offset expired, too.
                offsets[Partition(p.topic, p.partition)] = max(low, p.offset), high
            return offsets
        except KafkaException as error:
            raise BrokerUnavailable(f"Kafka at {self._servers} does not answer: {error.args[0].str()}") from error
        finally:
            consumer.close()

    def members(self, group: str) -> Sequence[str]:
        try:
            answer = self._admin.describe_consumer_groups([group], request_timeout=TIMEOUT_SECONDS)[group].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return []
            raise BrokerUnavailable(f"Kafka at {self._servers} does not answer: {error.args[0].str()}") from error
        return [member.client_id for member in answer.members]


def _partitions(given: list[TopicPartition]) -> set[Partition]:
    return {Partition(p.topic, p.partition) for p in given}


def _is_end(message: ConfluentMessage) -> bool:
    """Whether it tells that a partition was read to its end, at the offset that follows."""
    error = message.error()
    return error is not None and bool(error.code() == KafkaError._PARTITION_EOF)


def _next_offset(message: ConfluentMessage) -> int:
    """Up to where its partition was read; negative if it does not tell. A transaction's marker is never a message:
    where one stands last, only the word of the end tells."""
    if _is_end(message):
        return int(message.offset())
    return int(message.offset()) + 1 if message.error() is None else -1


def _records(messages: list[ConfluentMessage]) -> list[Records]:
    by_topic: dict[str, list[ConfluentMessage]] = {}
    for message in messages:
        error = message.error()
        if error is None:
            by_topic.setdefault(message.topic(), []).append(message)
        elif error.fatal():
            raise KafkaException(error)
        else:
            # librdkafka recovers by itself; raising would drop the good records that came with it.
            _report(error)
    return [
        Records(
            topic,
            [m.partition() for m in group],
            [m.offset() for m in group],
            [m.key() for m in group],
            [m.value() for m in group],
            {i: dict(headers) for i, m in enumerate(group) if (headers := m.headers())},
        )
        for topic, group in by_topic.items()
    ]


_say_next: dict[int, float] = {}


def _report(error: KafkaError) -> None:
    """One line a minute and kind: a client has many to tell of one outage, and all of them at its end."""
    if time.monotonic() >= _say_next.get(error.code(), 0.0):
        _say_next[error.code()] = time.monotonic() + SAY_SECONDS
        log.warning("Kafka: %s", error.str(), extra={"event": "kafka"})
