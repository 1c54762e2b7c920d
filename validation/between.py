"""Compiled: values and lengths between bounds."""

from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from validation.bounds import Bound, integer_range, parse_bound
from validation.check import Check, flag
from validation.errors import RuleError
from validation.kinds import NUMBERS, Kind, kind_of
from validation.rule import Rule

_LONGEST = 2**30
"""More characters than a text of PostgreSQL can have: it holds at most 1 GB."""


def values_between(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_values_to_be_between`."""
    low, high = _bounds(rule)
    strict_min, strict_max = flag(rule, "strict_min"), flag(rule, "strict_max")
    arrow_type, kind = types[0], kind_of(types[0])
    if kind in ("bool", "other"):
        return None
    if kind not in NUMBERS | {"date", "timestamp"}:
        raise RuleError(
            f"Great Expectations orders numbers, dates and times, and {rule.columns[0]} is {arrow_type}",
            "use expect_column_value_lengths_to_be_between, ..._to_match_regex or ..._to_be_in_set",
        )
    for bound in (low, high):
        _require_comparable(rule.columns[0], arrow_type, kind, bound)
    if kind in ("int", "decimal"):
        return _integers_between(arrow_type, low, high, strict_min, strict_max)  # type: ignore[arg-type]
    scalar_type = pa.float64() if kind == "float" else arrow_type
    return _outside(_scalar(low, scalar_type), _scalar(high, scalar_type), strict_min, strict_max)


def lengths_between(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_value_lengths_to_be_between`, in Unicode code points."""
    low, high = _whole(rule, "min_value"), _whole(rule, "max_value")
    if low is None and high is None:
        raise RuleError("neither min_value nor max_value is given", "give at least one of them")
    if low is not None and high is not None and low > high:
        raise RuleError("min_value is above max_value", "exchange them")
    strict_min, strict_max = flag(rule, "strict_min"), flag(rule, "strict_max")
    if kind_of(types[0]) != "text":
        return None
    outside = _outside(_scalar(low, pa.int64()), _scalar(high, pa.int64()), strict_min, strict_max)
    return lambda column: outside(pc.utf8_length(column))


def lengths_equal(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_value_lengths_to_equal`, in Unicode code points."""
    length = _whole(rule, "value")
    if length is None:
        raise RuleError("value is not given", "write the length, a whole number")
    if kind_of(types[0]) != "text":
        return None
    wanted = _scalar(length, pa.int64())
    return lambda column: pc.not_equal(pc.utf8_length(column), wanted)


def _bounds(rule: Rule) -> tuple[Bound | None, Bound | None]:
    low = parse_bound("min_value", rule.kwargs.get("min_value"))
    high = parse_bound("max_value", rule.kwargs.get("max_value"))
    if low is None and high is None:
        raise RuleError("neither min_value nor max_value is given", "give at least one of them")
    if low is not None and high is not None:
        try:
            exchanged = low > high  # type: ignore[operator]
        except TypeError:
            raise RuleError("min_value and max_value cannot be compared", "make them alike") from None
        if exchanged:
            raise RuleError("min_value is above max_value", "exchange them")
    return low, high


def _require_comparable(column: str, arrow_type: pa.DataType, kind: Kind, bound: Bound | None) -> None:
    """Raises `RuleError` for a bound that Great Expectations cannot compare with the column."""
    if kind == "timestamp":
        zoned = arrow_type.tz is not None
        fits = isinstance(bound, datetime) and (bound.tzinfo is not None) == zoned
        instead = f'write a time like "2013-02-12T09:30:00{"Z" if zoned else ""}"'
    elif kind == "date":
        fits = isinstance(bound, date) and not isinstance(bound, datetime)
        instead = 'write a date like "2013-02-12"'
    else:
        fits = isinstance(bound, float)
        instead = "write a number"
    if bound is not None and not fits:
        raise RuleError(f"{column} is {arrow_type} and cannot be compared with {bound}", instead)


def _whole(rule: Rule, key: str) -> int | None:
    value = rule.kwargs.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise RuleError(f"{key} is {value!r}", "write a whole number")
    if abs(value) > _LONGEST:
        raise RuleError(f"{key} is {value!r}, and no text has more than {_LONGEST} characters", "leave it out")
    return int(value)


def _scalar(value: Bound | None, scalar_type: pa.DataType) -> pa.Scalar | None:
    return None if value is None else pa.scalar(value, scalar_type)


def _integers_between(
    arrow_type: pa.DataType, low: float | None, high: float | None, strict_min: bool, strict_max: bool
) -> Check:
    """Between for integers and decimals: the bounds become the outermost values within them.

    An integer compares with a float as it is, a decimal as the nearest float.
    """
    if pat.is_integer(arrow_type):
        bits, signed = arrow_type.bit_width, pat.is_signed_integer(arrow_type)
        lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        first, last = integer_range(lowest, highest, int, low, high, strict_min, strict_max)
    else:
        unit = 10**arrow_type.scale
        lowest, highest = 1 - 10**arrow_type.precision, 10**arrow_type.precision - 1
        # Division of Python ints rounds to the nearest float, as `float(Decimal)` does.
        first, last = integer_range(lowest, highest, lambda k: k / unit, low, high, strict_min, strict_max)
    if first > last:
        return pc.is_valid  # type: ignore[no-any-return]
    return _outside(
        _integer_scalar(first, arrow_type) if first > lowest else None,
        _integer_scalar(last, arrow_type) if last < highest else None,
    )


def _integer_scalar(k: int, arrow_type: pa.DataType) -> pa.Scalar:
    if pat.is_integer(arrow_type):
        return pa.scalar(k, arrow_type)
    digits = tuple(map(int, str(abs(k))))
    return pa.scalar(Decimal((int(k < 0), digits, -arrow_type.scale)), arrow_type)


def _outside(
    low: pa.Scalar | None, high: pa.Scalar | None, strict_min: bool = False, strict_max: bool = False
) -> Check:
    """A NaN is neither below nor above a bound, so it is skipped like a null."""
    below = pc.less_equal if strict_min else pc.less
    above = pc.greater_equal if strict_max else pc.greater
    if low is None and high is None:
        return lambda _column: None
    if low is None:
        return lambda column: above(column, high)
    if high is None:
        return lambda column: below(column, low)
    return lambda column: pc.or_(below(column, low), above(column, high))
