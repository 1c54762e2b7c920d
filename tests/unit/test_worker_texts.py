"""Tables with texts beside others: these wait for no vector, neither while many are made nor when the worker stops."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stores.history import change_properties, feature_properties
from stores.rows import rows_schema
from streams.changes import changes_schema
from streams.control import ask_to_resume
from streams.decide import changes_table, features_table
from streams.embed import Made
from streams.embedders import EmbedderUnavailable
from streams.memory import MemoryConsumer, MemoryProducer
from streams.messages import Partition, Records
from streams.pipeline import Flow, Outcome
from streams.views import StreamView
from streams.worker import Worker
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.worker_platform import CONTROL, GROUP, ORDER, P0, P1, Platform

DOCS = "shop.public.docs"
D0, D1 = Partition(DOCS, 0), Partition(DOCS, 1)
POLL = 10


class Texts:
    """A platform with a second table, of texts, whose embedding is held up until `go_on`; `begun` has how many texts
    each batch had that was begun."""

    def __init__(self, folder: Path) -> None:
        self.platform = platform = Platform(folder)
        self.go_on = threading.Event()
        self.seconds = 3.0
        self.begun: list[int] = []
        self.fault: Exception | None = None
        table, view = replace(ORDERS, name="docs", topic=DOCS), replace(ORDER, name="docs_now")
        platform.lake.create(changes_table(DOCS), changes_schema(table), change_properties(DOCS, ("id",)))
        platform.lake.create(features_table(view.name), rows_schema(view), feature_properties(view, DOCS))
        platform.broker.partitions[DOCS] = 2
        platform.beside = {DOCS: replace(platform.flow, table=table, views=(StreamView(view, table),))}
        platform.embedding = self._embed

    def _embed(self, outcome: Outcome, made: Made) -> Outcome:
        if self.fault is not None:
            raise self.fault
        self.begun.append(len(outcome.records))
        self.go_on.wait(self.seconds)  # of no end, but for a worker that waits here
        return outcome

    def put(self, count: int, to: Partition = D0) -> None:
        begin = 1_000 * to.number + len(self.platform.broker.log[to])
        for i in range(begin, begin + count):
            self.platform.broker.append(to, key(i), envelope("c", row(i), lsn=100 + i))

    def joined(self, *partitions: Partition, **settings: int) -> tuple[Worker, MemoryConsumer]:
        worker, consumer = self.platform.joined(**({"poll_records": POLL} | settings))
        consumer.assign(partitions)
        return worker, consumer

    def made(self, worker: Worker) -> None:
        """The vectors of the batch at hand are there."""
        self.go_on.set()
        worker._writes.finish_of(DOCS)
        self.go_on.clear()

    def stands_online(self) -> bool:
        return bool(self.begun) and self.platform.order(1) is not None

    def committed(self, partition: Partition) -> int:
        return self.platform.broker.offsets.get((GROUP, partition), 0)

    def lsns(self) -> list[int]:
        rows = self.platform.lake.scan(changes_table(DOCS)).read_all()
        return sorted(rows["_lsn"].to_pylist())


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Texts]:
    monkeypatch.setattr(Flow, "embeds", property(lambda flow: flow.table.topic == DOCS))
    texts = Texts(tmp_path)
    yield texts
    texts.go_on.set()


def turn(worker: Worker) -> int:
    """One turn of the worker's loop: how many records it polled."""
    worker._members.go_on()
    polled = worker._members.poll(0, worker._settings.poll_records)
    worker._check_positions(polled)
    worker._take(worker._ready(polled))
    worker._writes.finish_done()
    return sum(map(len, polled))


def test_no_table_waits_for_the_vectors_of_a_backlog(texts: Texts) -> None:
    texts.put(50)
    worker, _ = texts.joined(D0, P0)
    while turn(worker):
        pass
    assert texts.begun == [POLL, POLL]
    texts.platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    turn(worker)
    worker._writes.finish_of(TOPIC)
    assert texts.platform.order(1) == 5.0
    assert worker._consumer.lag()[D0] == 50 - 3 * POLL
    texts.go_on.set()
    while turn(worker) or worker._texts or worker._writes.busy or worker._consumer.lag()[D0]:
        pass
    worker._flush_all()
    assert texts.lsns() == list(range(100, 150))
    assert texts.committed(D0) == 50 and texts.committed(P0) == 1


def test_texts_are_on_their_way_before_other_tables_are_decoded(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model and the store have something to do meanwhile."""
    worker, _ = texts.joined(P0, D0)
    begun: dict[str, bool] = {}
    holds = worker._guard.holds

    def seen(records: Records) -> bool:
        begun[records.topic] = worker._writes.busy
        return holds(records)

    monkeypatch.setattr(worker._guard, "holds", seen)
    texts.platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    texts.put(1)
    assert turn(worker) == 2
    assert begun == {DOCS: False, TOPIC: True}


def test_texts_of_an_event_view_are_embedded_one_batch_after_the_other(texts: Texts) -> None:
    """Writes that overtake each other would have it decided anew."""
    flow = texts.platform.beside[DOCS]
    views = tuple(replace(view, view=replace(view.view, kind="event")) for view in flow.views)
    texts.platform.beside = {DOCS: replace(flow, views=views)}
    texts.put(50)
    worker, _ = texts.joined(D0)
    while turn(worker):
        pass
    assert texts.begun == [POLL]


def test_of_long_texts_fewer_wait_and_fewer_are_taken_at_once(texts: Texts) -> None:
    texts.put(50)
    longest = max(len(record.value or b"") for record in texts.platform.broker.log[D0])
    worker, _ = texts.joined(D0, take_bytes=5 * longest, poll_records=7)
    while turn(worker):
        pass
    assert texts.begun == [5, 2]  # all of the first poll
    assert sum(map(len, worker._texts)) == 7  # all of the next
    texts.go_on.set()
    while turn(worker) or worker._texts or worker._writes.busy or worker._consumer.lag()[D0]:
        pass
    worker._flush_all()
    assert max(texts.begun) == 5
    assert texts.lsns() == list(range(100, 150)) and texts.committed(D0) == 50


def test_a_table_of_texts_that_is_paused_stays_so_when_there_is_room(texts: Texts) -> None:
    texts.put(40)
    worker, consumer = texts.joined(D0)
    while turn(worker):
        pass
    worker._parts.breaker.paused[DOCS] = "mostly rejected"
    texts.made(worker)
    turn(worker)
    assert texts.begun == [POLL] * 3
    assert turn(worker) == 0 and consumer.poll(0, POLL) == []
    ask_to_resume(MemoryProducer(texts.platform.broker), CONTROL, DOCS)
    worker._resume_asked()
    assert turn(worker) == POLL


def test_a_table_of_texts_that_is_resumed_while_many_wait_goes_on_when_there_is_room(texts: Texts) -> None:
    texts.put(40)
    worker, _ = texts.joined(D0)
    while turn(worker):
        pass
    worker._parts.breaker.paused[DOCS] = "mostly rejected"
    ask_to_resume(MemoryProducer(texts.platform.broker), CONTROL, DOCS)
    worker._resume_asked()
    assert turn(worker) == 0
    texts.made(worker)
    turn(worker)
    assert turn(worker) == POLL


def test_a_partition_of_texts_that_comes_while_many_wait_is_read_when_there_is_room(texts: Texts) -> None:
    texts.put(30)
    texts.put(5, D1)
    worker, consumer = texts.joined(D0)
    while turn(worker):
        pass
    consumer.assign([D1])
    assert turn(worker) == 0
    texts.made(worker)
    turn(worker)
    assert turn(worker) == 5


def test_texts_go_on_when_those_that_waited_are_another_members(texts: Texts) -> None:
    texts.put(30)
    worker, consumer = texts.joined(D0, D1)
    while turn(worker):
        pass
    texts.put(5, D1)
    assert turn(worker) == 0
    consumer.revoke([D0], lost=True)
    turn(worker)
    assert turn(worker) == 5
    texts.made(worker)
    turn(worker)
    texts.made(worker)
    worker._flush_all()
    assert texts.lsns() == list(range(1_100, 1_105))
    assert texts.committed(D0) == 0 and texts.committed(D1) == 5


def test_a_worker_that_waits_for_a_store_does_not_read_texts_on_meanwhile(texts: Texts) -> None:
    texts.put(40)
    worker, _ = texts.joined(D0)
    while turn(worker):
        pass
    texts.made(worker)
    worker._members.rest(0)
    worker._ready([])
    worker._members.rest(0)
    assert not worker._members._early
    assert turn(worker) == POLL


def test_what_is_looked_up_for_one_table_waits_for_no_vectors_of_another(texts: Texts) -> None:
    texts.put(5)
    worker, _ = texts.joined(D0, P0)
    turn(worker)
    assert worker._taken(TOPIC, []) == []
    assert worker._writes.busy


def test_a_stop_waits_for_no_vectors_and_commits_the_rest(texts: Texts) -> None:
    texts.put(5)
    texts.seconds = 60.0
    texts.platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    texts.platform.run(until=texts.stands_online, flush_seconds=100.0, stop_seconds=1.0)
    assert texts.committed(P0) == 1 and texts.committed(D0) == 0
    texts.go_on.set()
    texts.platform.run(until=lambda: texts.committed(D0) == 5)
    assert texts.lsns() == list(range(100, 105))


def test_a_model_that_is_away_holds_up_no_other_table(texts: Texts) -> None:
    texts.put(5)
    texts.fault = EmbedderUnavailable("no provider of m")
    platform = texts.platform

    def waited() -> bool:
        assert platform.worker is not None
        if platform.worker.state()["waiting_for"] == "no provider of m":
            if not platform.broker.log[P1]:
                platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)), to=P1)
            if texts.committed(P1):
                texts.fault = None
                texts.go_on.set()
        return texts.committed(D0) == 5

    worker = platform.run(until=waited)
    assert texts.committed(P1) == 1 and texts.committed(D0) == 5
    assert worker.waiting_for is None
