"""Changes that come twice: a source connector that died before it stored its position sends again what followed it.

PostgreSQL's log has one order, and a partition gets a table's changes in it: a record whose LSN does not lie above
those before it may be such a copy. `Heights` finds these few, and `streams.replays` looks whether the lake, or what
is staged for it, holds their change already. A re-sent change stands at an offset of its own, so the offsets that
the lake knows do not tell.

The height of a partition outlives its worker: each commit of `changes/<topic>` raises an application transaction of
its own to the greatest LSN that it brought (see `stores.lake`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Table
from stores.lake import Lake, TopicPartition
from streams.changes import Changes, plain
from streams.decide import changes_table
from streams.letters import OURS
from streams.messages import Partition
from streams.pipeline import Outcome

FIRST = -1_000
"""Partition p's height is kept as the next offset of partition FIRST - p, which no topic has. The numbers above are
for what concerns a topic as a whole: `streams.truncate.MARK`, `MARK` and `RECONCILED_MARK` of `streams.snapshots`."""

Mask = npt.NDArray[np.bool_]


def heights(changes: pa.Table, topic: str) -> dict[TopicPartition, int]:
    """What a commit of these changes notes in the lake: the greatest LSN of each partition."""
    found = changes.group_by("_partition").aggregate([("_lsn", "max")])
    return {
        (topic, FIRST - partition): lsn
        for partition, lsn in zip(found["_partition"].to_pylist(), found["_lsn_max"].to_pylist(), strict=True)
    }


@dataclass(slots=True)
class _Height:
    """The greatest LSN of a partition's records so far; `keys` the primary keys at it, None if nobody knows.
    Below the offset `held` the lake knows copies by their offsets."""

    lsn: int
    keys: pa.Table | None
    held: int


class Heights:
    """How far each owned partition has come in PostgreSQL's log."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._heights: dict[Partition, _Height] = {}

    def assigned(self, partition: Partition) -> None:
        """Read from the lake how far whoever had the partition before has come. Raises `StoreUnavailable`."""
        table = changes_table(partition.topic)
        lsn = self._lake.next_offset(table, partition.topic, FIRST - partition.number)
        held = self._lake.next_offset(table, *partition)
        self._heights[partition] = _Height(lsn or 0, None, held or 0)

    def suspects(self, outcome: Outcome) -> Mask:
        """Which accepted changes may have been there before; the heights rise to what is among these. What millrace
        itself sends is looked at elsewhere: it bears a header of ours. Debezium has headers too, of a key that
        changed (`__debezium.newkey`, `__debezium.oldkey`)."""
        changes = outcome.accepted.changes
        suspected = np.zeros(len(changes), bool)
        partitions = np.asarray(changes.rows["_partition"])
        for number in np.unique(partitions):
            at = np.flatnonzero(partitions == number)
            rows = changes.rows if len(at) == len(changes) else changes.rows.take(pa.array(at))
            suspected[at] = self._partition(changes, Partition(changes.table.topic, int(number)), rows)
        headers = outcome.records.headers
        ours = [i for i, names in headers.items() if any(name.startswith(OURS) for name in names)]
        return suspected & ~np.isin(outcome.accepted.kept, ours)

    def _partition(self, changes: Changes, partition: Partition, rows: pa.Table) -> Mask:
        height = self._heights.setdefault(partition, _Height(0, None, 0))
        lsns = np.asarray(rows["_lsn"])
        before = np.maximum.accumulate(np.concatenate([[height.lsn], lsns[:-1]]))
        # The rows of a snapshot, and those of one COPY, share their LSN: these are told apart by their keys. A
        # snapshot that begins anew has a new LSN, so while nothing else comes its rows are not looked at.
        level = (lsns == before) & ~np.asarray(pc.equal(rows["_op"], "r"))
        again = level & self._again(height, rows, changes.table) if level.any() else level
        beyond: Mask = np.asarray(rows["_offset"]) >= height.held
        self._rise(height, rows, lsns, changes.table)
        suspected: Mask = ((lsns < before) | again) & beyond
        return suspected

    def _again(self, height: _Height, rows: pa.Table, table: Table) -> Mask:
        """Which rows have key and LSN of another one, among these or at the height."""
        ours = _named(rows, table)
        known = ours if height.keys is None else pa.concat_tables([height.keys, ours])
        counted = known.group_by(known.column_names).aggregate([([], "count_all")])
        several = counted.filter(pc.field("count_all") > 1).select(known.column_names)
        unknown = height.lsn if height.keys is None else None
        if not several.num_rows and unknown is None:
            return np.zeros(rows.num_rows, bool)
        held = {tuple(row.values()) for row in several.to_pylist()}
        return np.array([row["lsn"] == unknown or tuple(row.values()) in held for row in ours.to_pylist()], bool)

    def _rise(self, height: _Height, rows: pa.Table, lsns: npt.NDArray[np.int64], table: Table) -> None:
        top = int(lsns.max())
        if top < height.lsn:
            return
        if top > height.lsn:
            height.lsn, height.keys = top, _named(rows.slice(0, 0), table)
        if height.keys is not None:
            at_top = pa.array((lsns == top) & ~np.asarray(pc.equal(rows["_op"], "r")))
            height.keys = pa.concat_tables([height.keys, _named(rows.filter(at_top), table)])


def _named(rows: pa.Table, table: Table) -> pa.Table:
    """Key and LSN under names that no column of the source can clash with."""
    key = [plain(rows[name], table.column(name)) for name in table.primary_key]
    return pa.table([*key, rows["_lsn"]], names=[*(f"k{i}" for i in range(len(key))), "lsn"])
