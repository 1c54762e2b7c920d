"""Decimals on their way to floating point."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_EXACT_DIGITS = 15
"""Every whole number of so many digits is a double."""
_EXACT_POWER = 22
"""Ten to this is the last power of ten that is a double."""


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
