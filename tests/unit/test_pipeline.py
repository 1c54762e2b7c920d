"""What a contract sees of a batch."""

import json
from pathlib import Path

from streams.changes import changes_schema
from streams.pipeline import Flow, take
from tests.envelopes import ORDERS, envelope, key, records, row
from validation.contract import load


def flow(folder: Path, expectation: str, **kwargs: object) -> Flow:
    path = folder / "public.orders.json"
    rule = {"type": expectation, "kwargs": kwargs, "severity": "critical", "meta": {}}
    path.write_text(json.dumps({"name": "orders", "expectations": [rule], "meta": {}}))
    return Flow(ORDERS, load(path, changes_schema(ORDERS)), ())


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


def test_a_delete_brings_no_values_to_check(tmp_path: Path) -> None:
    strict = flow(tmp_path, "expect_column_values_to_not_be_null", column="customer")
    outcome = take(records((key(1), envelope("d", None, before={"id": 1}, lsn=1))), strict, 100_000)
    assert not outcome.rejections and len(outcome.accepted.changes) == 1
