"""What is online already and waits for the lake: bounded, and dropped with the partitions it came from."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.rows import FeatureRows
from stores.view import View
from streams.decide import features_table
from streams.messages import Partition

LakeTable = str
"""A table's name in the lake: `changes/<topic>` or `features/<view>`."""


SMALL = 1_000
"""Rows below which a part is small."""


@dataclass(slots=True)
class Batch:
    """Rows for several lake tables, and for each partition the offset that follows the last of them.

    A table that is in it has rows; `topics` tells which topic feeds one that has or had some. `events` holds the rows
    of event views, and `undecided` the entities (a table of join keys) that have to be decided from the lake: both are
    settled once the rows are there. `truncated` gives for each topic the LSNs of the truncates that all its rows take
    account of, `readings` for partitions when the initial snapshots were begun that they had rows of
    (`streams.redelivered`). Of partitions that were `lost` since it was handed to the flush nothing is to be committed.
    `since` is when it was begun.
    """

    since: float
    tables: dict[LakeTable, list[pa.Table]] = field(default_factory=dict)
    topics: dict[LakeTable, str] = field(default_factory=dict)
    offsets: dict[Partition, int] = field(default_factory=dict)
    events: list[FeatureRows] = field(default_factory=list)
    undecided: list[tuple[View, pa.Table]] = field(default_factory=list)
    truncated: dict[str, tuple[int, ...]] = field(default_factory=dict)
    readings: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    lost: set[Partition] = field(default_factory=set)
    rows: int = 0
    bytes: int = 0

    def put(self, table: LakeTable, topic: str, rows: pa.Table) -> None:
        """Add rows for a lake table."""
        if rows.num_rows:
            self.tables.setdefault(table, []).append(rows)
            self.topics[table] = topic
            self.rows += rows.num_rows
            self.bytes += rows.nbytes

    def join(self, table: LakeTable) -> pa.Table:
        """The rows of a lake table as one part. Of small ones, of single polls, the columns are joined: a commit costs
        twice as much for a hundred pieces. Large ones are not copied."""
        parts = list(self.tables[table])  # the loop may be reading the other list
        rows = pa.concat_tables(parts)
        if rows.num_rows < SMALL * len(parts):
            rows = rows.combine_chunks()
        self.tables[table] = [rows]
        while parts:
            parts.pop()  # one by one, for the loop beside waits while so many columns are freed
        return rows

    def advance(self, offsets: dict[Partition, int]) -> None:
        """Everything below these offsets is in the batch, among the letters, or asked to be left out."""
        self.offsets.update(offsets)

    def undecide(self, rows: FeatureRows) -> None:
        """Leave the entities of these rows of an event view to be decided from the lake."""
        if rows.table.num_rows:
            self.undecided.append((rows.view, rows.table.select([key.name for key in rows.view.join_keys])))

    def _left(self, rows: FeatureRows, lost: list[int]) -> FeatureRows:
        """The rows without those of the lost partitions, whose entities are left to be decided."""
        late = _from(rows.table, lost)
        self.undecide(FeatureRows(rows.view, rows.table.filter(late)))
        return FeatureRows(rows.view, rows.table.filter(pc.invert(late)))

    def undecide_lost(self, flushed: "Batch", partitions: Collection[Partition]) -> None:
        """Leave the entities of the event views' rows that an earlier batch has from these partitions to be decided
        from the lake: its flush may have offered them after another member had written later changes."""
        for rows in flushed.events:
            lost = [p.number for p in partitions if p.topic == flushed.topics[_table(rows)]]
            if lost:
                self.undecide(FeatureRows(rows.view, rows.table.filter(_from(rows.table, lost))))

    @property
    def empty(self) -> bool:
        return not self.offsets and not self.undecided

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget what came from these partitions: another member reads it again.

        It may have done so already, and have written later changes of rows that came online here after it: the
        entities of event views are left to be decided.
        """
        if not partitions:
            return  # as after nearly every poll, of which there are many before a flush
        for partition in partitions:
            self.offsets.pop(partition, None)
            self.readings.pop(partition, None)
        for table, parts in list(self.tables.items()):
            lost = [p.number for p in partitions if p.topic == self.topics[table]]
            if lost:
                left = [part.filter(pc.invert(_from(part, lost))) for part in parts]
                self.tables[table] = [part for part in left if part.num_rows]
                if not self.tables[table]:
                    del self.tables[table]
                self.events = [self._left(rows, lost) if _table(rows) == table else rows for rows in self.events]
        parts = [part for parts in self.tables.values() for part in parts]
        self.rows, self.bytes = sum(part.num_rows for part in parts), sum(part.nbytes for part in parts)


def _table(rows: FeatureRows) -> LakeTable:
    return features_table(rows.view.name)


def _from(rows: pa.Table, partitions: list[int]) -> pa.Array:
    return pa.array(np.isin(rows["_partition"].to_numpy(), partitions))
