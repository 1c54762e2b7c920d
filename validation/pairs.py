"""Compiled: one column compared with another in the same row."""

from collections.abc import Callable
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from validation.check import Check, flag, is_missing
from validation.errors import RuleError
from validation.kinds import NUMBERS, kind_of
from validation.rule import Rule

Comparison = Callable[[pa.Array, pa.Array], pa.BooleanArray]


def greater(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_pair_values_a_to_be_greater_than_b`."""
    # Of all flags this is the one that Great Expectations lets be null.
    or_equal = rule.kwargs.get("or_equal") is not None and flag(rule, "or_equal")
    return _compared(rule, types, pc.greater_equal if or_equal else pc.greater)


def equal(rule: Rule, types: list[pa.DataType]) -> Check | None:
    """`expect_column_pair_values_to_be_equal`."""
    return _compared(rule, types, pc.equal)


def _compared(rule: Rule, types: list[pa.DataType], holds: Comparison) -> Check | None:
    _require_comparable(rule, types)
    if not _settled(*types):
        return None
    if kind_of(types[0]) != kind_of(types[1]):
        holds = _as_floats(holds)
    ignored = _IGNORED[rule.kwargs.get("ignore_row_if", "both_values_are_missing")]

    def fails(a: pa.Array, b: pa.Array) -> pa.BooleanArray | None:
        # A missing value equals nothing and is not greater than anything: such a row fails, unless ignored.
        failing = pc.fill_null(pc.invert(holds(a, b)), True)
        if not failing.true_count or ignored is None:
            return failing
        return pc.and_not(failing, ignored(is_missing(a), is_missing(b)))

    return fails


_IGNORED: dict[str, Comparison | None] = {
    "both_values_are_missing": pc.and_,
    "either_value_is_missing": pc.or_,
    "neither": None,
}


def all_equal(rule: Rule, types: list[pa.DataType]) -> None:
    """`expect_multicolumn_values_to_be_equal`, which is not compiled: only checked."""
    _require_comparable(rule, types)


def _require_comparable(rule: Rule, types: list[pa.DataType]) -> None:
    """Raises `RuleError` for two columns that no value makes equal, or that Great Expectations compares by what else is
    in the batch: it converts all dates or texts beside a timestamp, or none where one of them is no time, or is before
    1677 or after 2262."""
    for (a, type_a), (b, type_b) in combinations(zip(rule.columns, types, strict=True), 2):
        if "nested" in (kind_of(type_a), kind_of(type_b)):
            raise RuleError(f"{a} is {type_a} and {b} is {type_b}, and lists are not compared", "leave it out")
        if not _comparable(type_a, type_b):
            raise RuleError(
                f"{a} is {type_a} and {b} is {type_b}, which cannot be compared", "name columns of one type"
            )


def _comparable(type_a: pa.DataType, type_b: pa.DataType) -> bool:
    a, b = kind_of(type_a), kind_of(type_b)
    related = a == b or "other" in (a, b) or {a, b} <= NUMBERS | {"bool"}
    zones_differ = a == b == "timestamp" and (type_a.tz is None) != (type_b.tz is None)
    return a != "nested" and related and not zones_differ


def _settled(type_a: pa.DataType, type_b: pa.DataType) -> bool:
    """Whether Arrow compares values of these types exactly, as Python does."""
    a, b = kind_of(type_a), kind_of(type_b)
    if a == b == "int":
        return pa.uint64() not in (type_a, type_b)
    if a == b == "float":
        return True
    if {a, b} == {"int", "float"}:
        # A float holds every integer of 32 bits, not every one of 64.
        return all(kind_of(t) == "float" or t.bit_width <= 32 for t in (type_a, type_b))
    return bool(type_a == type_b) and a != "other"


def _as_floats(holds: Comparison) -> Comparison:
    return lambda a, b: holds(a.cast(pa.float64()), b.cast(pa.float64()))
