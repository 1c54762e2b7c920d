"""Changes that come twice: a source connector that died before it stored its position sends again what followed it.

PostgreSQL's log has one order, and a partition gets a table's changes in it: a record whose LSN does not lie above
those before it may be such a copy. `Heights` finds these few, and `streams.replays` looks whether the lake, or what
is staged for it, holds their change already. A re-sent change stands at an offset of its own, so the offsets that
the lake knows do not tell.

The rows of a snapshot share an LSN (`streams.snapshots`), and are too many to be looked for all. An initial one that
was cut off Debezium begins anew, which the time tells that it gives to all its rows; of an incremental one, which it
reads in the order of the primary key, it sends some chunks again.

The height of a partition outlives its worker: each commit of `changes/<topic>` raises an application transaction of
its own to the greatest LSN that it brought (see `stores.lake`), and others to when the initial snapshots were begun
that the partition first and last had rows of.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import Lake, TopicPartition
from streams.changes import plain
from streams.decide import changes_table
from streams.letters import OURS
from streams.messages import Partition
from streams.missing import Mask, below
from streams.pipeline import Outcome
from streams.snapshots import ANEW, GONE, first_alone, snapshot_base, snapshot_moment

FIRST = -1_000
"""Partition p's height is kept as the next offset of partition FIRST - p, which no topic has. The numbers above are
for what concerns a topic as a whole: `streams.truncate.MARK` and the marks of `streams.snapshots`."""

READING = -1_000_000
"""When the initial snapshot was begun that partition p first had rows of is kept as the next offset of READING - p."""

READ_LAST = -2_000_000
"""The same for the one that it last had rows of."""

Readings = tuple[int, int]
"""When the initial snapshots were begun that a partition first and last had rows of, in microseconds since the
epoch."""


def heights(changes: pa.Table, topic: str) -> dict[TopicPartition, int]:
    """What a commit of these changes notes in the lake: the greatest LSN of each partition."""
    found = changes.group_by("_partition").aggregate([("_lsn", "max")])
    return {
        (topic, FIRST - partition): lsn
        for partition, lsn in zip(found["_partition"].to_pylist(), found["_lsn_max"].to_pylist(), strict=True)
    }


def highest(lake: Lake, topic: str, partitions: int) -> int:
    """The greatest LSN that the lake holds of a topic, the rows of its last snapshot among them; 0 if it holds none.
    Raises `StoreUnavailable`."""
    table = changes_table(topic)
    noted = (lake.next_offset(table, topic, FIRST - number) for number in range(partitions))
    return max((snapshot_base(lake, topic) or 0) - GONE, 0, *(lsn or 0 for lsn in noted))


def noted_readings(readings: Mapping[Partition, Readings], topic: str) -> dict[TopicPartition, int]:
    """What a commit of the topic's changes notes of snapshots; `readings` as in `streams.stage.Batch`."""
    of_topic = {p.number: begun for p, begun in readings.items() if p.topic == topic}
    firsts: dict[TopicPartition, int] = {(topic, READING - number): first for number, (first, _) in of_topic.items()}
    return firsts | {(topic, READ_LAST - number): last for number, (_, last) in of_topic.items()}


def begun_anew(lake: Lake, topics: Collection[str], partitions: int) -> list[str]:
    """Those of the topics, whose tables a first snapshot reads in one transaction, of which rows came before Debezium
    began it anew, as it does when its task is restarted meanwhile. Changes are streamed from the second one on: of a
    row that was deleted between the two nothing tells, and nobody reconciles a first snapshot. A table that was empty
    by then has no rows of the second one: others of its source tell that there was one. Raises `StoreUnavailable`."""
    readings = {topic: _first_readings(lake, topic, partitions) for topic in topics}
    last = max((begun for times in readings.values() for begun in times), default=0)
    return [topic for topic, times in readings.items() if times - {last}]


def _first_readings(lake: Lake, topic: str, partitions: int) -> set[int]:
    """When the initial snapshots were begun that a topic has rows of, if these are all of the source's first."""
    if not first_alone(lake, topic):
        return set()
    table, since = changes_table(topic), snapshot_moment(lake, topic) or 0
    begun = {lake.next_offset(table, topic, kind - p) or 0 for kind in (READING, READ_LAST) for p in range(partitions)}
    return {one for one in begun if one >= since}


@dataclass(slots=True)
class _Reading:
    """What a partition had so far of the snapshot whose rows count by `lsn`: of an initial one when those were begun
    which the first and the last row are of, 0 if it had none; of an incremental one the greatest key, None if nobody
    knows."""

    lsn: int
    begun: int
    last: int
    greatest: pa.Table | None

    def again(self, keys: pa.Table, begun: npt.NDArray[np.int64]) -> Mask:
        """Which of its next rows may have come before. Of what another worker had of an incremental one, all may."""
        initial = begun > 0
        found: Mask = ~initial
        if initial.any():
            self.begun = self.begun or int(begun[initial][0])
            self.last = max(self.last, int(begun.max()))
            found |= initial & (begun != self.begun)
        if self.greatest is not None and not initial.all():
            found[~initial], self.greatest = _not_above(self.greatest, keys.filter(pa.array(~initial)))
        return found


@dataclass(frozen=True, slots=True)
class _Come:
    """What tells of changes, one after another, whether they came before: where they stand, which of them are rows that
    a snapshot `read` and when it was begun, 0 of others, and which are truncates; `named` has key and LSN of all, of
    which these stand at `places`, under names that no column of the source can clash with."""

    lsns: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    read: Mask
    truncates: Mask
    begun: npt.NDArray[np.int64]
    named: pa.Table
    places: npt.NDArray[np.int64]

    def at(self, places: npt.NDArray[np.int64]) -> "_Come":
        """Those at these places."""
        return _Come(
            self.lsns[places],
            self.offsets[places],
            self.read[places],
            self.truncates[places],
            self.begun[places],
            self.named,
            self.places[places],
        )

    def keys(self, chosen: Mask) -> pa.Table:
        """Key and LSN of the chosen ones."""
        return self.named.take(pa.array(self.places[chosen]))


@dataclass(slots=True)
class _Height:
    """The greatest LSN of a partition's records so far; `keys` the primary keys at it, None if nobody knows.
    Below the offset `held` the lake knows copies by their offsets."""

    lsn: int
    keys: pa.Table | None
    held: int
    reading: _Reading | None


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
        self._heights[partition] = _Height(lsn or 0, None, held or 0, self._reading(partition, lsn))

    def _reading(self, partition: Partition, lsn: int | None) -> _Reading | None:
        if lsn is None:
            return None
        topic = partition.topic
        begun = self._lake.next_offset(changes_table(topic), topic, READING - partition.number) or 0
        of_last = begun >= (snapshot_moment(self._lake, topic) or 0)
        last = self._lake.next_offset(changes_table(topic), topic, READ_LAST - partition.number) or 0
        return _Reading(lsn, begun, last, None) if of_last else _Reading(lsn, 0, 0, None)

    def readings(self, outcome: Outcome) -> dict[Partition, Readings]:
        """For partitions that had rows of an initial snapshot among the records when the first and the last such were
        begun, whether anything of them is left or it had all come before."""
        if outcome.begun is None:
            return {}
        numbers = np.unique(np.asarray(outcome.records.partitions)[outcome.begun > 0])
        of_topic = [Partition(outcome.records.topic, int(number)) for number in numbers]
        readings = {partition: self._heights[partition].reading for partition in of_topic}
        return {p: (read.begun, read.last) for p, read in readings.items() if read is not None and read.begun}

    def suspects(self, outcome: Outcome) -> Mask:
        """Which accepted changes may have been there before; the heights rise to what is among these. A truncate always
        may: it has no key, so that its copy may come in any partition. What millrace itself sends is looked at
        elsewhere: it bears a header of ours. Debezium has headers too, of a key that changed (`__debezium.newkey`,
        `__debezium.oldkey`)."""
        changes = outcome.accepted.changes
        suspected, come = np.zeros(len(changes), bool), _come(outcome)
        partitions = np.asarray(changes.rows["_partition"])
        for number in np.unique(partitions).tolist():
            at = np.flatnonzero(partitions == number)
            its = come if len(at) == len(changes) else come.at(at)
            suspected[at] = self._partition(Partition(changes.table.topic, number), its)
        headers = outcome.records.headers
        ours = [i for i, names in headers.items() if any(name.startswith(OURS) for name in names)]
        return suspected & ~np.isin(outcome.accepted.kept, ours)

    def placed(self, outcome: Outcome) -> Outcome:
        """The outcome with what initial snapshots that were begun `later` read where it counts; what is read again of
        the lake stands there. To be asked after `suspects`."""
        later = self.later(outcome)
        if not later.any():
            return outcome
        rows, topic = outcome.accepted.changes.rows, outcome.records.topic
        held: dict[TopicPartition, int | None] = {p: h.held for p, h in self._heights.items() if p.topic == topic}
        lsns = np.asarray(rows["_lsn"])
        lsns = np.where(later & ~below(rows, held), lsns | ANEW, lsns)
        return replace(outcome, accepted=outcome.accepted.at(lsns))

    def later(self, outcome: Outcome) -> Mask:
        """Which accepted changes an initial snapshot read that was begun later than the first that their partition had
        rows of. To be asked after `suspects`."""
        begun = outcome.begun_of_changes()
        found = np.zeros(len(begun), bool)
        if not begun.any():
            return found
        partitions = np.asarray(outcome.accepted.changes.rows["_partition"])
        for number in np.unique(partitions[begun > 0]).tolist():
            reading = self._heights[Partition(outcome.records.topic, number)].reading
            if reading is not None and reading.begun:
                found |= (partitions == number) & (begun > reading.begun)
        return found

    def _partition(self, partition: Partition, come: _Come) -> Mask:
        height, lsns = self._heights.setdefault(partition, _Height(0, None, 0, None)), come.lsns
        before = np.maximum.accumulate(np.concatenate([[height.lsn], lsns[:-1]]))
        # The rows of one COPY share their LSN: these are told apart by their keys.
        level = (lsns == before) & ~come.read
        again = level & self._again(height, come.keys(np.ones(len(lsns), bool))) if level.any() else level
        if come.read.any():
            again |= self._read_again(height, come, come.read & (lsns >= before))
        beyond = come.offsets >= height.held
        self._rise(height, come)
        suspected: Mask = ((lsns < before) | again | come.truncates) & beyond
        return suspected

    def _read_again(self, height: _Height, come: _Come, read: Mask) -> Mask:
        """Which of the rows marked in `read`, which a snapshot read and nothing above came before, it may have read
        before."""
        found = np.zeros(len(read), bool)
        for lsn in np.unique(come.lsns[read]).tolist():
            here = read & (come.lsns == lsn)
            keys = come.keys(here)
            if height.reading is None or height.reading.lsn != lsn:
                height.reading = _Reading(lsn, 0, 0, keys.slice(0, 0))
            found[here] = height.reading.again(keys, come.begun[here])
        return found

    def _again(self, height: _Height, ours: pa.Table) -> Mask:
        """Which rows have key and LSN of another one, among these or at the height."""
        known = ours if height.keys is None else pa.concat_tables([height.keys, ours])
        counted = known.group_by(known.column_names).aggregate([([], "count_all")])
        several = counted.filter(pc.field("count_all") > 1).select(known.column_names)
        unknown = height.lsn if height.keys is None else None
        if not several.num_rows and unknown is None:
            return np.zeros(ours.num_rows, bool)
        held = {tuple(row.values()) for row in several.to_pylist()}
        return np.array([row["lsn"] == unknown or tuple(row.values()) in held for row in ours.to_pylist()], bool)

    def _rise(self, height: _Height, come: _Come) -> None:
        top = int(come.lsns.max())
        if top < height.lsn or (top == height.lsn and height.keys is None):
            return
        at_top = come.keys((come.lsns == top) & ~come.read)
        known = height.keys if top == height.lsn else None
        height.lsn, height.keys = top, at_top if known is None else pa.concat_tables([known, at_top])


def _not_above(greatest: pa.Table, keys: pa.Table) -> tuple[Mask, pa.Table]:
    """Which of the keys have one before them, or the `greatest`, that is as great or greater, and the greatest of all:
    in Arrow's order, for a key that came before is not above the greatest so far in any."""
    known = pa.concat_tables([greatest, keys])
    places = np.arange(known.num_rows)
    by = known.append_column("earlier", pa.array(-places))  # of the same key the earlier one is the greater
    ranks = np.empty_like(places)
    ranks[pc.sort_indices(by, [(name, "ascending") for name in by.column_names])] = places
    found: Mask = ranks < np.maximum.accumulate(ranks)
    return found[greatest.num_rows :], known.take(pa.array([ranks.argmax()]))


def _come(outcome: Outcome) -> _Come:
    changes = outcome.accepted.changes
    rows, table = changes.rows, changes.table
    key = [plain(rows[name], table.column(name)) for name in table.primary_key]
    lsns, offsets = np.asarray(rows["_lsn"]), np.asarray(rows["_offset"])
    read, truncates = (np.asarray(pc.equal(rows["_op"], op)) for op in ("r", "t"))
    keys = pa.table([*key, rows["_lsn"]], names=[*(f"k{i}" for i in range(len(key))), "lsn"])
    return _Come(lsns, offsets, read, truncates, outcome.begun_of_changes(), keys, np.arange(len(lsns)))
