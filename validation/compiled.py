"""The common row-level expectations, compiled to operations on whole Arrow columns.

A compiled rule gives the verdicts of Great Expectations itself over `validation.frames.frame`; property
tests hold the two together. Whatever is not known to be equal is not compiled, and Great Expectations
evaluates it. What all rules share: a missing value (a null, and a NaN as well) is skipped, unless the rule
is about missing values or compares a pair. `mostly` does not count here: it says how many rows may fail,
not which.
"""

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from validation.between import lengths_between, lengths_equal, values_between
from validation.check import Check, is_missing, never_fails
from validation.errors import RuleError
from validation.kinds import kind_of
from validation.membership import in_set, not_in_set, pairs_in_set
from validation.pairs import all_equal, equal, greater
from validation.regex import Pattern, PatternError
from validation.rule import Rule
from validation.typenames import in_type_list, of_type
from validation.uniqueness import compound_unique, unique


def compile_rule(rule: Rule, schema: pa.Schema) -> Check | None:
    """The check of a row-level rule over columns of these types, or None if it is not compiled.

    Raises `RuleError` if the rule's kwargs are wrong, no value of such a column could ever pass it, or Great
    Expectations has no verdict on a row by itself.
    """
    types = [schema.field(column).type for column in rule.columns]
    if rule.expectation in _OF_TEXTS:
        _require_text_of_its_own(rule.columns[0], types[0])
    compiler = _COMPILERS.get(rule.expectation)
    if compiler is None:
        return None
    check = compiler(rule, types)
    # A type that the column has anyway, it has in whatever rows a condition takes.
    return check if check is never_fails or not rule.conditional else None


_OF_TEXTS = frozenset(
    {
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_match_regex_list",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
    }
)
"""The expectations that Great Expectations has pandas write a column for, of whatever type it is."""


def _require_text_of_its_own(column: str, arrow_type: pa.DataType) -> None:
    """Raises `RuleError` for timestamps without a zone: pandas writes midnight as "2013-02-12", but beside other times
    as "2013-02-12 00:00:00", and a row's verdict would hang on its neighbours."""
    if pat.is_timestamp(arrow_type) and arrow_type.tz is None:
        raise RuleError(
            f"{column} is {arrow_type}, and how a time is written depends on the other rows of the batch",
            "use expect_column_values_to_be_between with times as bounds",
        )


def _not_null(_rule: Rule, types: list[pa.DataType]) -> Check:
    if kind_of(types[0]) == "float":
        return is_missing
    return lambda column: pc.is_null(column) if column.null_count else None


def _null(_rule: Rule, _types: list[pa.DataType]) -> Check:
    return lambda column: pc.invert(is_missing(column))


def _match(rule: Rule, types: list[pa.DataType]) -> Check | None:
    pattern = _pattern(rule)
    return None if kind_of(types[0]) != "text" else lambda column: pc.invert(pattern.found(column))


def _not_match(rule: Rule, types: list[pa.DataType]) -> Check | None:
    pattern = _pattern(rule)
    return None if kind_of(types[0]) != "text" else pattern.found


def _pattern(rule: Rule) -> Pattern:
    regex = rule.kwargs.get("regex", "(?s).*")
    if not isinstance(regex, str):
        raise RuleError(f"regex is {regex!r}", "write a regular expression in quotes")
    try:
        return Pattern(regex)
    except (PatternError, OverflowError, RecursionError) as error:
        raise RuleError(f"regex {regex!r} is wrong: {error}", "correct it by the rules of Python's re") from None


_COMPILERS: Mapping[str, Callable[[Rule, list[pa.DataType]], Check | None]] = {
    "expect_column_values_to_not_be_null": _not_null,
    "expect_column_values_to_be_null": _null,
    "expect_column_values_to_be_between": values_between,
    "expect_column_values_to_be_in_set": in_set,
    "expect_column_values_to_not_be_in_set": not_in_set,
    "expect_column_values_to_match_regex": _match,
    "expect_column_values_to_not_match_regex": _not_match,
    "expect_column_value_lengths_to_be_between": lengths_between,
    "expect_column_value_lengths_to_equal": lengths_equal,
    "expect_column_values_to_be_of_type": of_type,
    "expect_column_values_to_be_in_type_list": in_type_list,
    "expect_column_values_to_be_unique": unique,
    "expect_column_pair_values_a_to_be_greater_than_b": greater,
    "expect_column_pair_values_to_be_equal": equal,
    "expect_column_pair_values_to_be_in_set": pairs_in_set,
    "expect_compound_columns_to_be_unique": compound_unique,
    "expect_multicolumn_values_to_be_equal": all_equal,
}

COMPILED: frozenset[str] = frozenset(_COMPILERS)
"""The expectations that are compiled, for most types of columns, or at least checked against the types."""
