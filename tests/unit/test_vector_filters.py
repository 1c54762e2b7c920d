"""Filters of a search as conditions: what a column cannot be compared with is told before PostgreSQL is asked."""

from typing import Any

import pyarrow as pa
import pytest
from feast.filter_models import ComparisonFilter

from stores.vector_filters import conditions
from stores.vector_tables import vector_table
from stores.view import Feature, Vector, View

FEATURES = (
    Feature("size", 4, pa.int64()),
    Feature("name", 2, pa.string()),
    Feature("open", 7, pa.bool_()),
    Feature("sizes", 14, pa.list_(pa.int64())),
    Feature("flags", 17, pa.list_(pa.bool_())),
    Feature("v", 16, pa.list_(pa.float32())),
)
VIEW = View(
    "nyc", "texts", "texts", "state", (Feature("faa", 2, pa.string()),), FEATURES, vector=Vector("v", 2, "cosine", ())
)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((kind, key, value) for kind in ("gt", "lte") for key in ("size", "name", "open") for value in (None, True)),
        ("eq", "open", [1]),
        ("ne", "open", [[True]]),
        ("in", "open", [True, [1]]),
        ("eq", "flags", ["x"]),
        ("in", "flags", [[True], ["x"]]),
    ],
)
def test_a_value_that_a_field_cannot_be_compared_with(kind: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"filters: a value is not of its field's type \({key}\)"):
        conditions(vector_table(VIEW), ComparisonFilter(type=kind, key=key, value=value))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *(("eq", feature.name, None) for feature in FEATURES[:-1]),
        ("eq", "open", True),
        ("in", "open", [True, None]),
        ("nin", "size", [1, 2.5]),
        ("eq", "sizes", [1, 2]),
        ("in", "flags", [[True], []]),
        ("gt", "name", "Z"),
    ],
)
def test_a_value_that_it_can(kind: str, key: str, value: Any) -> None:
    assert conditions(vector_table(VIEW), ComparisonFilter(type=kind, key=key, value=value))
