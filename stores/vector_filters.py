"""Feast's metadata filters as conditions on the table of a vector view."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import sqlalchemy as sa
from feast.filter_models import ComparisonFilter, CompoundFilter
from sqlalchemy.sql import visitors

from stores.vector_tables import VectorTable

Filters: TypeAlias = ComparisonFilter | CompoundFilter
Condition = sa.ColumnElement[bool]

_DIALECT = sa.make_url("postgresql+psycopg://").get_dialect()()

_COMPARISONS: Mapping[str, Callable[[sa.Column[Any], Any], Condition]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
    "in": lambda column, value: column.in_(value),
    "nin": lambda column, value: column.not_in(value),
}


def conditions(vectors: VectorTable, filters: Filters | None) -> list[Condition]:
    """The filters as conditions that must all hold; none for no filter, or a compound one of nothing.

    Nulls are SQL's: no comparison holds for them but `eq` and `ne` with a null. Raises `ValueError` for a
    field that is no join key or feature, for `in` and `nin` without a list, and for a value that the field's type
    shows to be none of its own; of some only PostgreSQL sees that.
    """
    if filters is None:
        return []
    if isinstance(filters, CompoundFilter):
        parts = [part for inner in filters.filters for part in conditions(vectors, inner)]
        if not parts:
            return []
        return [sa.and_(*parts) if filters.type == "and" else sa.or_(*parts)]
    return [_comparison(vectors, filters)]


def _comparison(vectors: VectorTable, comparison: ComparisonFilter) -> Condition:
    fields = [f.name for f in (*vectors.view.join_keys, *vectors.view.features) if f.name != vectors.vector.name]
    if comparison.key not in fields:
        raise ValueError(
            f"view {vectors.view.name} has no field {comparison.key} to filter on; it has {', '.join(fields)}"
        )
    if comparison.type in ("in", "nin") and not isinstance(comparison.value, list | tuple | set):
        raise ValueError(f"the filter {comparison.type} on {comparison.key} needs a list of values")
    try:
        condition = _COMPARISONS[comparison.type](vectors.table.c[comparison.key], comparison.value)
        for part in visitors.iterate(condition):
            if isinstance(part, sa.BindParameter):
                _bind(part)
    except (sa.exc.ArgumentError, TypeError, ValueError):
        raise ValueError(f"filters: a value is not of its field's type ({comparison.key})") from None
    return condition


def _bind(parameter: sa.BindParameter[Any]) -> None:
    """As SQLAlchemy will when it sends the statement. Raises `TypeError` and `ValueError`."""
    bind = parameter.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    if bind is not None:
        for value in (parameter.value or ()) if parameter.expanding else (parameter.value,):
            bind(value)
