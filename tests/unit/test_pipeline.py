"""What a contract sees of a batch."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from connectors.table import Column, Table
from streams.changes import carried, contract_schema
from streams.pipeline import Flow, take
from tests.envelopes import ORDERS, envelope, key, records, row
from validation.contract import load
from validation.window import Window


def flow(folder: Path, expectation: str, table: Table = ORDERS, **kwargs: object) -> Flow:
    path = folder / "public.orders.json"
    rule = {"type": expectation, "kwargs": kwargs, "severity": "critical", "meta": {}}
    path.write_text(json.dumps({"name": "orders", "expectations": [rule], "meta": {}}))
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


def test_a_delete_brings_no_values_to_check(tmp_path: Path) -> None:
    strict = flow(tmp_path, "expect_column_values_to_not_be_null", column="customer")
    outcome = take(records((key(1), envelope("d", None, before={"id": 1}, lsn=1))), strict, 100_000)
    assert not outcome.rejections and len(outcome.accepted.changes) == 1


def test_the_columns_that_a_contract_counts_are_the_tables_own(tmp_path: Path) -> None:
    counted = flow(tmp_path, "expect_table_column_count_to_equal", value=len(carried(ORDERS)))
    outcome = take(records((key(1), envelope("c", row(1, "ann"), lsn=1))), counted, 100_000)
    window = Window(counted.contract)
    window.add(outcome.accepted.changes.rows)
    assert [judged.success for judged in window.close()] == [True]
