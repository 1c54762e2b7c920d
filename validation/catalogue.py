"""The expectations of Great Expectations 1.x: their level, their columns and their kwargs.

Known here so that a contract can be read and checked without importing Great Expectations, which takes
seconds; a test compares this table with Great Expectations' own registry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["row", "table", "sql"]
"""`row` gives a verdict a row, `table` one for many rows; `sql` runs on a database only."""

Domain = Literal["column", "pair", "columns", "table"]
"""Which kwargs name the columns: `column`, `column_A` and `column_B`, `column_list`, or none."""

Reading = Literal["exact", "numbers", "statistics", "types"]
"""Which pandas types the expectation sees, see `validation.frames`."""

DOMAIN_KWARGS: Mapping[Domain, tuple[str, ...]] = {
    "column": ("column",),
    "pair": ("column_A", "column_B"),
    "columns": ("column_list",),
    "table": (),
}

IGNORE_ROW_IF: Mapping[Domain, tuple[str, ...]] = {
    "pair": ("both_values_are_missing", "either_value_is_missing", "neither"),
    "columns": ("all_values_are_missing", "any_value_is_missing", "never"),
}
"""The values of `ignore_row_if`; the first is Great Expectations' default."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The kwargs of an expectation, besides those of its columns."""

    level: Level
    domain: Domain
    reading: Reading
    required: frozenset[str]
    optional: frozenset[str]


_BOUNDS = "min_value max_value strict_min strict_max"
_CONDITION = "row_condition condition_parser"


def _row(domain: Domain = "column", required: str = "", optional: str = "", reading: Reading = "exact") -> Signature:
    ignoring = " ignore_row_if" if domain in IGNORE_ROW_IF else ""
    return _signature("row", domain, reading, required, f"{optional} mostly {_CONDITION}{ignoring}")


def _aggregate(required: str = "", optional: str = "") -> Signature:
    return _signature("table", "column", "statistics", required, f"{optional} {_CONDITION}")


def _table(required: str = "", optional: str = "") -> Signature:
    return _signature("table", "table", "statistics", required, optional)


def _sql(required: str, optional: str = "", domain: Domain = "column") -> Signature:
    return _signature("sql", domain, "exact", required, optional)


def _signature(level: Level, domain: Domain, reading: Reading, required: str, optional: str) -> Signature:
    return Signature(level, domain, reading, frozenset(required.split()), frozenset(optional.split()))


EXPECTATIONS: Mapping[str, Signature] = {
    # A verdict a row.
    "expect_column_values_to_not_be_null": _row(),
    "expect_column_values_to_be_null": _row(),
    "expect_column_values_to_be_between": _row(optional=_BOUNDS, reading="numbers"),
    "expect_column_values_to_be_in_set": _row(required="value_set", reading="numbers"),
    "expect_column_values_to_not_be_in_set": _row(required="value_set", reading="numbers"),
    "expect_column_values_to_match_regex": _row(optional="regex"),
    "expect_column_values_to_not_match_regex": _row(required="regex"),
    "expect_column_values_to_match_regex_list": _row(required="regex_list", optional="match_on"),
    "expect_column_values_to_not_match_regex_list": _row(required="regex_list"),
    "expect_column_value_lengths_to_be_between": _row(optional=_BOUNDS),
    "expect_column_value_lengths_to_equal": _row(required="value"),
    "expect_column_values_to_be_of_type": _row(required="type_", reading="types"),
    "expect_column_values_to_be_in_type_list": _row(optional="type_list", reading="types"),
    "expect_column_values_to_be_unique": _row(),
    "expect_column_values_to_be_increasing": _row(optional="strictly", reading="statistics"),
    "expect_column_values_to_be_decreasing": _row(optional="strictly", reading="statistics"),
    "expect_column_values_to_be_dateutil_parseable": _row(),
    "expect_column_values_to_match_strftime_format": _row(required="strftime_format"),
    "expect_column_values_to_be_json_parseable": _row(),
    "expect_column_values_to_match_json_schema": _row(required="json_schema"),
    "expect_column_value_z_scores_to_be_less_than": _row(required="threshold double_sided", reading="statistics"),
    "expect_column_values_to_not_be_outliers": _row(optional="method multiplier", reading="statistics"),
    "expect_column_pair_values_a_to_be_greater_than_b": _row("pair", optional="or_equal"),
    "expect_column_pair_values_to_be_equal": _row("pair"),
    "expect_column_pair_values_to_be_in_set": _row("pair", required="value_pairs_set", reading="numbers"),
    "expect_compound_columns_to_be_unique": _row("columns"),
    "expect_select_column_values_to_be_unique_within_record": _row("columns"),
    "expect_multicolumn_values_to_be_equal": _row("columns"),
    "expect_multicolumn_sum_to_equal": _row("columns", required="sum_total", reading="numbers"),
    # One verdict for many rows.
    "expect_column_distinct_values_to_be_in_set": _aggregate("value_set"),
    "expect_column_distinct_values_to_contain_set": _aggregate("value_set"),
    "expect_column_distinct_values_to_equal_set": _aggregate("value_set"),
    "expect_column_most_common_value_to_be_in_set": _aggregate("value_set", "ties_okay"),
    "expect_column_kl_divergence_to_be_less_than": _aggregate(
        optional="partition_object threshold internal_weight_holdout tail_weight_holdout bucketize_data "
        "min_value max_value"
    ),
    "expect_column_max_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_mean_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_median_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_min_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_stdev_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_sum_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_unique_value_count_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_proportion_of_unique_values_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_proportion_of_non_null_values_to_be_between": _aggregate(optional=_BOUNDS),
    "expect_column_quantile_values_to_be_between": _aggregate("quantile_ranges", "allow_relative_error"),
    "expect_column_to_exist": _signature("table", "column", "exact", "", "column_index"),
    "expect_column_type_to_be": _signature("table", "column", "types", "type_", ""),
    "expect_table_row_count_to_be_between": _table(optional=f"{_BOUNDS} {_CONDITION}"),
    "expect_table_row_count_to_equal": _table("value", _CONDITION),
    "expect_table_column_count_to_be_between": _table(optional="min_value max_value"),
    "expect_table_column_count_to_equal": _table("value"),
    "expect_table_columns_to_match_ordered_list": _table(optional="column_list"),
    "expect_table_columns_to_match_set": _table(optional="column_set exact_match"),
    # On a database only.
    "expect_column_values_to_match_like_pattern": _sql("like_pattern", "escape"),
    "expect_column_values_to_match_like_pattern_list": _sql("like_pattern_list", "match_on escape"),
    "expect_column_values_to_not_match_like_pattern": _sql("like_pattern", "escape"),
    "expect_column_values_to_not_match_like_pattern_list": _sql("like_pattern_list", "escape"),
    "expect_query_results_to_match_comparison": _sql(
        "base_query comparison_data_source_name comparison_query", domain="table"
    ),
    "expect_table_row_count_to_equal_other_table": _sql("other_table_name", domain="table"),
    "unexpected_rows_expectation": _sql("unexpected_rows_query", domain="table"),
}
