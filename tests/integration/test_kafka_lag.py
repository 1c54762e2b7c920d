"""The lag that a consumer tells of: counted from where its group has read, before any record comes."""

import time
import uuid

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from millrace.stack.endpoints import Endpoints
from streams.kafka import LAG_SECONDS, KafkaConsumer, KafkaProducer, KafkaTopics
from streams.messages import Partition

SECONDS = 60.0


def measured(consumer: KafkaConsumer, count: int) -> dict[Partition, int]:
    """What it tells once it has had partitions for longer than a measurement waits for the next."""
    deadline, since = time.monotonic() + SECONDS, None
    while since is None or time.monotonic() < since + 2 * LAG_SECONDS:
        assert time.monotonic() < deadline
        consumer.poll(0.05, 100)
        if since is None and len(consumer.lag()) == count:
            since = time.monotonic()
    return dict(consumer.lag())


def filled(stack: Endpoints, topic: str, partitions: int, records: int) -> KafkaTopics:
    """Of a broker with a new topic."""
    broker, producer = KafkaTopics(stack.kafka), KafkaProducer(stack.kafka)
    broker.ensure({topic: partitions}, {})
    for number in range(records):
        producer.send(topic, str(number).encode(), b"{}", {})
    producer.flush()
    return broker


def reading(stack: Endpoints, topic: str, group: str, partitions: int) -> KafkaConsumer:
    """A consumer that has its partitions."""
    consumer = KafkaConsumer(stack.kafka, group)
    consumer.subscribe([topic], lambda _: None, lambda _: None, lambda _: None)
    measured(consumer, partitions)
    return consumer


def test_a_group_that_has_read_all_has_no_lag_after_a_restart(stack: Endpoints) -> None:
    topic, group = f"lag-{uuid.uuid4().hex[:8]}", f"lag-{uuid.uuid4().hex[:8]}"
    read, left = Partition(topic, 0), Partition(topic, 1)
    filled(stack, topic, 2, 40)
    consumer = reading(stack, topic, group, 2)
    (_, end), (_, end_left) = consumer.span(read), consumer.span(left)
    consumer.commit({read: end, left: end_left - 1})
    consumer.close()
    again = KafkaConsumer(stack.kafka, group)
    again.subscribe([topic], lambda given: again.pause(list(given)), lambda _: None, lambda _: None)
    assert measured(again, 2) == {read: 0, left: 1}
    again.close()


def test_what_a_group_has_to_read_begins_where_its_records_do(stack: Endpoints) -> None:
    """Offsets pass their retention, too, and a group that was renamed has none."""
    topic, group = f"lag-{uuid.uuid4().hex[:8]}", f"lag-{uuid.uuid4().hex[:8]}"
    unread, behind, ahead, whole = (Partition(topic, number) for number in range(4))
    broker = filled(stack, topic, 4, 100)
    consumer = reading(stack, topic, group, 4)
    ends = {partition: consumer.span(partition)[1] for partition in (unread, behind, ahead, whole)}
    assert min(ends.values()) > 6
    consumer.commit({behind: 2, ahead: 5})
    consumer.close()
    gone = [TopicPartition(*unread, ends[unread]), TopicPartition(*behind, 4), TopicPartition(*ahead, 4)]
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    for deleted in admin.delete_records(gone).values():
        deleted.result(SECONDS)
    begins = {unread: ends[unread], behind: 4, ahead: 5, whole: 0}
    assert broker.committed(group, [topic]) == {p: (begins[p], end) for p, end in ends.items()}


def test_a_group_knows_its_members_by_their_ids(stack: Endpoints) -> None:
    topic, group = f"lag-{uuid.uuid4().hex[:8]}", f"lag-{uuid.uuid4().hex[:8]}"
    broker = filled(stack, topic, 1, 1)
    assert broker.members(group) == []
    consumer = reading(stack, topic, group, 1)
    assert broker.members(group) == ["millrace"]
    consumer.close()
    assert broker.members(group) == []
