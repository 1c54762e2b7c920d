"""A bound on what is read of a vector table at once: PostgreSQL knows how long values are without reading them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as types
import sqlalchemy as sa

from stores.errors import TooMuch
from stores.vector_tables import VectorTable

SIZE = "_size"
DISTANCE = "_distance"


def bounded(vectors: VectorTable, query: sa.Select[Any], most: int) -> sa.Select[Any]:
    """The query, a `SIZE` after its columns, as `within` takes it: what its texts, bytes and lists take in all. If that
    is more than `most` bytes they are null, so that none of it is sent. The nearest stay first."""
    found = query.subquery()
    total = sa.func.sum(sum((_size(vectors, column) for column in found.c), sa.literal(0, sa.BigInteger())))
    whole = sa.select(found, sa.cast(total.over(), sa.BigInteger()).label(SIZE)).subquery()
    fits = whole.c[SIZE] <= most
    shown = [
        sa.case((fits, column)).label(column.name) if _unsized(vectors, column.name) else column for column in whole.c
    ]
    nearest = [whole.c[DISTANCE]] if DISTANCE in whole.c else []
    return sa.select(*shown).order_by(*nearest)


def within(vectors: VectorTable, rows: Sequence[Any], most: int) -> list[Any]:
    """What a `bounded` query found, without the size. Raises `TooMuch`."""
    if rows and rows[0][-1] > most:
        raise TooMuch(
            f"view {vectors.view.name}: the texts and lists of {len(rows)} entities take {rows[0][-1]} bytes, which is "
            f"more than {most} bytes, the most that is read at once"
        )
    return [row[:-1] for row in rows]


def _unsized(vectors: VectorTable, name: str) -> bool:
    """Whether the values of a column may be of any size."""
    kinds = {f.name: f.arrow_type for f in (*vectors.view.join_keys, *vectors.view.features)}
    kind = kinds.get(name, pa.null())
    if name == vectors.vector.name:
        return False
    return any(is_so(kind) for is_so in (types.is_string, types.is_large_string, types.is_binary, types.is_list))


def _size(vectors: VectorTable, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """How many bytes a value takes. Of a text that is stored elsewhere, or compressed, the length stands in the row; a
    list has to be read for it."""
    if not _unsized(vectors, column.name):
        return sa.literal(0, sa.BigInteger())
    of_list = isinstance(column.type, sa.ARRAY)
    length = sa.func.octet_length(sa.func.array_send(column) if of_list else column)
    return sa.func.coalesce(sa.cast(length, sa.BigInteger()), 0)
