"""The one conversion from Arrow columns to what Great Expectations sees, a pandas frame.

It depends on the Arrow type alone, never on the values: pandas' own conversion turns an integer column
into floats as soon as one value is null, so that 5 becomes "5.0" for a regex and bigint keys lose digits,
and a row's verdict would hang on its neighbours.
"""

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.types as pat

from validation.catalogue import Reading


def frame(table: pa.Table, reading: Reading) -> pd.DataFrame:
    """The table as a frame with a plain range index; a missing value is None, NaN or NaT.

    `exact`: integers are Python ints and decimals `Decimal`, so that keys and amounts compare exactly.
    `numbers`: decimals are the nearest 64-bit floats, as the bounds and sets of an expectation are, so
    that 0.10 is within [0.1, 1].
    `statistics`: as `numbers`, and dates are timestamps, which have a minimum where values are missing.
    `types`: as `numbers`, but integers are int64 and booleans bool, missing ones as 0 and False: the type
    of a column does not depend on them.
    """
    columns = {name: _series(table.column(name), reading) for name in table.column_names}
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))


def _series(column: pa.ChunkedArray, reading: Reading) -> "pd.Series[Any]":
    kind = column.type
    if pat.is_boolean(kind) and reading == "types":
        return pd.Series(column.fill_null(False).to_pylist(), dtype="bool")
    if pat.is_integer(kind):
        if reading == "types":
            return pd.Series(column.fill_null(0).to_pylist(), dtype="int64")
        # NaN, not None: pandas sums and compares NaN, and raises on None.
        return _objects(column, float("nan"))
    if pat.is_decimal(kind) and reading != "exact":
        # `float(Decimal)` rounds to the nearest float, which Arrow's own cast does not promise.
        floats = [float("nan") if value is None else float(value) for value in column.to_pylist()]
        return pd.Series(floats, dtype="float64")
    if pat.is_date(kind) and reading == "statistics":
        return pd.Series(column.cast(pa.timestamp("us")).to_pandas())
    if pat.is_floating(kind) or pat.is_timestamp(kind) or pat.is_nested(kind):
        return pd.Series(column.to_pandas())
    return _objects(column, None)


def _objects(column: pa.ChunkedArray, missing: float | None) -> "pd.Series[Any]":
    values = [missing if value is None else value for value in column.to_pylist()]
    return pd.Series(values, dtype=object)
