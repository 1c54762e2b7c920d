"""What a store needs to know of a feature view: a frozen reading of the Feast objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pyarrow as pa

Kind = Literal["state", "event"]
"""`state`: the join keys are the table's primary key, a row is an entity, order is the LSN.
`event`: many rows an entity, order is (event time, LSN), the newest row is the entity's value."""

Metric = Literal["cosine", "l2", "inner_product"]

METRICS: Mapping[str, Metric] = {
    "": "cosine",
    "cosine": "cosine",
    "l2": "l2",
    "euclidean": "l2",
    "inner_product": "inner_product",
    "dot": "inner_product",
}
"""By what a Feast field says in lower case as its `vector_search_metric`."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One Feast `Field`: `value_type` is the number of Feast's `ValueType` enum (INT64 is 4, ...)
    and `arrow_type` the type of its column in `FeatureRows` and in the lake."""

    name: str
    value_type: int
    arrow_type: pa.DataType


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector field of a view: embeds `columns` of the source table, joined by a newline."""

    name: str
    length: int
    metric: Metric
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One feature view as the stores see it.

    `online_name` is Feast's name for the view inside a Redis hash: `name`, or `name_v{N}` where
    versioned views are on and the version is above 0. `join_keys` are in declaration order;
    `features` exclude join keys and include the vector field, if any.
    """

    project: str
    name: str
    online_name: str
    kind: Kind
    join_keys: tuple[Feature, ...]
    features: tuple[Feature, ...]
    ttl: timedelta | None = None
    vector: Vector | None = None
