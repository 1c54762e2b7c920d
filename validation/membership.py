"""Compiled: values in a set, or not in it."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from validation.bounds import integer_range
from validation.check import Check, is_missing
from validation.errors import RuleError
from validation.kinds import Kind, kind_of
from validation.rule import Rule


def in_set(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_be_in_set`."""
    member = _member(rule, types[0])
    if member is None:
        return None

    def outside(column: pa.Array) -> pa.BooleanArray | None:
        fails = pc.invert(member(column))
        return pc.and_not(fails, is_missing(column)) if fails.true_count else None

    return outside


def not_in_set(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_not_be_in_set`."""
    return _member(rule, types[0])


def pairs_in_set(rule: Rule, types: list[pa.DataType]) -> None:
    """`expect_column_pair_values_to_be_in_set`, which is not compiled: only checked."""
    pairs = [pair for pair in rule.kwargs["value_pairs_set"] if isinstance(pair, list) and len(pair) == len(types)]
    for place, arrow_type in enumerate(types):
        _refuse_inexact("value_pairs_set", [pair[place] for pair in pairs], kind_of(arrow_type))


def _refuse_inexact(name: str, values: Sequence[Any], kind: Kind) -> None:
    """Decimals are compared as the nearest floats, one of which can stand for several whole numbers of 16 digits."""
    wrong = [value for value in values if kind == "decimal" and type(value) is int and abs(value) > 1 << 53]
    if wrong:
        raise RuleError(
            f"{name} has {wrong[0]}, and the values of a decimal column are compared as 64-bit floats, which do not "
            "tell such numbers apart",
            "give the column the type bigint, or use another expectation",
        )


def _member(rule: Rule, arrow_type: pa.DataType) -> Callable[[pa.Array], pa.BooleanArray] | None:
    """Whether each value is in the rule's set, False for a missing one; None if it is not compiled."""
    values = rule.kwargs["value_set"]
    if not isinstance(values, list):
        raise RuleError(f"value_set is {values!r}", "write a list of values")
    kind = kind_of(arrow_type)
    _refuse_inexact("value_set", values, kind)
    comparable = _COMPARABLE.get(kind)
    if comparable is None:
        return None
    if values and not any(isinstance(value, comparable) for value in values):
        raise RuleError(
            f"no value of value_set can equal a value of {rule.columns[0]}, which is {arrow_type}",
            _INSTEAD.get(kind, "write values of that type, or another expectation"),
        )
    chosen = _arrow_values(values, arrow_type, kind)
    if chosen is None:
        return None
    if kind == "float":
        # Arrow tells -0.0 from 0.0 here, pandas does not; adding 0.0 makes both 0.0.
        return lambda column: pc.is_in(pc.add(column.cast(pa.float64()), 0.0), value_set=chosen)
    return lambda column: pc.is_in(column, value_set=chosen)


_COMPARABLE: Mapping[Kind, tuple[type, ...]] = {
    "int": (int, float),
    "float": (int, float),
    "decimal": (int, float),
    "bool": (int, float),
    "text": (str,),
    # JSON has no value that Python finds equal to these.
    "date": (),
    "time": (),
    "bytes": (),
    "nested": (),
}

_INSTEAD: Mapping[Kind, str] = {
    "date": "use expect_column_values_to_be_between with a date as both bounds",
    "text": "put the values in quotes",
    "int": "write them without quotes",
    "float": "write them without quotes",
    "decimal": "write them without quotes",
    "bool": "write true or false",
}


def _arrow_values(values: Sequence[Any], arrow_type: pa.DataType, kind: Kind) -> pa.Array | None:
    """The set as Arrow values, if it is of one type and means the same in Arrow as in pandas."""
    if kind == "text" and all(type(value) is str for value in values):
        return pa.array(values, arrow_type)
    if kind == "bool" and all(type(value) is bool for value in values):
        return pa.array(values, arrow_type)
    if kind == "int" and all(type(value) is int and abs(value) < 1 << 63 for value in values):
        return pa.array([value for value in values if _fits(value, arrow_type)], arrow_type)
    # pandas compares a larger integer as an integer or as the nearest float, as the rest of the set is.
    if not all(type(value) in (int, float) and abs(value) <= 1 << 53 for value in values):
        return None
    if kind == "float":
        return pa.array([float(value) + 0.0 for value in values], pa.float64())
    if kind == "decimal":
        return _decimals([float(value) for value in values], arrow_type)
    return None


def _fits(value: int, arrow_type: pa.DataType) -> bool:
    bits: int = arrow_type.bit_width
    if pa.types.is_signed_integer(arrow_type):
        return -(1 << bits - 1) <= value < 1 << bits - 1
    return 0 <= value < 1 << bits


def _decimals(values: Sequence[float], arrow_type: pa.DataType) -> pa.Array | None:
    """The decimals whose nearest float is one of the values; None if a float stands for several decimals."""
    unit, limit = 10**arrow_type.scale, 10**arrow_type.precision - 1
    found: list[Decimal] = []
    for value in values:
        first, last = integer_range(-limit, limit, lambda k: k / unit, value, value, False, False)
        if last > first:
            return None
        if last == first:
            digits = tuple(map(int, str(abs(first))))
            found.append(Decimal((int(first < 0), digits, -arrow_type.scale)))
    return pa.array(found, arrow_type)
