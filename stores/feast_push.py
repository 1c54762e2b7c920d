"""Rows that applications push (`FeatureStore.push(..., to=PushMode.OFFLINE)`), as feature rows of the lake.

A pushed row has no source table and no log sequence number. It stands for one event of its entity: the same
entity and event time pushed again is a correction, and of corrections the latest created counts, as in Feast.
"""

from datetime import UTC, datetime
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView

from stores.rows import TIMESTAMP, rows_schema
from stores.values import arrow_type_of
from stores.view import Feature, View


def pushed_view(project: str, feature_view: FeatureView) -> View:
    """The view of a `PushSource` as an event view."""
    keys = [_feature(field) for field in feature_view.entity_columns]
    names = {key.name for key in keys}
    features = tuple(_feature(field) for field in feature_view.features if field.name not in names)
    return View(project, feature_view.name, feature_view.name, "event", tuple(keys), features)


def _feature(field: Any) -> Feature:
    value_type = field.dtype.to_value_type().value
    return Feature(field.name, value_type, arrow_type_of(value_type))


def pushed_rows(view: View, table: pa.Table, event_time: str, created: str) -> pa.Table:
    """The pushed table as rows of the view, schema `rows_schema(view)`.

    `event_time` and `created` name columns of timestamps (without a zone: UTC); without `created` it is now.
    `_lsn` is the time of creation in microseconds, `_row` a hash of join keys and event time, `_offset` the
    place in the push. Raises `ValueError` if a column is missing or does not read as its feature's type.
    """
    schema = rows_schema(view)
    count = table.num_rows
    times = _times(table, event_time)
    created_times = _times(table, created) if created else pa.repeat(pa.scalar(datetime.now(UTC), TIMESTAMP), count)
    names = [key.name for key in view.join_keys]
    events = zip(*(_column(table, name).to_pylist() for name in names), times.cast(pa.int64()).to_pylist(), strict=True)
    columns = {
        "event_timestamp": times,
        "created_timestamp": created_times,
        "_lsn": created_times.cast(pa.int64()),
        "_row": pa.array([mmh3.hash_bytes(repr(event)) for event in events], pa.binary(16)),
        "_deleted": pa.repeat(False, count),
        "_partition": pa.nulls(count, pa.int32()),
        "_offset": pa.array(np.arange(count)),
    }
    columns |= {f.name: _cast(table, f.name, f.arrow_type) for f in (*view.join_keys, *view.features)}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _times(table: pa.Table, name: str) -> pa.ChunkedArray:
    values = _cast(table, name, table.schema.field(name).type if name in table.schema.names else TIMESTAMP)
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        values = pc.assume_timezone(values, "UTC")
    if values.null_count:
        raise ValueError(f"column {name} of the pushed rows is null in {values.null_count} of {len(values)}")
    return values.cast(TIMESTAMP, safe=False)


def _cast(table: pa.Table, name: str, type_: pa.DataType) -> pa.ChunkedArray:
    try:
        return _column(table, name).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name} of the pushed rows does not read as {type_}: {error}") from error


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        raise ValueError(f"the pushed rows have no column {name}, only {', '.join(table.schema.names)}")
    return table.column(name)
