"""Tables that are no longer what they were when they were applied: held with a message, or carried on aloud."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.table import Column, Table
from connectors.table_file import dumps
from millrace.apply import as_kept
from stores.delta import DeltaLake
from stores.errors import StoreRefused
from stores.lake import Lake
from stores.memory_lake import MemoryLake
from streams.decide import changes_table
from streams.decode import decode_records
from streams.drift import APPLIED_PROPERTY, TABLE_PROPERTY, Drift, Guard, drift, users
from streams.letters import REPLAY_OF
from streams.messages import Headers
from streams.pipeline import Flow, Outcome, take
from streams.snapshots import SnapshotBase, begin_snapshot
from tests.envelopes import ORDERS, TOPIC, base, envelope, key, records, row
from tests.worker_platform import Platform

CITY = Column("city", "text", pa.string(), "plain", nullable=True)


def without(name: str, **more: Any) -> dict[str, Any]:
    return {n: v for n, v in row(1, **more).items() if n != name}


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def guard(platform: Platform, now: Table | None = None) -> Guard:
    return Guard(platform.lake, {TOPIC: platform.flow}, lambda table: now)


def test_the_newest_image_of_each_partition_tells() -> None:
    good, less = envelope("c", row(1), lsn=10), envelope("c", without("customer"), lsn=20)
    assert drift(records((key(1), good)), ORDERS, 0) is None
    assert drift(records((key(1), less), (key(1), good)), ORDERS, 0) is None
    deleted = envelope("d", None, before={"id": 1}, lsn=30)
    assert drift(records((key(1), good), (key(1), less), (key(1), deleted)), ORDERS, 0) == Drift(("customer",), (), ())
    assert drift(records((key(1), less)), ORDERS, 25) == Drift((), ("customer",), ())
    more = envelope("c", {**row(1), "city": "x"}, lsn=10)
    assert drift(records((key(1), more), (key(1), b"{oops"), (key(1), None)), ORDERS, 0) == Drift((), (), ("city",))


BARE = {"z": 1}
"""An image that lacks all columns."""
GOOD_SOURCE = {"lsn": 20, "ts_us": 1_700_000_000_000_000}


@pytest.mark.parametrize(
    "malformed",
    [
        {"op": "c", "before": [], "after": BARE, "source": {"lsn": 99999999999999999999, "ts_us": 1}},
        {"op": "c", "after": BARE, "source": {**GOOD_SOURCE, "lsn": 2**63}},
        {"op": "c", "after": BARE, "source": {**GOOD_SOURCE, "lsn": -1}},
        {"op": "c", "after": BARE, "source": {**GOOD_SOURCE, "lsn": None}},
        {"op": "r", "after": BARE, "source": {**GOOD_SOURCE, "lsn": "20"}},
        {"op": "u", "after": BARE, "source": {"lsn": 20}},
        {"op": "u", "after": BARE, "source": {**GOOD_SOURCE, "ts_us": 2**62}},
        {"op": "u", "after": BARE, "source": {**GOOD_SOURCE, "ts_us": "now"}},
        {"op": "u", "before": "x", "after": BARE, "source": GOOD_SOURCE},
        {"op": "u", "after": [BARE], "source": GOOD_SOURCE},
        {"op": "c", "after": None, "source": GOOD_SOURCE},
        {"op": "x", "after": BARE, "source": GOOD_SOURCE},
        {"op": ["c"], "after": BARE, "source": GOOD_SOURCE},
        {"op": "d", "before": [BARE], "after": None, "source": GOOD_SOURCE},
        {"op": "c", "after": BARE, "source": [20]},
        [BARE],
    ],
)
def test_what_decoding_makes_a_letter_of_tells_nothing_of_the_table(platform: Platform, malformed: Any) -> None:
    """Neither by its image nor by its key; and it does not hide what an older record tells."""
    bad = (json.dumps({"z": 1}).encode(), json.dumps(malformed).encode())
    assert [r.stage for r in decode_records(records(bad), ORDERS, (), 1 << 20).rejections] == ["decode"]
    assert not guard(platform).holds(records(bad))
    assert not guard(platform).holds(records((key(1), envelope("c", row(1), lsn=10)), bad))
    watching = guard(platform)
    assert watching.holds(records((key(1), envelope("c", without("amount"), lsn=10)), bad))
    assert "no column amount any more" in watching.held[TOPIC]


def test_a_truncate_and_a_message_tell_nothing_of_the_table(platform: Platform) -> None:
    """They are of no row."""
    for op in ("t", "m"):
        other = (json.dumps({"z": 1}).encode(), envelope(op, BARE, lsn=20))
        assert not guard(platform).holds(records((key(1), envelope("c", row(1), lsn=10)), other))


def test_a_delete_tells_its_key_also_without_a_field_for_the_new_row() -> None:
    deleted = json.dumps({"op": "d", "before": None, "source": GOOD_SOURCE}).encode()
    assert drift(records((b'{"customer":"ann"}', deleted)), ORDERS, 0) == Drift((), (), (), ("customer",))


def applied_with(platform: Platform, *columns: Column) -> None:
    """As an apply notes it: the table with other columns, after those that its workers know."""
    kept = dumps([replace(ORDERS, columns=(*ORDERS.columns, *columns))])
    platform.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: kept, APPLIED_PROPERTY: "5"})


def test_records_from_before_a_column_was_excluded_are_taken(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    secret = replace(CITY, name="secret", arrow_type=pa.null(), encoding="none", excluded=True)
    applied_with(platform, secret)
    older = records((key(1), envelope("c", {**row(1), "secret": "s"}, lsn=1)))
    assert not guard(platform).holds(older)
    assert "records hold secret, which column.exclude.list leaves out" in caplog.text
    assert "New, for the lake" not in caplog.text
    applied_with(platform, secret, CITY)
    both = records((key(1), envelope("c", {**row(1), "secret": "s", "city": "x"}, lsn=1)))
    assert guard(platform).holds(both)  # of the other new column


def test_records_from_before_a_column_got_a_type_that_is_not_carried_are_taken(platform: Platform) -> None:
    applied_with(platform, replace(CITY, sql_type="polygon", arrow_type=pa.null(), encoding="none"))
    assert not guard(platform).holds(records((key(1), envelope("c", {**row(1), "city": "x"}, lsn=1))))


def test_a_row_of_an_incremental_snapshot_is_as_old_as_its_base() -> None:
    """Debezium gives it no LSN."""
    less = records((key(1), envelope("r", without("customer"), lsn=None)))
    asked: list[int | None] = []

    def base_at(at: int | None) -> SnapshotBase:
        def ask() -> int | None:
            asked.append(at)
            return at

        return ask

    held, old = Drift(("customer",), (), ()), Drift((), ("customer",), ())
    assert drift(less, ORDERS, 25, base_at(24)) == old
    assert drift(less, ORDERS, 25, base_at(32)) == held
    assert drift(less, ORDERS, 25, base_at(None)) == old
    again = records((key(1), envelope("r", without("customer"), lsn=None)), headers={0: {REPLAY_OF: b"o/0/1"}})
    assert drift(again, ORDERS, 25, base_at(32)) == old
    rekeyed = records((json.dumps({"customer": "ann"}).encode(), envelope("r", row(1), lsn=None)))
    assert drift(rekeyed, ORDERS, 25, base_at(24)) == Drift((), (), (), (), ("customer",))
    asked.clear()
    whole = envelope("r", row(1), lsn=None)
    more = envelope("r", {**row(1), "city": "x"}, lsn=None)
    assert drift(records((key(1), whole)), ORDERS, 25, base_at(24)) is None
    assert drift(records((key(1), more)), ORDERS, 25, base_at(24)) == Drift((), (), ("city",))
    assert asked == []


def test_snapshot_rows_from_before_an_apply_go_on_aloud(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    platform.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: dumps([ORDERS]), APPLIED_PROPERTY: "30"})
    less = records((key(1), envelope("r", without("amount"), lsn=None)))
    begin_snapshot(platform.lake, TOPIC, base(24))
    assert not guard(platform).holds(less)
    assert "Gone, so that they are null: amount" in caplog.text
    begin_snapshot(platform.lake, TOPIC, base(40))
    assert guard(platform).holds(less)


def test_deletes_at_the_end_of_a_poll_hide_nothing() -> None:
    less = envelope("c", without("customer"), lsn=20)
    deletes = [(key(i), envelope("d", None, before={"id": i}, lsn=30 + i)) for i in range(60)]
    tombstones = [(key(i), None) for i in range(60)]
    assert drift(records((key(1), less), *deletes, *tombstones), ORDERS, 0) == Drift(("customer",), (), ())


def test_a_replayed_letter_hides_nothing() -> None:
    """It is older than it looks; what it tells of itself still counts."""
    less = (key(1), envelope("u", without("customer"), lsn=20))
    letter = (key(2), envelope("c", row(2), lsn=10))
    replayed: dict[int, Headers] = {1: {REPLAY_OF: b"o/0/1"}}
    assert drift(records(less, letter, headers=replayed), ORDERS, 15) == Drift(("customer",), (), ())
    rekeyed = (json.dumps({"customer": "ann"}).encode(), envelope("u", row(1), lsn=20))
    assert drift(records(rekeyed, letter, headers=replayed), ORDERS, 15) == Drift((), (), (), ("customer",))
    whole = (key(1), envelope("u", row(1), lsn=20))
    older = (key(2), envelope("c", without("amount", customer="bob"), lsn=10))
    assert drift(records(whole, older, headers=replayed), ORDERS, 15) == Drift((), ("amount",), ())


def test_bad_records_in_every_poll_do_not_ask_the_database_each_time(platform: Platform) -> None:
    asked: list[Table] = []

    def ask(table: Table) -> None:
        asked.append(table)

    one = Guard(platform.lake, {TOPIC: platform.flow}, ask)
    bad = take(records((key(1), envelope("c", row(1, amount="much"), lsn=1))), platform.flow, 1 << 20)
    assert [one.retyped(bad) for _ in range(100)] == [False] * 100
    assert len(asked) < 50


def test_a_timestamp_that_has_become_a_date_is_not_taken_for_a_moment_of_1970(tmp_path: Path) -> None:
    """Debezium writes the days of a date, and the microseconds of a timestamp: both are numbers."""
    seen = Column("seen", "timestamp without time zone", pa.timestamp("us"), "timestamp", nullable=True)
    table = replace(ORDERS, columns=(*ORDERS.columns, seen))
    platform = Platform(tmp_path)
    flow = Flow(table, platform.flow.contract, platform.flow.views)

    def retyped(value: Any, now: Column) -> bool:
        found = take(records((key(1), envelope("c", {**row(1), "seen": value}, lsn=1))), flow, 1 << 20)
        is_now = replace(table, columns=(*ORDERS.columns, now))
        return Guard(platform.lake, {TOPIC: flow}, lambda _: is_now).retyped(found)

    date = replace(seen, sql_type="date", encoding="date")
    assert retyped(19_723, date)
    assert not retyped(19_723, seen)
    assert not retyped(None, date)
    assert not retyped(1_704_067_200_000_000, date)  # from before it was changed


STAMP = Column("stamp", "bigint", pa.int64(), "plain", nullable=True)
MOMENT = replace(STAMP, sql_type="timestamp without time zone", arrow_type=pa.timestamp("us"), encoding="timestamp")
DAY = replace(STAMP, sql_type="date", arrow_type=pa.date32(), encoding="date")
SECONDS, MILLISECONDS, MICROSECONDS = 1_704_067_200, 1_704_067_200_000, 1_704_067_200_000_000


@pytest.mark.parametrize(
    ("was", "before", "is_", "after"),
    [
        (STAMP, SECONDS, MOMENT, MICROSECONDS),
        (STAMP, MILLISECONDS, MOMENT, MICROSECONDS),
        (MOMENT, MICROSECONDS, STAMP, MILLISECONDS),
        (STAMP, 20_240_101, DAY, 19_723),
        (DAY, 19_723, STAMP, 7),
    ],
)
def test_a_number_that_means_another_thing_by_now_is_noticed_by_its_size(
    tmp_path: Path, was: Column, before: int, is_: Column, after: int
) -> None:
    """Debezium writes integers, dates and timestamps as numbers, so a column of one takes the values of the others."""
    table, platform = replace(ORDERS, columns=(*ORDERS.columns, was)), Platform(tmp_path)
    flow = Flow(table, platform.flow.contract, platform.flow.views)
    now: Table | None = table
    asked: list[Table] = []

    def ask(of: Table) -> Table | None:
        asked.append(of)
        return now

    watching = Guard(platform.lake, {TOPIC: flow}, ask)

    def retyped(value: int | None) -> bool:
        outcome = take(records((key(1), envelope("c", {**row(1), "stamp": value}, lsn=1))), flow, 1 << 20)
        assert not outcome.rejections
        return watching.retyped(outcome)

    assert not retyped(before)
    known = len(asked)
    assert not retyped(before + 1) and not retyped(None) and len(asked) == known
    now = replace(table, columns=(*ORDERS.columns, is_))
    assert retyped(after)
    assert f"column stamp was {was.sql_type} when it was applied and is {is_.sql_type} now" in watching.held[TOPIC]


def test_a_wider_integer_is_no_other_thing_and_a_database_that_is_away_is_not_asked_again(tmp_path: Path) -> None:
    table, platform = replace(ORDERS, columns=(*ORDERS.columns, STAMP)), Platform(tmp_path)
    flow = Flow(table, platform.flow.contract, platform.flow.views)
    asked: list[Table] = []

    def away(of: Table) -> None:
        asked.append(of)

    def outcome(value: int) -> Outcome:
        return take(records((key(1), envelope("c", {**row(1), "stamp": value}, lsn=1))), flow, 1 << 20)

    watching = Guard(platform.lake, {TOPIC: flow}, away)
    assert [watching.retyped(outcome(10**i)) for i in range(18)] == [False] * 18
    assert len(asked) == 1
    small = replace(STAMP, sql_type="integer", arrow_type=pa.int32())
    narrow = Guard(platform.lake, {TOPIC: flow}, lambda _: replace(table, columns=(*ORDERS.columns, small)))
    assert not narrow.retyped(outcome(1)) and not narrow.retyped(outcome(10**9))


def test_another_primary_key_holds_the_topic(platform: Platform) -> None:
    """Debezium keys its records by the primary key; a row that is known by another one is another row."""
    applied = records((key(1), envelope("c", row(1), lsn=10)))
    assert not guard(platform).holds(applied)
    other = json.dumps({"customer": "ann"}).encode()
    rekeyed = (other, envelope("u", row(1, "ann"), lsn=20))
    watching = guard(platform)
    assert watching.holds(records((key(1), envelope("c", row(1), lsn=10)), rekeyed))
    told = watching.held[TOPIC]
    assert "its primary key is (customer) now and was (id) when it was applied" in told
    assert "view order_now" in told and "view customer_last" in told
    deleted = (other, envelope("d", None, before={"customer": "ann"}, lsn=20))
    assert guard(platform).holds(records(deleted, (other, None)))


def test_records_from_before_the_primary_key_was_brought_back_go_on_aloud(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: dumps([ORDERS]), APPLIED_PROPERTY: "30"})
    other = json.dumps({"customer": "ann"}).encode()
    assert not guard(platform).holds(records((other, envelope("u", row(1, "ann"), lsn=20))))
    assert "are keyed by (customer)" in caplog.text and "millrace resnapshot" in caplog.text


def test_who_reads_a_column(platform: Platform) -> None:
    assert users(platform.flow, ("customer",)) == ["view customer_last"]
    assert users(platform.flow, ("placed_at",)) == ["view customer_last"]
    assert users(platform.flow, ("amount",)) == ["view order_now", "view customer_last", "contract orders"]
    assert users(platform.flow, ("area",)) == []


def test_a_column_that_a_view_reads_and_records_lack_holds_the_topic(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=10)))
    platform.run()
    platform.produce((key(1), envelope("u", without("amount"), lsn=20)))
    worker = platform.run(until=lambda: platform.worker is not None and platform.worker.paused)
    assert "no column amount any more, which view order_now, view customer_last" in worker.paused[TOPIC]
    assert (platform.order(1), platform.changes(), platform.letters()) == (1.0, [(10, "c")], [])
    assert platform.broker.offsets[("g", next(iter(platform.broker.log)))] == 1
    # Applied as it is now: what was written before has null, aloud, and goes on.
    platform.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: dumps([ORDERS]), APPLIED_PROPERTY: "30"})
    platform.run()
    assert platform.changes() == [(10, "c"), (20, "u")]


def test_only_the_columns_that_somebody_reads_are_named(platform: Platform) -> None:
    spare = Column("note", "text", pa.string(), "plain", nullable=True)
    platform.flow = replace(platform.flow, table=replace(ORDERS, columns=(*ORDERS.columns, spare)))
    watching = guard(platform)
    assert watching.holds(records((key(1), envelope("c", without("amount"), lsn=10))))
    assert "no column amount any more" in watching.held[TOPIC]


def test_a_column_that_nobody_reads_is_no_reason_to_stop(platform: Platform) -> None:
    spare = Column("spare", "text", pa.string(), "plain", nullable=True)
    wider = replace(ORDERS, columns=(*ORDERS.columns, spare))
    platform.flow = replace(platform.flow, table=wider)
    watching = guard(platform)
    assert not watching.holds(records((key(1), envelope("c", row(1), lsn=10))))
    assert watching.held == {}


def test_new_columns_wait_only_for_a_worker_that_should_know_them(platform: Platform) -> None:
    more = records((key(1), envelope("c", {**row(1), "city": "x"}, lsn=10)))
    assert not guard(platform).holds(more)
    applied = replace(ORDERS, columns=(*ORDERS.columns, CITY))
    platform.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: dumps([applied])})
    watching = guard(platform)
    assert watching.holds(more) and "applied with new columns (city)" in watching.held[TOPIC]


def test_values_of_another_type_wait_for_apply_and_bad_ones_do_not(platform: Platform) -> None:
    outcome = take(records((key(1), envelope("c", row(1, amount="much"), lsn=10))), platform.flow, 10_000)
    assert not guard(platform).retyped(outcome)
    assert not guard(platform, ORDERS).retyped(outcome)
    columns = tuple(replace(c, sql_type="text") if c.name == "amount" else c for c in ORDERS.columns)
    watching = guard(platform, replace(ORDERS, columns=columns))
    assert watching.retyped(outcome)
    assert "column amount was double precision when it was applied and is text now" in watching.held[TOPIC]


def test_a_database_that_does_not_answer_is_left_alone_for_a_while(platform: Platform) -> None:
    """All tables wait for each question."""
    asked = []

    def away(table: Table) -> None:
        asked.append(table)

    watching = Guard(platform.lake, {TOPIC: platform.flow}, away)
    for bad in ({"amount": "much"}, {"placed_at": "late"}, {"amount": "more"}):
        outcome = take(records((key(1), envelope("c", row(1, **bad), lsn=10))), platform.flow, 10_000)
        assert outcome.rejections and not watching.retyped(outcome)
    assert len(asked) == 1


def _with_city() -> Table:
    return replace(ORDERS, columns=(*ORDERS.columns, CITY))


@pytest.mark.parametrize("make", [lambda folder: MemoryLake(), lambda folder: DeltaLake(str(folder))])
def test_the_lake_makes_room_for_wider_numbers(make: Any, tmp_path: Path) -> None:
    lake: Lake = make(tmp_path)
    names = ("n", "_partition", "_offset")
    narrow = pa.schema(list(zip(names, (pa.int32(), pa.int32(), pa.int64()), strict=True)))
    wide = narrow.set(0, pa.field("n", pa.int64())).append(pa.field("more", pa.string()))
    lake.create("changes/t", narrow, {"millrace.topic": "t"})
    lake.append("changes/t", pa.table([[1, None], [0, 0], [0, 1]], schema=narrow), {("t", 0): 2})
    lake.create("changes/t", wide, {"millrace.topic": "t"})
    assert lake.next_offset("changes/t", "t", 0) == 2
    lake.append("changes/t", pa.table([[2**40], [0], [2], ["x"]], schema=wide), {("t", 0): 3})
    lake.create("changes/t", narrow, {"millrace.topic": "t"})  # narrowed in the source: the lake stays wide
    table = lake.scan("changes/t").read_all()
    assert sorted(table["n"].to_pylist(), key=repr) == sorted([1, None, 2**40], key=repr)
    assert lake.snapshot("changes/t").schema.names == [*names, "more"]
    column = Column("n", "integer", pa.int32(), "plain", nullable=True)
    kept = as_kept(replace(ORDERS, columns=(column,)), lake.snapshot("changes/t").schema)
    assert kept.column("n").arrow_type == pa.int64()
    assert json.loads(dumps([kept]))["tables"][0]["columns"][0]["sql_type"] == "integer"


@pytest.mark.parametrize("make", [lambda folder: MemoryLake(), lambda folder: DeltaLake(str(folder))])
def test_the_lake_makes_room_for_decimals_of_another_scale(make: Any, tmp_path: Path) -> None:
    lake: Lake = make(tmp_path)

    def prices(kind: pa.DataType, *values: str) -> pa.Table:
        return pa.table({"price": pa.array(values).cast(kind)})

    first, wide = pa.decimal128(10, 2), pa.decimal128(20, 4)
    lake.create("changes/t", pa.schema([("price", first)]), {})
    lake.append("changes/t", prices(first, "1.50", "-99999999.99"), {})
    lake.create("changes/t", pa.schema([("price", wide)]), {})
    lake.append("changes/t", prices(wide, "2.1234"), {})
    lake.append("changes/t", prices(first, "3.25"), {})  # of a worker that has not started anew yet
    found = lake.scan("changes/t").read_all()["price"]
    assert sorted(map(str, found.to_pylist())) == ["-99999999.9900", "1.5000", "2.1234", "3.2500"]
    lake.create("changes/t", pa.schema([("price", pa.decimal128(30, 2))]), {})
    assert lake.snapshot("changes/t").schema.field("price").type == pa.decimal128(32, 4)
    with pytest.raises(StoreRefused, match="column price: is decimal128"):
        lake.create("changes/t", pa.schema([("price", pa.decimal128(38, 12))]), {})
