"""An idle consumer and its broker, a real one of this test's own, which goes away and comes back."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from millrace.settings import java_home
from millrace.stack.daemon import Daemon, Launch, start, stop
from millrace.stack.java import find_java
from millrace.stack.kafka import Kafka
from millrace.stack.ports import choose_ports
from streams.broker import Consumer
from streams.kafka import KafkaConsumer, KafkaFollower, KafkaProducer, KafkaTopics
from streams.messages import Records
from tests.waiting import waited

SECONDS = 60.0


@dataclass
class Broker:
    """One Kafka broker that the test starts and stops."""

    kafka: Kafka
    daemon: Daemon | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.kafka.port}"

    def start(self) -> None:
        self.daemon, self.process = start(self.kafka.prepare(_run))
        waited(self.kafka.is_ready, "a broker that is ready", told=self.kafka.log.read_text)

    def stop(self) -> None:
        if self.daemon is not None and self.process is not None:
            stop(self.daemon, signal.SIGTERM, 20.0)
            self.process.wait()


def _run(launch: Launch) -> None:
    _, process = start(launch)
    assert process.wait(SECONDS) == 0, launch.log.read_text()


@pytest.fixture
def broker(jars: Path, tmp_path: Path) -> Iterator[Broker]:
    ports = choose_ports(("kafka", "controller"), {})
    java = find_java(jars, java_home())
    made = Broker(Kafka(java, tmp_path / "kafka", tmp_path / "kafka.log", ports["kafka"], ports["controller"]))
    made.start()
    yield made
    made.stop()


def polled(consumer: Consumer, until: Callable[[], object]) -> object:
    """Poll an idle consumer, as a worker does, until something holds."""
    deadline = time.monotonic() + SECONDS
    while not (result := until()):
        assert time.monotonic() < deadline
        assert consumer.poll(0.1, 100) == []
    return result


def test_an_idle_consumer_sees_its_broker_go_and_come_back(broker: Broker) -> None:
    KafkaTopics(broker.address).ensure({"events": 2, "control": 1}, {})
    consumer, follower = KafkaConsumer(broker.address, "idle"), KafkaFollower(broker.address, "control")
    owned: list[object] = []
    consumer.subscribe(["events"], lambda given: owned.extend(given), lambda gone: None, lambda gone: None)
    try:
        polled(consumer, lambda: len(owned) == 2)
        assert consumer.unavailable is None
        assert follower.poll() == []

        broker.stop()
        why = polled(consumer, lambda: consumer.unavailable)
        assert f"Kafka at {broker.address} does not answer" in str(why)

        broker.start()
        polled(consumer, lambda: consumer.unavailable is None)

        # It is as it was: what is written now is read, from the topic and beside the group.
        producer = KafkaProducer(broker.address)
        producer.send("events", b"k", b"v", {})
        producer.send("control", b"t", b"go on", {})
        producer.flush()
        deadline = time.monotonic() + SECONDS
        records, words = list[Records](), list[Records]()
        while not (records and words):
            assert time.monotonic() < deadline
            records += consumer.poll(0.1, 100)
            words += follower.poll()
        assert [list(r.values) for r in (*records, *words)] == [[b"v"], [b"go on"]]
    finally:
        consumer.close()
        follower.close()
