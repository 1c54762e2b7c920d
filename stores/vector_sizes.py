"""A bound on what is read of a vector table at once: PostgreSQL knows how long values are without reading them."""

from collections.abc import Collection, Sequence
from functools import reduce
from operator import add
from typing import Any

import pyarrow.types as types
import sqlalchemy as sa

from stores.errors import TooMuch
from stores.vector_tables import DIALECT, VectorTable

SIZE, OWN_SIZE = "_size", "_own_size"
DISTANCE = "_distance"

_OF_ANY_SIZE = (types.is_string, types.is_large_string, types.is_binary, types.is_list)


def unsized(vectors: VectorTable, query: sa.Select[Any]) -> frozenset[str]:
    """The columns of a query whose values may be of any size: texts, bytes and lists, but for the vector."""
    features = (*vectors.view.join_keys, *vectors.view.features)
    found = {feature.name for feature in features if any(is_so(feature.arrow_type) for is_so in _OF_ANY_SIZE)}
    return frozenset((found - {vectors.vector.name}) & set(query.selected_columns.keys()))


def as_sent(vectors: VectorTable, query: sa.Select[Any], with_bound: bool) -> tuple[str, bool]:
    """A query as psycopg takes it; and whether it is bounded, by its parameter `most`: asked for, where it reads values
    that may be of any size. Then its rows are for `within`."""
    sized = sorted(unsized(vectors, query)) if with_bound else []
    whole = bounded(query, sized) if sized else query
    return str(whole.compile(dialect=DIALECT)), bool(sized)


def bounded(query: sa.Select[Any], sized: Collection[str]) -> sa.Select[Any]:
    """The query, and as its last columns what the columns `sized` take in a row (`OWN_SIZE`) and in all (`SIZE`). If
    that is more bytes than the parameter `most`, they are null, so that none of it is sent. The nearest stay first."""
    most = sa.bindparam("most", type_=sa.BigInteger())
    found = query.subquery()
    size = reduce(add, (_size(found.c[name]) for name in sized))
    total = sa.func.sum(size, type_=sa.BigInteger()).over()
    whole = sa.select(found, size.label(OWN_SIZE), total.label(SIZE)).subquery()
    fits = whole.c[SIZE] <= most
    shown = [sa.case((fits, column)).label(column.name) if column.name in sized else column for column in whole.c]
    return sa.select(*shown).order_by(*([whole.c[DISTANCE]] if DISTANCE in whole.c else []))


def within(vectors: VectorTable, rows: Sequence[Any], most: int, times: Sequence[int] = ()) -> list[Any]:
    """What a `bounded` query found, without the sizes. Raises `TooMuch`, also where they would take too much with each
    row as many `times` as it is wanted, once by default."""
    count, size = len(rows), rows[0][-1] if rows else 0
    if times:
        count, size = sum(times), max(size, sum(row[-2] * often for row, often in zip(rows, times, strict=True)))
    if size > most:
        raise TooMuch(
            f"view {vectors.view.name}: the texts and lists of {count} entities take {size} bytes, which is "
            f"more than {most} bytes, the most that is read at once"
        )
    return [row[:-2] for row in rows]


def _size(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """How many bytes a value takes. Of a text that is stored elsewhere, or compressed, the length stands in the row; a
    list has to be read for it."""
    held = sa.func.array_send(column) if isinstance(column.type, sa.ARRAY) else column
    return sa.func.coalesce(sa.func.octet_length(held), sa.literal_column("0"))
