"""What a contract sees of a batch."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.table import Column, Table
from streams.changes import carried, contract_schema
from streams.pipeline import Flow, take
from tests.envelopes import ORDERS, envelope, key, records, row
from validation import gx
from validation.contract import load
from validation.rule import Rule
from validation.window import Window


def flow(folder: Path, expectation: str, table: Table = ORDERS, **kwargs: object) -> Flow:
    return contract_flow(folder, (expectation, kwargs), table=table)


def contract_flow(folder: Path, *expectations: tuple[str, dict[str, Any]], table: Table = ORDERS) -> Flow:
    path = folder / "public.orders.json"
    rules = [{"type": name, "kwargs": kwargs, "severity": "critical", "meta": {}} for name, kwargs in expectations]
    path.write_text(json.dumps({"name": "orders", "expectations": rules, "meta": {}}))
    return Flow(table, load(path, contract_schema(table)), ())


def test_two_changes_of_one_row_are_no_duplicates(tmp_path: Path) -> None:
    unique = flow(tmp_path, "expect_column_values_to_be_unique", column="customer")
    outcome = take(
        records(
            (key(1), envelope("c", row(1, "ann"), lsn=1)),
            (key(1), envelope("u", row(1, "ann"), lsn=2)),
            (key(2), envelope("c", row(2, "bob"), lsn=3)),
            (key(3), envelope("c", row(3, "bob"), lsn=4)),
        ),
        unique,
        100_000,
    )
    assert [rejection.position for rejection in outcome.rejections] == [2, 3]


def test_two_changes_of_one_row_are_no_duplicates_whatever_its_key_is_made_of(tmp_path: Path) -> None:
    marks = Column("marks", "integer[]", pa.list_(pa.int32()), "array", nullable=False, element="plain")
    table = replace(ORDERS, columns=(*ORDERS.columns, marks), primary_key=("marks",))
    unique = flow(tmp_path, "expect_column_values_to_be_unique", table, column="customer")
    changed = [{**row(1, "ann"), "marks": [1, 2]}, {**row(2, "ann"), "marks": [1, 2]}, {**row(3, "ann"), "marks": [1]}]
    given = records(*((None, envelope("u", image, lsn=i)) for i, image in enumerate(changed)))
    assert [rejection.position for rejection in take(given, unique, 100_000).rejections] == [0, 2]


def test_only_rules_across_rows_are_judged_change_by_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Great Expectations takes milliseconds for each call, and one row may change thousands of times in a poll."""
    both = contract_flow(
        tmp_path,
        ("expect_column_values_to_be_unique", {"column": "customer"}),
        ("expect_column_values_to_match_regex_list", {"column": "customer", "regex_list": ["^a"]}),
    )
    judged: list[tuple[int, int]] = []
    failing = gx.failing

    def counted(rules: Sequence[Rule], table: pa.Table) -> list[gx.Failing]:
        judged.append((len(rules), table.num_rows))
        return failing(rules, table)

    monkeypatch.setattr(gx, "failing", counted)
    names = ["ann", "bob"] * 20
    given = records(*((key(1), envelope("u", row(1, name), lsn=i)) for i, name in enumerate(names)))
    outcome = take(given, both, 100_000)
    assert [rejection.position for rejection in outcome.rejections] == list(range(1, 40, 2))
    assert judged == [(1, 40)]


ACROSS = {"row_condition": "amount > 1", "condition_parser": "pandas"}


@pytest.mark.parametrize("seed", range(6))
def test_rounds_give_the_verdicts_of_the_rounds_one_by_one(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    judged = contract_flow(
        tmp_path,
        ("expect_column_values_to_match_regex_list", {"column": "customer", "regex_list": ["^[ab]"]}),
        ("expect_column_values_to_be_unique", {"column": "customer"}),
        ("expect_column_values_to_not_be_null", {"column": "amount"}),
        ("expect_column_values_to_be_unique", {"column": "customer", **ACROSS}),
        *(
            ("expect_compound_columns_to_be_unique", {"column_list": ["customer", "amount"], "ignore_row_if": ignore})
            for ignore in ("all_values_are_missing", "any_value_is_missing", "never")
        ),
        ("expect_compound_columns_to_be_unique", {"column_list": ["customer", "amount"], **ACROSS}),
        ("expect_column_values_to_be_increasing", {"column": "amount"}),
        ("expect_column_values_to_not_be_null", {"column": "customer", **ACROSS}),
    ).contract
    rows = random.randrange(1, 40)
    drawn = {
        "customer": [random.choice(["ann", "bob", "cyd", None]) for _ in range(rows)],
        "amount": [random.choice([0.0, 1.0, 2.0, 3.0, None]) for _ in range(rows)],
    }
    table = pa.table([drawn.get(f.name, [1] * rows) for f in judged.schema], schema=judged.schema)
    turns = np.array([random.randrange(8) ** 2 // 7 for _ in range(rows)])
    rounds = [np.flatnonzero(turns == turn) for turn in np.unique(turns)]
    together = judged.check(table, rounds).critical()
    one_by_one = {}
    for positions in rounds:
        for i, reasons in judged.check(table.take(positions)).critical().items():
            one_by_one[int(positions[i])] = reasons
    assert together == one_by_one


def test_a_delete_brings_no_values_to_check(tmp_path: Path) -> None:
    strict = flow(tmp_path, "expect_column_values_to_not_be_null", column="customer")
    outcome = take(records((key(1), envelope("d", None, before={"id": 1}, lsn=1))), strict, 100_000)
    assert not outcome.rejections and len(outcome.accepted.changes) == 1


def test_the_columns_that_a_contract_counts_are_the_tables_own(tmp_path: Path) -> None:
    counted = flow(tmp_path, "expect_table_column_count_to_equal", value=len(carried(ORDERS)))
    outcome = take(records((key(1), envelope("c", row(1, "ann"), lsn=1))), counted, 100_000)
    window = Window(counted.contract, 100, 60.0)
    window.add(outcome.accepted.changes.rows)
    assert [judged.success for judged in window.close()] == [True]
