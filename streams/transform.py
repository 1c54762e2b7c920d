"""A stream feature view's own function over the rows of a batch.

`mode="pandas"`: DataFrame to DataFrame; the index tells which row became which, so a function may drop
rows but not invent them. The type of a column follows from the table's schema, never from the values:
pandas' own conversion turns integers into floats as soon as one is null, so that what is made of a row
would hang on its neighbours, and bigints would lose digits.
`mode="python"`: dict of lists to dict of lists of the same length, as in Feast's on-demand feature views of
that mode.
"""

from collections.abc import Callable, Hashable, Mapping, Set
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from itertools import chain
from types import NoneType
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.casts import as_nearest_floats, overflowed

Mode = Literal["pandas", "python"]
Transform = Callable[[pa.Table], tuple[pa.Table, np.ndarray]]
"""Rows in, transformed rows out, with the position that each had among those that came in.
Raises `Untransformable`."""


TRIED = 64
"""So many of some rows are tried alone; where the function fails on each of them, it is not asked about the others."""
TRIED_OF = 8 * TRIED
"""Of fewer rows each is asked about."""


class Untransformable(Exception):
    """Rows on which the function fails: `bad` maps their positions to the reasons."""

    def __init__(self, bad: Mapping[int, list[str]]) -> None:
        super().__init__(f"{len(bad)} rows")
        self.bad = bad


def transform(
    view: str,
    function: Callable[[Any], Any],
    mode: Mode,
    schema: Mapping[str, pa.DataType],
    never_null: Set[str] = frozenset(),
) -> Transform:
    """Make a user's function a `Transform`; `schema` names the columns it must return, with their types.

    In a frame the integers and booleans of the columns `never_null` are numpy's (int64, bool), all others
    pandas' nullable ones (Int64, boolean). Rows on which the function fails are found by halving the batch, so
    that one bad row costs no other its place. Where it fails on hundreds with nulls in the same columns, and on
    `TRIED` of them alone, all of these fail.
    """
    run = partial(_pandas if mode == "pandas" else _python, view, function, schema, never_null)

    def apply(rows: pa.Table) -> tuple[pa.Table, np.ndarray]:
        try:
            return run(rows)
        except _Failed:
            bad = {row: why for alike in _by_nulls(rows) for row, why in _failing(run, rows, alike).items()}
            if not bad:
                together = f"view {view}: its function fails on these rows together, on none alone"
                bad = dict.fromkeys(range(rows.num_rows), together)
            raise Untransformable({row: [why] for row, why in sorted(bad.items())}) from None

    return apply


class _Failed(Exception):
    """Says why; half a character, which the words of another's exception may hold, is spelled out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.encode(errors="backslashreplace").decode())


def _by_nulls(rows: pa.Table) -> list[np.ndarray]:
    """The positions of the rows with nulls in the same columns: what a function fails on, most of the time."""
    nulls = np.column_stack([np.asarray(column.is_null()) for column in rows.columns])
    _, kinds = np.unique(nulls, axis=0, return_inverse=True)
    return [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]


def _failing(run: Transform, rows: pa.Table, alike: np.ndarray) -> dict[int, str]:
    """Those of the rows on which the function fails, with its words."""
    why = _words(run, rows, alike)
    if why is None or len(alike) == 1:
        return {} if why is None else {int(alike[0]): why}
    if len(alike) > TRIED_OF:
        places = np.linspace(0, len(alike) - 1, TRIED, dtype=int)
        if all(_words(run, rows, alike[place : place + 1]) is not None for place in places):
            return dict.fromkeys(alike.tolist(), f"{why} (and on each of {TRIED} rows like this one)")
    return {row: words for half in np.array_split(alike, 2) for row, words in _failing(run, rows, half).items()}


def _words(run: Transform, rows: pa.Table, some: np.ndarray) -> str | None:
    """Why the function fails on some of the rows together; None if it does not."""
    try:
        run(rows.take(pa.array(some)))
    except _Failed as error:
        return str(error)
    return None


def _pandas(
    view: str,
    function: Callable[[Any], Any],
    schema: Mapping[str, pa.DataType],
    never_null: Set[str],
    rows: pa.Table,
) -> tuple[pa.Table, np.ndarray]:
    columns = {name: _series(rows[name], name not in never_null) for name in rows.column_names}
    frame = pd.DataFrame(columns, index=pd.RangeIndex(rows.num_rows))
    result = _call(view, function, frame)
    if not isinstance(result, pd.DataFrame):
        raise _Failed(f"view {view}: its function returned {type(result).__name__}, not a DataFrame")
    kept = _kept(view, result.index, rows.num_rows)
    returned = {name: _column(view, name, result.get(name), dtype) for name, dtype in schema.items()}
    return pa.table(returned), kept


class _Integers(pd.arrays.IntegerArray):
    """Nullable integers that stay integers in `map`, `apply` and numpy's hands: pandas makes them floats there
    as soon as one is null."""

    def to_numpy(self, dtype: Any = None, copy: bool = False, na_value: Any = pd.NA) -> np.ndarray:
        if dtype is None and self.isna().any():
            dtype = object
        # pandas takes NA as a missing value of an array of objects alone
        missing = {} if na_value is pd.NA else {"na_value": na_value}
        return super().to_numpy(dtype, copy, **missing)


def _series(column: pa.ChunkedArray, nullable: bool) -> "pd.Series[Any]":
    """A column as the function sees it."""
    kind = column.type
    if pt.is_list(kind) and pt.is_integer(kind.value_type) and _holds_nulls(column):
        # Arrow makes floats of the elements of all rows when one of them is null.
        lists = [None if value is None else _elements(value, kind.value_type) for value in column.to_pylist()]
        return pd.Series(lists, dtype=object)
    # A table of before its NOT NULL holds nulls too: of those, the digits matter more than the type.
    if not (pt.is_integer(kind) or pt.is_boolean(kind)) or not (nullable or column.null_count):
        return pd.Series(column.to_pandas(timestamp_as_object=False))
    values = np.array(pc.fill_null(column, pa.scalar(0).cast(kind)), kind.to_pandas_dtype())
    nulls = np.array(column.is_null())
    array = pd.arrays.BooleanArray(values, nulls) if pt.is_boolean(kind) else _Integers(values, nulls)
    return pd.Series(array)


def _holds_nulls(lists: pa.ChunkedArray) -> bool:
    return bool(pc.list_flatten(lists).null_count)


def _elements(values: list[int | None], kind: pa.DataType) -> np.ndarray:
    return np.array(values, object if None in values else kind.to_pandas_dtype())


def _kept(view: str, index: "pd.Index[Any]", rows: int) -> np.ndarray:
    """The positions that an index names. The frame that came in may have another one by now."""
    try:
        kept = pd.RangeIndex(rows).get_indexer(index).astype(np.int64)
    except TypeError:  # It holds what cannot be hashed.
        kept = np.full(len(index), -1)
    if (kept < 0).any() or len(np.unique(kept)) != len(kept):
        raise _Failed(f"view {view}: its function returned rows with an index that did not come in")
    return kept


def _python(
    view: str,
    function: Callable[[Any], Any],
    schema: Mapping[str, pa.DataType],
    _: Set[str],
    rows: pa.Table,
) -> tuple[pa.Table, np.ndarray]:
    result = _call(view, function, rows.to_pydict())
    if not isinstance(result, dict):
        raise _Failed(f"view {view}: its function returned {type(result).__name__}, not a dict of lists")
    columns = {name: _column(view, name, result.get(name), dtype) for name, dtype in schema.items()}
    for name, column in columns.items():
        if len(column) != rows.num_rows:
            raise _Failed(f"view {view}: column {name} has {len(column)} values for {rows.num_rows} rows")
    return pa.table(columns), np.arange(rows.num_rows)


def _call(view: str, function: Callable[[Any], Any], rows: object) -> object:
    try:
        return function(rows)
    except Exception as error:
        raise _Failed(f"view {view}: its function raised {type(error).__name__}: {error}") from error


def _cast(values: Any, dtype: pa.DataType) -> pa.Array:
    """Returned values as of a type, each as it is cast alone: of values of several kinds together Arrow makes one type,
    a date of a date and time, or none. NaN in a column of pandas is null."""
    pandas = isinstance(values, pd.Series | pd.Index)
    if isinstance(values, pa.Array | pa.ChunkedArray) or getattr(values, "dtype", None) not in (None, np.dtype(object)):
        given = pa.array(values)
        if pandas and pt.is_floating(given.type):
            # Those of a nullable type (0 / 0 is one) Arrow takes for values.
            given = pc.if_else(pc.is_nan(given), None, given)
        return _fitted(given, dtype)
    listed = values.tolist() if pandas else list(values)
    given = _together(listed, pandas)
    if given is not None and _settled(given.type, dtype):
        return _fitted(given, dtype)
    if pandas:
        listed = [None if null else value for value, null in zip(listed, values.isna(), strict=True)]
    if given is not None and _alike(listed):
        return _fitted(given, dtype)
    kinds: dict[Hashable, list[int]] = {}
    for i, value in enumerate(listed):
        kinds.setdefault(_kind(value), []).append(i)
    parts = [_fitted(pa.array([listed[i] for i in at], from_pandas=pandas), dtype) for at in kinds.values()]
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(list(kinds.values())))))


def _together(values: list[Any], pandas: bool) -> pa.Array | pa.ChunkedArray | None:
    """The values as of one type; None if Arrow has none for them."""
    try:
        return pa.array(values, from_pandas=pandas)
    except Exception:  # noqa: BLE001  # as where they are cast
        return None


def _settled(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of which Arrow makes `given` together are cast to `wanted` as each would be alone. Most are, which
    spares a look at each."""
    if pt.is_list(given) and pt.is_list(wanted):
        return _settled(given.value_type, wanted.value_type)
    if pt.is_floating(given):
        return bool(given.id == wanted.id)
    if pt.is_integer(given):
        return bool(pt.is_integer(wanted))
    return bool(pt.is_string(given) or pt.is_boolean(given) or pt.is_null(given))


def _alike(values: list[Any]) -> bool:
    """Whether the values are of one kind. A quick look: it may miss that they are."""
    types = set(map(type, values)) - {NoneType}
    if len(types) > 1:
        return False
    if types <= {int, float, bytes, date}:
        return True
    present = [value for value in values if value is not None]
    first = present[0]
    if isinstance(first, Decimal):
        return all(map(first.same_quantum, present))
    if isinstance(first, datetime):
        return all(value.tzinfo is first.tzinfo for value in present)
    if isinstance(first, list | tuple):
        return _alike(list(chain.from_iterable(present)))
    return len(set(map(_kind, present))) == 1


def _kind(value: Any) -> Hashable:
    """What Arrow's type of a value hangs on."""
    if value is None:
        return None
    if isinstance(value, Decimal):
        return Decimal, value.as_tuple().exponent
    if isinstance(value, datetime):
        return datetime, str(value.tzinfo)  # some time zones have no hash
    if isinstance(value, list | tuple | Set) or (isinstance(value, np.ndarray) and value.dtype == object):
        return list, frozenset(map(_kind, value)) - {None}
    return type(value), getattr(value, "dtype", None)


def _fitted(given: pa.Array | pa.ChunkedArray, dtype: pa.DataType) -> pa.Array:
    if pt.is_null(given.type):
        return given.cast(dtype)
    given = as_nearest_floats(given, dtype)
    cast = given.cast(dtype)
    beyond = overflowed(given, cast)
    if len(beyond):
        raise pa.ArrowInvalid(f"{given[int(beyond[0])].as_py()!r:.80} is out of range")
    return cast


def _column(view: str, name: str, values: Any, dtype: pa.DataType) -> pa.Array:
    if values is None:
        raise _Failed(f"view {view}: its function returned no column {name}")
    if isinstance(values, pd.DataFrame):
        raise _Failed(f"view {view}: its function returned column {name} more than once")
    if isinstance(values, str | bytes | int | float | Mapping | Set):
        raise _Failed(f"view {view}: column {name} is of type {type(values).__name__}, not a list")
    try:
        return _cast(values, dtype)
    except Exception as error:  # Whatever Python raises of such a value, or of a generator's code.
        why = error if isinstance(error, pa.ArrowException) else f"{type(error).__name__}: {error}"
        raise _Failed(f"view {view}: column {name} does not fit {dtype}: {why}") from error
