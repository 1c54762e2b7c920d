"""The row condition of a rule by itself: whether it can be evaluated, whatever the rule makes of the rows it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from validation.catalogue import EXPECTATIONS, Reading
from validation.rule import Rule

CONDITION = ("row_condition", "condition_parser")
"""The kwargs that make it."""

_NEVER_RAISING: Mapping[Reading, tuple[str, Mapping[str, Any]]] = {
    "exact": ("expect_column_values_to_not_be_null", {}),
    "numbers": ("expect_column_values_to_be_in_set", {"value_set": []}),
    "statistics": ("expect_table_row_count_to_be_between", {"min_value": 0}),
    "types": ("expect_column_values_to_be_in_type_list", {}),
}
"""An expectation of each reading that raises nothing of its own: what a condition sees depends on the reading."""


def alone(rule: Rule, columns: Sequence[str]) -> Rule:
    """A rule that raises over rows of these columns what the condition of `rule` raises; its verdicts mean nothing."""
    expectation, any_verdict = _NEVER_RAISING[EXPECTATIONS[rule.expectation].reading]
    column = {"column": columns[0]} if EXPECTATIONS[expectation].domain == "column" else {}
    condition = {key: rule.kwargs[key] for key in CONDITION if rule.kwargs.get(key) is not None}
    kwargs = {**column, **any_verdict, **condition}
    return replace(rule, expectation=expectation, columns=tuple(column.values()), kwargs=kwargs)
