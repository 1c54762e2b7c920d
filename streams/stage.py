"""What is online already and waits for the lake: bounded, and dropped with the partitions it came from."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from stores.rows import FeatureRows
from stores.view import View
from streams.messages import Partition

LakeTable = str
"""A table's name in the lake: `changes/<topic>` or `features/<view>`."""


@dataclass(slots=True)
class Batch:
    """Rows for several lake tables, and for each partition the offset that follows the last of them.

    `topics` tells which topic feeds a table. `gone` holds the deleted rows of event views and `undecided`
    the entities whose winner is gone: both are settled once the rows are in the lake. `truncated` gives for
    each topic the LSN of the last truncate that all its rows take account of.
    """

    tables: dict[LakeTable, list[pa.Table]] = field(default_factory=dict)
    topics: dict[LakeTable, str] = field(default_factory=dict)
    offsets: dict[Partition, int] = field(default_factory=dict)
    gone: list[FeatureRows] = field(default_factory=list)
    undecided: list[tuple[View, pa.Table]] = field(default_factory=list)
    truncated: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    since: float = field(default_factory=time.monotonic)

    def put(self, table: LakeTable, topic: str, rows: pa.Table) -> None:
        """Add rows for a lake table."""
        if rows.num_rows:
            self.tables.setdefault(table, []).append(rows)
            self.topics[table] = topic
            self.rows += rows.num_rows

    def advance(self, offsets: dict[Partition, int]) -> None:
        """Everything below these offsets is in the batch, among the letters, or asked to be left out."""
        self.offsets.update(offsets)

    @property
    def empty(self) -> bool:
        return not self.offsets

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget what came from these partitions: another member reads it again."""
        for partition in partitions:
            self.offsets.pop(partition, None)
        for table, parts in self.tables.items():
            lost = [p.number for p in partitions if p.topic == self.topics[table]]
            if lost:
                self.tables[table] = [part.filter(_not_from(part, lost)) for part in parts]
        self.rows = sum(part.num_rows for parts in self.tables.values() for part in parts)


def _not_from(rows: pa.Table, partitions: list[int]) -> pa.Array:
    return pa.array(~np.isin(rows["_partition"].to_numpy(), partitions))
