"""What a member takes of its partitions: nothing at rest, nothing that is another's, nothing of a paused table."""

from collections.abc import Collection

import pytest

from streams.membership import Membership
from streams.memory import MemoryBroker, MemoryConsumer
from streams.messages import Partition, Records
from tests.envelopes import TOPIC
from tests.worker_platform import GROUP, P0, P1

OTHER = Partition("shop.public.stock", 0)
MOST = 1_000


class Member:
    """A member of the topics of two tables, whose partitions the test gives and takes."""

    def __init__(self) -> None:
        self.broker = MemoryBroker({TOPIC: 2, OTHER.topic: 1})
        self.consumer = MemoryConsumer(self.broker, GROUP, lambda seconds: None)
        self.paused: set[str] = set()
        self.members = Membership(self.consumer, lambda: self.paused, MOST)
        self.members.join([TOPIC, OTHER.topic], self.members.lose, self.members.lose)

    def put(self, *partitions: Partition, size: int = 2) -> None:
        for partition in partitions:
            self.broker.append(partition, b"{}", b"x" * size)

    def at_next_poll(self, *, lost: Collection[Partition] = (), given: Collection[Partition] = ()) -> None:
        poll = self.consumer.poll

        def rebalanced(timeout: float, limit: int) -> list[Records]:
            self.consumer.poll = poll  # type: ignore[method-assign]
            self.consumer.revoke(lost, lost=True)
            self.consumer.assign(given)
            return poll(timeout, limit)

        self.consumer.poll = rebalanced  # type: ignore[method-assign]

    def polled(self) -> list[tuple[str, int, int]]:
        return [
            (records.topic, number, offset)
            for records in self.members.poll(0, 10)
            for number, offset in zip(records.partitions, records.offsets, strict=True)
        ]


@pytest.fixture
def member() -> Member:
    return Member()


def test_what_came_at_rest_comes_first_and_once(member: Member) -> None:
    member.put(P1, P1)
    member.at_next_poll(given=[P1])
    member.members.rest(0)
    member.members.rest(0)
    member.members.go_on()
    assert member.polled() == [(TOPIC, 1, 0)]
    assert member.polled() == [(TOPIC, 1, 1)]
    assert member.polled() == []


def test_large_records_that_came_at_once_are_taken_one_part_after_the_other(member: Member) -> None:
    member.put(P0, P0, P1, size=MOST // 2)
    member.put(P1, size=MOST + 1)
    member.put(OTHER)
    assert member.polled() == [(TOPIC, 0, 0), (TOPIC, 0, 1)]
    assert member.polled() == [(TOPIC, 1, 0)]
    member.put(P0)
    assert member.polled() == [(TOPIC, 1, 1)]
    assert member.polled() == [(OTHER.topic, 0, 0)]
    assert member.polled() == [(TOPIC, 0, 2)]


def test_of_large_records_none_is_taken_whose_partition_was_lost_meanwhile(member: Member) -> None:
    member.put(P0, P0, P1, P1, size=MOST)
    assert member.polled() == [(TOPIC, 0, 0)]
    member.consumer.revoke([P0], lost=True)
    assert member.polled() == [(TOPIC, 1, 0)]
    member.consumer.assign([P0])
    assert member.polled() == [(TOPIC, 1, 1)]
    assert member.polled() == [(TOPIC, 0, 0)]


def test_of_large_records_none_is_taken_whose_partition_was_lost_in_their_poll(member: Member) -> None:
    member.put(P0, P1, P1, size=MOST)
    poll = member.consumer.poll

    def lost_after(timeout: float, limit: int) -> list[Records]:
        came = poll(timeout, limit)
        member.consumer.revoke([P1], lost=True)
        return came

    member.consumer.poll = lost_after  # type: ignore[method-assign]
    assert member.polled() == [(TOPIC, 0, 0)]
    assert member.polled() == []


def test_what_came_at_rest_of_a_partition_that_is_lost_at_the_next_rest_is_left_to_whoever_has_it(
    member: Member,
) -> None:
    member.put(P0, P0)
    member.at_next_poll(given=[P0])
    member.members.rest(0)
    member.at_next_poll(lost=[P0])
    member.members.rest(0)
    member.members.go_on()
    assert member.polled() == []


def test_a_paused_table_stays_paused_after_a_rest_and_when_more_of_it_is_assigned(member: Member) -> None:
    member.consumer.assign([P0, OTHER])
    member.paused.add(TOPIC)
    member.members.pause(TOPIC)
    member.members.rest(0)
    member.consumer.assign([P1])
    member.put(P0, P1, OTHER)
    member.members.go_on()
    assert member.polled() == [(OTHER.topic, 0, 0)]
    member.paused.clear()
    member.members.resume(TOPIC)
    assert member.polled() == [(TOPIC, 0, 0), (TOPIC, 1, 0)]


def test_a_table_that_is_resumed_at_rest_goes_on_after_it_and_not_for_as_long_as_it_is_paused(member: Member) -> None:
    member.consumer.assign([P0, OTHER])
    member.put(P0, OTHER)
    member.consumer.pause([P0, OTHER])
    member.paused.add(OTHER.topic)
    member.members.resume(OTHER.topic)
    member.members.rest(0)
    member.members.resume(TOPIC)
    assert member.consumer.poll(0, 10) == []
    member.members.go_on()
    assert member.polled() == [(TOPIC, 0, 0)]


def test_a_partition_is_told_once_as_unchecked_when_it_has_records(member: Member) -> None:
    member.consumer.assign([P0, P1])
    for partition in (P0, P1):
        member.put(partition)
        polled = member.members.poll(0, 10)
        assert list(member.members.unchecked(polled)) == [partition]
        assert list(member.members.unchecked(polled)) == []


def test_one_that_is_lost_and_given_back_as_it_is_looked_at_is_told_again(member: Member) -> None:
    member.consumer.assign([P0])
    member.put(P0)
    told = []
    for partition in member.members.unchecked(member.members.poll(0, 10)):
        told.append(partition)
        if len(told) == 1:
            member.consumer.revoke([P0], lost=True)
            member.consumer.assign([P0])
    assert told == [P0, P0]


def test_what_is_silent_is_told_once_and_not_if_it_was_lost_or_told_as_unchecked(member: Member) -> None:
    member.consumer.assign([P0])
    assert (member.members.silent(), member.members.silent()) == (P0, None)
    member.consumer.assign([P1])
    member.consumer.revoke([P1], lost=True)
    assert member.members.silent() is None
    member.consumer.assign([P1])
    member.put(P0, P1)
    assert list(member.members.unchecked(member.members.poll(0, 10))) == [P0, P1]
    assert member.members.silent() is None


def test_records_of_a_partition_that_was_lost_and_given_back_since_their_poll_are_gone(member: Member) -> None:
    member.consumer.assign([P0, P1])
    member.put(P0, P1)
    polled = member.members.poll(0, 10)
    assert member.members.gone(polled) == set()
    member.consumer.revoke([P0], lost=True)
    member.consumer.assign([P0])
    assert member.members.gone(polled) == {P0}
    assert member.members.gone(member.members.poll(0, 10)) == set()
