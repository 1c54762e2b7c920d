"""When the rows of a snapshot became what they are: what event views without an event time of their own go by.

The newest row of such a view is the one that was committed last. Debezium stamps the rows of a snapshot with the time
at which it read them, which says nothing of that: the row read last would win, over changes too that were committed
beside the snapshot. So a row that the lake knows as it was read keeps the commit time of the change that made it so; a
null that is none any more is taken for a column that the lake did not have. Every other row changed before the base of
the snapshot (`streams.snapshots`), unheard, and counts as committed then: later than all that was heard, and before all
that is streamed beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import Lake
from stores.query import session
from streams.changes import Changes, carried
from streams.decide import changes_table
from streams.missing import below
from streams.pipeline import Outcome
from streams.replays import PLACE, column_names, held_of, replayed
from streams.snapshots import snapshot_moment


def settle_snapshot_times(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, held: Mapping[int, int]) -> Outcome:
    """The outcome with other commit times for the rows that a snapshot read. `staged` as of
    `streams.replays.settle_replays`, `held` as of `settle_read_again`: a record that is read again has the time that it
    had. A replayed letter keeps its own, unless the lake knows the row so, or it is later than the last base.
    Raises `StoreUnavailable`."""
    changes, topic = outcome.accepted.changes, outcome.records.topic
    read = np.asarray(pc.equal(changes.rows["_op"], "r"))
    if not read.any():
        return outcome
    own = np.asarray(changes.rows["_commit_ts"].cast(pa.int64()))
    moment = snapshot_moment(lake, topic)
    times = own.copy()
    if moment is not None:
        times[read] = np.where(replayed(outcome), np.minimum(own, moment), moment)[read]
    asked = changes.rows.filter(pa.array(read))
    if _may_be_known(lake, staged, changes, asked, held):
        at, known = _as_known(lake, staged, changes, asked)
        times[np.flatnonzero(read)[at]] = known
    return replace(outcome, accepted=outcome.accepted.timed(times))


def _may_be_known(
    lake: Lake, staged: Sequence[pa.Table], changes: Changes, asked: pa.Table, held: Mapping[int, int]
) -> bool:
    """Whether there is anything before the snapshot, or of it from an earlier reading: of a first one, which grows with
    the lake, nothing need be looked up."""
    topic, before = changes.table.topic, pc.field("_lsn") < pc.max(asked["_lsn"])
    if any(part.filter(before).num_rows for part in (*staged, changes.rows)):
        return True
    if below(asked, {(topic, number): offset for number, offset in held.items()}).any():
        return True
    return any(batch.num_rows for batch in lake.scan(changes_table(topic), ["_lsn"], before))


def _as_known(
    lake: Lake, staged: Sequence[pa.Table], changes: Changes, asked: pa.Table
) -> tuple[np.ndarray, np.ndarray]:
    """The positions of asked rows whose last change before the snapshot left them as they were read, or that stand in
    the lake themselves, with the commit times (microseconds since the epoch) of what is there."""
    keys = changes.table.primary_key
    others = [field.name for field in carried(changes.table) if field.name not in keys]
    wanted = asked.select([*keys, *PLACE, *others])
    known = [held_of(lake, changes, wanted).cast(wanted.schema)]
    known += [part.select(wanted.column_names).cast(wanted.schema) for part in (*staged, changes.rows)]
    names = column_names(len(keys), len(others))
    same_row = " and ".join(f"known.k{i} = asked.k{i}" for i in range(len(keys)))
    as_read = "".join(
        f" and (known.c{i} is null or known.c{i} is not distinct from asked.c{i})" for i in range(len(others))
    )
    query = f"""
        select position, ts from (
            select asked.position, epoch_us(known.ts) as ts,
                   known.part = asked.part and known.off = asked.off as itself, known.op <> 'd'{as_read} as so
            from asked join known on {same_row}
             and (known.lsn < asked.lsn or (known.part = asked.part and known.off = asked.off and known.stored))
            qualify row_number() over (
                partition by position order by itself desc, known.lsn desc, known.op = 'd', known.off desc) = 1
        ) where itself or so
    """
    tables = {
        "asked": wanted.rename_columns(names).append_column("position", pa.array(np.arange(len(wanted)))),
        "known": pa.concat_tables(
            [
                part.rename_columns(names).append_column("stored", pa.repeat(number == 0, part.num_rows))
                for number, part in enumerate(known)
            ]
        ),
    }
    with session(**tables) as connection:
        found = connection.sql(query).to_arrow_table()
    return found["position"].to_numpy(), found["ts"].to_numpy()
