"""Feast's metadata filters as conditions on the table of a vector view."""

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from feast.filter_models import ComparisonFilter, CompoundFilter
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA
from sqlalchemy.sql import visitors

from stores.vector_tables import DIALECT, Instant, VectorTable

Filters: TypeAlias = ComparisonFilter | CompoundFilter
Condition = sa.ColumnElement[bool]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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

    Nulls are SQL's: no comparison holds for them but `eq` and `ne` with a null. Values have the forms in which requests
    and answers have them: bytes are base64, moments seconds since 1970 or ISO 8601, in UTC where it names no zone.
    Raises `ValueError` for a field that is no join key or feature, for `in` and `nin` without a list, and for a value
    that the field's type shows to be none of its own; of some only PostgreSQL sees that.
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
        column = vectors.table.c[comparison.key]
        value = _of_column(column, comparison.value)
        condition = _COMPARISONS[comparison.type](column, value)
        for part in visitors.iterate(condition):
            if isinstance(part, sa.BindParameter):
                _bind(part)
    except (sa.exc.ArgumentError, TypeError, ValueError, OverflowError):
        raise ValueError(misfit(comparison)) from None
    return condition


def filtered(filters: Filters | None) -> list[str]:
    """The fields that filters compare."""
    if filters is None:
        return []
    if isinstance(filters, CompoundFilter):
        return [name for inner in filters.filters for name in filtered(inner)]
    return [filters.key]


def misfit(filters: Filters) -> str:
    """What is wrong where a value cannot be compared with its field; of several fields PostgreSQL tells not which."""
    names = list(dict.fromkeys(filtered(filters)))
    several = "one of " if len(names) > 1 else ""
    return f"filters: a value is not of its field's type ({several}{', '.join(names)})"


def _of_column(column: sa.Column[Any], value: Any) -> Any:
    """A filter's value, or those in it, as SQLAlchemy takes them for the column. Raises `TypeError`, `ValueError` and
    `OverflowError`."""
    held = column.type.item_type if isinstance(column.type, ARRAY) else column.type
    if isinstance(held, BYTEA):
        return _each(value, _decoded)
    return _each(value, _moment) if isinstance(held, Instant | sa.DateTime) else value


def _each(value: Any, made: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple | set):
        return [_each(one, made) for one in value]
    return None if value is None else made(value)


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    return b64decode(value, validate=True)


def _moment(value: Any) -> datetime:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int | float):
        return _EPOCH + timedelta(seconds=value)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _bind(parameter: sa.BindParameter[Any]) -> None:
    """What SQLAlchemy would make of the value. Raises `TypeError` and `ValueError` for one that is none of its type."""
    bind = parameter.type.dialect_impl(DIALECT).bind_processor(DIALECT)
    if bind is not None:
        for value in (parameter.value or ()) if parameter.expanding else (parameter.value,):
            bind(value)
