"""Windows for table-level rules."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.settings import WorkerYaml
from validation.contract import Contract, load
from validation.window import Window

DEFAULTS = WorkerYaml()
SCHEMA = pa.schema([("origin", pa.string()), ("temp", pa.float64()), ("wind_dir", pa.int64())])


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(
    contract: Contract,
    rows: int = DEFAULTS.window_rows,
    seconds: float = DEFAULTS.window_seconds,
    clock: Callable[[], float] = time.monotonic,
) -> Window:
    return Window(contract, rows, seconds, clock)


def contract(tmp_path: Path, *expectations: tuple[str, dict[str, Any]], verify: bool = True) -> Contract:
    path = tmp_path / "public.weather.json"
    entries = [{"type": f"expect_{name}", "kwargs": kwargs} for name, kwargs in expectations]
    path.write_text(json.dumps({"name": "public.weather", "expectations": entries}))
    return load(path, SCHEMA, verify=verify)


def batch(*temps: float | None) -> pa.Table:
    rows = len(temps)
    return pa.table(
        {"origin": ["EWR"] * rows, "temp": pa.array(temps, pa.float64()), "wind_dir": pa.nulls(rows, pa.int64())}
    )


ROWS = ("table_row_count_to_be_between", {"min_value": 3})
MEAN = ("column_mean_to_be_between", {"column": "temp", "min_value": 0, "max_value": 10})


def test_table_rules_are_evaluated_over_all_batches_of_a_window(tmp_path: Path) -> None:
    window = opened(contract(tmp_path, ROWS, MEAN))
    window.add(batch(1.0, 2.0))
    window.add(batch(None, 60.0))
    rows, mean = window.close()
    assert (rows.success, rows.observed, rows.rows, rows.error) == (True, 4, 4, None)
    assert (mean.success, mean.observed, mean.rule.columns) == (False, 21.0, ("temp",))


def test_a_window_starts_anew_after_it_closed(tmp_path: Path) -> None:
    window = opened(contract(tmp_path, ROWS))
    window.add(batch(1.0, 2.0, 3.0))
    assert [outcome.success for outcome in window.close()] == [True]
    window.add(batch(1.0))
    assert [(outcome.success, outcome.observed) for outcome in window.close()] == [(False, 1)]
    assert window.close() == []


def test_due_after_seconds_since_the_first_row(tmp_path: Path) -> None:
    clock = Clock()
    window = opened(contract(tmp_path, ROWS), seconds=60.0, clock=clock)
    clock.now = 100.0
    assert not window.due
    window.add(batch())
    assert not window.due
    window.add(batch(1.0))
    clock.now = 159.9
    assert not window.due
    clock.now = 160.0
    assert window.due


def test_memory_is_bounded_by_rows(tmp_path: Path) -> None:
    window = opened(contract(tmp_path, ROWS), rows=3)
    window.add(batch(1.0, 2.0))
    assert not window.due
    window.add(batch(3.0, 4.0))
    window.add(batch(5.0))
    assert window.due
    (outcome,) = window.close()  # type: ignore[unreachable]  # what is due changes by what is added
    assert outcome.rows == 3


def test_an_expectation_that_cannot_be_evaluated_is_an_error_not_a_pass(tmp_path: Path) -> None:
    rule = ("column_mean_to_be_between", {"column": "origin", "min_value": 0})
    window = opened(contract(tmp_path, rule, verify=False))
    window.add(batch(1.0))
    (outcome,) = window.close()
    assert not outcome.success
    assert outcome.error


def test_without_table_rules_nothing_is_kept(tmp_path: Path) -> None:
    window = opened(contract(tmp_path, ("column_values_to_not_be_null", {"column": "temp"})), seconds=0.0)
    window.add(batch(1.0))
    assert not window.due
    assert window.close() == []


def test_a_rule_on_the_columns_of_the_table_sees_them_all(tmp_path: Path) -> None:
    rule = ("table_columns_to_match_set", {"column_set": ["origin", "temp", "wind_dir"]})
    window = opened(contract(tmp_path, rule))
    window.add(batch(1.0).append_column("_lsn", pa.array([1])))
    assert [outcome.success for outcome in window.close()] == [True]


@pytest.mark.parametrize("ceiling", [1, 2])
def test_a_row_condition_may_name_any_column(tmp_path: Path, ceiling: int) -> None:
    kwargs = {"max_value": ceiling, "row_condition": "temp > 5", "condition_parser": "pandas"}
    window = opened(contract(tmp_path, ("table_row_count_to_be_between", kwargs)))
    window.add(batch(1.0, 7.0, 8.0))
    assert [outcome.success for outcome in window.close()] == [ceiling == 2]


@pytest.mark.parametrize(
    ("column", "index", "success"), [("wind_dir", 2, True), ("wind_dir", 1, False), ("temp", 1, True)]
)
def test_a_column_stands_where_the_table_has_it(tmp_path: Path, column: str, index: int, success: bool) -> None:
    window = opened(contract(tmp_path, ("column_to_exist", {"column": column, "column_index": index})))
    window.add(batch(1.0).append_column("_lsn", pa.array([1])))
    assert [outcome.success for outcome in window.close()] == [success]
