"""Replayed letters and re-sent changes: what stands already is dropped, what is known newer goes to the lake alone.

A row that an initial snapshot reads again stands already only with the values that it was last read with: the changes
are streamed from where the last snapshot began, so nothing else tells of one between two.

A state view refuses an older version by itself, but not for ever: what it knows of a deleted row expires. An event view
cannot: the version it stores is that of the winning row, and a replayed row that was changed or deleted since could win
again; its entities are decided anew. The lake knows, with what is staged for it.

Nor does an event view know of every entity that a row left: a backfill reads that off the row's earlier changes, and
these may be the letters. So what is late comes with a mark where the row's next change has it elsewhere, or nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.types as pt

from stores.lake import Lake
from stores.query import session
from streams.changes import Changes, carried
from streams.decide import changes_table
from streams.letters import REPLAY_OF
from streams.messages import Partition
from streams.missing import Mask, Places, among, below, places, span
from streams.pipeline import Outcome
from streams.positions import TopicRecreated
from streams.snapshots import ANEW
from streams.views import Projected, StreamView, left

PLACE = ("_lsn", "_partition", "_offset", "_commit_ts", "_op")

ELSEWHERE = -1
"""The position of a change that may not be a copy, or is not of this very batch."""


def replayed(outcome: Outcome) -> Mask:
    """Which accepted changes are those of replayed letters."""
    records = [i for i, headers in outcome.records.headers.items() if REPLAY_OF in headers]
    return np.isin(outcome.accepted.kept, records)


@dataclass(frozen=True, slots=True)
class Following:
    """Over some changes, what is known of the next change of each one's row: its LSN, -1 if none is known, and its
    commit time in microseconds since the epoch; whether it deletes the row; by column whether it has another value.
    `behind` is what stands in its partition behind a later change of its row."""

    lsns: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    deletes: Mask
    changes: Mapping[str, Mask]
    behind: Mask

    def takes_from(self, view: StreamView) -> Mask:
        """Whether it takes the row from the entity of an event view that it was at."""
        changed = (self.changes[column] for column in view.key_columns if column in self.changes)
        return reduce(np.logical_or, changed, self.deletes)


def settle_replays(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, mask: Mask) -> Outcome:
    """The outcome without those changes of `mask` that stand already. Replays whose rows are known newer are `late`, as
    is what comes behind a later change of its row, for it was rejected when it first came; their rows of event views
    are followed by the mark of a row that left, if the next change says so.

    `staged` are the table's changes that this worker has taken and the lake may not hold yet. What is staged and
    then lost with its partition is read again by another member, so nothing is dropped for good because of it.
    Raises `StoreUnavailable`.
    """
    accepted = outcome.accepted
    doubled, following = _compare(lake, staged, outcome, mask)
    late = (following.lsns >= 0) & (replayed(outcome) | following.behind)
    projected = tuple((v, _marked(v, p, late, following)) for v, p in accepted.projected)
    accepted = replace(accepted, projected=projected, late=late).without(doubled)
    return replace(outcome, accepted=accepted, ignored=outcome.ignored + int(doubled.sum()))


def _marked(view: StreamView, projected: Projected, late: Mask, following: Following) -> Projected:
    if view.view.kind != "event":
        return projected
    return left(projected, late & following.takes_from(view), following.lsns, following.times)


def settle_read_again(lake: Lake, held: Mapping[int, int], outcome: Outcome) -> Outcome:
    """The outcome without changes that were rejected when their records were first read, the others at the LSNs that
    they had then: a snapshot's rows count by the snapshot that they were read in.

    `held` gives for partitions the offset below which the lake held everything when this worker began. What is
    read again below it and does not stand in the lake is a letter, or the double of another: a contract that has
    changed since does not bring it in, for the lake would drop it there, and the stores would not. Its letter can
    be replayed. Raises `StoreUnavailable`, and `TopicRecreated` if another record stood there.
    """
    rows = outcome.accepted.changes.rows
    again = below(rows, {(outcome.records.topic, number): offset for number, offset in held.items()})
    if not again.any():
        return outcome
    asked = places(rows)[again]
    stored = _at_places(lake, outcome.records.topic, np.sort(asked))
    found = pc.index_in(pa.array(asked), pa.array(places(stored)))
    stood = np.asarray(pc.is_valid(found))
    standing, rejected = np.flatnonzero(again)[stood], again.copy()
    rejected[standing] = False
    before = stored.take(found.drop_null())
    _refuse_another(outcome.records.topic, before, rows.take(pa.array(standing)))
    told = np.asarray(rows["_lsn"])
    lsns = told.copy()
    lsns[standing] = before["_lsn"]
    accepted = outcome.accepted if np.array_equal(lsns, told) else outcome.accepted.at(lsns)
    return replace(outcome, accepted=accepted.without(rejected), ignored=outcome.ignored + int(rejected.sum()))


def _at_places(lake: Lake, topic: str, asked: Places) -> pa.Table:
    """What the lake holds at places of the topic, which are sorted; a part at a time, for between them may stand
    others that are not asked for."""
    reader = lake.scan(changes_table(topic), ["_partition", "_offset", "_op", "_lsn"], span(asked))
    return pa.Table.from_batches((part.filter(pa.array(among(places(part), asked))) for part in reader), reader.schema)


def _refuse_another(topic: str, before: pa.Table, now: pa.Table) -> None:
    """Raises `TopicRecreated` if a change is not the one that stood at its place before. Of a snapshot's row the LSN
    may be another."""
    operation = pc.not_equal(before["_op"], now["_op"])
    lsn = pc.and_(pc.not_equal(before["_lsn"], now["_lsn"]), pc.not_equal(now["_op"], "r"))
    other = now.filter(pc.or_(operation, lsn))
    if other.num_rows:
        partition = Partition(topic, other["_partition"][0].as_py())
        offset = other["_offset"][0].as_py()
        raise TopicRecreated(f"{partition} has at offset {offset} another record than the lake holds of it")


def _compare(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, mask: Mask) -> tuple[Mask, Following]:
    """Over the changes: which of `mask` stand already, and what follows them. A change is known by its row's key and
    its LSN, one that an initial snapshot read by the values of the last reading too; one that stands from the same
    place in the topic is no double but the same record, read again because what followed on it may not have been done.
    What comes in the same batch follows, unless its text is yet to be embedded, at which it may be rejected."""
    changes, flow = outcome.accepted.changes, outcome.flow
    key = changes.table.primary_key
    compared = flow.moving
    by_values = bool(outcome.begun_of_changes()[mask].any())
    values = [field.name for field in carried(changes.table) if field.name not in key] if by_values else []
    others = list(dict.fromkeys([*compared, *values]))
    ours = changes.rows.select([*key, *PLACE, *others])
    positions = np.where(mask, np.arange(len(changes)), ELSEWHERE)
    asked = ours.filter(pa.array(mask))
    held = held_of(lake, changes, asked, since=(pc.min(asked["_lsn"]).as_py() or 0) & ~ANEW)
    elsewhere = [held.cast(ours.schema), *(part.select(ours.column_names) for part in staged)]
    known = pa.concat_tables(
        [
            *(_named(rows, len(key), np.full(rows.num_rows, ELSEWHERE), follows=True) for rows in elsewhere),
            _named(ours, len(key), positions, follows=not flow.embeds),
        ]
    )
    query = _query(len(key), len(compared), len(others), by_values=bool(values))
    with session(ours=_named(asked, len(key), positions[mask], follows=False), known=known) as connection:
        found = connection.sql(query).to_arrow_table()
    return _found(found, len(changes), compared)


def _query(keys: int, compared: int, others: int, *, by_values: bool) -> str:
    """The SQL that finds of each row of `ours` whether it stands already in `known`, and what follows it there. Both
    have so many columns by `column_names`; the first `compared` of the `others` tell what changed, and all of them
    whether rows that a snapshot read are the same, if `by_values`."""
    # The key of a truncate is null.
    same_row = " and ".join(f"known.k{i} is not distinct from ours.k{i}" for i in range(keys))
    same_values = " and ".join(f"known.c{i} is not distinct from ours.c{i}" for i in range(others))
    same = f"(ours.op <> 'r' or ({same_values}))" if by_values else "true"
    both_read = "known.op = 'r' and ours.op = 'r'"
    same_lsn = f"(known.lsn = ours.lsn or ({both_read} and (known.lsn | {ANEW}) = (ours.lsn | {ANEW})))"
    columns = "".join(f", c{i} := known.c{i}" for i in range(compared))
    changed = "".join(f", c.c{i} is distinct from own{i} as changes{i}" for i in range(compared))
    own = "".join(f", any_value(ours.c{i}) as own{i}" for i in range(compared))
    return f"""
        select position, doubled, coalesce(c.lsn, -1) as lsn, coalesce(epoch_us(c.ts), -1) as ts,
               coalesce(c.op = 'd', false) as deletes, behind{changed}
        from (
            select ours.position{own},
                   coalesce(arg_max({same}, known.off) filter (
                       {same_lsn} and known.position < ours.position
                       and (known.part, known.off) <> (ours.part, ours.off)), false) as doubled,
                   bool_or(known.follows and known.lsn > ours.lsn
                       and known.part = ours.part and known.off < ours.off) as behind,
                   arg_min(struct_pack(lsn := known.lsn, ts := known.ts, op := known.op{columns}), known.lsn)
                       filter (known.lsn > ours.lsn and known.follows) as c
            from ours join known on {same_row} group by ours.position
        )
    """


def _found(found: pa.Table, count: int, compared: Sequence[str]) -> tuple[Mask, Following]:
    """What `_query` found, over so many changes."""
    at = found["position"].to_numpy()

    def spread(name: str, missing: int | bool) -> npt.NDArray[Any]:
        values = np.full(count, missing)
        values[at] = found[name]
        return values

    moved = {column: spread(f"changes{i}", False) for i, column in enumerate(compared)}
    lsns, times, deletes = spread("lsn", ELSEWHERE), spread("ts", ELSEWHERE), spread("deletes", False)
    following = Following(lsns, times, deletes, moved, spread("behind", False))
    return spread("doubled", False), following


def _named(rows: pa.Table, keys: int, positions: np.ndarray, *, follows: bool) -> pa.Table:
    """Key columns, place and compared columns by `column_names`, the positions, and whether these may follow on
    others."""
    names = column_names(keys, rows.num_columns - keys - len(PLACE))
    named = rows.rename_columns(names).append_column("position", pa.array(positions, pa.int64()))
    return named.append_column("follows", pa.repeat(follows, rows.num_rows))


def column_names(keys: int, others: int) -> list[str]:
    """Names that no column of the source can clash with, for those of its key, `PLACE`, and others."""
    return [*(f"k{i}" for i in range(keys)), *("lsn", "part", "off", "ts", "op"), *(f"c{i}" for i in range(others))]


def held_of(lake: Lake, changes: Changes, wanted: pa.Table, since: int = 0) -> pa.Table:
    """The wanted columns of the changes in the lake, from the LSN `since` on, of at least the rows that `wanted`
    names."""
    snapshot = lake.snapshot(changes_table(changes.table.topic))
    wanted_rows = ds.field("_lsn") >= since
    for name in changes.table.primary_key:
        stored = snapshot.schema.field(name).type
        # The join compares the rest: Arrow looks up plain values only, and a file with a NaN tells bounds of none.
        if not (pt.is_nested(stored) or pt.is_floating(stored)):
            wanted_rows &= _among(name, wanted[name].unique().cast(stored))
    return snapshot.rows(wanted.column_names, wanted_rows).read_all()


def _among(name: str, values: pa.ChunkedArray) -> ds.Expression:
    if pt.is_decimal(values.type):  # as text: files of before do not tell their bounds right (stores.lake_schema)
        return ds.field(name).cast(pa.string()).isin(values.cast(pa.string()))
    return ds.field(name).isin(values)
