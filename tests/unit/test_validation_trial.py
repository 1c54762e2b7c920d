"""Rules that Great Expectations evaluates are tried before they are applied."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from validation import gx
from validation.contract import Contract, load
from validation.errors import ContractError

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("amount", pa.decimal128(10, 2)),
        ("day", pa.date32()),
        ("local", pa.timestamp("us")),
        ("at", pa.timestamp("us", tz="UTC")),
        ("ok", pa.bool_()),
        ("temp", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("raw", pa.binary()),
        ("clock", pa.time64("us")),
        ("nanos", pa.timestamp("ns")),
    ]
)
PANDAS = {"condition_parser": "pandas"}
OURS = {"condition_parser": "great_expectations"}
Named = tuple[str, dict[str, Any]]


def contract(tmp_path: Path, *expectations: Named, verify: bool = True) -> Contract:
    path = tmp_path / "public.payments.json"
    entries = [{"type": f"expect_{name}", "kwargs": kwargs} for name, kwargs in expectations]
    path.write_text(json.dumps({"name": "public.payments", "expectations": entries}))
    return load(path, SCHEMA, verify=verify)


def not_null(condition: str, parser: dict[str, str] = PANDAS) -> Named:
    return "column_values_to_not_be_null", {"column": "id", "row_condition": condition} | parser


QUANTILES = {"quantiles": [0.5], "value_ranges": [[1, 3], [2]]}
NEVER: list[tuple[Named, str]] = [
    (not_null("nope > 3"), "its row_condition 'nope > 3' cannot be evaluated: name 'nope' is not defined"),
    (not_null("id >>> 3"), "invalid syntax"),
    (not_null("text.nope() == 1"), "nope"),
    (not_null("text > 5"), "'>' not supported"),
    (not_null('at > "2000-01-01"'), "Invalid comparison"),
    (not_null('day > "2000-01-01"'), "'>' not supported"),
    (not_null('col("at") > date("2000-01-01")', OURS), "Invalid comparison"),
    (("column_values_to_be_of_type", {"column": "id", "type_": "int", "row_condition": "nope > 3"} | PANDAS), "'nope'"),
    (("column_values_to_be_of_type", {"column": "nanos", "type_": "int"}), "judges the column as a whole"),
    (("table_row_count_to_equal", {"value": 1, "row_condition": "nope > 3"} | PANDAS), "name 'nope' is not defined"),
    (("column_values_to_be_increasing", {"column": "text"}), "unsupported operand"),
    (("column_value_z_scores_to_be_less_than", {"column": "text", "threshold": 1, "double_sided": True}), "numeric"),
    # These raise only on a batch of one row, or of nulls alone.
    (("column_value_z_scores_to_be_less_than", {"column": "day", "threshold": 3, "double_sided": True}), "Z-score"),
    (("column_value_z_scores_to_be_less_than", {"column": "local", "threshold": 3, "double_sided": True}), "Z-score"),
    (("column_value_z_scores_to_be_less_than", {"column": "at", "threshold": 3, "double_sided": False}), "Z-score"),
    (("column_values_to_match_regex_list", {"column": "text", "regex_list": ["("]}), "missing )"),
    (("column_values_to_match_json_schema", {"column": "text", "json_schema": {"type": "nope"}}), "'nope' is not"),
    (("multicolumn_sum_to_equal", {"column_list": ["id", "text"], "sum_total": 3}), "unsupported operand"),
    (("column_mean_to_be_between", {"column": "text", "min_value": 1}), "numeric"),
    (("column_max_to_be_between", {"column": "at", "min_value": 1}), "not supported between"),
    (("column_max_to_be_between", {"column": "local", "min_value": "2013-02-12"}), "Cannot compare Timestamp with"),
    (("column_quantile_values_to_be_between", {"column": "id", "quantile_ranges": QUANTILES}), "not enough values"),
    (("column_kl_divergence_to_be_less_than", {"column": "raw", "threshold": 0.1}), "cannot evaluate it"),
]


@pytest.mark.parametrize(("never", "reason"), NEVER, ids=[f"{name}-{kwargs}" for (name, kwargs), _ in NEVER])
def test_a_rule_that_can_never_be_evaluated_is_refused(tmp_path: Path, never: Named, reason: str) -> None:
    fine = ("column_values_to_be_json_parseable", {"column": "text"})
    with pytest.raises(ContractError) as raised:
        contract(tmp_path, fine, never, fine)
    assert (raised.value.index, raised.value.expectation) == (1, f"expect_{never[0]}")
    assert reason in raised.value.problem
    assert "\n" not in str(raised.value)


SOMETIMES: list[Named] = [
    not_null('text == "paid"'),
    not_null("text.str.split('-').str[2].astype('int') > 2"),
    not_null("text.astype('float') > 2.5"),
    not_null('local > "2000-01-01"'),
    not_null('day.astype("datetime64[us]") > "2000-01-01"'),
    not_null("ok == True and temp > 1 and amount > 1.5"),
    not_null('col("id") > 99', OURS),
    not_null('col("local") > date("2000-01-01")', OURS),
    ("column_values_to_be_of_type", {"column": "id", "type_": "int64", "row_condition": "temp > 1"} | PANDAS),
    ("column_values_to_be_in_type_list", {"column": "nanos", "type_list": ["datetime64[ns]", "int"]}),
    ("column_min_to_be_between", {"column": "temp", "min_value": 0, "row_condition": 'text == "paid"'} | PANDAS),
    ("column_max_to_be_between", {"column": "day", "min_value": "2000-01-01T00:00:00"}),
    ("column_max_to_be_between", {"column": "day", "min_value": "2000-01-01", "max_value": "2999-01-01"}),
    ("column_mean_to_be_between", {"column": "amount", "min_value": 0, "row_condition": "id > 99"} | PANDAS),
    ("column_value_z_scores_to_be_less_than", {"column": "temp", "threshold": 3, "double_sided": True}),
    ("column_values_to_not_be_outliers", {"column": "id", "method": "iqr", "multiplier": 1.5}),
    ("column_values_to_be_increasing", {"column": "day", "strictly": True}),
    ("column_values_to_be_dateutil_parseable", {"column": "text"}),
    ("column_values_to_match_json_schema", {"column": "text", "json_schema": {"type": "object", "required": ["a"]}}),
    ("column_values_to_match_regex_list", {"column": "text", "regex_list": ["^[a-z]+$", r"\d"], "match_on": "any"}),
    ("column_pair_values_to_be_in_set", {"column_A": "id", "column_B": "text", "value_pairs_set": [[1, "a"]]}),
    ("multicolumn_sum_to_equal", {"column_list": ["id", "amount", "temp"], "sum_total": 3}),
    ("select_column_values_to_be_unique_within_record", {"column_list": ["text", "id"]}),
    ("column_distinct_values_to_be_in_set", {"column": "text", "value_set": ["a"]}),
    ("column_most_common_value_to_be_in_set", {"column": "id", "value_set": [7]}),
    ("column_quantile_values_to_be_between",
     {"column": "amount", "quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[None, 5], [0, None]]}}),
    ("column_kl_divergence_to_be_less_than",
     {"column": "text", "threshold": 0.1, "partition_object": {"values": ["x", "y"], "weights": [0.5, 0.5]}}),
    ("column_stdev_to_be_between", {"column": "id", "max_value": 5}),
    ("column_proportion_of_unique_values_to_be_between", {"column": "at", "min_value": 0.1}),
    ("table_columns_to_match_set", {"column_set": ["id"]}),
    ("table_row_count_to_be_between", {"min_value": 1000}),
    ("column_to_exist", {"column": "id", "column_index": 5}),
    ("column_type_to_be", {"column": "id", "type_": "int64"}),
]  # fmt: skip


def test_rules_that_work_on_what_a_table_holds_are_taken(tmp_path: Path) -> None:
    """Of a table with nulls, with texts that the samples do not have, and with few rows."""
    texts = ["2013-02-12", "paid", "2.75", '{"a": 1}', "", None]
    rows = len(texts)
    held = {
        "id": [5, 5, 5, None, 5, 5],
        "amount": [Decimal("1.50"), None] * 3,
        "day": [date(2013, 2, 12), None] * 3,
        "local": [datetime(2013, 2, 12), None] * 3,
        "at": [datetime(2013, 2, 12, tzinfo=UTC), None] * 3,
        "ok": [True, None] * 3,
        "temp": [1.5] * rows,
    }
    held |= {field.name: [None] * rows for field in SCHEMA if field.name not in held}
    table = pa.table(held | {"text": texts}, schema=SCHEMA)
    made = contract(tmp_path, *SOMETIMES)
    rules = sorted([*made.rules, *made.table_rules], key=lambda rule: rule.index)
    wrong = {
        rule.index: error
        for rule, error in zip(rules, gx.errors(rules, table), strict=True)
        # What these raise hangs on the texts: each can be evaluated on a row of its own.
        if error and "astype" not in rule.detail and "json_schema" not in rule.detail
    }
    assert wrong == {}
