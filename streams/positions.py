"""Where reading begins, and that nothing is missing after it: each partition that was just assigned is held against
what the lake knows of it, and what comes then against what came before."""

from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial

from stores.lake import Lake
from streams.broker import Consumer
from streams.decide import LakeTableName, changes_table
from streams.messages import Partition, Records
from streams.patience import Patience
from streams.redelivered import Heights
from streams.truncate import Truncates


class TopicRecreated(Exception):
    """The lake holds an offset that the topic does not have, or another record of it: going on would drop new records
    as replays."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}: the topic was made anew. Give the source a new name, or move the lake away and snapshot again"
        )


class RecordsExpired(Exception):
    """Records passed their retention before they were read: a gap that must not be skipped in silence."""


class Positions:
    """Checks partitions before their first records are taken. `tables` names the lake tables that a topic feeds."""

    def __init__(
        self,
        consumer: Consumer,
        lake: Lake,
        tables: Mapping[str, Collection[LakeTableName]],
        truncates: Truncates,
        heights: Heights,
        patience: Patience,
    ) -> None:
        self._consumer = consumer
        self._lake = lake
        self._tables = tables
        self._truncates = truncates
        self._heights = heights
        self._patience = patience
        self._begun: dict[Partition, int] = {}
        self._next: dict[Partition, int] = {}

    def check(self, partition: Partition) -> None:
        """Refuse to go on over records that are gone, or to take a topic's new records for replays. Raises
        `TopicRecreated` and `RecordsExpired`."""
        self._next.pop(partition, None)
        held = self._held(partition)
        self._patience(partial(self._truncates.refresh, partition.topic))
        committed = self._patience(partial(self._consumer.committed, partition))
        self._patience(partial(self._heights.assigned, partition))
        # Asked last: the member before may go on writing a while, so what is read first is the older truth.
        first, end = self._patience(partial(self._consumer.span, partition))
        ahead = max((offset for offset in held.values()), default=0)
        if ahead > end:
            raise TopicRecreated(f"{partition} ends at offset {end}, but the lake holds its records up to {ahead}")
        self._begun[partition] = held.get(changes_table(partition.topic), 0)
        _refuse_gap(partition, held.get(changes_table(partition.topic)) if committed is None else committed, first)

    def refuse_gap(self, partition: Partition) -> None:
        """Refuse to go on after a time in which records passed their retention, and the group's offsets perhaps theirs.
        Raises `RecordsExpired`."""
        known = self._patience(partial(self._consumer.committed, partition))
        if known is None:
            known = self._patience(partial(self._lake.next_offset, changes_table(partition.topic), *partition))
        first, _ = self._patience(partial(self._consumer.span, partition))
        _refuse_gap(partition, known, first)

    def follow(self, polled: Collection[Records]) -> None:
        """Refuse to go on where records passed their retention while this worker waited or was behind: the client then
        reads on from what is left, without a word. Other holes are none: a transaction's marker takes an offset, too.
        Where offsets go back, `check` the partition. Raises `RecordsExpired` and `TopicRecreated`."""
        for records in polled:
            counts = Counter(records.partitions)
            begins = dict(zip(reversed(records.partitions), reversed(records.offsets), strict=True))
            for partition, end in records.next_offsets().items():
                begin = begins[partition.number]
                expected = self._next.get(partition, begin)
                if begin < expected:  # the client reads again: of a topic made anew, perhaps
                    self.check(partition)
                self._next[partition] = end
                if begin > expected or end - begin > counts[partition.number]:
                    first, _ = self._patience(partial(self._consumer.span, partition))
                    _refuse_gap(partition, _missing(records, partition.number, expected), first)

    def begun(self, topic: str) -> dict[int, int]:
        """For each partition of the topic the offset below which the lake held everything when it was checked."""
        return {p.number: offset for p, offset in self._begun.items() if p.topic == topic}

    def _held(self, partition: Partition) -> dict[LakeTableName, int]:
        """For each lake table of the topic the next offset that it holds of the partition."""
        held = {}
        for table in self._tables[partition.topic]:
            offset = self._patience(partial(self._lake.next_offset, table, *partition))
            if offset is not None:
                held[table] = offset
        return held


def _missing(records: Records, number: int, expected: int) -> int:
    """The first offset of a partition, from the expected one on, that is not among its records."""
    for place, offset in zip(records.partitions, records.offsets, strict=True):
        if place == number:
            if offset > expected:
                break
            expected = offset + 1
    return expected


def _refuse_gap(partition: Partition, known: int | None, first: int) -> None:
    if known is not None and known < first:
        raise RecordsExpired(
            f"{partition} begins at offset {first}, but was read up to {known} only: {first - known} records passed "
            f"their retention unread. Stop the workers, take the group past them (kafka-consumer-groups.sh "
            f"--bootstrap-server HOST:PORT --group GROUP --reset-offsets --to-earliest --execute "
            f"--topic {partition.topic}:{partition.number}), start the workers and run millrace resnapshot "
            f"{partition.topic}"
        )
