"""Truncates over several partitions and workers: at rest nothing older than a truncate is left, in any store."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.history import newest
from stores.lake import AppendResult
from stores.rows import FeatureRows, WriteResult
from streams.backfill import Backfill, Window
from streams.decide import changes_table, features_table
from streams.letters import REPLAY_OF
from streams.memory import MemoryConsumer
from streams.messages import Partition
from streams.worker import Worker
from tests.envelopes import TOPIC, envelope, key, row
from tests.worker_platform import (
    CUSTOMER,
    GROUP,
    ORDER,
    P0,
    P1,
    Killed,
    Platform,
    UnreliableLake,
    UnreliableOnline,
)

TABLES = (features_table("order_now"), features_table("customer_last"), changes_table(TOPIC))


@dataclass
class Member:
    """A worker that owns one partition, driven step by step; `start` again after it was killed."""

    platform: Platform
    partition: Partition
    worker: Worker = field(init=False)
    consumer: MemoryConsumer = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.worker, self.consumer = self.platform.joined()
        self.consumer.assign([self.partition])

    def take(self, limit: int = 100) -> None:
        """Read records: online at once, staged for the lake."""
        self.worker._members.go_on()
        if polled := self.consumer.poll(0, limit):
            self.worker._check_positions(polled)
            self.worker._take(polled)

    def flush(self) -> None:
        self.worker._flush_all()

    def finish(self) -> None:
        self.take()
        self.flush()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def members(platform: Platform) -> tuple[Member, Member]:
    return Member(platform, P0), Member(platform, P1)


def older_and_truncate(platform: Platform) -> None:
    """Two rows, and in the other partition the truncate that came after them."""
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)), (key(2), envelope("c", row(2, "bob", 2.0), lsn=11))
    )
    platform.produce((None, envelope("t", None, lsn=20)), to=P1)


def check_empty(platform: Platform) -> None:
    assert (platform.order(1), platform.order(2)) == (None, None)
    assert (platform.customer("ann"), platform.customer("bob")) == (None, None)
    assert not newest(platform.lake, ORDER).num_rows and not newest(platform.lake, CUSTOMER).num_rows


def test_rows_read_before_the_truncate_of_another_partition(platform: Platform) -> None:
    older_and_truncate(platform)
    rows, truncate = members(platform)
    rows.finish()
    assert platform.order(1) == 1.0
    truncate.finish()
    check_empty(platform)


def test_rows_read_after_the_truncate_was_flushed(platform: Platform) -> None:
    older_and_truncate(platform)
    rows, truncate = members(platform)
    truncate.finish()
    rows.finish()
    check_empty(platform)


def test_a_row_at_the_position_of_the_truncate_itself_does_not_end_the_worker(platform: Platform) -> None:
    """PostgreSQL makes none, whoever else writes to the topic may."""
    older_and_truncate(platform)
    platform.produce((key(1), envelope("u", row(1, "ann", 5.0), before=row(1, "ann", 1.0), lsn=20)))
    rows, truncate = members(platform)
    rows.finish()
    truncate.finish()
    assert (platform.order(2), platform.customer("bob")) == (None, None)
    assert (20, "u") in platform.changes()


def test_rows_that_are_staged_while_the_truncate_is_flushed(platform: Platform) -> None:
    older_and_truncate(platform)
    rows, truncate = members(platform)
    rows.take()
    truncate.finish()
    rows.flush()
    check_empty(platform)


def test_a_worker_that_knows_the_truncate_never_serves_older_rows(platform: Platform) -> None:
    older_and_truncate(platform)
    Member(platform, P1).finish()
    Member(platform, P0).take()
    assert (platform.order(1), platform.customer("ann")) == (None, None)


def test_rows_after_the_truncate_stay(platform: Platform) -> None:
    older_and_truncate(platform)
    platform.produce((key(1), envelope("c", row(1, "bob", 5.0), lsn=21)))
    rows, truncate = members(platform)
    rows.take(2)
    truncate.finish()
    rows.finish()
    assert (platform.order(1), platform.order(2)) == (5.0, None)
    assert (platform.customer("ann"), platform.customer("bob")) == (None, 5.0)


def test_an_earlier_truncate_that_is_read_after_a_later_one(platform: Platform) -> None:
    platform.produce(
        (key(9), envelope("c", row(9, "cid", 9.0), lsn=5)),
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (None, envelope("t", None, lsn=20)),
        (key(1), envelope("c", row(1, "bob", 2.0), lsn=30)),
    )
    platform.produce((None, envelope("t", None, lsn=40)), to=P1)
    rows, truncate = members(platform)
    rows.take(1)
    first, rows.worker._batch = rows.worker._batch, rows.worker._fresh()
    rows.take()
    truncate.finish()
    rows.worker._flusher._flush(first)
    rows.flush()
    check_empty(platform)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("late", [False, True])
def test_a_kill_around_any_commit_of_the_truncate_or_of_late_rows(
    platform: Platform, table: str, when: str, late: bool
) -> None:
    older_and_truncate(platform)
    rows, truncate = members(platform)
    rows.take()
    for member in (truncate, rows) if late else (rows, truncate):
        getattr(platform.lake, when)[table] = [Killed()]
        with suppress(Killed):
            member.finish()
        member.start()
        getattr(platform.lake, when)[table] = []
        member.finish()
    check_empty(platform)
    assert platform.changes() == [(10, "c"), (11, "c"), (20, "t")]


def test_a_late_row_goes_by_the_first_truncate_after_it(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=10)))
    platform.produce((None, envelope("t", None, lsn=20)), (None, envelope("t", None, lsn=30)), to=P1)
    rows, truncate = members(platform)
    truncate.finish()
    rows.finish()
    table = platform.lake.scan(features_table("order_now")).read_all()
    assert sorted(zip(table["_lsn"].to_pylist(), table["_deleted"].to_pylist(), strict=True)) == [
        (10, False),
        (20, True),
    ]
    gone = table.filter(table["_deleted"])
    assert int(gone["event_timestamp"].cast(pa.int64())[0].as_py()) == 1_700_000_000_000_020


def test_a_replayed_letter_older_than_the_truncate(platform: Platform) -> None:
    older_and_truncate(platform)
    for member in members(platform):
        member.finish()
    platform.broker.append(P0, key(3), envelope("c", row(3, "cyd", 3.0), lsn=12), {REPLAY_OF: b"x/0/0"})
    Member(platform, P0).finish()
    assert (platform.order(3), platform.customer("cyd")) == (None, None)
    assert (12, "c") in platform.changes()


def test_a_view_that_is_filled_from_the_lake_after_the_truncate(platform: Platform) -> None:
    views = platform.flow.views
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, views[:1])
    older_and_truncate(platform)
    platform.produce((key(3), envelope("c", row(3, "cyd", 3.0), lsn=21)))
    for member in members(platform):
        member.finish()
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, views)
    backfill = Backfill({TOPIC: platform.flow}, platform.lake, platform.online, lambda outcome, made: outcome)
    for _ in range(2):
        backfill.run(["customer_last"], Window(), lambda view, part: None)
        assert [platform.customer(name) for name in ("ann", "bob", "cyd")] == [None, None, 3.0]
    table = platform.lake.scan(features_table("customer_last")).read_all()
    assert table.num_rows == 5


_T = TypeVar("_T")


@dataclass
class Fate:
    """Kills at the `left`-th call that changes a store, before or after it took effect; counts on after that."""

    left: int
    after: bool

    def call(self, effect: Callable[[], _T]) -> _T:
        self.left -= 1
        if self.left == -1 and not self.after:
            raise Killed
        result = effect()
        if self.left == -1:
            raise Killed
        return result


class MortalLake(UnreliableLake):
    fate: Fate | None = None

    def append(self, name: str, rows: pa.Table, offsets: Any) -> AppendResult:
        append = super().append
        result: AppendResult = self._call(lambda: append(name, rows, offsets))
        return result

    def advance(self, name: str, offsets: Any) -> None:
        advance = super().advance
        self._call(lambda: advance(name, offsets))

    def _call(self, effect: Callable[[], _T]) -> _T:
        return self.fate.call(effect) if self.fate else effect()


class MortalOnline(UnreliableOnline):
    """Notes how many rows each write had, and the LSNs of deletes."""

    def __init__(self) -> None:
        super().__init__()
        self.fate: Fate | None = None
        self.written: list[int] = []
        self.deletes: Counter[int] = Counter()

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        for rows in batches:
            self.written.append(rows.table.num_rows)
            self.deletes.update(rows.table.filter(rows.table["_deleted"])["_lsn"].to_pylist())
        write = super().write
        return self._call(lambda: write(batches))

    def decide(self, rows: FeatureRows) -> WriteResult:
        decide = super().decide
        return self._call(lambda: decide(rows))

    def _call(self, effect: Callable[[], _T]) -> _T:
        return self.fate.call(effect) if self.fate else effect()


LIVES = {
    "rows last": ("truncates finish", "rows finish"),
    "rows are staged meanwhile": ("rows take", "truncates finish", "rows flush"),
    "truncates are staged meanwhile": ("truncates take", "rows finish", "truncates flush"),
    "one after another": ("rows take 1", "truncates finish", "rows finish"),
}


# After one write is, for the stores, before the next one: of one life both are tried.
@pytest.mark.parametrize(("life", "after"), [*((life, False) for life in LIVES), ("one after another", True)])
def test_a_kill_at_any_write_to_any_store_loses_no_truncate(tmp_path: Path, life: str, after: bool) -> None:
    """Whatever was settled is found by what is read again; a part of a truncate holds one row."""
    for n in count():
        folder = tmp_path / str(n)
        folder.mkdir()
        lake, online = MortalLake(), MortalOnline()
        platform = Platform(folder, lake=lake, online=online)
        truth = produce(platform, [(1, "ann", 1), (2, "bob", 2), (1, "bob", 3), P1, (2, "ann", 4), P0, (1, "ann", 5)])
        lake.fate = online.fate = fate = Fate(n, after)
        both = dict(zip(("rows", "truncates"), members(platform), strict=True))
        with patch("stores.history.PART_ROWS", 1):
            for step in LIVES[life]:
                who, what, *limit = step.split()
                with suppress(Killed):
                    getattr(both[who], what)(*map(int, limit))
                    continue
                both[who].start()
            for member in both.values():
                member.finish()
        check(platform, truth)
        if fate.left >= 0:
            break
    assert n > 15


def nights(platform: Platform, number: int) -> None:
    """A table that is truncated and loaded each night."""
    for night in range(number):
        platform.produce((None, envelope("t", None, lsn=10 + 20 * night)), to=P1)
        platform.produce(*((key(i), envelope("c", row(i, "ann"), lsn=10 + 20 * night + i)) for i in range(1, 6)))
        for member in members(platform):
            member.finish()


def killed_at(platform: Platform, table: str) -> None:
    """The records of both partitions are taken, but whoever has them dies when they stand in a table of the lake."""
    for member in members(platform):
        platform.lake.after[table] = [Killed()]
        with suppress(Killed):
            member.finish()
    platform.lake.after.clear()


def test_a_crash_tells_the_stores_nothing_of_truncates_that_were_settled(tmp_path: Path) -> None:
    online = MortalOnline()
    platform = Platform(tmp_path, online=online)
    nights(platform, 4)
    platform.produce((key(7), envelope("c", row(7, "cid"), lsn=100)))
    killed_at(platform, changes_table(TOPIC))
    online.deletes.clear()
    for member in members(platform):
        member.finish()
    assert not online.deletes
    assert platform.customer("cid") is not None


def test_a_crash_on_the_way_of_a_truncate_settles_that_one_again(tmp_path: Path) -> None:
    online = MortalOnline()
    platform = Platform(tmp_path, online=online)
    nights(platform, 4)
    platform.produce((None, envelope("t", None, lsn=100)), to=P1)
    killed_at(platform, features_table("customer_last"))  # the deletes stand there, and nobody else knows
    assert platform.customer("ann") is not None
    online.deletes.clear()
    for member in members(platform):
        member.finish()
    assert online.deletes == {100: 10}
    assert [platform.order(i) for i in range(1, 6)] + [platform.customer("ann")] == [None] * 6


def test_a_log_that_is_read_again_settles_each_truncate_once(tmp_path: Path) -> None:
    """The group's offsets were set back."""
    online = MortalOnline()
    platform = Platform(tmp_path, online=online)
    nights(platform, 4)
    platform.broker.offsets.clear()
    online.deletes.clear()
    for member in members(platform):
        member.finish()
    # Five rows in two views come with their deletes; of those of all truncates, flushed together, the last count.
    assert +online.deletes == {30: 10, 50: 10, 70: 10 + 10}


def test_a_backfill_tells_of_the_entities_of_its_window_alone(tmp_path: Path) -> None:
    online = MortalOnline()
    platform = Platform(tmp_path, online=online)
    nights(platform, 4)
    online.written.clear()
    backfill = Backfill({TOPIC: platform.flow}, platform.lake, platform.online, lambda outcome, made: outcome)
    backfill.run([], Window(start=datetime(2024, 1, 1, tzinfo=UTC)), lambda view, part: None)
    assert not online.written


def test_a_truncate_is_settled_part_by_part_each_row_once(tmp_path: Path) -> None:
    """However many versions of a row two truncates that are settled together deleted."""
    online = MortalOnline()
    platform = Platform(tmp_path, online=online)
    platform.produce(*((key(i), envelope("c", row(i, f"c{i}"), lsn=10 + i)) for i in range(1, 8)))
    Member(platform, P0).finish()
    platform.produce((None, envelope("t", None, lsn=20)), to=P1)
    platform.produce(*((key(i), envelope("c", row(i, f"c{i}"), lsn=20 + i)) for i in range(1, 8)))
    Member(platform, P0).finish()
    platform.produce((None, envelope("t", None, lsn=30)), to=P1)
    online.written.clear()
    with patch("stores.history.PART_ROWS", 3):
        Member(platform, P1).finish()
    assert max(online.written) == 3
    assert online.deletes == {30: 2 * 7}
    assert not newest(platform.lake, ORDER).num_rows and not newest(platform.lake, CUSTOMER).num_rows


# A change: the row, its customer, its amount; or a truncate with the partition it goes to.
change = st.tuples(st.integers(1, 3), st.sampled_from(["ann", "bob"]), st.integers(1, 9)) | st.sampled_from([P0, P1])
step = st.tuples(
    st.sampled_from([0, 1]),
    st.sampled_from(["take", "flush", "die before", "die after"]),
    st.integers(1, 3),
    st.sampled_from(TABLES),
)


@settings(max_examples=120)
@given(changes=st.lists(change, min_size=1, max_size=12), steps=st.lists(step, max_size=14))
def test_any_order_and_any_crash_leaves_what_postgresql_holds(
    changes: Sequence[Any], steps: Sequence[tuple[int, str, int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(Path(folder))
        truth = produce(platform, changes)
        both = members(platform)
        for who, what, limit, table in steps:
            member = both[who]
            if what == "take":
                member.take(limit)
            elif what == "flush":
                member.flush()
            else:
                getattr(platform.lake, what.removeprefix("die "))[table] = [Killed()]
                with suppress(Killed):
                    member.finish()
                platform.lake.before.clear()
                platform.lake.after.clear()
                member.start()
        for member in both:
            member.finish()
        for member in both:  # one that read the last truncate may have looked before the other wrote
            assert platform.broker.offsets[GROUP, member.partition] == len(platform.broker.log[member.partition])
        check(platform, truth)


def produce(platform: Platform, changes: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """Send the changes as Debezium would, each row to its partition; returns the rows that remain."""
    truth: dict[int, dict[str, Any]] = {}
    for lsn, what in enumerate(changes, start=10):
        if isinstance(what, Partition):
            truth.clear()
            platform.produce((None, envelope("t", None, lsn=lsn)), to=what)
            continue
        id_, customer, amount = what
        before, after = truth.get(id_), row(id_, customer, float(amount), f"2024-01-0{amount}T00:00:00Z")
        truth[id_] = after
        value = envelope("u" if before else "c", after, before=before, lsn=lsn)
        platform.produce((key(id_), value), to=(P0, P1)[id_ % 2])
    for partition in (P0, P1):  # nothing of a partition is left uncommitted when it is empty
        platform.produce((key(9), None), to=partition)
    return truth


def check(platform: Platform, truth: dict[int, dict[str, Any]]) -> None:
    amounts = {id_: after["amount"] for id_, after in truth.items()}
    assert {id_: platform.order(id_) for id_ in (1, 2, 3)} == {id_: amounts.get(id_) for id_ in (1, 2, 3)}
    table = newest(platform.lake, ORDER)
    assert dict(zip(table["id"].to_pylist(), table["amount"].to_pylist(), strict=True)) == amounts
    last = {
        name: max((r["amount"] for r in truth.values() if r["customer"] == name), default=None)
        for name in ("ann", "bob")
    }
    assert {name: platform.customer(name) for name in last} == last
    table = newest(platform.lake, CUSTOMER)
    kept = dict(zip(table["customer"].to_pylist(), table["amount"].to_pylist(), strict=True))
    assert kept == {name: amount for name, amount in last.items() if amount is not None}
    assert json.dumps(sorted(platform.changes())) == json.dumps(sorted(set(platform.changes())))
