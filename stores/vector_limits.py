"""What PostgreSQL takes of a row of a view with a vector: whatever lies beyond can never be stored there."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.binary import contiguous
from stores.entity_keys import entity_keys
from stores.rows import TIMESTAMP
from stores.view import View

ENTITY_KEY_BYTES = 2_692
"""An entry of a B-tree has up to 2,704 bytes (`BTMaxItemSize` in PostgreSQL's nbtree.h), 8 of them its header and 4 the
key's length. A longer key that can be compressed to as much would be taken: which can, nobody could say beforehand."""

FIRST_MOMENT = -210_866_803_200_000_000
"""4714-11-24 BC in microseconds since 1970 (`MIN_TIMESTAMP` in PostgreSQL's timestamp.h). Its last moment lies beyond
what 64 bits hold of them."""

_FIRST = pa.scalar(FIRST_MOMENT, TIMESTAMP)
# Those of a list go and come as Python's datetimes.
_FIRST_LISTED, _LAST_LISTED = (pa.scalar(t.replace(tzinfo=UTC), TIMESTAMP) for t in (datetime.min, datetime.max))


def misfits(column: pa.Array | pa.ChunkedArray) -> dict[int, str]:
    """The positions of the values that PostgreSQL does not take, and why."""
    listed = pt.is_list(column.type)
    kind = column.type.value_type if listed else column.type
    if not (pt.is_string(kind) or pt.is_timestamp(kind)):
        return {}
    column = contiguous(column)
    values = pc.list_flatten(column) if listed else column
    if pt.is_string(kind):
        odd, why = pc.match_substring(values, "\0"), "its text holds NUL (U+0000), which PostgreSQL does not take"
    elif listed:
        odd = pc.or_(pc.less(values, _FIRST_LISTED), pc.greater(values, _LAST_LISTED))
        why = "in its list is a timestamp that is not in the years 1 to 9999"
    else:
        odd, why = pc.less(values, _FIRST), "it is before 4714-11-24 BC, PostgreSQL's first day"
    at = np.flatnonzero(pc.fill_null(odd, False))
    rows = np.asarray(pc.list_parent_indices(column))[at] if listed else at
    return dict.fromkeys(rows.tolist(), why)


def long_keys(view: View, table: pa.Table) -> dict[int, str]:
    """The positions of the rows whose entity key no index takes, and why."""
    lengths = entity_keys(view).lengths(table)
    return {
        int(i): f"has {lengths[i]:,} bytes, and PostgreSQL's index takes {ENTITY_KEY_BYTES:,}"
        for i in np.flatnonzero(lengths > ENTITY_KEY_BYTES)
    }


def can_be_keys(view: View, table: pa.Table) -> np.ndarray:
    """The mask of the rows whose entity can be stored."""
    never = {*long_keys(view, table), *(i for key in view.join_keys for i in misfits(table[key.name]))}
    possible = np.ones(table.num_rows, bool)
    possible[np.fromiter(never, np.int64, len(never))] = False
    return possible
