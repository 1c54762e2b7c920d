"""What a member paused before it lost a partition does not keep it from reading when the partition comes back."""

import time
import uuid
from collections.abc import Callable, Collection

from millrace.stack.endpoints import Endpoints
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


def until(so: Callable[[], bool], *members: Member) -> None:
    deadline = time.monotonic() + SECONDS
    while not so():
        assert time.monotonic() < deadline, [(member.owned, member.read) for member in members]
        for member in members:
            member.poll()
