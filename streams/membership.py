"""The partitions that this member of the group reads: given and taken by rebalances, at rest while a store is waited
for, paused with their table."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping

from streams.broker import Consumer, Rebalanced
from streams.messages import Partition, Records, cut

log = logging.getLogger(__name__)


class Membership:
    """What one member owns of its topics. `paused` tells the tables of which it takes nothing, by topic; at most `most`
    bytes of records are taken at once, or one record that is larger.

    Rebalances come inside `poll` and `rest`: the answers of all methods can be different after those.
    """

    def __init__(self, consumer: Consumer, paused: Callable[[], Collection[str]], most: int) -> None:
        self._consumer = consumer
        self._paused = paused
        self._most = most
        self._unchecked: set[Partition] = set()
        self._silent: set[Partition] = set()
        self._left: set[Partition] = set()
        self._resting: set[Partition] = set()
        self._early: list[Records] = []
        self.owned: set[Partition] = set()

    def join(self, topics: Collection[str], revoked: Rebalanced, lost: Rebalanced) -> None:
        """Join the group for these topics; `revoked` and `lost`, as of `Consumer.subscribe`, have to call `lose`."""
        self._consumer.subscribe(sorted(topics), self._assigned, revoked, lost)

    def poll(self, seconds: float, limit: int) -> list[Records]:
        """The next records, as `Consumer.poll`; first those that came at rest, or with others and were too many."""
        polled = self._early or self._consumer.poll(seconds, limit)
        self._left.clear()
        gone = self.gone(polled)  # lost in that very poll: a rebalance can come between two records of it
        polled, self._early = cut([records.without(gone) for records in polled] if gone else polled, self._most)
        return polled

    def rest(self, seconds: float) -> None:
        """Stay in the group for this long without taking records."""
        flowing = self.owned - self._resting
        if flowing:
            self._consumer.pause(flowing)
            self._resting |= flowing
        came = self._consumer.poll(seconds, 1)  # of a partition that was assigned just now
        self._early += came  # no sooner: what stood there can have been lost in that poll

    def go_on(self) -> None:
        """Take records again after a rest, but of tables that are paused."""
        if self._resting:
            paused = self._paused()
            self._consumer.resume([p for p in self._resting if p.topic not in paused])
            self._resting.clear()

    def pause(self, topic: str) -> None:
        """Take no more records of a table."""
        self._consumer.pause(self.of(topic))

    def resume(self, topic: str) -> None:
        """Take the records of a table again, from where it stopped, once there is no more reason not to; at rest, after
        that."""
        if topic not in self._paused():
            self._consumer.resume([p for p in self.of(topic) if p not in self._resting])

    def of(self, topic: str) -> list[Partition]:
        """The partitions of a topic that are owned."""
        return sorted(p for p in self.owned if p.topic == topic)

    def unchecked(self, polled: Collection[Records]) -> Iterator[Partition]:
        """Those of these records that were assigned and not told here yet; they can be assigned once more while one is
        looked at. Of hundreds, to look at all of them at once could take longer than a group waits for a member."""
        if not self._unchecked:
            return
        came = {partition for records in polled for partition in records.next_offsets()}
        while due := self._unchecked & came:
            partition = min(due)
            self._unchecked.discard(partition)
            self._silent.discard(partition)
            yield partition

    def silent(self) -> Partition | None:
        """One of those that were assigned and told neither here nor as unchecked yet."""
        if not self._silent:
            return None
        partition = min(self._silent)
        self._silent.discard(partition)
        return partition

    def gone(self, polled: Collection[Records]) -> set[Partition]:
        """The partitions of these records that were lost meanwhile, even those that are owned again: they are read
        from their commit on."""
        return {p for records in polled for p in records.next_offsets()} - (self.owned - self._left)

    def lose(self, partitions: Collection[Partition]) -> None:
        """These are another member's, or soon will be."""
        self.owned -= set(partitions)
        self._unchecked -= set(partitions)
        self._silent -= set(partitions)
        self._left |= set(partitions)
        self._resting -= set(partitions)
        self._early = [records.without(partitions) for records in self._early]

    def lag(self) -> Mapping[Partition, int]:
        """Records of each owned partition that were not read yet."""
        return self._consumer.lag()

    def _assigned(self, partitions: Collection[Partition]) -> None:
        log.info("assigned", extra={"event": "assigned", "partitions": sorted(map(str, partitions))})
        self.owned |= set(partitions)
        self._unchecked |= set(partitions)
        self._silent |= set(partitions)
        paused = self._paused()
        self._consumer.pause([p for p in partitions if p.topic in paused])
