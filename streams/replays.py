"""Replayed letters and re-sent changes: what stands already is dropped, what is known newer goes to the lake alone.

A state view refuses an older version by itself, but not for ever: what it knows of a deleted row expires. An event view
cannot: the version it stores is that of the winning row, and a replayed row that was changed or deleted since could win
again; its entities are decided anew. The lake knows, with what is staged for it.

Nor does an event view know of every entity that a row left: a backfill reads that off the row's earlier changes, and
these may be the letters. So what is late comes with a mark at the row's next change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.types as pt

from stores.lake import Lake
from stores.query import session
from streams.changes import Changes
from streams.decide import changes_table
from streams.letters import REPLAY_OF
from streams.pipeline import Outcome
from streams.views import Moments, left

Mask = npt.NDArray[np.bool_]

PLACE = ("_lsn", "_partition", "_offset", "_commit_ts")

ELSEWHERE = -1
"""The position of a change that may not be a copy, or is not of this very batch."""


def replayed(outcome: Outcome) -> Mask:
    """Which accepted changes are those of replayed letters."""
    records = [i for i, headers in outcome.records.headers.items() if REPLAY_OF in headers]
    return np.isin(outcome.accepted.kept, records)


def settle_replays(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, mask: Mask) -> Outcome:
    """The outcome without those changes of `mask` that stand already; replays that are known newer are `late`, and
    their rows of event views are followed by the mark of a row that left its entity.

    `staged` are the table's changes that this worker has taken and the lake may not hold yet. What is staged and
    then lost with its partition is read again by another member, so nothing is dropped for good because of it.
    Raises `StoreUnavailable`.
    """
    accepted = outcome.accepted
    doubled, following = _compare(lake, staged, accepted.changes, mask)
    late = (following.lsns >= 0) & replayed(outcome)
    projected = tuple((v, left(p, late, following) if v.view.kind == "event" else p) for v, p in accepted.projected)
    accepted = replace(accepted, projected=projected, late=late).without(doubled)
    return replace(outcome, accepted=accepted, ignored=outcome.ignored + int(doubled.sum()))


def settle_read_again(lake: Lake, held: Mapping[int, int], outcome: Outcome) -> Outcome:
    """The outcome without changes that were rejected when their records were first read, the others at the LSNs that
    they had then: a snapshot's rows count by the snapshot that they were read in.

    `held` gives for partitions the offset below which the lake held everything when this worker began. What is
    read again below it and does not stand in the lake is a letter, or the double of another: a contract that has
    changed since does not bring it in, for the lake would drop it there, and the stores would not. Its letter can
    be replayed. Raises `StoreUnavailable`.
    """
    rows = outcome.accepted.changes.rows
    places = list(zip(rows["_partition"].to_pylist(), rows["_offset"].to_pylist(), strict=True))
    again = [offset < held.get(partition, 0) for partition, offset in places]
    if not any(again):
        return outcome
    first = pc.field("_offset") >= min(offset for _, offset in places)
    stored = lake.scan(changes_table(outcome.records.topic), ["_partition", "_offset", "_lsn"], first).read_all()
    stands = zip(stored["_partition"].to_pylist(), stored["_offset"].to_pylist(), strict=True)
    standing = dict(zip(stands, stored["_lsn"].to_pylist(), strict=True))
    rejected = np.array([late and place not in standing for late, place in zip(again, places, strict=True)])
    lsns = rows["_lsn"].to_pylist()
    placed = [standing.get(place, lsn) if late else lsn for late, place, lsn in zip(again, places, lsns, strict=True)]
    accepted = outcome.accepted if placed == lsns else outcome.accepted.at(np.array(placed, np.int64))
    return replace(outcome, accepted=accepted.without(rejected), ignored=outcome.ignored + int(rejected.sum()))


def _compare(lake: Lake, staged: Sequence[pa.Table], changes: Changes, mask: Mask) -> tuple[Mask, Moments]:
    """Over the changes: which of `mask` stand already, and where the next change of their row is known to be, -1 where
    none is. A change is known by its row's key and its LSN; one that stands from the same place in the topic is no
    double but the same record, read again because what followed on it may not have been done."""
    names = [*changes.table.primary_key, *PLACE]
    ours = changes.rows.select(names)
    positions = np.where(mask, np.arange(len(changes)), ELSEWHERE)
    lake_rows = _held(lake, changes, ours.filter(pa.array(mask))).cast(ours.schema)
    known = pa.concat_tables([lake_rows, *(part.select(names) for part in staged)])
    known = pa.concat_tables([_numbered(known, np.full(known.num_rows, ELSEWHERE)), _numbered(ours, positions)])
    same_row = " and ".join(f"known.k{i} = ours.k{i}" for i in range(len(changes.table.primary_key)))
    query = f"""
        select ours.position,
               bool_or(known.lsn = ours.lsn and known.position < ours.position
                       and (known.part, known.off) <> (ours.part, ours.off)) as doubled,
               coalesce(min(known.lsn) filter (known.lsn > ours.lsn), -1) as lsn,
               coalesce(arg_min(epoch_us(known.ts), known.lsn) filter (known.lsn > ours.lsn), -1) as ts
        from ours join known on {same_row} group by ours.position
    """
    with session(ours=_numbered(ours, positions).filter(pa.array(mask)), known=known) as connection:
        found = connection.sql(query).to_arrow_table()
    at = found["position"].to_numpy()
    doubled, lsns, times = np.zeros(len(changes), bool), *np.full((2, len(changes)), -1)
    doubled[at], lsns[at], times[at] = found["doubled"], found["lsn"], found["ts"]
    return doubled, Moments(lsns, times)


def _numbered(rows: pa.Table, positions: np.ndarray) -> pa.Table:
    """Key columns, LSN, place and time under names that no column of the source can clash with, and the positions."""
    names = [*(f"k{i}" for i in range(rows.num_columns - len(PLACE))), "lsn", "part", "off", "ts"]
    return rows.rename_columns(names).append_column("position", pa.array(positions, pa.int64()))


def _held(lake: Lake, changes: Changes, wanted: pa.Table) -> pa.Table:
    """Key, LSN, place and time of the changes in the lake of at least the rows that `wanted` names."""
    snapshot = lake.snapshot(changes_table(changes.table.topic))
    wanted_rows = ds.scalar(True)
    for name in changes.table.primary_key:
        stored = snapshot.schema.field(name).type
        if not pt.is_nested(stored):  # Arrow looks up plain values only; the join compares the rest
            wanted_rows &= ds.field(name).isin(wanted[name].unique().cast(stored))
    return snapshot.rows(wanted.column_names, wanted_rows).read_all()
