"""The worker as a member of its group: partitions that come, go and are lost, and where reading begins."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stores.errors import StoreUnavailable
from stores.rows import FeatureRows, WriteResult
from streams.broker import BrokerUnavailable
from streams.control import ask_to_resume
from streams.decide import changes_table
from streams.letters import Rejection
from streams.memory import MemoryConsumer, MemoryProducer
from streams.messages import Partition, Records
from streams.pipeline import Flow
from streams.positions import RecordsExpired, TopicRecreated
from streams.worker import Worker
from tests.envelopes import TOPIC, envelope, key, records, row
from tests.worker_platform import CONTROL, GROUP, P0, P1, Platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def lose_and_regain_at_next_poll(consumer: MemoryConsumer) -> None:
    poll = consumer.poll

    def lose_and_regain(timeout: float, limit: int) -> Any:
        consumer.poll = poll  # type: ignore[method-assign]
        consumer.revoke([P0], lost=True)
        consumer.assign([P0])
        return []

    consumer.poll = lose_and_regain  # type: ignore[method-assign]


def test_a_partition_that_is_lost_and_given_back_while_a_store_is_away_loses_nothing(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=float(i)), lsn=10 + i)) for i in range(1, 4)))
    worker, consumer = platform.joined()
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 2))
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")]
    polled = consumer.poll(0, 1)
    lose_and_regain_at_next_poll(consumer)
    worker._take(polled)
    worker._flush_all()
    platform.run()
    assert platform.changes() == [(11, "c"), (12, "c"), (13, "c")]


def test_a_partition_that_is_lost_while_a_write_beside_the_loop_is_tried_again_is_not_doubled(
    platform: Platform,
) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=float(i)), lsn=10 + i)) for i in range(1, 4)))
    worker, consumer = platform.joined(poll_records=2)
    consumer.assign([P0, P1])
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")] * 2
    worker._take(consumer.poll(0, 2))
    lose_and_regain_at_next_poll(consumer)
    worker._writes.finish_of(TOPIC)
    assert not worker.staged_rows
    platform.run()
    assert platform.changes() == [(11, "c"), (12, "c"), (13, "c")]


def test_offsets_that_could_not_be_handed_over_are_committed_later(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=10)))
    worker, consumer = platform.joined()
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 100))
    commit = consumer.commit

    def refuse(offsets: Any) -> None:
        consumer.commit = commit  # type: ignore[method-assign]
        raise BrokerUnavailable("no coordinator")

    consumer.commit = refuse  # type: ignore[method-assign]
    consumer.revoke([P1])
    worker._commit(worker._flusher.collect())
    assert platform.broker.offsets == {(GROUP, P0): 1}


def test_a_member_that_checks_its_positions_beside_a_late_writer_goes_on(platform: Platform) -> None:
    """What another member writes between the two questions is no sign of a topic made anew."""
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    platform.run()
    worker, consumer = platform.joined()
    consumer.assign([P0])
    span = consumer.span

    def grows(partition: Partition) -> tuple[int, int]:
        answer = span(partition)
        platform.produce((key(2), envelope("c", row(2), lsn=11)))
        platform.lake.advance(changes_table(TOPIC), {P0: 2})
        return answer

    consumer.span = grows  # type: ignore[method-assign]
    worker._check_positions(consumer.poll(0, 100))


def test_one_word_reaches_every_worker_of_the_group(platform: Platform) -> None:
    paused = []
    for partition in (P0, P1):
        platform.produce(
            *((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 100)),
            (key(200), envelope("c", row(200, amount=2.0), lsn=200)),
            to=partition,
        )
        worker, consumer = platform.joined()
        consumer.assign([partition])
        worker._take(consumer.poll(0, 99))
        assert consumer.poll(0, 1_000) == []
        paused.append((worker, consumer))
    ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
    for worker, consumer in paused:
        worker._resume_asked()
        assert [records.offsets for records in consumer.poll(0, 1_000)] == [[99]]


def test_a_paused_table_stays_paused_when_more_of_it_is_assigned(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 100)))
    platform.produce((key(200), envelope("c", row(200, amount=2.0), lsn=200)), to=P1)
    worker, consumer = platform.joined()
    consumer.assign([P0])
    worker._take(consumer.poll(0, 1_000))
    assert TOPIC in worker.paused
    consumer.assign([P1])
    assert consumer.poll(0, 1_000) == []
    ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
    worker._resume_asked()
    assert [records.offsets for records in consumer.poll(0, 1_000)] == [[0]]


def test_a_worker_with_nothing_to_do_says_that_the_broker_is_away(platform: Platform) -> None:
    seen: list[object] = []

    def back() -> bool:
        assert platform.worker is not None
        seen.append(platform.worker.state()["waiting_for"])
        platform.broker.available = len(seen) > 3
        return len(seen) > 5

    platform.broker.available = False
    worker = platform.run(until=back)
    assert "away" in str(seen[0])
    assert worker.state()["waiting_for"] is None


def test_partitions_are_handed_over_without_loss(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=10)))
    platform.produce((key(2), envelope("c", row(2, amount=2.0), lsn=11)), to=P1)
    worker, consumer = platform.joined()
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 100))
    consumer.revoke([P1], lost=True)
    consumer.revoke([P0])
    assert platform.broker.offsets == {(GROUP, P0): 1}
    assert platform.changes() == [(10, "c")]
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "c")]


@pytest.mark.parametrize("filled", [1, 6])
def test_a_topic_made_anew_is_refused_instead_of_taken_for_a_replay(platform: Platform, filled: int) -> None:
    """Also when it has outgrown the one before it."""
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 5)))
    platform.run()
    platform.broker.log.clear()
    platform.broker.offsets.clear()
    platform.produce(*((key(i), envelope("c", row(i), lsn=100 + i)) for i in range(9, 9 + filled)))
    with pytest.raises(TopicRecreated, match="made anew"):
        platform.run(until=lambda: False)


@pytest.mark.parametrize("filled", [3, 6])
def test_a_topic_made_anew_under_a_running_worker_is_refused(platform: Platform, filled: int) -> None:
    """No rebalance tells of it: the client reads from the beginning again."""
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 6)))
    polls = 0

    def drained() -> bool:
        nonlocal polls
        polls += platform.drained() or polls > 0
        if polls == 1:
            platform.broker.log[P0].clear()
        elif polls == 3:
            platform.produce(*((key(i), envelope("c", row(i), lsn=100 + i)) for i in range(9, 9 + filled)))
        return False

    with pytest.raises(TopicRecreated, match="made anew"):
        platform.run(until=drained)
    assert platform.broker.offsets == {(GROUP, P0): 5}


def test_records_that_expire_while_the_worker_waits_stop_it(platform: Platform) -> None:
    """The client goes on at what is left, without a word."""
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in (1, 2)))
    waits = 3

    def expired() -> bool:
        nonlocal waits
        if platform.drained() and (waits := waits - 1) == 0:
            platform.broker.expired[P0] = 4
            platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in (3, 4, 5)))
        return False

    with pytest.raises(RecordsExpired, match=r"begins at offset 4, but was read up to 2 only: 2 records .*:0\)"):
        platform.run(until=expired)
    assert platform.changes() == [(1, "c"), (2, "c")]


@pytest.mark.parametrize("first", [0, 5])
def test_a_hole_is_a_gap_if_the_topic_begins_after_it(platform: Platform, first: int) -> None:
    """A transaction of the source connector ends with a marker that no consumer sees."""
    platform.broker.expired[P0] = first
    whole = records(*((key(i), envelope("c", row(i), lsn=i)) for i in range(8)))
    polled = whole.take([0, 1, 2, 5, 6])
    worker, _ = platform.joined()
    with pytest.raises(RecordsExpired, match="read up to 3 only") if first else nullcontext():
        worker._positions.follow([polled])
    with pytest.raises(RecordsExpired, match="read up to 7 only") if first else nullcontext():
        platform.broker.expired[P0] = first and 9
        worker._positions.follow([replace(polled, offsets=[9, 10, 11, 12, 13])])


@pytest.mark.parametrize("offsets", ["kept", "expired"])
@pytest.mark.parametrize("first", [6, 8])
def test_records_that_expired_unread_stop_the_worker(platform: Platform, first: int, offsets: str) -> None:
    """Also if none is left, and nothing comes; the group's offsets may have expired with them, and the lake knows."""
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 5)))
    platform.run()
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(5, 9)))
    platform.broker.expired[P0] = first
    if offsets == "expired":
        platform.broker.offsets.clear()
    with pytest.raises(RecordsExpired, match=f"{first - 4} records passed their retention unread"):
        platform.run(until=lambda: False)


def test_the_lake_knows_how_far_a_topic_was_read_of_which_nothing_was_accepted(platform: Platform) -> None:
    """Below that a record stays a letter, whatever the contract says when it is read again."""
    platform.produce((key(1), envelope("c", row(1, amount=-1.0), lsn=1)))
    platform.run()
    assert len(platform.letters()) == 1
    assert platform.lake.next_offset(changes_table(TOPIC), TOPIC, 0) == 1


def test_a_partition_that_is_assigned_while_another_is_checked_is_checked_too(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 4)), to=P1)
    platform.broker.offsets[GROUP, P1] = 1
    platform.broker.expired[P1] = 2
    next_offset = platform.lake.next_offset
    worker, consumer = platform.joined()
    platform.produce((key(4), envelope("c", row(4), lsn=4)))
    consumer.assign([P0])

    def away_once(name: str, topic: str, partition: int) -> int | None:
        if P1 in worker._members.owned:
            return next_offset(name, topic, partition)
        consumer.assign([P1])  # as a poll that waits for the lake may find
        raise StoreUnavailable("the lake", "slow")

    platform.lake.next_offset = away_once  # type: ignore[method-assign]
    worker._check_positions(worker._members.poll(0, 10))
    worker._members.go_on()
    with pytest.raises(RecordsExpired, match=r"orders\[1\] begins at offset 2"):
        worker._check_positions(worker._members.poll(0, 10))


def test_a_pause_that_outlasts_the_retention_is_no_gap_in_silence(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 200)))

    def expired_while_paused() -> bool:
        assert platform.worker is not None
        if platform.worker.paused:
            platform.broker.expired[P0] = 150
            ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
        return False

    with pytest.raises(RecordsExpired, match=r"begins at offset 150, but was read up to \d+ only"):
        platform.run(until=expired_while_paused, poll_records=60)


EARLY, LATE = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"


@pytest.mark.parametrize("learns", ["while it hangs", "afterwards", "while it waits for Redis"])
def test_a_row_that_another_member_deleted_does_not_come_back_with_a_flush_under_way(
    platform: Platform, learns: str
) -> None:
    """The flush has appended, and is about to offer its rows once more, when its partition goes to another member."""
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0, EARLY), lsn=10)))
    platform.run()
    platform.produce((key(2), envelope("c", row(2, "ann", 2.0, LATE), lsn=11)))
    worker, consumer = joined(platform)
    worker._take(consumer.poll(0, 100))
    write = platform.online.write
    reached, go_on = threading.Event(), threading.Event()
    flush: list[threading.Thread] = []

    def held_up(batches: Sequence[FeatureRows]) -> WriteResult:
        if not reached.is_set():
            flush.append(threading.current_thread())
        if threading.current_thread() in flush and not go_on.is_set():
            reached.set()
            if learns == "while it waits for Redis":
                raise StoreUnavailable("Redis", "connection refused")
            go_on.wait(10)
        return write(batches)

    platform.online.write = held_up  # type: ignore[method-assign]
    worker._start_flush()
    assert reached.wait(10)
    if learns == "while it waits for Redis":
        while worker._flusher.waiting_for is None:
            time.sleep(0.01)
        consumer.revoke([P0, P1])  # nothing is handed over
    elif learns == "while it hangs":
        consumer.revoke([P0, P1], lost=True)
    platform.produce((key(2), envelope("d", None, before=row(2, "ann", 2.0, LATE), lsn=12)))
    platform.run()  # another member
    assert platform.customer("ann") == 1.0
    go_on.set()
    offsets: dict[Partition, int] = {}
    while worker._flusher.busy:
        offsets = worker._flusher.collect(timeout=10)
    if learns == "afterwards":
        consumer.revoke([P0, P1], lost=True)
    worker._commit(offsets)
    worker._flush_all()
    assert platform.customer("ann") == 1.0


def test_offsets_of_before_a_partition_was_lost_are_not_committed_when_it_is_back(platform: Platform) -> None:
    """They would take back what the member between had committed, and nobody would read it again."""
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    worker, consumer = joined(platform)
    polled = consumer.poll(0, 100)
    worker._check_positions(polled)
    worker._take(polled)
    worker._start_flush()
    while not worker._flusher._running.done():  # type: ignore[union-attr]  # it was started
        time.sleep(0.001)
    consumer.revoke([P0], lost=True)
    platform.produce((key(2), envelope("c", row(2), lsn=11)))
    platform.run()  # another member
    assert platform.broker.offsets[GROUP, P0] == 2
    consumer.assign([P0])
    worker._commit(worker._flusher.collect())
    assert platform.broker.offsets[GROUP, P0] == 2
    assert not worker._flusher.busy


def test_the_lake_learns_how_far_letters_were_read_though_what_was_accepted_beside_them_is_lost(
    platform: Platform,
) -> None:
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    platform.produce((key(2), envelope("c", row(2, amount=-1.0), lsn=11)), to=P1)
    worker, consumer = joined(platform)
    polled = consumer.poll(0, 100)
    worker._check_positions(polled)
    worker._take(polled)
    consumer.revoke([P0], lost=True)
    worker._flush_all()
    assert platform.lake.next_offset(changes_table(TOPIC), *P1) == 1


def rebalanced_in_its_next_poll(consumer: MemoryConsumer, rebalance: Callable[[], None], took: int) -> None:
    """librdkafka serves rebalances between two records of a poll."""
    poll = consumer.poll

    def rebalanced(timeout: float, limit: int) -> list[Records]:
        consumer.poll = poll  # type: ignore[method-assign]
        polled = poll(timeout, took)
        rebalance()
        return polled

    consumer.poll = rebalanced  # type: ignore[method-assign]


@pytest.mark.parametrize("lost", [True, False])
def test_records_of_the_poll_in_which_their_partition_left_are_left_to_whoever_has_it(
    platform: Platform, lost: bool
) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=float(i)), lsn=10 + i)) for i in range(1, 5)))
    worker, consumer = joined(platform)
    polled = worker._members.poll(0, 2)
    worker._check_positions(polled)
    worker._take(polled)
    rebalanced_in_its_next_poll(consumer, lambda: consumer.revoke([P0], lost=lost), 1)
    polled = worker._members.poll(0, 1)
    rebalanced_in_its_next_poll(consumer, lambda: consumer.assign([P0]), 0)
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")]
    worker._take(polled)  # and the partition comes back while it waits
    worker._members.go_on()
    while polled := worker._members.poll(0, 10):
        worker._check_positions(polled)
        worker._take(polled)
    worker._flush_all()
    assert platform.changes() == [(11, "c"), (12, "c"), (13, "c"), (14, "c")]


def test_a_hand_over_that_cannot_queue_a_letter_does_not_wait_for_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka aborts the process of who polls within its callback."""
    monkeypatch.setattr(Flow, "embeds", property(lambda flow: True))
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    worker, consumer = joined(platform)
    refused = [Rejection(0, "transform", ("view v: its text cannot be embedded",))]
    worker._writes._embedding = lambda outcome, made: replace(outcome, rejections=refused)
    worker._take(worker._members.poll(0, 10))
    full = BrokerUnavailable("Kafka takes no records for letters: queue full")
    monkeypatch.setattr(worker._parts.letters, "send", raising([full], worker._parts.letters.send))
    polled: list[float] = []

    def noted(seconds: float, limit: int) -> list[Records]:
        polled.append(seconds)
        return []

    monkeypatch.setattr(consumer, "poll", noted)
    consumer.revoke([P0])
    assert not polled
    assert not platform.broker.offsets


def test_a_hand_over_after_the_time_to_stop_waits_for_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop has one time limit, of which the flush of what was taken may have used all."""
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    worker, consumer = joined(platform)
    worker._take(worker._members.poll(0, 10))
    held = threading.Event()
    append = platform.lake.append
    monkeypatch.setattr(platform.lake, "append", lambda *given: held.wait(30) and append(*given))
    worker._start_flush()
    waited: list[float] = []

    def noted(timeout: float = 0) -> dict[Partition, int]:
        waited.append(timeout)
        held.set()
        return {}

    monkeypatch.setattr(worker._flusher, "collect", noted)
    worker._deadline = platform.clock.monotonic()
    consumer.revoke([P0, P1])
    held.set()
    assert not waited


def raising(errors: list[Exception], otherwise: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        otherwise(*arguments)

    return call


def test_a_letter_that_cannot_be_queued_does_not_double_those_before_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 4)))
    worker, _ = joined(platform)
    producer = worker._parts.letters._producer
    send, calls = producer.send, itertools.count()

    def full_once(*arguments: Any) -> None:
        if next(calls) == 2:
            raise BrokerUnavailable("Kafka takes no records for letters: queue full")
        send(*arguments)

    monkeypatch.setattr(producer, "send", full_once)
    worker._take(worker._members.poll(0, 10))
    worker._flush_all()
    assert [letter.offset for letter in platform.letters()] == [0, 1, 2]


def joined(platform: Platform) -> tuple[Worker, MemoryConsumer]:
    """A worker that has both partitions, and its consumer."""
    worker, consumer = platform.joined()
    consumer.assign([P0, P1])
    return worker, consumer
