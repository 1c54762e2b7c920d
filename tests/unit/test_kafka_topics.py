"""A topic read to its end, by librdkafka's own broker in memory, which goes away with the producer that brought it."""

import os
import socket
import threading
import time
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
from confluent_kafka import Producer

from streams import kafka
from streams.broker import BrokerUnavailable
from streams.kafka import KafkaTopics

COUNT = 5_000

SLOWLY = 100_000
"""Bytes a second."""


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


class _Slowly(StreamRequestHandler):
    """A connection to the broker, which is said to be here; what comes of it comes slowly."""

    def handle(self) -> None:
        server: Any = self.server
        here, there = (port.to_bytes(4, "big") for port in (server.server_address[1], server.broker))
        with socket.create_connection(("127.0.0.1", server.broker)) as broker:
            threading.Thread(target=self._ask, args=(broker,), daemon=True).start()
            while part := broker.recv(SLOWLY // 10):
                self.wfile.write(part.replace(there, here) if len(part) < 1_000 else part)
                time.sleep(len(part) / SLOWLY)

    def _ask(self, broker: socket.socket) -> None:
        with suppress(OSError):
            while part := self.connection.recv(65_536):
                broker.sendall(part)
            broker.shutdown(socket.SHUT_RDWR)


def test_a_record_that_comes_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker answers in order: on the reader's connection no answer comes before the record."""
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 2.0)
    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    producer.produce("letters", os.urandom(5 * SLOWLY), partition=0)
    assert producer.flush(30) == 0
    with ThreadingTCPServer(("127.0.0.1", 0), _Slowly) as proxy:
        proxy.daemon_threads = True
        vars(proxy)["broker"] = broker.port
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        read = list(KafkaTopics(f"127.0.0.1:{proxy.server_address[1]}").read("letters"))
        proxy.shutdown()
    assert sum(map(len, read)) == 1
