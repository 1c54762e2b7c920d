"""Snapshot rows in the order of changes, and what is reconciled after a snapshot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pytest

from connectors.snapshots import progress
from stores.asof import Join, asof
from stores.rows import TIMESTAMP
from streams.decide import features_table
from streams.letters import BASE as LETTER_BASE
from streams.letters import REPLAY_OF, replay
from streams.memory import MemoryProducer
from streams.reconcile import RECONCILED, Reconciled, reconcile, reconcile_earlier
from streams.snapshots import begin_first, begin_snapshot, snapshot_base, unreconciled
from streams.transform import transform
from tests.envelopes import TOPIC, base, envelope, key, row
from tests.worker_platform import P0, P1, Platform

BASE = 1_000


def read(after: dict[str, Any], lsn: int | None = None) -> bytes:
    """A row of a snapshot: of an incremental one without an LSN."""
    value = orjson.loads(envelope("r", after, lsn=lsn or 0))
    value["source"]["lsn"] = lsn
    value["source"]["snapshot"] = "incremental" if lsn is None else "true"
    return orjson.dumps(value)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = Platform(tmp_path)
    begin_snapshot(made.lake, TOPIC, base(BASE))
    return made


@pytest.mark.parametrize("lsn", [None, 1_500])
@pytest.mark.parametrize("many", [1, 300])
def test_a_snapshot_row_beats_what_was_before_its_base_and_nothing_after(
    platform: Platform, lsn: int | None, many: int
) -> None:
    """1,500 is where an initial snapshot stands whose slot became consistent while 1,008 was being written."""
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=992)))
    platform.produce((key(2), envelope("u", row(2, "bob", 2.0), lsn=1_008)))
    platform.produce((key(3), envelope("d", None, before=row(3, "cyd"), lsn=1_000)))
    platform.produce(*((key(i), read(row(i, f"s{i}", 9.0), lsn)) for i in range(1, 4 + many)))
    platform.run()
    assert [platform.order(i) for i in (1, 2, 3, 4)] == [9.0, 2.0, None, 9.0 if many > 0 else None]
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, 2.0)
    assert (BASE - 2, "r") in platform.changes()


def test_a_snapshot_row_that_comes_late_is_as_old_as_it_is(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 5.0), lsn=1_008)))
    platform.run()
    platform.produce((key(1), read(row(1, "ann", 1.0))), to=P1)
    platform.run()
    assert platform.order(1) == 5.0


def test_a_replayed_letter_of_an_earlier_snapshot_is_not_newer_than_it_was(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 5.0), lsn=500)))
    platform.run()
    for lsn in (None, 400):
        platform.broker.append(P0, key(1), read(row(1, "ann", 1.0), lsn), {REPLAY_OF: b"x/0/0"})
    platform.broker.append(P0, key(2), read(row(2, "bob", 2.0)), {REPLAY_OF: b"x/0/1"})
    platform.run()
    assert (platform.order(1), platform.order(2)) == (5.0, 2.0)


def amounts(platform: Platform, *lsns: int) -> list[float | None]:
    """What a training job finds of row 1's state view at the commit times of these LSNs."""
    times = pa.chunked_array([pa.array([1_700_000_000_000_000 + lsn for lsn in lsns], TIMESTAMP)])
    join = Join(features_table("order_now"), {"id": "entity"}, ("amount",))
    return asof(platform.lake, pa.table({"entity": [1] * len(lsns)}), times, join)["amount"].to_pylist()


@pytest.mark.parametrize("stage", ["contract", "schema"])
def test_a_replayed_letter_of_a_snapshot_row_counts_as_it_would_have(platform: Platform, stage: str) -> None:
    """A truncate and versions before the snapshot stay what they were; the row is served."""
    platform.produce((None, envelope("t", None, lsn=1)))
    platform.produce(*((key(1), envelope("u", row(1, "ann", float(lsn)), lsn=lsn)) for lsn in (8, 16, 24)))
    bad = orjson.loads(read(row(1, "ann", -1.0)))
    bad["source"]["ts_us"] += 900
    if stage == "schema":
        bad["after"]["amount"] = "much"
    platform.produce((key(1), orjson.dumps(bad)))
    platform.run()
    assert [letter.stage for letter in platform.letters()] == [stage]
    begin_snapshot(platform.lake, TOPIC, base(2 * BASE))
    platform.take_the_rule_back()
    letters = platform.letters()
    if stage == "schema":
        letters = [replace(letter, value=letter.value.replace(b'"much"', b"-1.0")) for letter in letters]
    replay(MemoryProducer(platform.broker), letters)
    platform.run()
    assert platform.order(1) == -1.0
    assert (BASE - 2, "r") in platform.changes()
    assert amounts(platform, 8, 17, 30, 901) == [8.0, 16.0, 24.0, -1.0]


def test_a_letter_of_a_replay_keeps_the_base_of_its_snapshot(platform: Platform) -> None:
    platform.produce((key(1), read(row(1, "ann", -1.0))))
    platform.run()
    begin_snapshot(platform.lake, TOPIC, base(2 * BASE))
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert [letter.headers[LETTER_BASE] for letter in platform.letters()] == [b"1000", b"1000"]


def test_a_snapshot_row_that_is_read_again_is_as_old_as_it_was(platform: Platform) -> None:
    """Row 1 was deleted after the first snapshot; after the second one the topic is read from its beginning."""
    platform.produce((key(1), read(row(1, "ann", 1.0))))
    platform.produce((key(1), envelope("d", None, before=row(1, "ann", 1.0), lsn=1_008)))
    platform.run()
    begin_snapshot(platform.lake, TOPIC, base(2 * BASE))
    platform.broker.offsets.clear()
    platform.run()
    assert (platform.order(1), platform.customer("ann")) == (None, None)
    assert platform.changes() == [(BASE - 2, "r"), (1_008, "d")]


def test_a_first_snapshot_that_is_under_way_keeps_its_base(platform: Platform) -> None:
    """Row 1 was read before it changed; the declarations were applied again before the worker came to it."""
    platform.produce((key(1), read(row(1, "ann", 1.0), 1_000)), (key(1), envelope("u", row(1, "ann", 2.0), lsn=1_008)))
    begin_first(platform.lake, TOPIC, base(2 * BASE), under_way=True)
    platform.run()
    assert platform.order(1) == 2.0
    assert snapshot_base(platform.lake, TOPIC) == BASE
    begin_first(platform.lake, TOPIC, base(2 * BASE), under_way=False)
    assert (snapshot_base(platform.lake, TOPIC), unreconciled(platform.lake, TOPIC)) == (2 * BASE, None)


def test_a_lake_without_the_table_has_nothing_unreconciled(platform: Platform) -> None:
    """An operator looks at the status of a platform whose lake was moved away."""
    assert unreconciled(platform.lake, TOPIC) == BASE
    assert unreconciled(platform.lake, "shop.public.gone") is None


def test_what_went_and_what_moved_unheard_is_reconciled_once(platform: Platform) -> None:
    """Row 1 moved from ann to bob, row 2 went, row 3 was read, rejected and stays, row 4 is newer than the base."""
    platform.produce(*((key(i), envelope("c", row(i, "ann", float(i)), lsn=8 * i)) for i in (1, 2, 3)))
    platform.produce((key(4), envelope("c", row(4, "cyd", 4.0), lsn=1_008)))
    platform.produce((key(1), read(row(1, "bob", 1.0))), (key(3), read(row(3, "ann", -1.0))))
    platform.run()
    assert platform.customer("ann") == 3.0
    present = pa.table({"id": pa.array([1, 3], pa.int64())})
    for expected in (Reconciled(1, 1), Reconciled(0, 0)):
        found = reconcile(platform.lake, MemoryProducer(platform.broker), platform.flow, present, BASE, "r-1")
        assert found == expected
        platform.run()
    assert [platform.order(i) for i in (1, 2, 3, 4)] == [1.0, None, 3.0, 4.0]
    assert (platform.customer("ann"), platform.customer("bob"), platform.customer("cyd")) == (3.0, 1.0, 4.0)
    sent = [record for p in (P0, P1) for record in platform.broker.log[p] if RECONCILED in record.headers]
    assert {record.key for record in sent} == {key(1), key(2)}


def test_an_entity_whose_only_row_moved_unheard_is_left(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=8)), (key(1), read(row(1, "bob", 1.0))))
    platform.run()
    assert platform.customer("ann") == 1.0
    present = pa.table({"id": pa.array([1], pa.int64())})
    reconcile(platform.lake, MemoryProducer(platform.broker), platform.flow, present, BASE, "r-1")
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob"), platform.order(1)) == (None, 1.0, 1.0)


def test_a_row_that_changed_unheard_and_is_dropped_by_a_view_leaves_it(platform: Platform) -> None:
    """Row 1 is dropped when the snapshot reads it, row 2 has changed and is not, row 3 is as it was."""

    def cheap(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["amount"] < 10]

    views = tuple(
        replace(v, transform=transform(v.view.name, cheap, "pandas", {name: kind, "amount": pa.float64()}))
        for v, (name, kind) in zip(platform.flow.views, (("id", pa.int64()), ("customer", pa.string())), strict=True)
    )
    platform.flow = replace(platform.flow, views=views)
    names = {1: "ann", 2: "bob", 3: "cyd"}
    platform.produce(*((key(i), envelope("c", row(i, names[i], float(i)), lsn=8 * i)) for i in names))
    now = {1: 11.0, 2: 7.0, 3: 3.0}
    platform.produce(*((key(i), read(row(i, names[i], now[i]))) for i in names))
    platform.run()
    present = pa.table({"id": pa.array(list(names), pa.int64())})
    found = reconcile(platform.lake, MemoryProducer(platform.broker), platform.flow, present, BASE, "r-1")
    assert found == Reconciled(0, 2)
    platform.run()
    assert [platform.order(i) for i in names] == [None, 7.0, 3.0]
    assert [platform.customer(name) for name in names.values()] == [None, 7.0, 3.0]


def test_what_an_unreconciled_snapshot_told_is_not_lost_to_the_next_one(platform: Platform) -> None:
    """The second one finds row 1 with bob, where the first one had found it already."""
    producer = MemoryProducer(platform.broker)
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=8)), (key(1), read(row(1, "bob", 1.0))))
    platform.run()
    assert platform.customer("ann") == 1.0
    assert reconcile_earlier(platform.lake, producer, platform.flow) == 1
    assert reconcile_earlier(platform.lake, producer, platform.flow) == 0
    begin_snapshot(platform.lake, TOPIC, base(2 * BASE))
    platform.produce((key(1), read(row(1, "bob", 1.0))))
    platform.run()
    present = pa.table({"id": pa.array([1], pa.int64())})
    assert reconcile(platform.lake, producer, platform.flow, present, 2 * BASE, "r-2") == Reconciled(0, 0)
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob"), platform.order(1)) == (None, 1.0, 1.0)
    assert reconcile_earlier(platform.lake, producer, platform.flow) == 0


def test_a_row_that_moved_beside_a_snapshot_is_known_from_then_on_and_not_from_its_end_on(platform: Platform) -> None:
    """A state view's versions count in the order of their LSNs: none counts before the one that it follows."""
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=8)))
    platform.produce((key(1), envelope("u", row(1, "bob", 2.0), lsn=1_008, before=row(1, "ann", 1.0))))
    platform.produce((key(1), read(row(1, "bob", 2.0))))
    platform.run()
    present = pa.table({"id": pa.array([1], pa.int64())})
    found = reconcile(platform.lake, MemoryProducer(platform.broker), platform.flow, present, BASE, "r-1")
    assert found == Reconciled(0, 1)
    platform.run()
    times = pa.chunked_array([pa.array([1_700_000_000_000_000 + 1_009], TIMESTAMP)])
    join = Join(features_table("order_now"), {"id": "entity"}, ("amount",))
    for known in (False, True):
        assert asof(platform.lake, pa.table({"entity": [1]}), times, join, known=known)["amount"].to_pylist() == [2.0]


@pytest.mark.parametrize("told", [b"x", b"", b"-1", b"9" * 30, None])
def test_a_letter_whose_base_nobody_knows_is_older_than_all(platform: Platform, told: bytes | None) -> None:
    """Headers are whatever somebody sends, null too."""
    headers: Any = {REPLAY_OF: b"elsewhere/0/0", LETTER_BASE: told}
    platform.broker.append(P0, key(1), read(row(1, "ann", 4.0)), headers)
    platform.run()
    assert (platform.order(1), platform.changes()) == (4.0, [(0, "r")])


def test_what_debezium_tells_of_a_snapshot() -> None:
    def note(type_: str, **data: str) -> bytes:
        return orjson.dumps(
            {"id": "m-1", "aggregate_type": "Incremental Snapshot", "type": type_, "additional_data": data}
        )

    scanned = note("TABLE_SCAN_COMPLETED", scanned_collection="public.t", total_rows_scanned="7", status="SUCCEEDED")
    told = progress([note("STARTED"), scanned, None], "Incremental Snapshot", "m-1")
    assert (told.started, told.finished, told.failed, told.rows) == (True, False, None, {"public.t": 7})
    assert progress([note("COMPLETED")], "Incremental Snapshot", "m-1").finished
    assert not progress([note("COMPLETED")], "Incremental Snapshot", "another").finished
    assert not progress([note("COMPLETED")], "Initial Snapshot", None).finished
    failed = note("TABLE_SCAN_COMPLETED", scanned_collection="public.t", status="NO_PRIMARY_KEY")
    assert progress([failed], "Incremental Snapshot", "m-1").failed == "public.t: NO_PRIMARY_KEY"
    assert (
        progress([note("STARTED"), note("IN_PROGRESS"), note("IN_PROGRESS")], "Incremental Snapshot", "m-1").chunks == 2
    )
    assert progress([note("ABORTED")], "Incremental Snapshot", "m-1").failed == "the snapshot was aborted"
