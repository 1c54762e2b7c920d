"""Changes to feature rows: rename, transform, cast, for one view after the other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from connectors.table import Table
from stores.casts import as_type
from stores.rows import TIMESTAMP, FeatureRows, rows_schema
from stores.values import as_stored
from stores.vector_limits import can_be_keys, long_keys, misfits
from stores.view import Feature, View
from streams.changes import Changes, at_lsns, plain
from streams.transform import Transform, Untransformable

LIVE = pa.array(["c", "u", "r"])


@dataclass(frozen=True, slots=True)
class StreamView:
    """A view with the way to it from its table's columns.

    `renames` is Feast's `field_mapping` (column to name): after it, a join key, a feature and the event
    time are read from the column of their own name, or of a column that was given it. `event_time` is None for the
    commit time.
    """

    view: View
    table: Table
    event_time: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    transform: Transform | None = None

    def column(self, name: str) -> str:
        """The table's column that `name` is read from."""
        for column, renamed in self.renames.items():
            if renamed == name:
                return column
        return name

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The table's columns that hold the join keys."""
        return tuple(self.column(key.name) for key in self.view.join_keys)


class Unprojectable(Exception):
    """Rows that a view cannot take: `bad` maps the position of a change to the reasons."""

    def __init__(self, bad: Mapping[int, list[str]]) -> None:
        super().__init__(f"{len(bad)} rows")
        self.bad = bad


@dataclass(frozen=True, slots=True)
class Projected:
    """A view's rows; `positions[i]` is the change that row `i` was made of. `skipped` counts the changes without a row:
    they belong to no entity (a null join key), delete one that could never be stored, or the transform dropped them."""

    rows: FeatureRows
    positions: np.ndarray
    skipped: int

    def only(self, wanted: np.ndarray, place: np.ndarray) -> "Projected":
        """The rows marked in the mask `wanted`; `place` gives each change's new position."""
        rows = FeatureRows(self.rows.view, self.rows.table.filter(pa.array(wanted)))
        return Projected(rows, place[self.positions[wanted]], self.skipped)

    def at(self, lsns: np.ndarray) -> "Projected":
        """The same rows, of changes at other LSNs."""
        table = at_lsns(self.rows.table, lsns[self.positions])
        return Projected(FeatureRows(self.rows.view, table), self.positions, self.skipped)

    def timed(self, stream_view: StreamView, moments: pa.Array) -> "Projected":
        """The same rows, of changes with other commit times."""
        table, of_rows = self.rows.table, moments.take(pa.array(self.positions))
        for name in ("created_timestamp", *(("event_timestamp",) if stream_view.event_time is None else ())):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), of_rows)
        return Projected(FeatureRows(self.rows.view, table), self.positions, self.skipped)


def left(projected: Projected, gone: np.ndarray, lsns: np.ndarray, times: np.ndarray) -> Projected:
    """An event view's rows, those made of values by a change marked in `gone` followed by the mark of a row that left
    its entity, at the LSN and commit time (microseconds since the epoch) that `lsns` and `times` have for the change.
    """
    rows = projected.rows
    live = pc.invert(rows.table["_deleted"]).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(live & gone[projected.positions])
    if not len(at):
        return projected
    positions = projected.positions[at]
    moments = pa.array(times[positions], TIMESTAMP)
    of_mark = {
        "event_timestamp": moments,
        "created_timestamp": moments,
        "_lsn": pa.array(lsns[positions]),
        "_deleted": pa.array(np.ones(len(at), bool)),
        **{feature.name: pa.nulls(len(at), feature.arrow_type) for feature in rows.view.features},
    }
    of_row = rows.table.take(pa.array(at))
    marks = pa.table([of_mark.get(name, of_row[name]) for name in of_row.column_names], schema=of_row.schema)
    positions, table = _in_order([(projected.positions, rows.table), (positions, marks)])
    return replace(projected, rows=FeatureRows(rows.view, table.combine_chunks()), positions=positions)


def also_left(
    stream_view: StreamView, changes: Changes, projected: Projected, positions: np.ndarray, was: pa.Table
) -> Projected:
    """An event view's rows of some changes, with the mark of a row that left before those of the changes at
    `positions`, unless it is among them: at the entities that the rows of `was`, one a position, name."""
    at, marks = _gone(stream_view, changes, positions, was, names_of_rows(changes))
    gone = projected.rows.table["_deleted"]
    marked = set(_places(stream_view.view, projected.positions[np.asarray(gone)], projected.rows.table.filter(gone)))
    new = np.array([place not in marked for place in _places(stream_view.view, at, marks)], bool)
    new &= _keyed(stream_view.view, marks)
    positions, table = _in_order([(at[new], marks.filter(pa.array(new))), (projected.positions, projected.rows.table)])
    return replace(projected, rows=FeatureRows(stream_view.view, table.combine_chunks()), positions=positions)


def project(stream_view: StreamView, changes: Changes) -> Projected:
    """The feature rows that the changes make of a view, in arrival order.

    A create, update or snapshot read gives a row of values; a delete a row of nulls, marked, and so does an update that
    the transform drops: the row may have been in the view before. An update that moved its row to another entity of an
    event view gives first the marked row of the entity it left.
    The vector of a view with one is null: `streams.embed` fills it. Raises `Unprojectable`.
    """
    ops = changes.rows["_op"]
    live = np.flatnonzero(pc.is_in(ops, LIVE))
    deleted = np.flatnonzero(pc.equal(ops, "d"))
    row_ids = names_of_rows(changes) if stream_view.view.kind == "event" else None
    parts = [_live(stream_view, changes, live, row_ids)]
    if len(parts[0][0]) < len(live):
        dropped = np.setdiff1d(live[np.asarray(pc.equal(ops, "u"))[live]], parts[0][0])
        if len(dropped):
            parts.insert(0, _gone(stream_view, changes, dropped, changes.rows.take(pa.array(dropped)), row_ids))
    if len(deleted):
        parts.insert(0, _gone(stream_view, changes, deleted, _deleted_values(changes, deleted), row_ids))
    if stream_view.view.kind == "event" and changes.before is not None:
        moved = live[_moved(stream_view, changes)[live]]
        if len(moved):
            parts.insert(0, _gone(stream_view, changes, moved, changes.before.take(pa.array(moved)), row_ids))
    positions, table = _in_order(parts)
    keyed = _keyed(stream_view.view, table)
    if not keyed.all():
        positions, table = positions[keyed], table.filter(pa.array(keyed))
    skipped = len(live) + len(deleted) - len(np.unique(positions))
    return Projected(FeatureRows(stream_view.view, table.combine_chunks()), positions, skipped)


def unfit(stream_view: StreamView, rows: pa.Table) -> dict[str, pa.Array]:
    """The values of the columns of the join keys, among those in `rows`, that the view's keys do not take."""
    found: dict[str, pa.Array] = {}
    for name, key in zip(stream_view.key_columns, stream_view.view.join_keys, strict=True):
        _, misfits = as_type(rows[name], key.arrow_type)
        if misfits:
            found[name] = rows[name].take(pa.array(sorted(misfits))).unique()
    return found


def castable(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether a column of type `source` can be carried in a feature of type `target`: every value of the one has a
    meaning in the other. A single value can still be out of range."""
    if pt.is_list(source) or pt.is_list(target):
        return pt.is_list(source) and pt.is_list(target) and castable(source.value_type, target.value_type)
    number = pt.is_integer(source) or pt.is_decimal(source)
    fits = source == target
    if pt.is_integer(target):
        fits = number
    elif pt.is_floating(target):
        fits = number or pt.is_floating(source)
    elif pt.is_timestamp(target):
        fits = pt.is_date(source) or pt.is_timestamp(source)
    elif pt.is_string(target):
        fits = not (pt.is_binary(source) or pt.is_null(source))
    elif pt.is_binary(target):
        fits = pt.is_binary(source) or pt.is_string(source)
    return bool(fits)


Part = tuple[np.ndarray, pa.Table]


def _in_order(parts: list[Part]) -> Part:
    """The parts as one, by position; of one position in the order of the parts: an entity is left before the next
    is joined."""
    if len(parts) == 1:
        return parts[0]
    positions = np.concatenate([p for p, _ in parts])
    order = np.argsort(positions, kind="stable")
    return positions[order], pa.concat_tables([t for _, t in parts]).take(pa.array(order))


def _live(stream_view: StreamView, changes: Changes, positions: np.ndarray, row_ids: pa.Array | None) -> Part:
    if not len(positions):
        return positions, rows_schema(stream_view.view).empty_table()
    # All of them stand in their order: then a copy tells nothing new.
    rows = changes.rows if len(positions) == len(changes) else changes.rows.take(pa.array(positions))
    source = _renamed(rows, stream_view.renames)
    meta = source
    if stream_view.transform is not None:
        try:
            source, kept = stream_view.transform(source)
        except Untransformable as error:
            raise Unprojectable({int(positions[i]): why for i, why in error.bad.items()}) from error
        positions, meta = positions[kept], meta.take(pa.array(kept))
    bad: dict[int, list[str]] = {}
    view = stream_view.view
    keys = [_cast(source[f.name], stream_view.column(f.name), f.arrow_type, bad) for f in view.join_keys]
    features = [
        pa.nulls(len(positions), f.arrow_type)
        if _is_vector(view, f)
        else as_stored(_cast(source[f.name], stream_view.column(f.name), f.arrow_type, bad), f.value_type)
        for f in view.features
    ]
    times = _event_times(meta, stream_view, bad)
    if view.vector is not None:
        _find_unstorable(stream_view, [*keys, *features], bad)
    if bad:
        raise Unprojectable({int(positions[i]): why for i, why in bad.items()})
    return positions, _assemble(view, [*keys, *features], times, meta, _at(row_ids, positions), deleted=False)


def _gone(
    stream_view: StreamView,
    changes: Changes,
    positions: np.ndarray,
    keys: pa.Table,
    row_ids: pa.Array | None,
) -> Part:
    """Marked rows of nulls for the entities that `keys` names, of the changes at the given positions. A key that does
    not fit is null: the row was never in the view by it, and a change that takes the row from there is no worse."""
    meta = changes.rows.take(pa.array(positions))
    view = stream_view.view
    named = zip(stream_view.key_columns, view.join_keys, strict=True)
    columns = [fitting(keys[name], f.arrow_type) for name, f in named]
    columns += [pa.nulls(len(positions), f.arrow_type) for f in view.features]
    return positions, _assemble(view, columns, meta["_commit_ts"], meta, _at(row_ids, positions), deleted=True)


def _deleted_values(changes: Changes, positions: np.ndarray) -> pa.Table:
    """The values of deleted rows: in the columns of `before` those, where there are any. They may be of the lake, which
    has them though the source sent none, or sent those of a rejected change."""
    at = pa.array(positions)
    rows = changes.rows.take(at)
    if changes.before is None:
        return rows
    old = changes.before.take(at)
    known = pc.is_valid(old[changes.table.primary_key[0]])
    for name in old.column_names:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pc.if_else(known, old[name], rows[name]))
    return rows


def _moved(stream_view: StreamView, changes: Changes) -> np.ndarray:
    """Which changes have another join key than the row had before."""
    assert changes.before is not None
    moved = np.zeros(len(changes), bool)
    for column in stream_view.key_columns:
        old, new = changes.before[column], changes.rows[column]
        different = pc.or_kleene(pc.not_equal(old, new), pc.and_(pc.is_valid(old), pc.is_null(new)))
        moved |= np.asarray(pc.fill_null(different, False))
    return moved


def _renamed(table: pa.Table, renames: Mapping[str, str]) -> pa.Table:
    """The table by the names of a view: a column of which another has taken the name is hidden by that."""
    taken = set(renames.values())
    seen = [name for name in table.column_names if name in renames or name not in taken]
    return table.select(seen).rename_columns([renames.get(name, name) for name in seen]) if renames else table


def _is_vector(view: View, feature: Feature) -> bool:
    return view.vector is not None and view.vector.name == feature.name


def _at(row_ids: pa.Array | None, positions: np.ndarray) -> pa.Array:
    return pa.nulls(len(positions), pa.binary(16)) if row_ids is None else row_ids.take(pa.array(positions))


def _event_times(meta: pa.Table, stream_view: StreamView, bad: dict[int, list[str]]) -> pa.ChunkedArray:
    name = stream_view.event_time
    if name is None:
        return meta["_commit_ts"]
    times = _cast(meta[name], stream_view.column(name), TIMESTAMP, bad)
    if times.null_count:
        for i in np.flatnonzero(times.is_null()):
            bad.setdefault(int(i), []).append(f"view {stream_view.view.name}: the event time {name} is null")
    return times


def _cast(column: pa.ChunkedArray, name: str, kind: pa.DataType, bad: dict[int, list[str]]) -> pa.ChunkedArray:
    """The values as of the type `kind`; where they do not fit, their positions and why, by the table's column `name`,
    go to `bad`."""
    cast, misfits = as_type(column, kind)
    for i, why in misfits.items():
        bad.setdefault(i, []).append(_misfit(column[i], name, kind, why))
    return cast


def _find_unstorable(stream_view: StreamView, columns: list[pa.Array], bad: dict[int, list[str]]) -> None:
    """Put into `bad` the rows that the store of a view with a vector can never take, which would hold it for good."""
    view, fields = stream_view.view, (*stream_view.view.join_keys, *stream_view.view.features)
    for f, column in zip(fields, columns, strict=True):
        for i, why in misfits(column).items():
            bad.setdefault(i, []).append(f"column {stream_view.column(f.name)}: {why}")
    keys = pa.table(columns[: len(view.join_keys)], names=[key.name for key in view.join_keys])
    for i, why in long_keys(view, keys).items():
        key = ", ".join(stream_view.key_columns)
        bad.setdefault(i, []).append(f"view {view.name}: the entity key of {key} {why}")


def fitting(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The values as of the type `kind`, null where one does not fit."""
    cast, misfits = as_type(column, kind)
    if not misfits:
        return cast
    fits = np.ones(len(cast), bool)
    fits[list(misfits)] = False
    return pc.if_else(pa.array(fits), cast, None)


def _misfit(value: pa.Scalar, name: str, kind: pa.DataType, why: str) -> str:
    return f"column {name}: {value.as_py()!r:.80} does not fit {kind}: {why}"


def _assemble(
    view: View, columns: list[pa.Array], times: pa.Array, meta: pa.Table, row_ids: pa.Array, *, deleted: bool
) -> pa.Table:
    length = meta.num_rows
    return pa.table(
        [
            *columns,
            times,
            meta["_commit_ts"],
            meta["_lsn"],
            row_ids,
            pa.array(np.full(length, deleted)),
            meta["_partition"],
            meta["_offset"],
        ],
        schema=rows_schema(view),
    )


def _places(view: View, positions: np.ndarray, rows: pa.Table) -> Iterator[tuple[object, ...]]:
    """The position and the entity of each row."""
    return zip(positions.tolist(), *(rows[key.name].to_pylist() for key in view.join_keys), strict=True)


def _keyed(view: View, table: pa.Table) -> np.ndarray:
    keyed = np.ones(table.num_rows, bool)
    for key in view.join_keys:
        if table[key.name].null_count:
            keyed &= np.asarray(table[key.name].is_valid())
    return keyed if view.vector is None else keyed & can_be_keys(view, table)


def names_of_rows(changes: Changes) -> pa.Array:
    """Sixteen bytes that name each source row: murmur3 of its primary key's values, bytes as they are and all else as
    text, each preceded by its length, so that ("a", "bc") and ("ab", "c") differ."""
    parts: list[pa.Array] = []
    for name in changes.table.primary_key:
        value = plain(changes.rows[name], changes.table.column(name))
        if not pt.is_binary(value.type):
            value = value.cast(pa.string())
        length = pc.binary_length(value) if pt.is_binary(value.type) else pc.utf8_length(value)
        parts += [length.cast(pa.string()).cast(pa.binary()), value.cast(pa.binary())]
    joined = pc.binary_join_element_wise(*parts, b":", null_handling="replace", null_replacement=b"")
    return pa.array([mmh3.hash_bytes(key) for key in joined.to_pylist()], pa.binary(16))
