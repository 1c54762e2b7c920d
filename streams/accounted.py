"""What became of each record of a topic: it stands once among the changes in the lake, or among the letters.

A record that stands at neither place says nothing (a tombstone, a logical message), or what another record said before
(`streams.redelivered`, `streams.replays`): it is repeated then. What is none of these is lost. The comparison is one of
its own, not the worker's: a repeated change is one whose key, operation and LSN the lake holds of another record; a row
that a snapshot read is repeated with all its values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from stores.lake import Lake
from stores.query import quoted, session
from streams.broker import Topics
from streams.changes import Changes, carried
from streams.decide import changes_table
from streams.decode import decode_records
from streams.letters import Letter
from streams.messages import Partition, Records, joined
from streams.missing import OFFSET_BITS, absent
from streams.pipeline import Flow
from streams.replays import held_of

CHUNK = 20_000
"""Records that are looked for in the lake at a time."""

CHUNK_BYTES = 64 << 20
"""Bytes of records at which they are looked for sooner."""

SHOWN = 20


@dataclass(slots=True)
class Account:
    """Of the records that a topic retains and the group has committed: `changes` stand in the lake, `letters` among the
    letters, `silent` ones say nothing, `repeated` ones what stands already, `lost` ones are nowhere. `doubled` counts
    changes of the lake that stand there more than once. `examples` name the first of the lost and the doubled."""

    records: int = 0
    changes: int = 0
    letters: int = 0
    silent: int = 0
    repeated: int = 0
    lost: int = 0
    doubled: int = 0
    examples: list[str] = field(default_factory=list)

    def lose(self, records: Records, lost: Sequence[int]) -> None:
        """Count these of the records."""
        self.lost += len(lost)
        for i in lost[: max(0, SHOWN - len(self.examples))]:
            place = f"{records.topic}[{records.partitions[i]}] at offset {records.offsets[i]}"
            self.examples.append(f"lost: the record of {place} is neither a change in the lake nor a letter")


def account(
    topics: Topics,
    lake: Lake,
    flow: Flow,
    committed: Mapping[Partition, int],
    letters: Iterable[int],
    max_bytes: int,
    advance: Callable[[int], None] = lambda records: None,
) -> Account:
    """What became of the records of a table's topic below the `committed` offsets; `letters` are the places of those
    that the letters hold (`letter_places`), read after the offsets were. `advance` takes how many were read so far.
    Raises `BrokerUnavailable` and `StoreUnavailable`."""
    report = Account()
    rejected = np.unique(np.fromiter(letters, np.int64))
    for records in _chunks(topics.read(flow.table.topic), committed):
        report.records += len(records)
        at = np.asarray(records.partitions, np.int64) << OFFSET_BITS | np.asarray(records.offsets, np.int64)
        asked, of = np.unique(at, return_inverse=True)
        changes = ~absent(lake, changes_table(flow.table.topic), asked)[of]
        letter = ~changes & np.isin(at, rejected)
        report.changes += int(changes.sum())
        report.letters += int(letter.sum())
        _other(lake, flow, records.take(np.flatnonzero(~changes & ~letter).tolist()), max_bytes, report)
        advance(report.records)
    _doubled(lake, flow, report)
    return report


def letter_places(letters: Iterable[Letter]) -> dict[str, list[int]]:
    """Where the records of letters stood, by topic: each partition and offset as one number (`streams.missing`)."""
    found: dict[str, list[int]] = {}
    for letter in letters:
        found.setdefault(letter.origin.topic, []).append(letter.origin.number << OFFSET_BITS | letter.offset)
    return found


def _chunks(read: Iterable[Records], committed: Mapping[Partition, int]) -> Iterator[Records]:
    """The committed ones of the records, many at a time."""
    waiting: list[Records] = []
    for records in read:
        ends = {number: committed.get(Partition(records.topic, number), 0) for number in set(records.partitions)}
        places = zip(records.partitions, records.offsets, strict=True)
        waiting.append(records.take([i for i, (number, offset) in enumerate(places) if offset < ends[number]]))
        if sum(map(len, waiting)) >= CHUNK or sum(part.size for part in waiting) >= CHUNK_BYTES:
            yield from joined(waiting)
            waiting = []
    yield from joined([part for part in waiting if len(part)])


def _other(lake: Lake, flow: Flow, records: Records, max_bytes: int, report: Account) -> None:
    """Count records that stand at neither place."""
    if not len(records):
        return
    decoded = decode_records(records, flow.table, (), max_bytes)
    repeated = _repeated(lake, decoded.changes)
    undecodable = (rejection.position for rejection in decoded.rejections)
    report.silent += decoded.ignored
    report.repeated += int(repeated.sum())
    report.lose(records, sorted([*undecodable, *decoded.positions[~repeated].tolist()]))


def _repeated(lake: Lake, changes: Changes) -> np.ndarray:
    """Which of the changes the lake holds of another record."""
    found = np.zeros(len(changes), bool)
    if not len(changes):
        return found
    key, values = changes.table.primary_key, [column.name for column in carried(changes.table)]
    ours = changes.rows.select([*values, "_op", "_lsn"])
    held = held_of(lake, changes, ours).cast(ours.schema)
    # Columns by number: those of a source may be called as any word of SQL, or as ours.
    numbered = [f"c{i}" for i in range(len(values))]
    same_row, same_values = (
        " AND ".join(
            f"held.{numbered[values.index(name)]} IS NOT DISTINCT FROM ours.{numbered[values.index(name)]}"
            for name in names
        )
        for names in (key, values)
    )
    names = [*numbered, "op", "lsn"]
    asked = ours.rename_columns(names).append_column("position", pa.array(range(len(changes))))
    query = f"""
        SELECT DISTINCT position FROM ours SEMI JOIN held
        ON ours.op = held.op AND {same_row} AND CASE WHEN ours.op = 'r' THEN {same_values} ELSE ours.lsn = held.lsn END
    """
    with session(ours=asked, held=held.rename_columns(names)) as connection:
        found[connection.sql(query).to_arrow_table()["position"].to_numpy()] = True
    return found


def _doubled(lake: Lake, flow: Flow, report: Account) -> None:
    """Count the changes that stand in the lake several times: at one place, or as one change of one row. A TRUNCATE
    stands once for each partition that told of it."""
    table = changes_table(flow.table.topic)
    at, key = ("_partition", "_offset"), (*flow.table.primary_key, "_lsn", "_op")
    with session(data=lake.snapshot(table).data) as connection:
        for names, where in ((at, "true"), (key, "_op <> 't'")):
            by = ", ".join(map(quoted, names))
            # Without a name for the count: a column of the source may have it.
            query = f"SELECT count(*), {by} FROM data WHERE {where} GROUP BY {by} HAVING count(*) > 1"
            found = connection.sql(query).to_arrow_table()
            report.doubled += found.num_rows
            first = found.slice(0, max(0, SHOWN - len(report.examples)))
            for times, *values in zip(*(column.to_pylist() for column in first.columns), strict=True):
                what = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
                report.examples.append(f"doubled: {table} holds {times} times {what}")
