"""Rows that applications push (`FeatureStore.push(..., to=PushMode.OFFLINE)`), as feature rows of the lake.

A pushed row has no source table and no log sequence number. It stands for one event of its entity: the same
entity and event time pushed again is a correction, and of corrections the latest created counts, as in Feast.
"""

import json
from datetime import UTC, datetime
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from feast.feature_view import FeatureView
from feast.value_type import ValueType

from stores.casts import as_given
from stores.entity_keys import DUMMY, with_dummy
from stores.errors import StoreRefused
from stores.lake import Lake
from stores.rows import TIMESTAMP, rows_schema
from stores.values import arrow_type_of, as_stored
from stores.view import Feature, View

PROJECT = "millrace.project"
"""Property of a table that rows are pushed to: the project in which they are. (Those of captured tables say their
topic.)"""

_JSON = (ValueType.JSON.value, ValueType.JSON_LIST.value)


def pushed_view(project: str, feature_view: FeatureView) -> View:
    """The view of a `PushSource` as an event view; without entities its join key is `DUMMY`, which Feast may hide."""
    keys = [_feature(field) for field in feature_view.entity_columns] or [DUMMY]
    names = {key.name for key in keys}
    features = tuple(_feature(field) for field in feature_view.features if field.name not in names)
    return View(project, feature_view.name, feature_view.name, "event", tuple(keys), features)


def _feature(field: Any) -> Feature:
    value_type = field.dtype.to_value_type().value
    return Feature(field.name, value_type, arrow_type_of(value_type))


def claim(lake: Lake, table: str, project: str) -> None:
    """Note that a project pushes to the table, if none did before. Raises `StoreRefused` if another one does."""
    owner = lake.snapshot(table).properties.get(PROJECT)
    if owner is None:
        lake.describe(table, {PROJECT: project})
    elif owner != project:
        raise StoreRefused(
            f"the lake's table {table} holds what is pushed in project {owner}: in project {project}, which shares the "
            "lake, give the view another name"
        )


def pushed_rows(view: View, table: pa.Table, event_time: str, created: str) -> pa.Table:
    """The pushed table as rows of the view, schema `rows_schema(view)`, its features as they are served online.

    `event_time` and `created` name columns of timestamps (without a zone: UTC); without `created` it is now.
    `_lsn` is the time of creation in microseconds, `_row` a hash of join keys and event time, `_offset` the time of
    the push in microseconds plus the place in it. Without entities the join key is `DUMMY`, which is not pushed. Raises
    `ValueError` if a column is missing or does not read as its feature's type.
    """
    schema = rows_schema(view)
    count, now = table.num_rows, pa.scalar(datetime.now(UTC), TIMESTAMP)
    if DUMMY in view.join_keys:
        table = with_dummy(table)
    times = _times(table, event_time)
    created_times = _times(table, created) if created else pa.repeat(now, count)
    keys = {key.name: as_stored(_values(table, key), key.value_type) for key in view.join_keys}
    events = zip(*(key.to_pylist() for key in keys.values()), times.cast(pa.int64()).to_pylist(), strict=True)
    columns = {
        "event_timestamp": times,
        "created_timestamp": created_times,
        "_lsn": created_times.cast(pa.int64()),
        "_row": pa.array([mmh3.hash_bytes(repr(event)) for event in events], pa.binary(16)),
        "_deleted": pa.repeat(False, count),
        "_partition": pa.nulls(count, pa.int32()),
        "_offset": pa.array(now.value + np.arange(count)),
    }
    columns |= keys | {f.name: as_stored(_values(table, f), f.value_type, by_pandas=True) for f in view.features}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _times(table: pa.Table, name: str) -> pa.ChunkedArray:
    values = _column(table, name)
    if not pt.is_timestamp(values.type):
        values = _cast(values, name, TIMESTAMP)
    elif values.type.tz is None:
        values = pc.assume_timezone(values, "UTC")
    if values.null_count:
        raise ValueError(f"column {name} of the pushed rows is null in {values.null_count} of {len(values)}")
    return as_given(values, TIMESTAMP)


def _values(table: pa.Table, feature: Feature) -> pa.ChunkedArray:
    """The column of a feature in its type; objects of a JSON field are text."""
    values = _column(table, feature.name)
    if feature.value_type in _JSON:
        values = _json(values, feature)
    return _cast(values, feature.name, feature.arrow_type)


def _json(values: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray:
    """Objects of a JSON field as Feast's type_map writes them online; what is text already stays."""
    lists = pt.is_list(feature.arrow_type)
    if lists and not pt.is_list(values.type):
        return values
    given = values.type.value_type if lists else values.type
    if pt.is_string(given) or pt.is_large_string(given):
        return values
    try:
        texts = [_texts(value) if lists else _text(value) for value in values.to_pylist()]
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {feature.name} of the pushed rows does not read as JSON: {error}") from error
    return pa.chunked_array([pa.array(texts, feature.arrow_type)])


def _texts(values: list[Any] | None) -> list[str | None] | None:
    return None if values is None else [_text(value) for value in values]


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _cast(values: pa.ChunkedArray, name: str, type_: pa.DataType) -> pa.ChunkedArray:
    try:
        return as_given(values, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name} of the pushed rows does not read as {type_}: {error}") from error


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        raise ValueError(f"the pushed rows have no column {name}, only {', '.join(table.schema.names)}")
    return table.column(name)
