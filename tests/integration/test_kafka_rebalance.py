"""What a member paused before it lost a partition does not keep it from reading when the partition comes back; and one
that librdkafka leaves aside begins to be read all the same."""

import time
import uuid
from collections.abc import Callable, Collection

import pytest
from confluent_kafka import TopicPartition

from millrace.stack.endpoints import Endpoints
from streams import kafka
from streams.kafka import KafkaConsumer, KafkaProducer, KafkaTopics
from streams.messages import Partition

SECONDS = 60.0


class Member:
    """A consumer of the group, and what it owns and has read."""

    def __init__(self, servers: str, group: str, topic: str) -> None:
        self.owned: set[Partition] = set()
        self.read: set[Partition] = set()
        self.consumer = KafkaConsumer(servers, group)
        self.consumer.subscribe([topic], self._assigned, self._gone, self._gone)

    def _assigned(self, partitions: Collection[Partition]) -> None:
        self.owned |= set(partitions)

    def _gone(self, partitions: Collection[Partition]) -> None:
        self.owned -= set(partitions)

    def poll(self) -> None:
        for records in self.consumer.poll(0.05, 100):
            self.read |= set(records.next_offsets())


def test_a_partition_that_was_paused_when_it_went_flows_when_it_comes_back(stack: Endpoints) -> None:
    topic, group = f"rest-{uuid.uuid4().hex[:8]}", f"rest-{uuid.uuid4().hex[:8]}"
    KafkaTopics(stack.kafka).ensure({topic: 2}, {})
    both = {Partition(topic, 0), Partition(topic, 1)}
    first = Member(stack.kafka, group, topic)
    until(lambda: first.owned == both, first)
    first.consumer.pause(both)
    second = Member(stack.kafka, group, topic)
    until(lambda: len(first.owned) == 1 and len(second.owned) == 1, first, second)
    came_back = set(second.owned)
    second.consumer.close()
    until(lambda: first.owned == both, first)
    producer = KafkaProducer(stack.kafka)
    for number in range(50):
        producer.send(topic, str(number).encode(), b"{}", {})
    producer.flush()
    until(lambda: first.read >= came_back, first)
    assert first.read == came_back  # the other one was never lost, and rests still
    first.consumer.close()


def test_a_partition_that_does_not_begin_to_be_read_is_assigned_again(
    stack: Endpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Paused behind the consumer's back, as it stays where its resume was dropped; its neighbour is read as before."""
    monkeypatch.setattr(kafka, "STALLED_SECONDS", 3.0)
    topic, group = f"rest-{uuid.uuid4().hex[:8]}", f"rest-{uuid.uuid4().hex[:8]}"
    KafkaTopics(stack.kafka).ensure({topic: 2}, {})
    aside, beside = Partition(topic, 0), Partition(topic, 1)
    member = Member(stack.kafka, group, topic)
    until(lambda: member.owned == {aside, beside}, member)
    member.consumer._consumer.pause([TopicPartition(*aside)])
    producer = KafkaProducer(stack.kafka)
    for number in range(50):
        producer.send(topic, str(number).encode(), b"{}", {})
    producer.flush()
    until(lambda: member.read == {beside}, member)
    until(lambda: member.consumer.lag().get(aside, 0) > 0, member)
    until(lambda: member.read == {aside, beside}, member)
    (said,) = [record for record in caplog.records if getattr(record, "event", None) == "partition_stalled"]
    assert f"{aside} did not begin" in said.getMessage()
    member.consumer.close()


def test_what_nobody_ever_gets_is_waited_for_once(
    stack: Endpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the marker of a transaction, which takes an offset: a partition that does not begin whatever is done."""
    monkeypatch.setattr(kafka, "STALLED_SECONDS", 1.0)
    topic, group = f"rest-{uuid.uuid4().hex[:8]}", f"rest-{uuid.uuid4().hex[:8]}"
    KafkaTopics(stack.kafka).ensure({topic: 1}, {})
    producer = KafkaProducer(stack.kafka)
    producer.send(topic, b"key", b"{}", {})
    producer.flush()
    member = Member(stack.kafka, group, topic)
    assign = member.consumer._assign

    def assign_paused(fresh: list[TopicPartition]) -> None:
        assign(fresh)
        member.consumer._consumer.pause(fresh)

    monkeypatch.setattr(member.consumer, "_assign", assign_paused)
    until(lambda: "begun again" in caplog.text, member)
    looks = 0
    measure = member.consumer._measure_lag

    def counted() -> None:
        nonlocal looks
        looks += time.monotonic() >= member.consumer._measure_next
        measure()

    monkeypatch.setattr(member.consumer, "_measure_lag", counted)
    until(lambda: looks == 4, member)
    assert caplog.text.count("begun again") == 1 and member.read == set()
    member.consumer.close()


def until(so: Callable[[], bool], *members: Member) -> None:
    deadline = time.monotonic() + SECONDS
    while not so():
        assert time.monotonic() < deadline, [(member.owned, member.read) for member in members]
        for member in members:
            member.poll()
