"""What a source connector sends again, after it died before it stored its position, stands once in the lake."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from connectors.table import Column
from stores.history import change_properties, feature_properties
from stores.rows import rows_schema
from streams.changes import changes_schema
from streams.decide import changes_table, features_table
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.unit.test_truncate import Member
from tests.worker_platform import CUSTOMER, ORDER, P0, Platform, UnreliableLake

FIRST = [
    (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
    (key(2), envelope("c", row(2, "bob", 2.0), lsn=11)),
    (key(1), envelope("u", row(1, "ann", 3.0), before=row(1, "ann", 1.0), lsn=12)),
    (key(2), envelope("d", None, before=row(2, "bob", 2.0), lsn=13)),
]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def changes(platform: Platform) -> list[tuple[Any, ...]]:
    held = platform.lake.scan(changes_table(TOPIC), ["_lsn", "id", "_op"]).read_all().to_pylist()
    return sorted(tuple(change.values()) for change in held)


ONCE = [(10, 1, "c"), (11, 2, "c"), (12, 1, "u"), (13, 2, "d")]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("again", [slice(0, 4), slice(2, 4), slice(3, 4)])
def test_the_same_worker_drops_what_comes_again(platform: Platform, again: slice, flushed: bool) -> None:
    worker = Member(platform, P0)
    platform.produce(*FIRST)
    worker.take()
    if flushed:
        worker.flush()
    platform.produce(*FIRST[again])
    worker.finish()
    assert changes(platform) == ONCE
    assert (platform.order(1), platform.order(2), platform.customer("ann")) == (3.0, None, 3.0)


@pytest.mark.parametrize("again", [slice(0, 4), slice(2, 4), slice(3, 4)])
def test_another_worker_drops_it_too(platform: Platform, again: slice) -> None:
    platform.produce(*FIRST)
    Member(platform, P0).finish()
    platform.produce(*FIRST[again], (key(3), envelope("c", row(3, "cleo", 4.0), lsn=14)))
    Member(platform, P0).finish()
    assert changes(platform) == [*ONCE, (14, 3, "c")]
    assert (platform.order(2), platform.order(3)) == (None, 4.0)


def test_copies_in_one_poll_with_their_originals(platform: Platform) -> None:
    platform.produce(*FIRST, FIRST[3], *FIRST)
    Member(platform, P0).finish()
    assert changes(platform) == ONCE


def test_an_old_change_alone_does_not_win_in_an_event_view(platform: Platform) -> None:
    back = envelope("u", row(1, "ann", 3.0, placed_at="2023-01-01T00:00:00Z"), before=row(1, "ann", 1.0), lsn=12)
    other = envelope("c", row(5, "ann", 5.0, placed_at="2023-06-01T00:00:00Z"), lsn=15)
    platform.produce(FIRST[0], (key(1), back), (key(5), other))
    worker = Member(platform, P0)
    worker.finish()
    assert platform.customer("ann") == 5.0
    platform.produce(FIRST[0])
    worker.finish()
    assert platform.customer("ann") == 5.0


def test_rows_that_share_an_lsn_are_all_taken(platform: Platform) -> None:
    """A key change is a delete and a create at one LSN; the rows of one COPY share theirs."""
    same = [(key(i), envelope("c", row(i), lsn=20)) for i in range(1, 5)]
    worker = Member(platform, P0)
    platform.produce(*same[:2])
    worker.take()
    platform.produce(*same[1:])
    worker.finish()
    platform.produce(*same)
    Member(platform, P0).finish()
    assert changes(platform) == [(20, i, "c") for i in range(1, 5)]


def test_rows_that_share_an_lsn_are_told_apart_by_an_array_too(platform: Platform) -> None:
    marks = Column("marks", "integer[]", pa.list_(pa.int32()), "array", nullable=False, element="plain")
    table = replace(ORDERS, columns=(*ORDERS.columns, marks), primary_key=("marks",))
    views = tuple(replace(view, table=table) for view in platform.flow.views)
    platform.flow = replace(platform.flow, table=table, views=views)
    platform.lake = UnreliableLake()
    platform.lake.create(changes_table(TOPIC), changes_schema(table), change_properties(TOPIC, ("marks",)))
    for view in (ORDER, CUSTOMER):
        platform.lake.create(features_table(view.name), rows_schema(view), feature_properties(view, TOPIC))
    same = [(orjson.dumps({"marks": [i, i]}), envelope("c", {**row(i), "marks": [i, i]}, lsn=20)) for i in range(1, 5)]
    worker = Member(platform, P0)
    platform.produce(*same[:2])
    worker.take()
    platform.produce(*same[1:])
    worker.finish()
    assert changes(platform) == [(20, i, "c") for i in range(1, 5)]


def test_a_change_of_key_that_comes_again_is_dropped_though_debezium_gives_it_headers(platform: Platform) -> None:
    moved = [
        (key(1), envelope("d", None, before=row(1, "ann", 1.0), lsn=12), {"__debezium.newkey": key(7)}),
        (key(7), envelope("c", row(7, "ann", 1.0), lsn=12), {"__debezium.oldkey": key(1)}),
    ]
    platform.produce(FIRST[0])
    worker = Member(platform, P0)
    for record in (*moved, *moved):
        platform.broker.append(P0, *record)
    platform.produce((key(3), envelope("c", row(3, "cleo", 4.0), lsn=14)))
    for record in moved:
        platform.broker.append(P0, *record)
    worker.finish()
    assert changes(platform) == [(10, 1, "c"), (12, 1, "d"), (12, 7, "c"), (14, 3, "c")]
    assert (platform.order(1), platform.order(7)) == (None, 1.0)
