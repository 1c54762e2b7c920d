"""Where event views have a row of which a record does not say where it was.

An update comes with the row's old values, by which an event view sees it leave an entity. They do not tell where the
views have the row if the change before was rejected, for its values are in no view; and Debezium sends none where
REPLICA IDENTITY is not FULL, which a new partition of a table does not inherit. Nor does a row that an initial snapshot
reads again, begun anew, say where the first reading had it. Where such a row was is read off its last accepted change.

Which rows had their last change rejected is kept in the lake, in `rejected/<topic>`: a row there says so of a record's
key, or that a later change of it was accepted.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from connectors.table import Column
from stores.lake import Lake
from stores.query import answer, session
from streams.changes import Changes, carried
from streams.clock import Clock
from streams.decide import LakeTableName, rejected_table
from streams.letters import REPLAY_OF
from streams.messages import Partition
from streams.missing import Mask
from streams.pipeline import Flow, Flows, Outcome
from streams.replays import PLACE, column_names, held_of
from streams.views import Projected, StreamView, also_left

log = logging.getLogger(__name__)

REJECTED = pa.schema(
    [("_key", pa.binary()), ("_open", pa.bool_()), ("_partition", pa.int32()), ("_offset", pa.int64())]
)

OPEN = pa.schema([REJECTED.field("_key"), REJECTED.field("_offset")])
LAST_OPEN = """
    select _key, _offset from (
        select * from rejected where _partition = {} and (_open or _offset < {})
        qualify row_number() over (partition by _key order by _offset desc) = 1
    ) where _open"""

CREATE_OP = b'"op":"c"'
"""In an envelope of a row that is new, as Kafka Connect's JSON converter writes it: no view has it elsewhere."""

SAY_SECONDS = 60.0

Open = dict[bytes | None, set[int]]
"""By key the offsets of rejected changes that no accepted one has followed."""

AT = ""
"""A column of positions, by a name that no column of a table has."""


class LeftBehind:
    """The rows of a worker's tables whose last change was rejected, if event views could have them elsewhere since. All
    methods are the loop's."""

    def __init__(self, lake: Lake, flows: Flows, clock: Clock) -> None:
        self._lake = lake
        self._flows = flows
        self._clock = clock
        self._open: dict[str, Open] = {}
        self._made = set[LakeTableName]()
        self._say_next: dict[str, float] = {}

    def assigned(self, partition: Partition, begin: int) -> None:
        """Read from the lake what whoever had the partition before left open. What closed a row at the offset `begin`
        or beyond is read again, and the mark that it calls for has perhaps not been decided: that row is open. Raises
        `StoreUnavailable`."""
        if not self._flows[partition.topic].moving:
            return
        table = rejected_table(partition.topic)
        if table not in self._made:
            self._lake.create(table, REJECTED, {})
            self._made.add(table)
        opened = self._open.setdefault(partition.topic, {})
        with session(rejected=self._lake.snapshot(table).data) as connection:
            last = answer(connection, LAST_OPEN.format(partition.number, begin), OPEN)
        opened.update({key: {at} for key, at in zip(*(last[name].to_pylist() for name in OPEN.names), strict=True)})

    def unsure(self, outcome: Outcome) -> Mask:
        """Of which accepted changes the record does not say where event views have the row."""
        flow, changes, kept = outcome.flow, outcome.accepted.changes, outcome.accepted.kept
        if not flow.moving:
            return np.zeros(len(changes), bool)
        found = _untold(flow, changes)
        if found.any():
            self._say(changes.table.topic)
        if opened := self._heard(outcome):
            found |= np.fromiter((outcome.records.keys[i] in opened for i in kept), bool, len(kept))
        return found

    def rows(self, outcome: Outcome) -> pa.Table:
        """What the lake has to learn of an outcome that is online: which rows it left open, and which no longer are.
        The same, whatever came after it meanwhile."""
        records, opened = outcome.records, self._heard(outcome)
        told = [(position, True) for position in _leaving_open(outcome)]
        for i in outcome.accepted.kept.tolist() if opened else ():
            key, offset = records.keys[i], records.offsets[i]
            before = {at for at in opened.get(key, ()) if at < offset}
            # A replay stands behind changes that are newer.
            if before and REPLAY_OF not in records.headers.get(i, {}):
                told.append((i, False))
                opened[key] -= before
                if not opened[key]:
                    del opened[key]
        rows = [(records.keys[i], is_open, records.partitions[i], records.offsets[i]) for i, is_open in told]
        return pa.Table.from_pylist([dict(zip(REJECTED.names, row, strict=True)) for row in rows], REJECTED)

    def _heard(self, outcome: Outcome) -> Open:
        """What is open, with what the outcome rejected."""
        records, opened = outcome.records, self._open.setdefault(outcome.records.topic, {})
        for position in _leaving_open(outcome):
            opened.setdefault(records.keys[position], set()).add(records.offsets[position])
        return opened

    def _say(self, topic: str) -> None:
        if self._clock.monotonic() < self._say_next.get(topic, float("-inf")):
            return
        self._say_next[topic] = self._clock.monotonic() + SAY_SECONDS
        told = (
            "%s: its records have no old values: REPLICA IDENTITY of the table, or of a partition of it, is not FULL. "
            "Run millrace apply, which sets it; until then it is looked up in the lake where event views had a row, "
            "which is slow"
        )
        log.warning(told, topic, extra={"event": "no_old_values", "table": topic})


def _leaving_open(outcome: Outcome) -> list[int]:
    """The positions of rejected records whose rows event views may have elsewhere."""
    if not outcome.flow.moving:
        return []
    values = outcome.records.values
    return [r.position for r in outcome.rejections if CREATE_OP not in (values[r.position] or b"")]


def settle_left_behind(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, unsure: Mask) -> Outcome:
    """The outcome with a mark more where a row of `unsure` was in an event view by its last accepted change, if it is
    elsewhere, or nowhere, since. `staged` as of `streams.replays.settle_replays`. Raises `StoreUnavailable`."""
    accepted = outcome.accepted
    places = _last_accepted(lake, staged, outcome, unsure)
    projected = tuple(
        (view, _marked(view, rows, accepted.changes, places) if view.view.kind == "event" else rows)
        for view, rows in accepted.projected
    )
    return replace(outcome, accepted=replace(accepted, projected=projected))


def _marked(view: StreamView, rows: Projected, changes: Changes, places: pa.Table) -> Projected:
    """Where the old values of the record, or its new ones, name the same entity as `places` do, the rows have a mark
    there already, or the row."""
    assert changes.before is not None
    columns = [column for column in view.key_columns if column in places.column_names]
    elsewhere = np.ones(places.num_rows, bool)
    for named in (changes.rows.take(places[AT]), changes.before.take(places[AT])):
        differs = np.zeros(places.num_rows, bool)
        for column in columns:
            differs |= _differ(places[column], named[column])
        elsewhere &= differs
    if not elsewhere.any():
        return rows
    places = places.filter(pa.array(elsewhere))
    left = changes.rows.take(places[AT])
    for column in columns:
        left = left.set_column(left.schema.get_field_index(column), left.schema.field(column), places[column])
    return also_left(view, changes, rows, places[AT].to_numpy(), left)


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Mask:
    same = pc.or_(pc.and_(pc.is_null(one), pc.is_null(other)), pc.fill_null(pc.equal(one, other), False))
    return ~np.asarray(same)


def _last_accepted(lake: Lake, staged: Sequence[pa.Table], outcome: Outcome, unsure: Mask) -> pa.Table:
    """By the positions of unsure changes (`AT`) the columns by which rows move as they were before, if the row was
    there. What comes before them in the same batch counts."""
    changes, moving = outcome.accepted.changes, outcome.flow.moving
    key = changes.table.primary_key
    ours = changes.rows.select([*key, *PLACE, *moving])
    asked = ours.filter(pa.array(unsure))
    known = [held_of(lake, changes, asked).cast(ours.schema), *(part.select(ours.column_names) for part in staged)]
    names = column_names(len(key), len(moving))
    same_row = " and ".join(f"known.k{i} = asked.k{i}" for i in range(len(key)))
    query = f"""
        select position, {", ".join(f"known.c{i}" for i in range(len(moving)))}
        from asked join known on {same_row} and (known.lsn < asked.lsn or (
            known.op = 'r' and known.lsn = asked.lsn and known.part = asked.part and known.off < asked.off))
        qualify row_number() over (
            partition by position order by known.lsn desc, known.op = 'd', known.off desc) = 1 and known.op <> 'd'
    """
    tables = {
        "asked": asked.rename_columns(names).append_column("position", pa.array(np.flatnonzero(unsure))),
        "known": pa.concat_tables([*known, ours]).rename_columns(names),
    }
    types = pa.schema([pa.field(AT, pa.int64()), *(ours.schema.field(column) for column in moving)])
    with session(**tables) as connection:
        return answer(connection, query, types)


def _untold(flow: Flow, changes: Changes) -> Mask:
    """Which updates and deletes came without old values, or may have: without the primary key, which all of them have,
    or with nothing but it. For the other columns of a delete Debezium then has null, or where they take none a value of
    its own."""
    assert changes.before is not None
    ops, table = changes.rows["_op"], changes.table
    updates = pc.and_(pc.equal(ops, "u"), pc.is_null(changes.before[table.primary_key[0]]))
    deletes = pc.equal(ops, "d")
    if pc.any(deletes).as_py():
        names = [field.name for field in carried(table) if field.name not in table.primary_key]
        says_nothing = (_says_nothing(table.column(name), changes.rows[name]) for name in names)
        deletes = reduce(pc.and_, says_nothing, deletes)
    found: Mask = np.asarray(pc.or_(updates, deletes))
    return found.copy()


def _says_nothing(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether they are null, or what Debezium writes for a value that it was not told: the column's default (of an
    expression that it cannot read another value), or else a zero, by its type."""
    kind = values.type
    if column.has_default or pt.is_nested(kind):
        return pa.chunked_array([pa.repeat(True, len(values))])
    if pt.is_string(kind) and column.encoding in ("decimal", "interval", "time"):  # 0.00, P0Y0M0DT0H0M0S, 00:00:00
        nothing = pc.invert(pc.match_substring_regex(values, "[1-9]"))
    elif pt.is_string(kind) or pt.is_binary(kind):
        nothing = pc.equal(pc.binary_length(values), 0)
    elif pt.is_decimal(kind):
        nothing = pc.equal(values, pa.scalar(Decimal(0), kind))
    elif pt.is_date32(kind):
        nothing = pc.equal(values, pa.scalar(date(1970, 1, 1)))
    elif pt.is_boolean(kind):
        nothing = pc.invert(values)
    else:
        nothing = pc.equal(values, pa.scalar(0, kind))
    return pc.fill_null(nothing, True)
