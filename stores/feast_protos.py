"""Between Feast's messages, an object a value, and columns: for what Feast hands over and wants back."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.field import Field
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from stores.entity_keys import DUMMY
from stores.values import arrow_type_of, decode, encode
from stores.view import METRICS, Feature, Vector, View

_KEY_TYPES = {"bytes_val": 1, "string_val": 2, "int32_val": 3, "int64_val": 4, "unix_timestamp_val": 8}


def vector_field(view: FeatureView) -> Field | None:
    """The field of a Feast view that is searched by, if any."""
    return next((field for field in view.features if field.vector_index), None)


def carries(view: FeatureView) -> bool:
    """Whether all features of a Feast view have types with a column form."""
    try:
        for field in view.features:
            _feature(field)
    except ValueError:
        return False
    return True


def stored_view(config: RepoConfig, view: FeatureView, join_keys: Sequence[Feature]) -> View:
    """A Feast view as the stores see it, as far as Feast knows it: as a state view, its texts not named.

    The registry lists the join keys of a stream view among its features too; they are none.
    Raises `ValueError` for a type without a column form and for an unknown metric.
    """
    field, vector = vector_field(view), None
    if field is not None:
        metric = (field.vector_search_metric or "").lower()
        if metric not in METRICS:
            raise ValueError(
                f"view {view.name}: unknown vector_search_metric {field.vector_search_metric}; "
                f"one of {', '.join(name for name in METRICS if name)}"
            )
        vector = Vector(field.name, field.vector_length, METRICS[metric], ())
    keys = {field.name for field in view.entity_columns}
    return View(
        project=config.project,
        name=view.name,
        online_name=compute_versioned_name(view, config.registry.enable_online_feature_view_versioning),
        kind="state",
        join_keys=tuple(join_keys),
        features=tuple(_feature(field) for field in view.features if field.name not in keys),
        vector=vector,
        ttl=view.ttl or None,
    )


def declared_keys(view: FeatureView) -> list[Feature]:
    """The join keys of a Feast view by its declaration."""
    return [_feature(field) for field in view.entity_columns if field.name != DUMMY.name]


def entity_table(keys: Sequence[EntityKey]) -> tuple[list[Feature], pa.Table]:
    """The join keys of some entities of one kind and their values, a column each.

    Without join keys, as Feast pushes to a view without entities, the one column is that of `DUMMY`, by which it reads.
    Raises `ValueError` if the entities are not of one kind, of a type that cannot be a key, or if a key is null.
    """
    names = list(keys[0].join_keys)
    values: dict[str, list[Value]] = {name: [] for name in names}
    for key in keys:
        if list(key.join_keys) != names:
            raise ValueError(f"entity keys of {names} and of {list(key.join_keys)} in one call")
        for name, value in zip(names, key.entity_values, strict=True):
            values[name].append(value)
    if not names:
        return [], pa.table({DUMMY.name: pa.repeat("", len(keys))})
    features = []
    for name in names:
        kinds = [value.WhichOneof("val") for value in values[name]]
        if None in kinds:
            raise ValueError(f"join key {name!r} is null in {kinds.count(None)} of {len(kinds)} rows")
        kind = kinds[0]
        if kind not in _KEY_TYPES:
            raise ValueError(f"join key {name!r} has a value of type {kind}, which cannot be part of an entity key")
        features.append(Feature(name, _KEY_TYPES[kind], arrow_type_of(_KEY_TYPES[kind])))
    table = pa.table({feature.name: column(values[feature.name], feature) for feature in features})
    return [feature for feature in features if feature != DUMMY], table


def entity_keys_of(view: View, table: pa.Table) -> list[EntityKey]:
    """The entity key of each row of a table that has the view's join keys, these in the order of their names."""
    join_keys = sorted(view.join_keys, key=lambda key: key.name)
    if not join_keys:
        return [EntityKey(join_keys=[DUMMY.name], entity_values=[Value(string_val="")])] * table.num_rows
    columns = [messages(table[key.name], key) for key in join_keys]
    names = [key.name for key in join_keys]
    return [EntityKey(join_keys=names, entity_values=values) for values in zip(*columns, strict=True)]


def column(values: Sequence[Value | None], feature: Feature) -> pa.Array:
    """Messages as a column of the feature's type. Raises `ValueError` for a value of another type."""
    stored = [None if value is None else value.SerializeToString() for value in values]
    try:
        return decode(stored, feature.value_type).cast(feature.arrow_type)
    except ValueError as error:
        raise ValueError(f"feature {feature.name}: {error}") from error


def messages(values: pa.Array | pa.ChunkedArray, feature: Feature) -> list[Any]:
    """A column as messages; a null is the empty message."""
    return [Value.FromString(value or b"") for value in encode(values, feature.value_type).to_pylist()]


def _feature(field: Field) -> Feature:
    value_type = field.dtype.to_value_type().value
    return Feature(field.name, value_type, arrow_type_of(value_type))
