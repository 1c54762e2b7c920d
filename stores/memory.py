"""The online store in memory: the double of Redis, for tests of what stands above the stores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stores.rows import TIMESTAMP, FeatureReader, FeatureRows, FeatureWriter, WriteResult
from stores.versions import LEAST_ORDER, NO_ROW, VERSION, Version
from stores.view import View

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is stored for an entity and view; `features` (with `event_timestamp`) is None once deleted."""

    version: Version
    features: Row | None
    undecided: bool

    def column(self, name: str) -> Any:
        """The value of a column of `VERSION`."""
        return self.undecided if name == "_undecided" else getattr(self.version, name[1:])


class MemoryOnline(FeatureWriter, FeatureReader):
    """`FeatureWriter` and `FeatureReader` in one process, a row at a time; never forgets a version."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], dict[Key, _Entry]] = {}

    def ping(self) -> None:
        """Memory answers."""

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        """As `FeatureWriter.write`. An entity whose mark was already set is reported as undecided too."""
        applied = refused = 0
        undecided = []
        for rows in batches:
            marked: dict[Key, Row] = {}
            for key, row in _keyed(rows):
                took = self._apply(rows.view, key, row)
                applied, refused = applied + took, refused + (not took)
                if self._of(rows.view)[key].undecided:
                    marked[key] = row
            if marked:
                names = [name.name for name in rows.view.join_keys]
                schema = pa.schema([rows.table.schema.field(name) for name in names])
                undecided.append((rows.view, pa.Table.from_pylist(list(marked.values()), schema)))
        return WriteResult(applied, refused, tuple(undecided))

    def decide(self, rows: FeatureRows) -> WriteResult:
        """As `FeatureWriter.decide`."""
        applied, entries = 0, self._of(rows.view)
        for key, row in _keyed(rows):
            took = self._apply(rows.view, key, row)
            entry, applied = entries[key], applied + took
            settled = took or (row["_deleted"] and entry.features is None)
            entries[key] = _Entry(entry.version, entry.features, undecided=not settled)
        return WriteResult(applied, rows.table.num_rows - applied)

    def read(self, views: Sequence[View], keys: pa.Table) -> list[pa.Table]:
        """As `FeatureReader.read`."""
        return [self._read(view, keys) for view in views]

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        """As `read`, of one view, and with what is known of versions: `_order`, `_lsn`, `_row` and
        `_undecided`, null where nothing was ever written."""
        entries = [self._of(view).get(_key(view, key)) for key in keys.to_pylist()]
        table = self._read(view, keys)
        for field in VERSION:
            values = [entry and entry.column(field.name) for entry in entries]
            table = table.append_column(field, pa.array(values, field.type))
        return table

    def scan(self, view: View) -> Iterator[pa.Table]:
        """As `FeatureWriter.scan`, all at once."""
        schema = pa.schema([(key.name, key.arrow_type) for key in view.join_keys])
        keys = pa.Table.from_pylist([dict(zip(schema.names, key, strict=True)) for key in self._of(view)], schema)
        found = self.inspect(view, keys)
        yield pa.table([*keys.columns, *found.columns], names=[*schema.names, *found.column_names])

    def _of(self, view: View) -> dict[Key, _Entry]:
        return self._entries.setdefault((view.project, view.online_name), {})

    def _apply(self, view: View, key: Key, row: Row) -> bool:
        entries, deleted, version = self._of(view), bool(row["_deleted"]), _version(view, row)
        stored = entries.get(key)
        if stored is not None and not stored.version.yields_to(version, deleted):
            return False
        undecided = stored is not None and stored.undecided
        if view.kind == "event":
            moved_back = (
                stored is not None and stored.version.row == version.row and version.order < stored.version.order
            )
            undecided = undecided or deleted or moved_back
        names = [feature.name for feature in view.features]
        features = None if deleted else {name: row[name] for name in (*names, "event_timestamp")}
        entries[key] = _Entry(version, features, undecided)
        return True

    def _read(self, view: View, keys: pa.Table) -> pa.Table:
        entries = self._of(view)
        found = [entries.get(_key(view, key)) for key in keys.to_pylist()]
        rows = [(entry.features if entry else None) or {} for entry in found]
        fields = [pa.field(feature.name, feature.arrow_type) for feature in view.features]
        table = pa.Table.from_pylist(rows, pa.schema([*fields, pa.field("event_timestamp", TIMESTAMP)]))
        return table.append_column("_present", pa.array([bool(row) for row in rows], pa.bool_()))


def _keyed(rows: FeatureRows) -> list[tuple[Key, Row]]:
    return [(_key(rows.view, row), row) for row in rows.table.to_pylist()]


def _key(view: View, row: Row) -> Key:
    key = tuple(row[key.name] for key in view.join_keys)
    if None in key:
        raise ValueError(f"a join key of view {view.name!r} is null: {row}")
    return key


def _version(view: View, row: Row) -> Version:
    lsn = row["_lsn"] or 0
    if view.kind == "state":
        return Version(0, lsn, NO_ROW)
    if row["_deleted"]:
        return Version(LEAST_ORDER, lsn, row["_row"] or NO_ROW)
    micros = pa.scalar(row["event_timestamp"], TIMESTAMP).cast(pa.int64()).as_py()
    return Version(micros, lsn, row["_row"] or NO_ROW)
