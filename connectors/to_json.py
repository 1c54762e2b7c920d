"""Arrow values to what Debezium writes for them: the inverse of `connectors.encodings.decode`."""

import binascii
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from connectors.table import Column, Encoding


def encode(values: pa.Array, column: Column) -> list[Any]:
    """The JSON values of an array of `column.arrow_type`, None for null: `decode` makes the same array of them."""
    return [None if value is None else _value(value, column.encoding, column) for value in _plain(values, column)]


def _plain(values: pa.Array, column: Column) -> list[Any]:
    """Dates and times as the integers that they are encoded as, everything else as Python has it."""
    kind = values.type
    if pt.is_date(kind):
        return list(values.cast(pa.int32()).to_pylist())
    if column.encoding == "timestamp":
        return list(values.cast(pa.int64()).to_pylist())
    if column.encoding == "array":
        element = Column(column.name, column.sql_type, kind.value_type, column.element or "none", nullable=True)
        return [None if not one.is_valid else encode(one.values, element) for one in values]
    return list(values.to_pylist())


def _value(value: Any, encoding: Encoding, column: Column) -> Any:
    match encoding:
        case "float" if value != value or value in (float("inf"), float("-inf")):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case "decimal":
            return {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}.get(
                str(value), format(value, "f") if not isinstance(value, str) else value
            )
        case "time":
            since = datetime.fromisoformat(f"1970-01-01T{value}") - datetime(1970, 1, 1)
            return since // timedelta(microseconds=1)
        case "timestamptz":
            return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
        case "bytes":
            return binascii.b2a_base64(value, newline=False).decode()
        case _:
            return value
