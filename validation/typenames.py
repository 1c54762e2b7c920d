"""Compiled: the type expectations, which the type of an Arrow column decides once and for all.

The names are those of NumPy, pandas and Python ("int64", "float", "str", "Timestamp"), resolved as
`_validate_pandas` of the expectations and their column map metrics do in Great Expectations 1.x.
"""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.core.dtypes import dtypes as pandas_dtypes

from validation.check import Check, never_fails
from validation.errors import RuleError
from validation.frames import frame
from validation.kinds import Kind, kind_of
from validation.rule import Rule

_NATIVE: dict[str, type] = {
    "none": type(None),
    "bool": bool,
    "int": int,
    "long": int,
    "float": float,
    "bytes": bytes,
    "complex": complex,
    "str": str,
    "string_types": str,
    "list": list,
    "dict": dict,
}

_SAMPLES: dict[Kind, Any] = {
    "int": 0,
    "float": 0.0,
    "decimal": Decimal(0),
    "bool": False,
    "text": "",
    "bytes": b"",
    "date": date(2013, 2, 12),
    "timestamp": datetime(2013, 2, 12),
    "time": time(9, 30),
}

_FITTING = ("int", "int64", "float", "float64", "float32", "bool", "str", "bytes", "date", "Timestamp")


def of_type(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_be_of_type`."""
    return _decided(rule, types[0], [rule.kwargs["type_"]])


def in_type_list(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_be_in_type_list`."""
    names = rule.kwargs.get("type_list")
    if names is None:
        return never_fails
    if not isinstance(names, list):
        raise RuleError(f"type_list is {names!r}", "write a list of type names")
    return _decided(rule, types[0], names)


def _decided(rule: Rule, arrow_type: pa.DataType, names: list[Any]) -> Check | None:
    if not all(isinstance(name, str) for name in names):
        raise RuleError(f"a type name is no text: {names!r}", 'write names like "int64"')
    sample = _SAMPLES.get(kind_of(arrow_type))
    if sample is None:
        return None
    is_list = rule.expectation == "expect_column_values_to_be_in_type_list"
    if _holds(names, arrow_type, sample, is_list):
        return never_fails
    fitting = [name for name in _FITTING if _holds([name], arrow_type, sample, is_list)]
    raise RuleError(
        f"{rule.columns[0]} is {arrow_type}, which is not of type {' or '.join(names)}: every row would fail",
        f"write {' or '.join(fitting)}" if fitting else "remove it: the source database guarantees the type",
    )


def _holds(names: list[str], arrow_type: pa.DataType, sample: Any, is_list: bool) -> bool:
    column = frame(pa.table({"": pa.array([sample], arrow_type)}), "types")[""]
    if column.dtype == object:
        if not is_list and names[0] in ("object", "object_", "O"):
            return True
        types = tuple(t for name in names for t in _types(name))
        return isinstance(column.iloc[0], types)
    if is_list:
        return any(column.dtype == t for name in names for t in (*_types(name), *_dtypes(name)))
    return any(column.dtype.type is t for name in names for t in _types(name))


def _types(name: str) -> list[type]:
    """The types that a name stands for; none if nobody knows it."""
    found: list[type] = [dtype.type for dtype in _dtypes(name)]
    if not found:
        candidates = [getattr(pd, name, None), getattr(pandas_dtypes, name, None)]
        found = [candidate for candidate in candidates if isinstance(candidate, type)]
    native = _NATIVE.get(name.lower())
    return found if native is None else [*found, native]


def _dtypes(name: str) -> list["np.dtype[Any]"]:
    try:
        return [np.dtype(name)]
    except TypeError:
        return []
