"""Records that keep coming are taken a few at a time."""

import threading
import time
import uuid

from millrace.stack.endpoints import Endpoints
from streams.kafka import KafkaConsumer, KafkaProducer, KafkaTopics

RECORDS = 400
SECONDS = 60.0


def test_records_that_keep_coming_gather_between_two_polls(stack: Endpoints) -> None:
    """In order, none left, and several a poll: one comes each millisecond, far apart enough for a poll each."""
    topic = f"gather-{uuid.uuid4().hex[:8]}"
    KafkaTopics(stack.kafka).ensure({topic: 1}, {})
    consumer, given = KafkaConsumer(stack.kafka, topic), threading.Event()
    consumer.subscribe([topic], lambda _: given.set(), lambda _: None, lambda _: None)
    deadline = time.monotonic() + SECONDS
    while not given.is_set():
        assert time.monotonic() < deadline
        consumer.poll(0.1, 1)

    def send() -> None:
        producer = KafkaProducer(stack.kafka)
        for number in range(RECORDS):
            producer.send(topic, b"key", str(number).encode(), {})
            if number % 2:
                producer.flush()
            time.sleep(0.001)
        producer.flush()

    sending = threading.Thread(target=send)
    sending.start()
    polls: list[list[int]] = []
    while sum(map(len, polls)) < RECORDS:
        assert time.monotonic() < deadline
        polls += [[int(v) for v in records.values if v is not None] for records in consumer.poll(0.1, 7_500)]
    sending.join()
    consumer.close()
    assert [number for numbers in polls for number in numbers] == list(range(RECORDS))
    assert len(polls) < RECORDS / 3
