"""An event view decided anew: the newest row that remains in the lake becomes the entity's value."""

import numpy as np
import pyarrow as pa

from stores.history import newest
from stores.lake import Lake
from stores.rows import FeatureRows, FeatureWriter, WriteResult, rows_schema
from stores.view import View

LakeTableName = str


def features_table(view: str) -> LakeTableName:
    """The lake's table of a view's rows."""
    return f"features/{view}"


def changes_table(topic: str) -> LakeTableName:
    """The lake's table of a topic's accepted changes."""
    return f"changes/{topic}"


def is_changes_table(table: LakeTableName) -> bool:
    """Whether a lake table holds changes; it is written after those of the views."""
    return table.startswith("changes/")


def decide(lake: Lake, writer: FeatureWriter, view: View, keys: pa.Table) -> WriteResult:
    """Write the newest remaining row of each entity in `keys` (join keys) by compare-and-set.

    If the view's table grew meanwhile, another worker may have deleted the row just chosen: read again
    until the table held still around the write. Raises `StoreUnavailable`.
    """
    table = features_table(view.name)
    while True:
        version = lake.version(table)
        result = writer.decide(FeatureRows(view, with_vanished(view, keys, newest(lake, view, keys))))
        if lake.version(table) == version:
            return result


def with_vanished(view: View, keys: pa.Table, remaining: pa.Table) -> pa.Table:
    """The remaining rows, and a marked row for each entity in `keys` of which none remains."""
    names = [key.name for key in view.join_keys]
    found = set(zip(*(remaining[name].to_pylist() for name in names), strict=True))
    asked = list(zip(*(keys[name].to_pylist() for name in names), strict=True))
    vanished = np.array([i for i, key in enumerate(asked) if key not in found], np.int64)
    schema = rows_schema(view)
    gone = keys.select(names).take(pa.array(vanished))
    columns = {name: gone[name] for name in names} | {"_deleted": pa.array(np.ones(len(vanished), bool))}
    filled = [columns.get(f.name, pa.nulls(len(vanished), f.type)) for f in schema]
    return pa.concat_tables([remaining.select(schema.names).cast(schema), pa.table(filled, schema=schema)])
