"""The producer of letters while Kafka is away: what it could not deliver it keeps."""

import socket

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import kafka
from streams.broker import BrokerUnavailable
from streams.kafka import KafkaProducer


def test_a_record_that_was_not_delivered_stays_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kafka.PRODUCER, "message.timeout.ms", 200)
    monkeypatch.setitem(kafka.PRODUCER, "linger.ms", 0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        producer = KafkaProducer(f"127.0.0.1:{nobody.getsockname()[1]}")
        producer.send("letters", None, b"kept", {"millrace.stage": b"decode"})
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="1 records are not durable: letters"):
                producer.flush()


def test_a_producer_that_can_send_nothing_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka's idempotent producer ends with its first fatal error: each `produce` says so from then on."""

    class Ended:
        def __init__(self, settings: object) -> None: ...

        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL))

    monkeypatch.setattr(kafka, "ConfluentProducer", Ended)
    with pytest.raises(KafkaException, match="Fatal error"):
        KafkaProducer("127.0.0.1:1").send("letters", None, b"value", {})


def test_a_record_that_is_too_large_says_what_to_set() -> None:
    producer = KafkaProducer("127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match=r"for letters: .*too large.*: set max\.message\.bytes of the topic to"):
        producer.send("letters", None, bytes(kafka.MAX_MESSAGE_BYTES + 1), {})
