"""What a broker carries: records in columns, one set a topic, and positions in partitions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

Headers = Mapping[str, bytes | None]


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one topic, column by column, in arrival order; within a partition offsets ascend.

    Columns rather than an object a record: a poll brings thousands, and every later step works on columns.
    `headers` holds only the records that have any, by their position.
    """

    topic: str
    partitions: Sequence[int]
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Mapping[int, Headers] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return sum(map(len, filter(None, self.values)))

    def without(self, partitions: Collection[Partition]) -> "Records":
        """The records of all other partitions."""
        gone = {p.number for p in partitions if p.topic == self.topic}
        return self.take([i for i, number in enumerate(self.partitions) if number not in gone])

    def take(self, positions: Sequence[int]) -> "Records":
        """The records at these positions, in that order."""
        return Records(
            self.topic,
            [self.partitions[i] for i in positions],
            [self.offsets[i] for i in positions],
            [self.keys[i] for i in positions],
            [self.values[i] for i in positions],
            {place: self.headers[i] for place, i in enumerate(positions) if i in self.headers},
        )

    def next_offsets(self) -> dict[Partition, int]:
        """For each partition the offset that follows its last record: what to read next."""
        last = dict(zip(self.partitions, self.offsets, strict=True))  # of equal keys the last one stays
        return {Partition(self.topic, number): offset + 1 for number, offset in last.items()}


def first_offset(polled: Collection[Records], partition: Partition) -> int:
    """The lowest offset of the partition that is among these records, which have some of it."""
    ours = (records for records in polled if records.topic == partition.topic)
    both = (place for records in ours for place in zip(records.partitions, records.offsets, strict=True))
    return min(offset for number, offset in both if number == partition.number)


def cut(several: Sequence[Records], most: int) -> tuple[list[Records], list[Records]]:
    """The first of these records, of at most so many bytes but at least one record, and the others."""
    first: list[Records] = []
    for place, records in enumerate(several):
        size = records.size
        if size > most:
            ends = accumulate(len(value or b"") for value in records.values)
            fit = sum(end <= most for end in ends) or int(not any(first))
            head, rest = records.take(range(fit)), records.take(range(fit, len(records)))
            return [part for part in (*first, head) if part], [part for part in (rest, *several[place + 1 :]) if part]
        most -= size
        first.append(records)
    return first, []


def joined(parts: Sequence[Records]) -> list[Records]:
    """The same records with one `Records` a topic, in their order."""
    by_topic: dict[str, list[Records]] = {}
    for part in parts:
        by_topic.setdefault(part.topic, []).append(part)
    return [several[0] if len(several) == 1 else _concatenated(several) for several in by_topic.values()]


def _concatenated(several: Sequence[Records]) -> Records:
    starts = [0, *accumulate(map(len, several))]
    return Records(
        several[0].topic,
        [number for part in several for number in part.partitions],
        [offset for part in several for offset in part.offsets],
        [key for part in several for key in part.keys],
        [value for part in several for value in part.values],
        {
            start + i: headers
            for start, part in zip(starts, several, strict=False)
            for i, headers in part.headers.items()
        },
    )
