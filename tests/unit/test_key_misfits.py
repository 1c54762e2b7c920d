"""A row whose join key does not fit the view for a while: it is deleted, and comes back, where the view had it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stores.history import change_properties, feature_properties, newest
from stores.rows import rows_schema
from streams.backfill import Backfill, Window
from streams.changes import changes_schema
from streams.decide import changes_table, features_table
from streams.pipeline import Flow
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.worker_platform import ORDER, Platform, UnreliableLake, view
from validation.contract import load

BIG = 3_000_000_000
BUYER = view("event", "buyer_last", "customer", 3, pa.int32())
TABLE = replace(
    ORDERS,
    columns=tuple(
        replace(column, sql_type="bigint", arrow_type=pa.int64(), toastable=False)
        if column.name == "customer"
        else column
        for column in ORDERS.columns
    ),
)
Record = tuple[bytes, bytes]

CREATED = (key(1), envelope("c", row(1, 5, 1.0), lsn=10))
MISFIT = (key(1), envelope("u", row(1, BIG, 2.0), before=row(1, 5, 1.0), lsn=20))
MISFIT_AGAIN = (key(1), envelope("u", row(1, BIG + 1, 2.0), before=row(1, BIG, 2.0), lsn=21))
DELETED = (key(1), envelope("d", None, before=row(1, BIG + 1, 2.0), lsn=30))
MOVED = (key(1), envelope("u", row(1, 6, 3.0), before=row(1, BIG + 1, 2.0), lsn=30))
CORRECTED = (key(1), envelope("u", row(1, 5, 3.0), before=row(1, BIG + 1, 2.0), lsn=30))

ENDS = pytest.mark.parametrize(
    ("last", "at_5", "at_6"), [(DELETED, None, None), (MOVED, None, 3.0), (CORRECTED, 3.0, None)]
)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    platform = Platform(tmp_path)
    platform.lake = UnreliableLake()
    platform.lake.create(changes_table(TOPIC), changes_schema(TABLE), change_properties(TOPIC, ("id",)))
    for each in (ORDER, BUYER):
        platform.lake.create(features_table(each.name), rows_schema(each), feature_properties(each, TOPIC))
    contract = load(tmp_path / "public.orders.json", changes_schema(TABLE))
    platform.flow = Flow(TABLE, contract, (StreamView(ORDER, TABLE), StreamView(BUYER, TABLE, "placed_at")))
    return platform


def buyer(platform: Platform, name: int) -> Any:
    return platform._read(BUYER, pa.table({"customer": pa.array([name], pa.int32())}))


def in_lake(platform: Platform) -> dict[int, float]:
    rows = newest(platform.lake, BUYER)
    return dict(zip(rows["customer"].to_pylist(), rows["amount"].to_pylist(), strict=True))


def check(platform: Platform, at_5: float | None, at_6: float | None) -> None:
    assert (buyer(platform, 5), buyer(platform, 6)) == (at_5, at_6)
    assert in_lake(platform) == {name: value for name, value in ((5, at_5), (6, at_6)) if value is not None}
    rows = platform.lake.scan(features_table(BUYER.name), ["customer", "_lsn", "_deleted"]).read_all().to_pylist()
    moved_on = any(found["customer"] == 5 for found in rows) and at_5 is None
    assert ({"customer": 5, "_lsn": 30, "_deleted": True} in rows) == moved_on


@ENDS
@pytest.mark.parametrize("polls", [1, 4])
def test_a_worker_takes_what_follows_on_a_change_whose_key_did_not_fit(
    platform: Platform, polls: int, last: Record, at_5: float | None, at_6: float | None
) -> None:
    records = [CREATED, MISFIT, MISFIT_AGAIN, last]
    for start in range(polls):
        platform.produce(*records[start::polls] if polls > 1 else records)
        platform.run()
    assert [letter.offset for letter in platform.letters()] == [1, 2]
    assert [lsn for lsn, _ in platform.changes()] == [10, 30]
    check(platform, at_5, at_6)


@ENDS
def test_a_backfill_takes_what_follows_on_a_change_whose_key_does_not_fit(
    platform: Platform, last: Record, at_5: float | None, at_6: float | None
) -> None:
    both = platform.flow
    platform.flow = replace(both, views=both.views[:1])
    platform.produce(CREATED, MISFIT, MISFIT_AGAIN, last)
    platform.run()
    platform.flow = both
    job = Backfill({TOPIC: both}, platform.lake, platform.online, lambda outcome, made: outcome)
    reports = [job.run([BUYER.name], Window(), lambda name, share: None)[BUYER.name] for _ in range(2)]
    assert [report["rejected"] for report in reports] == [2, 2]
    assert reports[1]["rows_added"] == 0
    check(platform, at_5, at_6)


def test_a_row_that_was_never_in_the_view_is_deleted_from_nowhere(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, BIG, 1.0), lsn=10)),
        (key(1), envelope("d", None, before=row(1, BIG, 1.0), lsn=20)),
    )
    platform.run()
    assert [letter.offset for letter in platform.letters()] == [0]
    assert platform.changes() == [(20, "d")]
    check(platform, None, None)
