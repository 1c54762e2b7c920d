"""Debezium's JSON values, under the settings of `connectors.debezium`, to Arrow.

The good case is a few vector operations a column. A value that does not fit is never coerced: it is named.
What Debezium 3.6 writes for each type was read off a real PostgreSQL 18, streamed and in snapshots.
"""

import binascii
import hashlib
import operator
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Column, Encoding

PLACEHOLDER = "__millrace_unchanged_5e0f9c1d7ab34c62"
"""`unavailable.value.placeholder`: what Debezium writes for an unchanged TOASTed value. A token of our own,
because Debezium's default could be somebody's text."""

_TOKEN = PLACEHOLDER.encode()
_TOKEN_BASE64 = binascii.b2a_base64(_TOKEN, newline=False).decode()
# Java's UUID.nameUUIDFromBytes: the MD5 of the bytes, marked as version 3.
_TOKEN_UUID = str(uuid.UUID(bytes=hashlib.md5(_TOKEN, usedforsecurity=False).digest(), version=3))

MICROSECONDS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""The first and the last moment of the years 1 to 9999, what Python's and every store's timestamps hold; PostgreSQL's
reach further, and its infinities arrive as sentinels outside of them."""

_DAYS = (-719_162, 2_932_896)  # of the same years
_DAY_MICROSECONDS = (0, 86_399_999_999)

_LIMITS: dict[Encoding, tuple[int, int]] = {"date": _DAYS, "time": _DAY_MICROSECONDS, "timestamp": MICROSECONDS}
_FOUR_DIGIT_YEAR = r"^[0-9]{4}-"

_NUMBERS = frozenset({int, float, str, type(None)})
_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
# The names of Debezium's SpecialValueDecimal, and PostgreSQL's.
_NUMERICS = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
_NUMERIC = r"^(-?[0-9]+(\.[0-9]+)?|NAN|POSITIVE_INFINITY|NEGATIVE_INFINITY)$"
# How Java prints the rows of a two-dimensional array, which Debezium does not unfold.
_JAVA_ARRAY = "[Ljava.lang."


class Undecodable(Exception):
    """Values that do not fit their column: `bad` names every one as (index, value, reason)."""

    def __init__(self, column: Column, bad: Sequence[tuple[int, object, str]]) -> None:
        index, value, reason = bad[0]
        shown = repr(value)[:80]
        super().__init__(
            f"column {column.name} ({column.sql_type}): {len(bad)} values do not fit, "
            f"the first at {index}: {shown}: {reason}"
        )
        self.column = column
        self.bad = tuple(bad)


class _Misfit(ValueError):
    """Some value of a batch does not fit."""


MISFITS = (ValueError, TypeError, OverflowError, NotImplementedError)
"""What converting values that do not fit raises; Arrow's own errors are subclasses of these."""


def decode(values: Sequence[object], column: Column) -> pa.Array:
    """Decode a column of JSON values, None for null, to an array of `column.arrow_type`.

    Placeholders (see `is_placeholder`) must have been replaced before. Raises `Undecodable` with all values
    that do not fit; `ValueError` for a column whose encoding is "none".
    """
    if column.encoding == "none":
        raise ValueError(f"column {column.name} ({column.sql_type}) cannot be carried")
    values = values if isinstance(values, list) else list(values)
    try:
        return from_json(_read(values, column), column)
    except MISFITS:
        arrays, bad = _told_apart(values, column)
    if bad:
        reason = f"expected {_expected(column)}"
        raise Undecodable(column, [(i, values[i], reason) for i in bad])
    return pa.concat_arrays(arrays)


def json_type(column: Column) -> pa.DataType:
    """The Arrow type of a column as it stands in JSON, before `from_json`: what a strict JSON reader must find.

    A float that JSON has no number for is a string there, and no such reader takes both.
    """
    if column.encoding == "array":
        return pa.list_(json_type(_element_column(column)))
    return column.arrow_type if column.encoding == "plain" else _JSON_TYPES[column.encoding]


def from_json(raw: pa.Array, column: Column) -> pa.Array:
    """An array of `json_type(column)` as one of `column.arrow_type`. Raises one of `MISFITS` if a value does not
    fit: `decode` tells which."""
    return raw if column.encoding == "plain" else _CONVERTERS[column.encoding](raw, column)


def misfits(raw: pa.Array, column: Column) -> pa.BooleanArray | None:
    """Where values of `json_type(column)` surely do not fit; None for an encoding of which no look at a whole column
    tells.

    `from_json` may still raise for one that is not marked.
    """
    limits = _LIMITS.get(column.encoding)
    if limits is not None:
        outside = pc.or_(pc.less(raw, limits[0]), pc.greater(raw, limits[1]))
    elif column.encoding == "timestamptz":
        outside = pc.invert(pc.match_substring_regex(raw, _FOUR_DIGIT_YEAR))
    elif column.encoding == "decimal" and pa.types.is_decimal(column.arrow_type):
        whole = column.arrow_type.precision - column.arrow_type.scale
        fits = rf"^[+-]?0*[0-9]{{0,{whole}}}(\.[0-9]{{0,{column.arrow_type.scale}}}0*)?$|[0-9.][eE]"
        outside = pc.invert(pc.match_substring_regex(raw, fits))
    else:
        return None
    return pc.fill_null(outside, False)


def is_placeholder(values: Sequence[object], column: Column) -> pa.BooleanArray | None:
    """Where Debezium wrote its placeholder for an unchanged TOASTed value.

    None for a column whose type has no placeholder: Debezium's task fails instead (under
    `event.converting.failure.handling.mode=fail`), so that no such value arrives.
    """
    form = _placeholder(column)
    if form is None:
        return None
    if form not in values:
        return pa.repeat(False, len(values))
    return pa.array([value == form for value in values], pa.bool_())


def is_placeholder_array(raw: pa.Array, column: Column) -> pa.BooleanArray | None:
    """As `is_placeholder`, over an array of `json_type(column)`."""
    form = _placeholder(column)
    if form is None:
        return None
    if not isinstance(form, list):
        return pc.fill_null(pc.equal(raw, form), False)
    if not pc.any(pc.equal(raw.flatten(), form[0])).as_py():
        return pa.repeat(False, len(raw))
    return pa.array([value == form for value in raw.to_pylist()], pa.bool_())


def _placeholder(column: Column) -> object | None:
    kind = column.arrow_type
    if pa.types.is_string(kind) or pa.types.is_decimal(kind):
        return PLACEHOLDER
    if pa.types.is_binary(kind):
        return _TOKEN_BASE64
    if column.encoding != "array":
        return None
    kind = kind.value_type
    if column.sql_type == "uuid[]":
        return [_TOKEN_UUID]
    if pa.types.is_string(kind):
        return [PLACEHOLDER]
    if pa.types.is_binary(kind):
        return [_TOKEN_BASE64]
    if pa.types.is_int32(kind) or pa.types.is_int64(kind) or pa.types.is_date32(kind):
        return list(_TOKEN)
    return None


def _told_apart(values: list[object], column: Column) -> tuple[list[pa.Array], list[int]]:
    try:
        return [], _seen(values, column)
    except MISFITS:
        return _bisect(values, column, 0)


def _seen(values: list[object], column: Column) -> list[int]:
    """The indexes of the values that do not fit, if a look at the whole column tells them all. Raises one of `MISFITS`
    if it does not."""
    raw = _read(values, column)
    bad = misfits(raw, column)
    if bad is None:
        raise _Misfit
    from_json(pc.if_else(bad, None, raw), column)
    return np.flatnonzero(bad).tolist()


def _bisect(values: list[object], column: Column, start: int) -> tuple[list[pa.Array], list[int]]:
    """The decoded parts of `values`, or the indexes, counted from `start`, of those that do not fit."""
    try:
        return [from_json(_read(values, column), column)], []
    except MISFITS:
        if len(values) == 1:
            return [], [start]
    half = len(values) // 2
    arrays, bad = _bisect(values[:half], column, start)
    more, worse = _bisect(values[half:], column, start + half)
    return arrays + more, bad + worse


def _read(values: list[object], column: Column) -> pa.Array:
    """JSON values as an array of `json_type(column)`."""
    if column.encoding == "float":
        return _read_floats(values)
    if column.encoding in ("array", "vector"):
        return _read_lists(values, column)
    kind = json_type(column)
    fits = pa.types.is_integer if pa.types.is_integer(kind) else partial(operator.eq, kind)
    return _typed(values, fits, kind)


def _typed(values: list[object], fits: Callable[[pa.DataType], bool], target: pa.DataType) -> pa.Array:
    """`values` as Arrow infers them, which is strict: `pa.array(values, int64)` would turn 1.5 into 1."""
    array = pa.array(values)
    if pa.types.is_null(array.type):
        return array.cast(target)
    if not fits(array.type):
        raise _Misfit
    return array if array.type == target else array.cast(target)


def _read_floats(values: list[object]) -> pa.Array:
    kinds = set(map(type, values))
    if str in kinds:
        values = [_FLOATS.get(value, value) if isinstance(value, str) else value for value in values]
    # Arrow would take true for 1 here, whatever it infers.
    if not kinds <= _NUMBERS:
        raise _Misfit
    if int in kinds:  # of which Arrow takes none that a double holds only nearly; a reader of JSON rounds it
        values = [float(value) if type(value) is int else value for value in values]
    return pa.array(values, pa.float64())


def _read_lists(values: list[object], column: Column) -> pa.Array:
    lists = [value for value in values if value is not None]
    if not all(type(value) is list for value in lists):
        raise _Misfit
    child = _read(list(chain.from_iterable(lists)), _element_column(column))  # type: ignore[arg-type]  # lists, as checked
    lengths = np.fromiter((0 if v is None else len(v) for v in values), np.int32, len(values))  # type: ignore[arg-type]  # lists
    missing = np.fromiter((value is None for value in values), np.bool_, len(values))
    return _lists(child, lengths, missing)


def _lists(child: pa.Array, lengths: npt.NDArray[np.int32], missing: npt.NDArray[np.bool_]) -> pa.Array:
    """Lists of these lengths over their joined elements."""
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), child, mask=pa.array(missing))


def _float(wide: pa.Array, column: Column) -> pa.Array:
    if column.arrow_type == pa.float64():
        return wide
    narrow = wide.cast(column.arrow_type)
    if pc.sum(pc.is_inf(narrow)) != pc.sum(pc.is_inf(wide)):
        raise _Misfit
    return narrow


def _decimal(strings: pa.Array, column: Column) -> pa.Array:
    if not pa.types.is_string(column.arrow_type):
        return strings.cast(column.arrow_type)
    if pc.all(pc.match_substring_regex(strings, _NUMERIC)).as_py() is False:
        raise _Misfit
    if not pc.any(pc.is_in(strings, pa.array(list(_NUMERICS)))).as_py():
        return strings
    return pa.array([_NUMERICS.get(value, value) for value in strings.to_pylist()], pa.string())


def _date(days: pa.Array, column: Column) -> pa.Array:
    return _within(days, _DAYS).cast(column.arrow_type)


def _time(micros: pa.Array, column: Column) -> pa.Array:
    return _within(micros, _DAY_MICROSECONDS).cast(pa.time64("us")).cast(column.arrow_type)


def _timestamp(micros: pa.Array, column: Column) -> pa.Array:
    return _within(micros, MICROSECONDS).cast(column.arrow_type)


def _timestamptz(strings: pa.Array, column: Column) -> pa.Array:
    times = strings.cast(column.arrow_type)
    _within(times.view(pa.int64()), MICROSECONDS)
    return times


def _within(numbers: pa.Array, limits: tuple[int, int]) -> pa.Array:
    found = pc.min_max(numbers)
    low, high = found["min"].as_py(), found["max"].as_py()
    if low is not None and (low < limits[0] or high > limits[1]):
        raise _Misfit
    return numbers


def _bytes(strings: pa.Array, column: Column) -> pa.Array:
    decoded = [None if v is None else binascii.a2b_base64(v, strict_mode=True) for v in strings.to_pylist()]
    return pa.array(decoded, column.arrow_type)


def _array(raw: pa.Array, column: Column) -> pa.Array:
    child = from_json(raw.flatten(), _element_column(column))
    if pa.types.is_string(child.type) and pc.any(pc.starts_with(child, _JAVA_ARRAY)).as_py():
        raise _Misfit
    lengths = pc.fill_null(pc.list_value_length(raw), 0).to_numpy()
    return _lists(child, lengths, raw.is_null().to_numpy(zero_copy_only=False)).cast(column.arrow_type)


def _vector(raw: pa.Array, column: Column) -> pa.Array:
    vectors = _array(raw, column)
    if vectors.values.null_count:
        raise _Misfit
    return vectors


def _element_column(column: Column) -> Column:
    element: Encoding = "float" if column.encoding == "vector" else column.element or "none"
    return Column(column.name, column.sql_type.removesuffix("[]"), column.arrow_type.value_type, element, True)


_JSON_TYPES: dict[Encoding, pa.DataType] = {
    "float": pa.float64(),
    "decimal": pa.string(),
    "date": pa.int32(),
    "time": pa.int64(),
    "timestamp": pa.int64(),
    "timestamptz": pa.string(),
    "interval": pa.string(),
    "bytes": pa.string(),
    "vector": pa.list_(pa.float64()),
}

_CONVERTERS: dict[Encoding, Callable[[pa.Array, Column], pa.Array]] = {
    "float": _float,
    "decimal": _decimal,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "interval": lambda durations, column: durations,
    "bytes": _bytes,
    "array": _array,
    "vector": _vector,
}


def _expected(column: Column) -> str:
    """What a value of the column must be, for people."""
    kind = column.arrow_type
    if column.encoding == "plain" and pa.types.is_integer(kind):
        half = 2 ** (kind.bit_width - 1)
        return f"an integer from {-half} to {half - 1}"
    if column.encoding == "plain":
        return "true or false" if pa.types.is_boolean(kind) else "a string"
    if column.encoding == "float":
        return "a number of single precision" if kind == pa.float32() else "a number"
    if column.encoding == "decimal":
        return "a decimal number" if pa.types.is_string(kind) else f"a number that fits {kind}, not NaN or infinite"
    if column.encoding in ("array", "vector"):
        what = _expected(_element_column(column))
        return f"a JSON array in one dimension, each element {what}" + (
            "" if column.encoding == "vector" else " or null"
        )
    return _EXPECTED[column.encoding]


_EXPECTED: dict[Encoding, str] = {
    "date": "days since 1970-01-01, in the years 1 to 9999 and not infinite",
    "time": "microseconds since midnight, before 24:00",
    "timestamp": "microseconds since 1970-01-01, in the years 1 to 9999 and not infinite",
    "timestamptz": "an ISO 8601 time with its zone, in the years 1 to 9999 and not infinite",
    "interval": "a string",
    "bytes": "base64",
}
