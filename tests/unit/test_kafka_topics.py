"""A topic read to its end, by librdkafka's own broker in memory, which goes away with the producer that brought it."""

import pytest
from confluent_kafka import Producer

from streams import kafka
from streams.broker import BrokerUnavailable
from streams.kafka import KafkaTopics

COUNT = 5_000


def test_a_broker_that_goes_away_in_mid_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("queued.max.messages.kbytes", "fetch.message.max.bytes"):  # little of the rest is there already
        monkeypatch.setitem(kafka.CONSUMER, setting, 1)
    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "batch.num.messages": 100})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for _ in range(COUNT):
        producer.produce("letters", b"v" * 100, partition=0)
    assert producer.flush(30) == 0

    topics = KafkaTopics(f"{broker.host}:{broker.port}")
    assert sum(map(len, topics.read("letters"))) == COUNT
    reading = topics.read("letters")
    next(reading)
    del producer
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(BrokerUnavailable, match="topic letters cannot be read"):
        list(reading)
