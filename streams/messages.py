"""What a broker carries: records in columns, one set a topic, and positions in partitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = Mapping[str, bytes]


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

    def next_offsets(self) -> dict[Partition, int]:
        """For each partition the offset that follows its last record: what to read next."""
        following: dict[Partition, int] = {}
        for number, offset in zip(self.partitions, self.offsets, strict=True):
            following[Partition(self.topic, number)] = offset + 1
        return following
