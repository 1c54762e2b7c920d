"""A TRUNCATE as what it means: the delete of every older row, whatever order the partitions deliver them in.

A truncate comes in one partition, the rows that it deletes in all of them, and other workers own those. Three
things together leave, once all is read, no row of a view below a truncate:
1. `Truncates.place`: who has committed a truncate to `changes/<topic>` raises an application transaction of the
   topic, `MARK`. Every flush reads it once its rows are in the lake. It counts, it names no LSN: of two truncates
   in two partitions the later one may be read first.
2. `settle`: whoever committed the truncate, and whoever finds at a flush that rows which that flush brought lie
   below a truncate it did not know, deletes whatever stands below it in the lake. Both first write and then
   look, so that at least one of the two sees the other's.
3. `with_deletes`: a row that is read when its truncate is known already comes with its delete.

Which truncates are settled the group's offsets say, for they are committed after it. A worker that dies before is
followed by one that reads the same records again: the truncate, and settles it as if for the first time; or the older
row, which comes with its delete by then, and the lake is given it if it has the row alone
(`streams.missing.add_deletes`). Those below the offsets are not looked at again, however many there were.

A delete has the LSN and the commit time of the first truncate after its row. Two workers that settle at once
can leave it twice, which no reader can tell from once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.history import deleted_at, standing
from stores.lake import Lake
from stores.rows import TIMESTAMP, FeatureRows, FeatureWriter, filled
from stores.view import View
from streams.decide import changes_table, decide, features_table
from streams.pipeline import Accepted, Outcome
from streams.views import Projected

MARK = -1
"""The number of the partition, one that no topic has, whose next offset counts the commits of truncates."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """The truncates of one table: their LSNs in order, and the commit time of each in microseconds."""

    lsns: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]

    @property
    def last(self) -> int:
        """The LSN of the last one, 0 if there is none."""
        return int(self.lsns[-1]) if len(self.lsns) else 0


NEVER = Truncated(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Truncates:
    """What the lake knows of truncates, by topic. Read by the worker's loop, refreshed by its flushes."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._known: dict[str, tuple[int, Truncated]] = {}

    def known(self, topic: str) -> Truncated:
        """As of the last refresh."""
        return self._known.get(topic, (0, NEVER))[1]

    def place(self, topic: str) -> None:
        """Tell the other workers that truncates were committed. Repeatable. If another does so at the same time,
        one of the two may count for both: who then looks finds both, for they were committed before."""
        table = changes_table(topic)
        self._lake.advance(table, {(topic, MARK): (self._lake.next_offset(table, topic, MARK) or 0) + 1})

    def refresh(self, topic: str) -> Truncated:
        """Ask the lake. Where nothing was truncated since, that is one look at the table's log."""
        seen, known = self._known.get(topic, (0, NEVER))
        mark = self._lake.next_offset(changes_table(topic), topic, MARK) or 0
        if mark > seen:
            known = _read(self._lake, topic)
            self._known = {**self._known, topic: (mark, known)}
        return known


def _read(lake: Lake, topic: str) -> Truncated:
    rows = lake.scan(changes_table(topic), ["_lsn", "_commit_ts"], pc.field("_op") == "t").read_all()
    lsns, first = np.unique(np.asarray(rows["_lsn"]), return_index=True)
    return Truncated(lsns, np.asarray(rows["_commit_ts"].cast(pa.int64()))[first])


def truncates(changes: pa.Table) -> npt.NDArray[np.int64]:
    """The LSNs of the truncates among changes, in order."""
    return np.unique(np.asarray(changes["_lsn"].filter(pc.equal(changes["_op"], "t"))))


def knowing(outcome: Outcome, truncated: Truncated) -> Outcome:
    """The outcome with the deletes of its rows by the truncates that are known."""
    return replace(
        outcome, accepted=with_deletes(outcome.accepted, truncated), truncated=tuple(truncated.lsns.tolist())
    )


def with_deletes(accepted: Accepted, truncated: Truncated) -> Accepted:
    """The same, where each live row below a truncate is followed by its delete, made of the same change."""
    if not truncated.last or not pc.any(pc.less(accepted.changes.rows["_lsn"], truncated.last)).as_py():
        return accepted
    projected = tuple((v, _with_deletes(p, truncated)) for v, p in accepted.projected)
    return replace(accepted, projected=projected)


def _with_deletes(projected: Projected, truncated: Truncated) -> Projected:
    view, table = projected.rows.view, projected.rows.table
    late = np.flatnonzero(below(table, truncated.last))
    if not len(late):
        return projected
    gone = deletes(view, table.take(pa.array(late)), truncated)
    both = pa.concat_tables([table, gone], promote_options="default")
    positions = np.concatenate([projected.positions, projected.positions[late]])
    order = np.argsort(positions, kind="stable")  # stable: a row before its delete
    return Projected(FeatureRows(view, both.take(pa.array(order))), positions[order], projected.skipped)


def below(rows: pa.Table, lsn: int) -> npt.NDArray[np.bool_]:
    """Which feature rows are live and older than `lsn`."""
    return np.asarray(pc.and_(pc.invert(rows["_deleted"]), pc.less(rows["_lsn"], lsn)))


def deletes(view: View, rows: pa.Table, truncated: Truncated) -> pa.Table:
    """The deletes of feature rows, each by the first truncate that is not before it; schema `rows_schema(view)`."""
    by = np.searchsorted(truncated.lsns, np.asarray(rows["_lsn"]))
    time = pa.array(truncated.times[by]).cast(TIMESTAMP)
    kept = {key.name for key in view.join_keys} | {"_row", "_partition", "_offset"}
    columns = {name: rows[name] for name in kept} | {
        "event_timestamp": time,
        "created_timestamp": time,
        "_lsn": pa.array(truncated.lsns[by]),
        "_deleted": pa.array(np.ones(rows.num_rows, bool)),
    }
    return filled(view, pa.table(columns))


def complete(lake: Lake, view: View, truncated: Truncated, among: Collection[int]) -> None:
    """Delete in the lake's table of the view what stood there at each of the truncates whose LSNs are `among` these: a
    commit for each part of it. Repeatable: the lake tells what is left to do. Raises `StoreUnavailable`."""
    for late in standing(lake, view, truncated.lsns.tolist(), among):
        lake.append(features_table(view.name), deletes(view, late, truncated), {})


def settle(lake: Lake, writer: FeatureWriter, view: View, truncated: Truncated, among: Sequence[int]) -> None:
    """`complete`, and serve no more what these truncates deleted. Repeatable: the stores are told of every delete by
    one of them, part by part, of each row at an entity once. Raises `StoreUnavailable`."""
    complete(lake, view, truncated, among)
    for rows in deleted_at(lake, view, among):
        for undecided, keys in writer.write([FeatureRows(view, filled(view, rows))]).undecided:
            decide(lake, writer, undecided, keys)
