"""Where the rows of a snapshot stand in the order of changes.

A snapshot row must be newer than everything that was committed before the snapshot began, and older than every
change that is streamed beside or after it. Debezium's own LSNs do not keep to that. An incremental snapshot's
rows have none. An initial snapshot's have that at which the slot became consistent; a transaction that was open
by then may have written below it, and is streamed all the same.

So whoever begins a snapshot first notes in the lake, as an application transaction of the topic, its base: the
write position of PostgreSQL's log, rounded up to where the next record can begin, at a moment after which every
transaction that was open then ends before a row is read (`connectors.snapshots`). Records begin at multiples of
8, so between the base and the last record before it there is room:

| LSN | holds |
|---|---|
| base - 3 | that a row had left an entity before the snapshot, while nobody listened (`streams.reconcile`) |
| base - 2 | the snapshot's rows |
| base - 1 | those that an initial one read when it was begun anew (`streams.redelivered`), if they changed meanwhile |
| base - 1 | the deletes of rows that PostgreSQL has no more |

A row whose base is unknown keeps its own LSN. A replayed letter may be of an earlier snapshot, whose base it tells; if
it does not, it gets no later LSN than its own, and without one 0, older than anything. A record that is read again
counts as it did, whatever snapshot came since (`streams.replays.settle_read_again`).
"""

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from connectors.snapshots import Base
from stores.lake import Lake
from streams.changes import LSNS, Changes
from streams.decide import changes_table
from streams.letters import BASE, REPLAY_OF
from streams.messages import Headers, Records

MARK = -2
"""The number of the partition, one that no topic has, whose next offset is the base of the last snapshot."""

RECONCILED_MARK = -3
"""The same for the base of the last snapshot that was reconciled (`streams.reconcile`)."""

MOMENT_MARK = -4
"""The same for PostgreSQL's time at the last base, in microseconds since the epoch (`streams.snapshot_times`)."""

FIRST_MARK = -5
"""The same for the base of the source's first snapshot, which leaves nothing to reconcile if it is read but once
(`streams.redelivered.begun_anew`)."""

LEFT, READ, GONE = 3, 2, 1
"""How far below the base the three stand."""

ANEW = 1
"""The bit that makes the LSN of a snapshot's row that of one that was read anew."""

SnapshotBase = Callable[[], int | None]
"""The base of a topic's last snapshot, None if none was noted. Raises `StoreUnavailable`."""


def no_base() -> None:
    """Where no base was noted."""


def snapshot_base(lake: Lake, topic: str) -> int | None:
    """See `SnapshotBase`; never cached, for an old base would make new rows too old."""
    return lake.next_offset(changes_table(topic), topic, MARK)


def snapshot_moment(lake: Lake, topic: str) -> int | None:
    """PostgreSQL's time, in microseconds since the epoch, at the base of a topic's last snapshot; None if none was
    noted. Raises `StoreUnavailable`."""
    return lake.next_offset(changes_table(topic), topic, MOMENT_MARK)


def begin_snapshot(lake: Lake, topic: str, start: Base) -> None:
    """Note the base of a snapshot of the topic's table, before it is asked for."""
    lake.advance(changes_table(topic), {(topic, MARK): start.lsn, (topic, MOMENT_MARK): start.micros})


def begin_first(lake: Lake, topic: str, start: Base, *, under_way: bool) -> None:
    """Note the base of a source's first snapshot. One that is `under_way` keeps the base that it began with: at a later
    one its rows would count as newer than changes that came after them."""
    if not under_way or snapshot_base(lake, topic) is None:
        lake.advance(changes_table(topic), {(topic, FIRST_MARK): start.lsn})  # before it is taken for any other
        begin_snapshot(lake, topic, start)


def end_snapshot(lake: Lake, topic: str, base: int) -> None:
    """Note that the snapshot with that base is reconciled."""
    lake.advance(changes_table(topic), {(topic, RECONCILED_MARK): base})


def unreconciled(lake: Lake, topic: str) -> int | None:
    """The base of the last snapshot if it was not reconciled: whoever began it is still at it, or nothing more will
    come of it. None if it was or was the source's first, or none was noted, as in a lake that has no such table."""
    base = _open(lake, topic)
    return None if base is None or base == lake.next_offset(changes_table(topic), topic, FIRST_MARK) else base


def first_alone(lake: Lake, topic: str) -> bool:
    """Whether the topic's last snapshot is the source's first, which nobody has reconciled. Raises
    `StoreUnavailable`."""
    base = _open(lake, topic)
    return base is not None and base == lake.next_offset(changes_table(topic), topic, FIRST_MARK)


def _open(lake: Lake, topic: str) -> int | None:
    if not lake.exists(changes_table(topic)):
        return None
    base = snapshot_base(lake, topic)
    ended = lake.next_offset(changes_table(topic), topic, RECONCILED_MARK)
    return None if base is None or base <= (ended or 0) else base


def placed(changes: Changes, positions: np.ndarray, records: Records, base: int | None) -> Changes:
    """The changes with the LSNs that snapshot rows count by; `positions` are those of their records, `base` the last
    snapshot's, None if it is unknown or no snapshot has rows among them."""
    read = np.asarray(pc.equal(changes.rows["_op"], "r"))
    if base is None or not read.any():
        return changes
    replays = {i: _told(headers) for i, headers in records.headers.items() if REPLAY_OF in headers}
    told = np.array([replays.get(i, base) for i in positions.tolist()], np.int64)
    bases = np.where(told > 0, told, base)
    own = np.asarray(changes.rows["_lsn"])
    lsns = np.where(read, np.minimum(own, bases - READ), own)
    unplaced = read & (own == 0) & (told > 0)
    lsns[unplaced] = bases[unplaced] - READ
    return changes.at(lsns)


def _told(headers: Headers) -> int:
    """The base that a letter was sent with; 0 if it tells none, or what no letter of this worker does."""
    value = headers.get(BASE) or b""
    told = int(value) if value.isdigit() else 0
    return told if told in LSNS else 0
