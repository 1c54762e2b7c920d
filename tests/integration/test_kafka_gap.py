"""Records that Kafka deletes while a member waits: the client goes on without a word, the worker does not."""

import time
import uuid

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from millrace.stack.endpoints import Endpoints
from stores.memory_lake import MemoryLake
from streams.kafka import KafkaConsumer, KafkaProducer, KafkaTopics
from streams.messages import Records
from streams.patience import Patience
from streams.positions import Positions, RecordsExpired
from streams.redelivered import Heights
from streams.truncate import Truncates
from tests.waiting import waited

SECONDS = 60.0


def test_records_that_go_while_a_partition_rests_are_a_gap(stack: Endpoints) -> None:
    topic, group = f"gap-{uuid.uuid4().hex[:8]}", f"gap-{uuid.uuid4().hex[:8]}"
    KafkaTopics(stack.kafka).ensure({topic: 1}, {})
    producer, lake = KafkaProducer(stack.kafka), MemoryLake()
    consumer = KafkaConsumer(stack.kafka, group)
    positions = Positions(consumer, lake, {}, Truncates(lake), Heights(lake), Patience(time.sleep))
    consumer.subscribe([topic], lambda _: None, lambda _: None, lambda _: None)
    send(producer, topic, 2)
    first = polled(consumer)
    positions.follow(first)
    (partition,) = first[0].next_offsets()
    consumer.pause([partition])
    send(producer, topic, 3)
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    for deleted in admin.delete_records([TopicPartition(topic, 0, 4)]).values():
        deleted.result(SECONDS)
    assert not consumer.poll(0.1, 100)
    consumer.resume([partition])
    left = polled(consumer)
    assert [offset for records in left for offset in records.offsets] == [4]
    with pytest.raises(RecordsExpired, match="begins at offset 4, but was read up to 2 only"):
        positions.follow(left)
    consumer.close()


def send(producer: KafkaProducer, topic: str, count: int) -> None:
    for number in range(count):
        producer.send(topic, str(number).encode(), b"{}", {})
    producer.flush()


def polled(consumer: KafkaConsumer) -> list[Records]:
    """The next records."""
    return waited(lambda: consumer.poll(0.1, 100), "records")
