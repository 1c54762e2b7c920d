"""Backfills: a view's rows from the changes that the lake holds, once, whoever else is at it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stores.lake import Snapshot
from streams import backfill as module
from streams.backfill import AnotherBackfill, AppliedMeanwhile, Backfill, Window
from streams.changes import contract_schema
from streams.decide import changes_table, features_table
from streams.pipeline import Flow
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.worker_platform import CUSTOMER, ORDER, Platform
from validation.contract import load

ALL = Window()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def backfill(platform: Platform, view: str = CUSTOMER.name, window: Window = ALL) -> dict[str, int]:
    """Fill a view, by default the event view, which nothing was ever streamed into."""
    job = Backfill({TOPIC: platform.flow}, platform.lake, platform.online, lambda outcome, made: outcome)
    return job.run([view], window, lambda view, share: None)[view]


def streamed_without_the_view(platform: Platform) -> None:
    both = platform.flow.views
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both[:1])
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(2), envelope("c", row(2, "bob", 2.0), lsn=11)),
        (key(2), envelope("u", row(2, None, 3.0), before=row(2, "bob", 2.0), lsn=12)),
    )
    platform.run()
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both)


def test_a_row_that_left_its_entity_for_none_is_gone_from_it(platform: Platform) -> None:
    streamed_without_the_view(platform)
    backfill(platform)
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, None)


def test_what_was_unique_when_it_came_is_not_judged_by_other_times(platform: Platform, tmp_path: Path) -> None:
    unique = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "customer"}, "severity": "critical"}
    contract = tmp_path / "unique.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [unique], "meta": {}}))
    both = platform.flow.views
    platform.flow = Flow(ORDERS, load(contract, contract_schema(ORDERS)), both[:1])
    for record in (
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(1), envelope("d", None, before=row(1, "ann", 1.0), lsn=11)),
        (key(2), envelope("c", row(2, "ann", 2.0), lsn=12)),
    ):
        platform.produce(record)
        platform.run()
    assert (platform.order(2), platform.letters()) == (2.0, [])
    platform.flow = replace(platform.flow, views=both)
    assert (backfill(platform)["rejected"], platform.customer("ann")) == (0, 2.0)


@pytest.mark.parametrize("looks", range(4))
def test_it_ends_where_something_else_is_applied_meanwhile(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Before each part, of the lake and of the online store, and at its end."""
    monkeypatch.setattr(module, "CHUNK", 2)
    streamed_without_the_view(platform)
    held = [True] * looks

    def holds() -> bool:
        return held.pop() if held else False

    job = Backfill({TOPIC: platform.flow}, platform.lake, platform.online, lambda outcome, made: outcome, holds)
    with pytest.raises(AppliedMeanwhile, match="Run this again"):
        job.run([CUSTOMER.name], ALL, lambda view, share: None)
    assert held == []
    assert platform.lake.snapshot(features_table(CUSTOMER.name)).rows().read_all().num_rows == [0, 2, 3, 3][looks]
    assert backfill(platform)["rows_added"] == [3, 1, 0, 0][looks]
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, None)


def test_two_at_once_add_no_row_twice(platform: Platform) -> None:
    streamed_without_the_view(platform)
    append = platform.lake.append_once

    def late(name: str, rows: pa.Table, job: str, number: int) -> bool:
        platform.lake.append_once = append  # type: ignore[method-assign]
        backfill(platform)
        return append(name, rows, job, number)

    platform.lake.append_once = late  # type: ignore[method-assign]
    with pytest.raises(AnotherBackfill, match="customer_last"):
        backfill(platform)
    rows = platform.lake.scan(features_table(CUSTOMER.name)).read_all()
    assert sorted(zip(rows["_lsn"].to_pylist(), rows["_deleted"].to_pylist(), strict=True)) == [
        (10, False),
        (11, False),
        (12, True),
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, tuple[str, ...] | None]]:
    """How many rows are read of a table's columns, None standing for all."""
    read: Counter[tuple[str, tuple[str, ...] | None]] = Counter()
    rows = Snapshot.rows

    def counted(self: Snapshot, columns: list[str] | None = None, *given: Any, **named: Any) -> pa.RecordBatchReader:
        found = rows(self, columns, *given, **named).read_all()
        read[self.name, None if columns is None else tuple(columns)] += found.num_rows
        return found.to_reader()

    monkeypatch.setattr(Snapshot, "rows", counted)
    return read


def at(hour: int) -> int:
    """The commit time of that hour of 2026-01-01, in microseconds."""
    return (int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) + 3_600 * hour) * 1_000_000


def test_a_complete_view_costs_the_places_of_the_window_alone(
    platform: Platform, read: Counter[tuple[str, tuple[str, ...] | None]]
) -> None:
    platform.produce(*((key(i), envelope("c", row(i), lsn=i, ts_us=at(i))) for i in range(10)))
    platform.run()
    read.clear()
    report = backfill(platform, ORDER.name, Window(datetime(2026, 1, 1, 7)))
    assert (report["changes_read"], report["rows_added"], report["entities"]) == (3, 0, 3)
    changes, features = changes_table(TOPIC), features_table(ORDER.name)
    assert read == {
        (changes, ("_partition",)): 3,
        (changes, ("_partition", "_offset")): 3,
        (features, ("_partition", "_offset")): 3,
        (features, ("id",)): 3,
    }


def test_memory_holds_the_entities_not_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTITIES", 20_000)
    schema, held = pa.schema([pa.field("id", pa.int64(), nullable=False)]), []
    entities, versions = 10_000, 300
    before = pa.total_allocated_bytes()

    def rows() -> Iterator[pa.RecordBatch]:
        for _ in range(versions):
            held.append(pa.total_allocated_bytes() - before)
            yield pa.record_batch([pa.array(range(entities))], schema=schema)

    found = module._distinct(pa.RecordBatchReader.from_batches(schema, rows()))
    assert sorted(found["id"].to_pylist()) == list(range(entities))
    assert max(held) < entities * versions * 8 / 10


def test_tables_are_queried_by_what_fits_in_memory_not_chunk_by_chunk(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed_without_the_view(platform)
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(20, 60)))
    both = platform.flow.views
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both[:1])
    platform.run()
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both)
    queries: Counter[str] = Counter()

    def counted(name: str) -> None:
        query = getattr(module, name)

        def ask(*given: Any, **named: Any) -> pa.Table:
            queries[name] += 1
            return query(*given, **named)

        monkeypatch.setattr(module, name, ask)

    counted("before")
    counted("newest")
    monkeypatch.setattr(module, "CHUNK", 2)
    assert backfill(platform)["rows_added"] == 43
    assert queries == {"before": 1}
    assert backfill(platform, ORDER.name)["entities"] == 42
    assert queries["newest"] == 2  # the first tells how wide the rows are
    monkeypatch.setattr(module, "QUERY_BYTES", 1)
    assert backfill(platform, ORDER.name)["entities"] == 42
    assert queries["newest"] == 2 + 21
