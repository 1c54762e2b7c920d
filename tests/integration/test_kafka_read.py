"""A topic in which a transaction's marker stands last, that nobody gets, is read to its end."""

import uuid

from confluent_kafka import Producer

from millrace.stack.endpoints import Endpoints
from streams.kafka import KafkaTopics
from streams.messages import Partition
from tests.waiting import waited

SECONDS = 60.0


def test_a_topic_that_ends_with_the_marker_of_a_transaction(stack: Endpoints) -> None:
    topic, topics = f"marked-{uuid.uuid4().hex[:8]}", KafkaTopics(stack.kafka)
    topics.ensure({topic: 2}, {})
    producer = Producer({"bootstrap.servers": stack.kafka, "transactional.id": topic, "log_level": 2})
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    for partition in (0, 1, 1):
        producer.produce(topic, b"v", partition=partition)
    producer.commit_transaction(SECONDS)
    ends = {Partition(topic, 0): (0, 2), Partition(topic, 1): (0, 3)}
    # The markers come after the word that it is committed.
    waited(lambda: topics.committed(topic, [topic]) == ends, "the markers")
    assert sum(map(len, topics.read(topic))) == 3
    assert sum(map(len, topics.read(topic, 2))) == 0
