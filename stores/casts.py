"""Values of one Arrow type as values of another: what a feature is, whatever type its column has."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_EXACT_DIGITS = 15
"""Every whole number of so many digits is a double."""
_EXACT_POWER = 22
"""Ten to this is the last power of ten that is a double."""


def as_type(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """The values as of the type `kind`, and why some do not fit, by their positions: what stands there is no value."""
    if column.type.equals(kind):
        return column, {}
    column = as_nearest_floats(column, kind)
    misfits: dict[int, str] = {}
    try:
        cast = column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = []
        for i, value in enumerate(column):
            try:
                values.append(value.cast(kind).as_py())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                values.append(None)
                misfits[i] = str(error)
        cast = pa.chunked_array([pa.array(values, kind)])
    return cast, misfits | {int(i): "it is out of range" for i in overflowed(column, cast)}


def as_given(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """What a frame of pandas holds, as Feast takes it for a value of the type `kind`: UUIDs and truth values as the
    words of Python, whole numbers for timestamps as seconds since 1970, decimals as the nearest floats. What a
    timestamp has beyond microseconds is cut off. Raises `pa.ArrowInvalid` and `pa.ArrowNotImplementedError`."""
    if pt.is_string(kind) and (values.type == pa.uuid() or pt.is_boolean(values.type)):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in values.to_pylist()], kind)])
    lists = pt.is_list(kind) and (pt.is_list(values.type) or pt.is_large_list(values.type))
    given, wanted = (values.type.value_type, kind.value_type) if lists else (values.type, kind)
    if pt.is_timestamp(wanted) and pt.is_integer(given):
        seconds = pa.timestamp("s", wanted.tz)
        values = values.cast(pa.list_(pa.int64()) if lists else pa.int64())
        values = values.cast(pa.list_(seconds) if lists else seconds)
    elif pt.is_timestamp(wanted) and pt.is_timestamp(given) and not lists:
        if given.tz is not None:  # in the local time of autumn two moments can be floored as one, which is an error
            values = values.cast(pa.timestamp(given.unit, "UTC"))
        values = pc.floor_temporal(values, unit=_UNITS[wanted.unit])
    return as_nearest_floats(values, kind).cast(kind, safe=not pt.is_timestamp(given))


_UNITS = {"s": "second", "ms": "millisecond", "us": "microsecond", "ns": "nanosecond"}


def as_nearest_floats(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The values as they are; but decimals, or lists of decimals, that are to be cast to `kind`, a type of floating
    point or a list of one, as the nearest doubles.

    Arrow's own cast multiplies by a power of ten, and 19.90 becomes 19.900000000000002.
    """
    if pt.is_list(kind) and (pt.is_list(values.type) or pt.is_large_list(values.type)):
        decimals = pt.is_decimal(values.type.value_type) and pt.is_floating(kind.value_type)
        return values.cast(pa.list_(pa.string())).cast(pa.list_(pa.float64())) if decimals else values
    if not (pt.is_decimal(values.type) and pt.is_floating(kind)):
        return values
    if values.type.precision > _EXACT_DIGITS or not 0 <= values.type.scale <= _EXACT_POWER:
        return values.cast(pa.string()).cast(pa.float64())
    # Both sides of the division are exact, and so it rounds once. By way of text is slower.
    power = float(10**values.type.scale)
    return pc.divide(pc.round(pc.multiply(values.cast(pa.float64()), power)), power)


def overflowed(values: pa.Array | pa.ChunkedArray, cast: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The positions of values that were cast to an infinity, or have an element that was, and are none: Arrow's cast
    of numbers and of text to floating point makes them so in silence."""
    if pt.is_list(cast.type) and pt.is_floating(cast.type.value_type):
        valid = cast.is_valid()
        lists = pc.list_flatten(values.filter(valid)), pc.list_flatten(cast.filter(valid))
        of = np.repeat(np.arange(len(cast)), np.asarray(pc.fill_null(pc.list_value_length(cast), 0)))
        return np.unique(of[overflowed(*lists)])
    if not pt.is_floating(cast.type) or not pc.any(pc.is_inf(cast)).as_py():
        return np.empty(0, np.int64)
    beyond = pc.is_inf(cast)
    if pt.is_floating(values.type):
        beyond = pc.and_not(beyond, pc.is_inf(values))
    elif pt.is_string(values.type) or pt.is_large_string(values.type):
        beyond = pc.and_not(beyond, pc.match_substring(values, "inf", ignore_case=True))
    return np.flatnonzero(pc.fill_null(beyond, False))
