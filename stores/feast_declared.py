"""A source's rows with the values that its view declares: Feast gives the offline store the names of columns alone, and
casts in its own way what it gets for them."""

from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from feast.feature_view import FeatureView
from feast.repo_config import RepoConfig

from stores.casts import as_type
from stores.feast_lake import LakeSource, store_of
from stores.feast_protos import carries, declared_keys, stored_view
from stores.values import as_stored
from stores.view import Feature

_INTEGERS = pa.decimal128(19, 0)
"""Holds every int64."""


def declared(
    config: RepoConfig, source: LakeSource, columns: Collection[str], times: Collection[str]
) -> dict[str, Feature]:
    """By column, the join keys and features of the views in the registry that are made of exactly these columns of the
    source, without a function, the columns `times` aside, which Feast does not count among features; empty if there is
    no such view.

    Raises `ValueError` if there are several that declare a column with different types.
    """
    back = {name: column for column, name in source.field_mapping.items()}
    found: dict[str, tuple[str, Feature]] = {}
    for view in _made_of_columns(config, source):
        stored = stored_view(config, view, declared_keys(view))
        by_column = {back.get(f.name, f.name): f for f in (*stored.join_keys, *stored.features)}
        if by_column.keys() - set(times) != set(columns) - set(times):
            continue
        for column, feature in by_column.items():
            other, theirs = found.setdefault(column, (view.name, feature))
            if theirs != feature:
                raise ValueError(
                    f"views {other} and {view.name} have the same columns of source {source.name}, and {column} with"
                    " different types, and Feast does not say which view it asks for: give one of them a source of its"
                    " own, by the `name` of cdc_source"
                )
    return {column: feature for column, (_, feature) in found.items()}


def as_declared(rows: pa.Table, features: Mapping[str, Feature], times: Collection[str]) -> pa.Table:
    """The rows, with the columns that `features` names as the stream has their values, so that Feast writes those
    online. Of the columns `times`, which Feast reads as event times too, it rounds the features itself.

    Raises `ValueError` for a column with values that do not fit.
    """
    for name, feature in features.items():
        place = rows.schema.get_field_index(name)
        values, misfits = as_type(rows.column(place), feature.arrow_type)
        if misfits:
            raise ValueError(
                f"column {name}: {len(misfits)} of {rows.num_rows} values do not fit {feature.arrow_type}: declare"
                f" {feature.name} with a type that holds them"
            )
        if name not in times:
            values = _beside_nulls(as_stored(values, feature.value_type))
        rows = rows.set_column(place, name, values)
    return rows


def _made_of_columns(config: RepoConfig, source: LakeSource) -> list[FeatureView]:
    """The views over the source that have no function. Functions are not loaded: another view's may fail to."""
    store = store_of(config)
    views = [
        *store.registry.list_feature_views(store.project, skip_udf=True),
        *store.registry.list_stream_feature_views(store.project, skip_udf=True),
    ]
    of_source = [view for view in views if view.batch_source is not None and view.batch_source.name == source.name]
    return [v for v in of_source if carries(v) and not v.to_proto().spec.HasField("feature_transformation")]


def _beside_nulls(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The values in a form that Feast's way by pandas and numpy leaves as it is: integers beside a null become floats
    there, and a null time becomes the least number. Decimals stay objects, and Feast takes them for whole numbers; of a
    time, which is stored in whole seconds, these."""
    if not values.null_count:
        return values
    if pt.is_timestamp(values.type):
        values = pc.divide(values.cast(pa.int64()), 1_000_000)
    return values.cast(_INTEGERS) if pt.is_integer(values.type) else values
