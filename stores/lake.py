"""The lake: Delta tables that hold every accepted change once.

Tables are named by kind and owner: `changes/<topic>` (every accepted change of a captured table),
`features/<view>` (feature rows, schema `stores.rows.rows_schema`), `datasets/<name>`, `logs/<name>`.

Exactly once: every append of changes is one Delta commit that also carries one application transaction a
topic-partition, app_id `<topic>-<partition>`, version = the next offset to read (Delta protocol, "Transaction
Identifiers"). Rows below the stored version are replays and are dropped. Two writers that race with the same
app_id are told apart by Delta's own conflict check: the loser reads the version back and drops its rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from stores.errors import StoreRefused, StoreUnavailable

STORE = "the lake"
"""The lake's name in `StoreUnavailable`."""

TopicPartition = tuple[str, int]


class CompactedByAnother(StoreUnavailable):
    """Another process rewrites the table's files, or has meanwhile: this one changed nothing."""

    def __init__(self, place: str) -> None:
        super().__init__(STORE, f"{place}: another process compacts it")


_MADE_BY = {
    "changes": ": millrace apply makes it",
    "features": ": millrace apply makes it for a view of a captured table, the first rows pushed offline for one of a"
    " PushSource",
    "datasets": ": Feast's create_saved_dataset makes it, with SavedDatasetLakeStorage",
    "logs": ": the first features that Feast logs there make it",
}
"""What makes a table that people may name, by its kind."""


class TableMissing(LookupError):
    """The lake has no table of that name; the text says what makes one."""

    def __init__(self, name: str, root: str) -> None:
        super().__init__(f"the lake at {root} has no table {name}{_MADE_BY.get(name.partition('/')[0], '')}")
        self.name = name


class WrittenInViews(StoreRefused):
    """Files in Arrow's view types, as DELETE and UPDATE of delta-rs write them: Arrow reads them, and has nothing to
    compare them with."""

    def __init__(self) -> None:
        super().__init__(
            "another program rewrote files of the lake in Arrow's view types (string_view, binary_view), as DELETE and "
            "UPDATE of delta-rs do, and these cannot be searched: run millrace compact, which rewrites them"
        )


VIEW_TYPES = ("string_view", "binary_view")


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What an append did: rows written, and replayed rows dropped."""

    written: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table, whatever is appended or compacted meanwhile.

    `schema` holds the types that Delta stores (see `stores.lake_schema`); `properties` all table properties;
    `data` reads the rows, lazily and with pruning by file statistics, for `stores.query`; others read by `rows`.
    """

    name: str
    version: int
    schema: pa.Schema
    properties: Mapping[str, str]
    data: ds.Dataset

    def rows(
        self, columns: list[str] | None = None, filter: ds.Expression | None = None, most: int = 131_072
    ) -> pa.RecordBatchReader:
        """Stream rows, in no order, at most so many at once; `columns` None means all. Whoever reads gets
        `StoreUnavailable` where a file is gone, as with the volume that it was on, and `WrittenInViews`."""
        scanner = self.data.scanner(columns=columns, filter=filter, batch_size=most)
        return pa.RecordBatchReader.from_batches(scanner.projected_schema, self._read(scanner))

    def _read(self, scanner: ds.Scanner) -> Iterator[pa.RecordBatch]:
        try:
            yield from scanner.to_batches()
        except OSError as error:
            raise StoreUnavailable(STORE, f"{self.name}: {error}") from error
        except pa.ArrowNotImplementedError as error:
            if not any(name in str(error) for name in VIEW_TYPES):
                raise
            raise WrittenInViews from error


class Lake(Protocol):
    """Tables of changes and features. Every method raises `StoreUnavailable` if the lake cannot be reached,
    and `TableMissing` if it names a table that does not exist; `ValueError` if the name is not a table name.
    """

    def ping(self) -> None:
        """Returns if the lake can be listed."""

    def tables(self) -> tuple[str, ...]:
        """The names of all tables, sorted."""

    def exists(self, name: str) -> bool:
        """Whether the table exists."""

    def create(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        """Create a table, or check that the existing one agrees; its new columns are added, and columns that
        are to hold wider numbers are rewritten.

        Idempotent, and safe from several processes at once. Raises `StoreRefused` if a column cannot be
        stored, has another type in the lake, or a property has another value there.
        """

    def describe(self, name: str, properties: Mapping[str, str]) -> None:
        """Set properties of a table that may change, as its columns in the source do."""

    def append(self, name: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> AppendResult:
        """Add rows in one commit, all or none.

        `offsets` gives for each partition of one topic the offset after the last one of this batch; the rows
        then need `_partition` and `_offset` below it, and those that the table already holds are dropped
        (if all are, the offsets alone are raised). With `offsets` empty every row is added: for rows of no topic.
        Missing columns become null, new ones are added to the table. Raises `StoreRefused` if a column
        cannot be stored as its type in the lake, `ValueError` if rows and offsets disagree.
        """

    def append_once(self, name: str, rows: pa.Table, job: str, number: int) -> bool:
        """Add rows that belong to no offsets in one commit, the `number`-th of a job; False, and nothing is
        added, if the table has that commit of the job already, be it by another run of it. Else as `append`."""

    def commits(self, name: str, job: str) -> int:
        """The number of the job's last commit, read from the lake; 0 if there is none."""

    def advance(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Raise the partitions' next offsets to at least these without adding rows: what lies below them
        counts as held, and an append of it as a replay."""

    def replace(self, name: str, rows: pa.Table) -> None:
        """Make the table these rows, whatever it held before, in one commit; it need not exist."""

    def next_offset(self, name: str, topic: str, partition: int) -> int | None:
        """The first offset that the table does not hold yet, read from the lake; None if it holds none."""

    def snapshot(self, name: str) -> Snapshot:
        """The newest version of a table. Raises `StoreRefused` if another tool turned on deletion vectors or
        column mapping, which this reader does not follow."""

    def added(self, name: str, version: int) -> Snapshot:
        """The newest version of a table, with no rows but those appended after an earlier one, and others that were
        compacted together with them."""

    def properties(self, name: str) -> Mapping[str, str]:
        """What a table says of itself, as of its newest commit: cheap, for it is asked often."""

    def version(self, name: str) -> int:
        """The number of the table's newest commit."""

    def files(self, name: str) -> int:
        """How many data files the table has, as last seen by this process: no listing, for it is asked often."""

    def scan(
        self, name: str, columns: list[str] | None = None, filter: ds.Expression | None = None
    ) -> pa.RecordBatchReader:
        """`Snapshot.rows` of the newest version."""

    def compact(self, name: str, *, look_inside: bool = False) -> int:
        """Rewrite small files as large ones; the number of files replaced. Safe beside appends. One process does it
        at a time: raises `CompactedByAnother` to the others. To `look_inside` opens every file, and has a table with
        some that cannot be searched (`WrittenInViews`) written anew."""

    def vacuum(self, name: str, retention: timedelta) -> int:
        """Delete files that the table does not use and that are older than `retention`, by the time when they were
        written, or within an hour of it replaced; the number deleted. Whoever reads a snapshot that still has them
        fails."""


def property_of(lake: Lake, name: str, key: str) -> str | None:
    """A property of a table; None if the table has no such one, or does not exist."""
    return lake.properties(name).get(key) if lake.exists(name) else None
