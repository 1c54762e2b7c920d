"""Changes of one table, decoded: what everything after the decoder works on, live or from the lake."""

from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.types as pt

from connectors.table import Column, Table
from connectors.to_json import encode

TIMESTAMP = pa.timestamp("us", tz="UTC")

META: tuple[pa.Field, ...] = (
    pa.field("_op", pa.string()),
    pa.field("_lsn", pa.int64()),
    pa.field("_commit_ts", TIMESTAMP),
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
)
"""Follow the table's columns in `Changes.rows` and in the lake's `changes/<topic>`: Debezium's operation
(c, u, d, r, t), PostgreSQL's log sequence number, the commit time, and where in the topic the change stood."""

LSNS = range(2**63)
"""The values of `_lsn`: what millrace reckons with, it holds in int64; a negative one stands for none."""


def carried(table: Table) -> tuple[pa.Field, ...]:
    """The columns of a table that Debezium replicates in a form that can be decoded."""
    return tuple(pa.field(c.name, c.arrow_type) for c in table.columns if c.encoding != "none" and not c.generated)


def changes_schema(table: Table) -> pa.Schema:
    """The schema of `Changes.rows` and of the lake's `changes/<topic>`."""
    return pa.schema([*carried(table), *META])


def contract_schema(table: Table) -> pa.Schema:
    """What the table's contract names, counts and lists: its own columns, without those of `META`."""
    return pa.schema(carried(table))


def plain(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """A column of a primary key with values that can be grouped and counted: a list as its JSON."""
    if not pt.is_nested(values.type):
        return values
    texts = [[None if v is None else orjson.dumps(v).decode() for v in encode(c, column)] for c in values.chunks]
    return pa.chunked_array(texts, pa.string())


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one table in arrival order, with the schema `changes_schema(table)`.

    A delete holds its key, and its old values where the source sent them; a truncate holds nulls.
    `before` has, row by row, the old values of the carried columns (null where the source sent none):
    it is what tells an event view that a row left an entity. It is None when no view asks for it.
    """

    table: Table
    rows: pa.Table
    before: pa.Table | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def take(self, positions: np.ndarray) -> "Changes":
        """The changes at the given positions, in that order."""
        indices = pa.array(positions, pa.int64())
        return Changes(
            self.table,
            self.rows.take(indices),
            None if self.before is None else self.before.take(indices),
        )

    def at(self, lsns: np.ndarray) -> "Changes":
        """The changes with other LSNs."""
        return Changes(self.table, at_lsns(self.rows, lsns), self.before)

    def timed(self, moments: pa.Array) -> "Changes":
        """The changes with other commit times."""
        place = self.rows.schema.get_field_index("_commit_ts")
        return Changes(self.table, self.rows.set_column(place, META[2], moments), self.before)

    def without(self, positions: "set[int]") -> "Changes":
        """All changes but those at the given positions."""
        if not positions:
            return self
        return self.take(np.setdiff1d(np.arange(len(self)), np.fromiter(positions, np.int64)))


def at_lsns(rows: pa.Table, lsns: np.ndarray) -> pa.Table:
    """Rows with other values of `_lsn`."""
    place = rows.schema.get_field_index("_lsn")
    return rows.set_column(place, rows.schema.field(place), pa.array(lsns, pa.int64()))


def as_snapshot(table: Table, rows: pa.Table) -> Changes:
    """A table's rows (its carried columns) as if a snapshot had just read them, at the epoch and LSN 0."""
    count = rows.num_rows
    meta = {
        "_op": pa.repeat("r", count),
        "_lsn": pa.repeat(pa.scalar(0, pa.int64()), count),
        "_commit_ts": pa.repeat(pa.scalar(0, TIMESTAMP), count),
        "_partition": pa.repeat(pa.scalar(0, pa.int32()), count),
        "_offset": pa.array(np.arange(count)),
    }
    held = {name: rows[name] for name in rows.column_names}
    return Changes(table, pa.table({**held, **meta}, schema=changes_schema(table)))
