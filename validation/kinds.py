"""The kinds of Arrow types that a rule distinguishes."""

from typing import Literal

import pyarrow as pa
import pyarrow.types as pat

Kind = Literal["int", "float", "decimal", "bool", "text", "bytes", "date", "timestamp", "time", "nested", "other"]

NUMBERS: frozenset[Kind] = frozenset({"int", "float", "decimal"})
HASHABLE: frozenset[Kind] = frozenset({"int", "float", "decimal", "bool", "text", "bytes", "date", "timestamp", "time"})
"""Kinds whose values Great Expectations can tell apart; arrays it cannot."""


def kind_of(arrow_type: pa.DataType) -> Kind:
    """The kind of a type; `other` for one whose meaning in pandas is not settled here."""
    if pat.is_integer(arrow_type):
        return "int"
    if pat.is_float32(arrow_type) or pat.is_float64(arrow_type):
        return "float"
    if pat.is_decimal(arrow_type):
        return "decimal"
    if pat.is_boolean(arrow_type):
        return "bool"
    if pat.is_string(arrow_type) or pat.is_large_string(arrow_type):
        return "text"
    if pat.is_binary(arrow_type) or pat.is_large_binary(arrow_type):
        return "bytes"
    if pat.is_date32(arrow_type):
        return "date"
    if pat.is_timestamp(arrow_type) and arrow_type.unit == "us":
        return "timestamp"
    if pat.is_time64(arrow_type):
        return "time"
    if pat.is_nested(arrow_type):
        return "nested"
    return "other"
