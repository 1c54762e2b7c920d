"""An event view decided anew: the newest row that remains in the lake becomes the entity's value."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.history import newest
from stores.lake import Lake, Snapshot
from stores.rows import FeatureRows, FeatureWriter, WriteResult, filled, rows_schema
from stores.view import View

LakeTableName = str


def features_table(view: str) -> LakeTableName:
    """The lake's table of a view's rows."""
    return f"features/{view}"


def changes_table(topic: str) -> LakeTableName:
    """The lake's table of a topic's accepted changes."""
    return f"changes/{topic}"


def rejected_table(topic: str) -> LakeTableName:
    """The lake's table of the topic's rows whose last change was rejected (`streams.left_behind`)."""
    return f"rejected/{topic}"


def is_features_table(table: LakeTableName) -> bool:
    """Whether a lake table holds a view's rows."""
    return table.startswith("features/")


def is_changes_table(table: LakeTableName) -> bool:
    """Whether a lake table holds changes; it is written after those of the views."""
    return table.startswith("changes/")


def decide(lake: Lake, writer: FeatureWriter, view: View, keys: pa.Table) -> WriteResult:
    """Write the newest remaining row of each entity in `keys` (join keys) by compare-and-set.

    What is online and not yet in the lake stays, and its entity is undecided: the flush of that row decides it.
    What the lake knows to have changed since goes first; only a late writer leaves such a row behind. If rows came
    into the view's table meanwhile, another worker may have deleted the row just chosen: the entities that these rows
    name, or of which they change the chosen row, are decided again, until the table held still for all of them.
    Raises `StoreUnavailable`.
    """
    table = features_table(view.name)
    applied = refused = 0
    while keys.num_rows:
        version = lake.version(table)
        chosen = newest(lake, view, keys)
        result = writer.decide(FeatureRows(view, with_vanished(view, keys, chosen)))
        applied, refused = applied + result.applied, refused + result.refused
        outdated = _outdated(lake, view, keys, writer.inspect(view, keys)) if result.refused else None
        if outdated is not None and outdated.num_rows:
            writer.write([FeatureRows(view, outdated)])
        elif lake.version(table) == version:
            break
        else:
            keys = _touched(keys, chosen, lake.added(table, version))
    return WriteResult(applied, refused)


def _touched(keys: pa.Table, chosen: pa.Table, added: Snapshot) -> pa.Table:
    """The entities that added rows name, or whose chosen row they change."""
    names = keys.column_names
    came = added.rows([*names, "_row"]).read_all()
    types = pa.schema([came.schema.field(name) for name in names])
    moved = chosen.filter(pc.is_in(chosen["_row"].cast(pa.binary()), came["_row"].cast(pa.binary()).combine_chunks()))
    named = pa.concat_tables([rows.select(names).cast(types) for rows in (came, moved)]).group_by(names).aggregate([])
    return keys.cast(types).join(named, names, join_type="left semi").cast(keys.schema)


def _outdated(lake: Lake, view: View, keys: pa.Table, stored: pa.Table) -> pa.Table:
    """A marked row for each entity whose stored row has a later version in the lake, at the LSN of that."""
    live = pc.and_(stored["_present"], pc.is_valid(stored["_row"]))
    stored, keys = stored.filter(live), keys.filter(live)
    if not stored.num_rows:
        return rows_schema(view).empty_table()
    wanted = pc.field("_row").isin(stored["_row"].cast(pa.binary()).combine_chunks().unique())
    versions = lake.scan(features_table(view.name), ["_row", "_lsn"], wanted).read_all()
    latest = versions.group_by("_row").aggregate([("_lsn", "max")])
    place = pc.index_in(stored["_row"].cast(pa.binary()), latest["_row"].combine_chunks())
    known = latest["_lsn_max"].take(place)
    late = pc.fill_null(pc.less(stored["_lsn"], known), False)
    columns = {"_row": stored["_row"], "_lsn": known}
    return _marked(view, keys.filter(late), {name: column.filter(late) for name, column in columns.items()})


def with_vanished(view: View, keys: pa.Table, remaining: pa.Table) -> pa.Table:
    """The remaining rows, and a marked row for each entity in `keys` of which none remains."""
    names = [key.name for key in view.join_keys]
    found = set(zip(*(remaining[name].to_pylist() for name in names), strict=True))
    asked = list(zip(*(keys[name].to_pylist() for name in names), strict=True))
    vanished = np.array([i for i, key in enumerate(asked) if key not in found], np.int64)
    schema = rows_schema(view)
    gone = _marked(view, keys.take(pa.array(vanished)), {})
    return pa.concat_tables([remaining.select(schema.names).cast(schema), gone])


def _marked(view: View, keys: pa.Table, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Rows of nulls with `_deleted`, for the entities in `keys`, and with the columns given."""
    given = {key.name: keys[key.name] for key in view.join_keys} | dict(columns)
    given["_deleted"] = pa.array(np.ones(keys.num_rows, bool))
    return filled(view, pa.table(given))
