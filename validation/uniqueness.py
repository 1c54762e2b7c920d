"""Compiled: values, and combinations of values, that stand more than once in a batch."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from validation.check import Check
from validation.errors import RuleError
from validation.kinds import HASHABLE, kind_of
from validation.rule import Rule

Numbers = np.ndarray[tuple[int], np.dtype[np.integer[Any]]]

_LARGEST = 1 << 63


def unique(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_be_unique`: a row fails if another row of the batch holds its value."""
    return _repeated if _settled(rule, types) else None


def compound_unique(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_compound_columns_to_be_unique`: missing values are equal to one another here."""
    if not _settled(rule, types):
        return None
    ignore = rule.kwargs.get("ignore_row_if", "all_values_are_missing")
    return lambda *columns: _repeated_together(columns, ignore)


def _settled(rule: Rule, types: list[pa.DataType]) -> bool:
    for column, arrow_type in zip(rule.columns, types, strict=True):
        if kind_of(arrow_type) == "nested":
            raise RuleError(f"{column} is {arrow_type}, whose values cannot be told apart", "leave it out")
    return all(kind_of(arrow_type) in HASHABLE for arrow_type in types)


def _repeated(column: pa.Array) -> pa.BooleanArray | None:
    codes, distinct = _codes(column)
    if distinct == len(column) - column.null_count:
        return None
    counts = np.bincount(codes, minlength=distinct + 1)
    counts[distinct] = 0
    return pa.array((counts > 1)[codes])


def _repeated_together(columns: tuple[pa.Array, ...], ignore: str) -> pa.BooleanArray | None:
    rows = len(columns[0])
    # One number for each combination of values; `size` is above the largest.
    combined: Numbers = np.zeros(rows, dtype=np.int64)
    size, missing = 1, []
    for column in columns:
        codes, distinct = _codes(column)
        if distinct == rows:
            return None  # This column alone tells all rows apart.
        missing.append(codes == distinct)
        if size * (distinct + 1) >= _LARGEST:
            combined, size = _renumbered(combined)
        combined, size = combined * (distinct + 1) + codes, size * (distinct + 1)
    if size > 16 * rows:
        combined, size = _renumbered(combined)
    failing = (np.bincount(combined, minlength=size) > 1)[combined]
    if not failing.any():
        return None
    if ignore == "all_values_are_missing":
        failing &= ~np.logical_and.reduce(missing)
    elif ignore == "any_value_is_missing":
        failing &= ~np.logical_or.reduce(missing)
    return pa.array(failing)


def _renumbered(numbers: Numbers) -> tuple[Numbers, int]:
    codes, distinct = _codes(pa.array(numbers))
    return codes.astype(np.int64), distinct


def _codes(column: pa.Array) -> tuple[Numbers, int]:
    """A number for each value, equal for equal values; missing ones get the count of distinct values."""
    if pa.types.is_floating(column.type):
        # -0.0 and 0.0 are one value, all NaNs are missing.
        column = pc.if_else(pc.is_nan(column), None, pc.add(column, pa.scalar(0.0, column.type)))
    encoded = column.dictionary_encode()
    distinct = len(encoded.dictionary)
    indices = encoded.indices.fill_null(distinct) if encoded.null_count else encoded.indices
    return indices.to_numpy(zero_copy_only=False), distinct
