"""Records that keep coming are taken a few at a time."""

import threading
import time
import uuid

from millrace.stack.endpoints import Endpoints
from streams.kafka import GATHER_SECONDS, KafkaConsumer, KafkaProducer, KafkaTopics

RECORDS = 400
SECONDS = 60.0


def test_records_that_keep_coming_gather_between_two_polls(stack: Endpoints) -> None:
    """In order, none left, and no poll sooner after the last than they gather: one record comes each millisecond, far
    apart enough for a poll each."""
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
    numbers: list[int] = []
    ended: list[float] = []
    while len(numbers) < RECORDS:
        assert time.monotonic() < deadline
        for records in consumer.poll(0.1, 7_500):
            numbers += [int(v) for v in records.values if v is not None]
            ended.append(time.monotonic())
    sending.join()
    consumer.close()
    assert numbers == list(range(RECORDS))
    # A poll gathers from the first record of the one before, which came after the end of the one before that.
    assert min(later - earlier for earlier, later in zip(ended, ended[2:], strict=False)) >= GATHER_SECONDS
