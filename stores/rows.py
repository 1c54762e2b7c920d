"""Feature rows: the one shape in which features travel from the streams to every store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from stores.view import View

TIMESTAMP = pa.timestamp("us", tz="UTC")

META: tuple[pa.Field, ...] = (
    pa.field("event_timestamp", TIMESTAMP),
    pa.field("created_timestamp", TIMESTAMP),
    pa.field("_lsn", pa.int64()),
    pa.field("_row", pa.binary(16)),
    pa.field("_deleted", pa.bool_()),
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
)
"""The columns that follow the join keys and the features of every row:
`event_timestamp` the event time; of a delete the commit time;
`created_timestamp` the commit time in PostgreSQL;
`_lsn` PostgreSQL's log sequence number of the change;
`_row` names the source row in an event view (16 bytes, a hash of its primary key), null in a state view;
`_deleted` the row is gone: its features are null;
`_partition`, `_offset` where in the topic the change stood (the topic is the view's)."""

EMBEDDING: tuple[pa.Field, ...] = (
    pa.field("_text_hash", pa.binary(16)),
    pa.field("_model", pa.string()),
)
"""What `streams.embed` appends to the rows of a view with a vector, both null where there is no text:
`_text_hash` stands for the embedded text and the model, `_model` names the model of the vector."""


def rows_schema(view: View) -> pa.Schema:
    """The Arrow schema of `FeatureRows.table` for a view: join keys, features, then `META`."""
    fields = [pa.field(f.name, f.arrow_type) for f in (*view.join_keys, *view.features)]
    return pa.schema([*fields, *META])


def filled(view: View, rows: pa.Table) -> pa.Table:
    """The rows with nulls in the columns of `rows_schema(view)` that they have not, and no others."""
    held, schema = set(rows.column_names), rows_schema(view)
    columns = [rows[f.name].cast(f.type) if f.name in held else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Rows of one view in arrival order; `table` has exactly the schema `rows_schema(view)`, once embedded
    followed by `EMBEDDING`."""

    view: View
    table: pa.Table


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a compare-and-set write did.

    `applied` and `refused` count rows (refused: an older or equal version, kept out on purpose).
    `undecided` holds, for each event view concerned, a table of the join keys of the entities whose
    winning row was deleted or moved back in time: the caller must decide them anew from the lake.
    """

    applied: int
    refused: int
    undecided: tuple[tuple[View, pa.Table], ...] = ()


class FeatureWriter(Protocol):
    """A store that serves the newest value of each entity: Redis, pgvector, or the in-memory double.

    The rule of `write`, for one entity and view, with a row's version (order, lsn, row), where order is 0
    for a state view and the event time in microseconds for an event view (its minimum for a delete):
    - nothing stored: apply (a delete leaves a version without features, so that no late write revives it);
    - the stored version names the same row: apply if lsn >= the stored lsn;
    - it names another row: a delete does nothing, else apply if the version is greater than the stored one.
    An applied delete, or an applied row of an event view whose order is lower than that of the same row
    stored before, makes the entity undecided; a stored mark keeps it so until `decide`.
    """

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        """Apply the rows, in order, each by the rule. Idempotent. Raises `StoreUnavailable`."""

    def decide(self, rows: FeatureRows) -> WriteResult:
        """Write the newest remaining rows of undecided entities of an event view by the same rule; a row
        with `_deleted` says that none remains. The mark goes where the store then holds what the row says;
        where it holds another row, one that the decision did not know of, the entity is undecided after it."""

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        """For each row of `keys` (the view's join keys): the features, `event_timestamp`, `_present`, and the
        stored version, null where nothing was ever written: `_order`, `_lsn`, `_row`, `_undecided`."""

    def scan(self, view: View) -> Iterator[pa.Table]:
        """Every entity of a view, deleted ones included: its join keys, then the columns of `inspect`; of a view with
        a vector `_text_hash` as well. An entity that is written meanwhile may or may not come, or come twice."""

    def ping(self) -> None:
        """Raises `StoreUnavailable` if the store does not answer."""


class FeatureReader(Protocol):
    """A store that answers what the newest features of some entities are."""

    def read(self, views: Sequence[View], keys: pa.Table) -> list[pa.Table]:
        """For each view a table with as many rows as `keys`, in its order: the view's features, then
        `event_timestamp` and `_present` (false, and all else null, where the entity has no features).

        The views have the same join keys, and `keys` has those as columns. Raises `StoreUnavailable`,
        and `ValueError` if a key is null.
        """
