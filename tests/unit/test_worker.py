"""The worker over the broker, the online store and the lake in memory: what becomes of records, and of faults."""

import threading
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from connectors.encodings import PLACEHOLDER
from stores.asof import Join, asof
from stores.errors import StoreUnavailable
from stores.rows import TIMESTAMP, FeatureRows, rows_schema
from streams.clock import SystemClock
from streams.control import ask_to_resume
from streams.decide import changes_table, features_table, rejected_table
from streams.key_changes import NEW_KEY, WAIT_SECONDS
from streams.letters import REPLAY_OF, replay
from streams.memory import MemoryProducer
from streams.messages import Partition
from streams.stage import Batch
from tests.envelopes import TOPIC, envelope, key, row
from tests.worker_platform import (
    CONTROL,
    GROUP,
    ORDER,
    P0,
    P1,
    Killed,
    Platform,
    UnreliableOnline,
)


class HandSetClock(SystemClock):
    """Shows what it was set to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_changes_are_served_and_stand_once_in_the_lake(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 5.0), lsn=10)),
        (key(1), envelope("u", row(1, "ann", 6.0), before=row(1, "ann", 5.0), lsn=11)),
        (key(2), envelope("c", row(2, "bob", 7.0), lsn=12)),
    )
    platform.run()
    assert (platform.order(1), platform.order(2)) == (6.0, 7.0)
    assert platform.changes() == [(10, "c"), (11, "u"), (12, "c")]
    assert platform.drained()


def test_records_of_one_poll_that_are_too_large_to_be_taken_at_once_are_taken_one_by_one(platform: Platform) -> None:
    for i in range(20):
        platform.produce((key(i % 3), envelope("u", row(i % 3, amount=float(i)), lsn=10 + i)), to=(P0, P1)[i % 3 % 2])
    platform.run(take_bytes=1)
    assert platform.changes() == [(10 + i, "u") for i in range(20)]
    assert [platform.order(i) for i in range(3)] == [18.0, 19.0, 17.0]


def test_a_deleted_row_is_gone_and_a_late_older_change_does_not_bring_it_back(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 5.0), lsn=10)),
        (key(1), envelope("d", None, before=row(1, "ann", 5.0), lsn=12)),
    )
    platform.run()
    platform.produce((key(1), envelope("u", row(1, "ann", 9.0), lsn=11)), to=P1)
    platform.run()
    assert platform.order(1) is None


def test_bad_records_become_letters_with_stage_and_reason_and_the_rest_goes_on(platform: Platform) -> None:
    platform.produce(
        (key(1), b"{oops"),
        (key(2), envelope("c", row(2, amount=-1.0), lsn=11)),
        (key(3), envelope("c", row(3, amount="much"), lsn=12)),
        (key(4), envelope("c", row(4, placed_at=None), lsn=13)),
        (key(5), envelope("c", row(5, amount=3.0), lsn=14)),
    )
    platform.run()
    assert [letter.stage for letter in platform.letters()] == ["decode", "contract", "schema", "transform"]
    assert "expect_column_values_to_be_between on amount: -1.0" in platform.letters()[1].reasons[0]
    assert [letter.offset for letter in platform.letters()] == [0, 1, 2, 3]
    assert platform.letters()[1].value == envelope("c", row(2, amount=-1.0), lsn=11)
    assert platform.changes() == [(14, "c")]
    assert platform.order(2) is None and platform.order(5) == 3.0


@pytest.mark.parametrize(
    "bad",
    [
        envelope("c", row(1), lsn=2**63, ts_us=1),
        envelope("c", row(1), lsn=-1),
        envelope("c", row(1), lsn=1, ts_us=2**63),
        envelope("c", row(1), lsn=1, ts_us=2**62),
        envelope("u", row(1), before="x", lsn=1),
        envelope("u", row(1, customer=PLACEHOLDER), before=[1], lsn=1),
    ],
)
def test_no_envelope_stops_the_worker(platform: Platform, bad: bytes) -> None:
    platform.produce((key(1), bad), (key(2), envelope("c", row(2, amount=3.0), lsn=2)))
    platform.run()
    (letter,) = platform.letters()
    assert (letter.stage, letter.offset, letter.value) == ("decode", 0, bad)
    assert platform.changes() == [(2, "c")] and platform.order(2) == 3.0


def test_a_changed_key_at_an_lsn_that_is_none_is_not_looked_for(platform: Platform) -> None:
    clock = platform.clock = HandSetClock()
    bad = envelope("d", None, before=row(1), lsn=2**63, ts_us=1)
    platform.broker.append(P0, key(1), bad, {NEW_KEY: key(2)})

    def looked() -> bool:
        clock.now += WAIT_SECONDS
        return platform.drained() and clock.now > 9 * WAIT_SECONDS

    platform.run(until=looked)
    assert [letter.value for letter in platform.letters()] == [bad]


@pytest.mark.parametrize("table", [features_table("order_now"), features_table("customer_last"), changes_table(TOPIC)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_lake_commit_loses_and_doubles_nothing(platform: Platform, table: str, when: str) -> None:
    platform.produce(*((key(i), envelope("c", row(i, f"c{i}", float(i)), lsn=i)) for i in range(1, 30)))
    getattr(platform.lake, when)[table] = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    assert platform.changes() == [(i, "c") for i in range(1, 30)]
    rows = platform.lake.scan(features_table("order_now")).read_all()
    assert sorted(rows["id"].to_pylist()) == list(range(1, 30))
    assert platform.order(29) == 29.0


def test_a_kill_at_the_online_write_loses_nothing(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    platform.online.faults = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    assert platform.broker.offsets == {}
    platform.run()
    assert platform.order(1) == 5.0


def test_an_unavailable_store_is_waited_for_and_named(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")] * 3
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "no space left")]
    platform.run()
    assert platform.order(1) == 5.0 and platform.changes() == [(10, "c")]


def test_a_worker_takes_partitions_once_its_store_has_answered(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    platform.online.away = [StoreUnavailable("Redis", "connection refused")] * 10_000
    worker = platform.run(until=lambda: platform.worker is not None and platform.worker.waiting_for)
    assert worker.waiting_for == "Redis is unavailable: connection refused"
    assert worker.state()["partitions"] == [] and platform.broker.offsets == {}
    platform.online.away = [StoreUnavailable("Redis", "connection refused")] * 2
    worker = platform.run()
    assert worker.waiting_for is None and platform.order(1) == 5.0


def test_a_stop_while_a_store_is_away_ends_in_time_and_commits_nothing(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")] * 10_000
    worker = platform.run(until=lambda: platform.worker is not None and platform.worker.state()["waiting_for"])
    assert "Redis" not in str(worker.state()["committed"])
    assert platform.broker.offsets == {}


def test_the_winner_of_an_event_view_that_is_deleted_makes_way_for_the_newest_remaining_row(platform: Platform) -> None:
    early, late = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, early), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, late), lsn=11)),
    )
    platform.run()
    assert platform.customer("ann") == 2.0
    platform.produce((key(2), envelope("d", None, before=row(2, "ann", 2.0, late), lsn=12)))
    platform.run()
    assert platform.customer("ann") == 1.0


def test_the_winner_of_an_event_view_that_moves_back_in_time_makes_way(platform: Platform) -> None:
    early, middle, late = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3))
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, middle), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, late), lsn=11)),
    )
    platform.run()
    platform.produce((key(2), envelope("u", row(2, "ann", 3.0, early), before=row(2, "ann", 2.0, late), lsn=12)))
    platform.run()
    assert platform.customer("ann") == 1.0


def test_a_row_that_moves_to_another_entity_leaves_the_first(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=10)))
    platform.run()
    platform.produce((key(1), envelope("u", row(1, "bob", 1.0), before=row(1, "ann", 1.0), lsn=11)))
    platform.run()
    assert platform.customer("ann") is None and platform.customer("bob") == 1.0


def test_a_flush_comes_sooner_while_an_entity_waits_for_it_to_be_decided_anew(platform: Platform) -> None:
    platform.clock = clock = HandSetClock()
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 5.0), lsn=10)), (key(2), envelope("c", row(2, "ann"), lsn=11))
    )
    platform.produce((key(2), envelope("d", None, before=row(2, "ann"), lsn=12)))

    seen: list[float | None] = []

    def decided() -> bool:
        seen.append(platform.customer("ann"))
        if seen[-1] is None and platform.order(1) is not None:
            clock.now = 30.0
        return (seen[-1], clock.now) == (5.0, 30.0)

    platform.run(decided, flush_seconds=100.0)  # its end flushes everything, so what was seen before it counts
    assert (seen[-1], clock.now) == (5.0, 30.0)


def test_a_flush_that_fails_for_a_time_out_is_not_taken_for_one_under_way(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, amount=5.0), lsn=10)))
    platform.lake.before[changes_table(TOPIC)] = [TimeoutError("of its own")]
    worker, consumer = platform.joined()
    worker._take(consumer.poll(0, 10))
    worker._start_flush()
    with pytest.raises(TimeoutError, match="of its own"):
        worker._flusher.collect(timeout=30)


def test_a_row_without_an_entity_is_a_counted_skip(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, None, 1.0), lsn=10)))
    worker = platform.run()
    assert worker.state()["tables"][TOPIC]["skipped_by_customer_last"] == 1  # type: ignore[index]
    assert platform.changes() == [(10, "c")]


def test_a_truncate_empties_the_views_of_its_table(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)), (key(2), envelope("c", row(2, "bob", 1.0), lsn=11))
    )
    platform.run()
    platform.produce((None, envelope("t", None, lsn=12)), (key(3), envelope("c", row(3, "bob", 3.0), lsn=13)))
    platform.run()
    assert (platform.order(1), platform.order(2), platform.order(3)) == (None, None, 3.0)
    assert (platform.customer("ann"), platform.customer("bob")) == (None, 3.0)


def test_replayed_letters_pass_once_and_never_overwrite(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", -1.0), lsn=10)), (key(1), envelope("u", row(1, "ann", 2.0), lsn=11))
    )
    platform.run()
    platform.take_the_rule_back()
    for _ in range(2):
        replay(MemoryProducer(platform.broker), platform.letters())
        platform.run()
    assert platform.changes() == [(10, "c"), (11, "u")]
    assert platform.order(1) == 2.0
    assert platform.customer("ann") == 2.0
    assert any(REPLAY_OF in record.headers for record in [*platform.broker.log[P0], *platform.broker.log[P1]])


def test_a_replayed_letter_does_not_bring_back_a_row_whose_delete_is_forgotten_online(platform: Platform) -> None:
    """What is known of a deleted entity expires online with the topics; letters are kept."""
    platform.produce(
        (key(1), envelope("c", row(1, "ann", -1.0), lsn=10)),
        (key(1), envelope("d", None, before=row(1, "ann", -1.0), lsn=20)),
    )
    platform.run()
    platform.online = UnreliableOnline()
    platform.take_the_rule_back()
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert platform.changes() == [(10, "c"), (20, "d")]
    assert (platform.order(1), platform.customer("ann")) == (None, None)


@pytest.mark.parametrize("then", ["u", "d"])
def test_the_letter_of_a_change_that_left_an_entity_changes_nothing_once_the_next_has_left_it_too(
    platform: Platform, then: str
) -> None:
    moved = row(1, "bob", 3.0)
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(1), envelope("u", row(1, "bob", -2.0), before=row(1, "ann", 1.0), lsn=11)),
        (key(1), envelope(then, moved if then == "u" else None, before=row(1, "bob", -2.0), lsn=12)),
    )
    platform.run()
    platform.take_the_rule_back()
    for _ in range(2):
        assert platform.customer("ann") is None
        assert platform.customer("bob") == (3.0 if then == "u" else None)
        replay(MemoryProducer(platform.broker), platform.letters())
        platform.run()


def test_training_sees_a_replayed_change_as_if_it_had_come_in_time(platform: Platform) -> None:
    """An event view's row, its second version, and between them in event time the label."""
    first, between, second = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3))
    platform.produce(
        (key(1), envelope("c", row(1, "ann", -1.0, first), lsn=10)),
        (key(1), envelope("u", row(1, "ann", 2.0, second), before=row(1, "ann", -1.0, first), lsn=20)),
    )
    platform.run()
    platform.take_the_rule_back()
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert platform.customer("ann") == 2.0
    times = pa.chunked_array([pa.array([datetime.fromisoformat(between)], TIMESTAMP)])
    join = Join(features_table("customer_last"), {"customer": "customer"}, ("amount",))
    assert asof(platform.lake, pa.table({"customer": ["ann"]}), times, join)["amount"].to_pylist() == [-1.0]


def test_a_replay_that_was_cut_short_is_settled_when_it_is_read_again(platform: Platform) -> None:
    early, late = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, early), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, late), lsn=11)),
        (key(2), envelope("u", row(2, "bob", -2.0, late), before=row(2, "ann", 2.0, late), lsn=12)),
    )
    platform.run()
    platform.take_the_rule_back()
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.lake.after[changes_table(TOPIC)] = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "c"), (12, "u")]
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, -2.0)


def test_what_was_rejected_stays_a_letter_when_it_is_read_again_under_another_contract(platform: Platform) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(1), envelope("u", row(1, "ann", -1.0), before=row(1, "ann", 1.0), lsn=11)),
        (key(2), envelope("c", row(2, "bob", 2.0), lsn=12)),
    )
    platform.lake.after[changes_table(TOPIC)] = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.take_the_rule_back()
    platform.run()
    assert platform.changes() == [(10, "c"), (12, "c")]
    assert (platform.order(1), platform.customer("ann")) == (1.0, 1.0)
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "u"), (12, "c")]
    assert (platform.order(1), platform.customer("ann")) == (-1.0, -1.0)


def test_what_was_rejected_stays_a_letter_though_all_that_came_with_it_stood_in_the_lake(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=10)))
    platform.lake.after[changes_table(TOPIC)] = [Killed(), Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.produce((key(1), envelope("u", row(1, "ann", -1.0), before=row(1, "ann", 1.0), lsn=11)))
    with pytest.raises(Killed):
        platform.run()
    platform.take_the_rule_back()
    platform.run()
    assert platform.changes() == [(10, "c")] and len(platform.letters()) == 1
    assert (platform.order(1), platform.customer("ann")) == (1.0, 1.0)


@pytest.mark.parametrize("kills", [1, 2])
def test_what_is_accepted_only_when_it_is_read_again_stands_in_the_tables_of_the_views_too(
    platform: Platform, kills: int
) -> None:
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(1), envelope("u", row(1, "ann", -1.0), before=row(1, "ann", 1.0), lsn=11)),
        (key(2), envelope("c", row(2, "bob", 2.0), lsn=12)),
    )
    for _ in range(kills):
        platform.lake.before[changes_table(TOPIC)] = [Killed()]
        with pytest.raises(Killed):
            platform.run()
        platform.take_the_rule_back()
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "u"), (12, "c")]
    for table in ("order_now", "customer_last"):
        rows = platform.lake.scan(features_table(table), ["_lsn", "amount"]).read_all()
        assert sorted(zip(*rows.to_pydict().values(), strict=True)) == [(10, 1.0), (11, -1.0), (12, 2.0)]
    assert (platform.order(1), platform.customer("ann")) == (-1.0, -1.0)


def test_a_row_that_moved_back_on_its_way_to_the_lake_is_not_overtaken_by_a_decision(platform: Platform) -> None:
    """The decision of one batch finds the row in the lake as it was, while the next batch is already online."""
    early, middle, late, latest = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3, 4))
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, late), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, latest), lsn=11)),
        (key(3), envelope("c", row(3, "ann", 3.0, middle), lsn=12)),
    )
    platform.run()
    platform.produce((key(2), envelope("d", None, before=row(2, "ann", 2.0, latest), lsn=13)))
    worker, consumer = platform.joined()
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 100))
    first, worker._batch = worker._batch, worker._fresh()
    platform.produce(
        (key(1), envelope("u", row(1, "ann", 4.0, early), before=row(1, "ann", 1.0, late), lsn=14)),
        (key(4), envelope("c", row(4, "ann", 5.0, "2024-01-02T12:00:00Z"), lsn=15)),
    )
    worker._take(consumer.poll(0, 100))
    worker._flusher._flush(first)
    worker._flush_all()
    assert platform.customer("ann") == 5.0


def test_a_table_that_is_mostly_rejected_is_paused_with_its_reason(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 500)))
    worker = platform.run(
        until=lambda: platform.worker is not None and platform.worker.state()["paused"], poll_records=60
    )
    assert "expect_column_values_to_be_between" in str(worker.state()["paused"])
    assert len(platform.letters()) < 499
    assert platform.broker.offsets[GROUP, P0] == len(platform.letters())


def test_letters_that_fail_again_pause_no_table(platform: Platform) -> None:
    """They tell nothing of what comes from the source, which would wait behind them."""
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 41)))
    platform.run(until=platform.drained)
    for _ in range(3):
        replay(MemoryProducer(platform.broker), platform.letters()[:40])
    platform.produce((key(50), envelope("c", row(50, amount=5.0), lsn=50)))
    worker = platform.run(until=platform.drained, poll_records=30)
    assert worker.paused == {} and len(platform.letters()) == 160
    assert platform.changes() == [(50, "c")]


def test_a_paused_table_goes_on_where_it_stopped_when_it_is_resumed(platform: Platform) -> None:
    """Bad enough to trip twice, then good: every record is a letter or in the lake, none is both."""
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 121)))
    platform.produce(*((key(i), envelope("c", row(i, amount=1.0), lsn=i)) for i in range(121, 200)))
    paused: list[int] = []

    def drained_by_resuming() -> bool:
        assert platform.worker is not None
        if platform.worker.paused:
            paused.append(len(platform.letters()))
            before = platform.worker.state()["resumed"]
            ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
            while platform.worker.state()["resumed"] == before:
                threading.Event().wait(0.001)
        return platform.drained()

    worker = platform.run(until=drained_by_resuming, poll_records=20)
    assert len(paused) == 2
    assert [letter.offset for letter in platform.letters()] == list(range(120))
    assert platform.changes() == [(i, "c") for i in range(121, 200)]
    assert worker.state()["resumed"] == {TOPIC: 2} and worker.paused == {}


def test_a_word_on_the_control_topic_that_is_no_command_is_left_alone(platform: Platform) -> None:
    worker = platform.start()
    for value in (b"{oops", b"[]", b'{"command": "jump"}', None):
        platform.broker.append(Partition(CONTROL, 0), TOPIC.encode(), value)
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=1)))
    assert worker._parts.control.resumes() == []


def test_a_full_stage_waits_for_the_flush(platform: Platform) -> None:
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "slow")] * 3
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 200)))
    platform.run(poll_records=10, stage_rows=30)
    assert len(platform.changes()) == 199


def test_a_stage_is_full_by_its_bytes_too(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 10 kB: the lake gets a few at a time, though it is away for a while and more of them come meanwhile."""
    staged: list[int] = []
    join = Batch.join

    def joined(batch: Batch, table: str) -> pa.Table:
        staged.append(batch.bytes)
        return join(batch, table)

    monkeypatch.setattr(Batch, "join", joined)
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "slow")] * 3
    platform.produce(*((key(i), envelope("c", row(i, "ann" * 3_000), lsn=i)) for i in range(1, 200)))
    platform.run(poll_records=10, stage_bytes=300_000)
    assert len(platform.changes()) == 199
    assert 300_000 < max(staged) < 1_000_000


def test_event_rows_carry_their_own_time(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0, "2024-01-01T00:00:00Z"), lsn=10)))
    platform.run()
    rows = platform.lake.scan(features_table("customer_last")).read_all()
    assert rows["event_timestamp"][0].as_py().isoformat().startswith("2024-01-01T00:00:00")
    assert rows["created_timestamp"][0].as_py() - rows["event_timestamp"][0].as_py() != timedelta(0)


def test_the_double_keeps_the_seam(platform: Platform) -> None:
    result = platform.online.write([FeatureRows(ORDER, rows_schema(ORDER).empty_table())])
    assert (result.applied, result.refused) == (0, 0)


def test_a_row_that_moves_on_from_a_rejected_change_leaves_where_the_views_have_it(platform: Platform) -> None:
    """Its old values are those of the rejected change, in one poll and in several, of two workers."""
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0), lsn=11)),
    )
    platform.run()
    platform.produce((key(1), envelope("u", row(1, "bob", -1.0), before=row(1, "ann", 1.0), lsn=12)))
    platform.produce((key(2), envelope("u", row(2, "bob", -2.0), before=row(2, "ann", 2.0), lsn=13)))
    platform.produce((key(2), envelope("u", row(2, "cid", 3.0), before=row(2, "bob", -2.0), lsn=14)))
    platform.run()
    assert (platform.customer("ann"), platform.customer("cid")) == (1.0, 3.0)
    platform.produce((key(1), envelope("u", row(1, "bob", 5.0), before=row(1, "bob", -1.0), lsn=15)))
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob")) == (None, 5.0)
    platform.produce((key(2), envelope("d", None, before=row(2, "cid", 3.0), lsn=16)))
    platform.run()
    assert platform.customer("cid") is None


def test_a_row_is_deleted_where_the_views_have_it_after_a_rejected_change(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0), lsn=10)))
    platform.produce((key(1), envelope("u", row(1, "bob", -1.0), before=row(1, "ann", 1.0), lsn=11)))
    platform.produce((key(1), envelope("d", None, before=row(1, "bob", -1.0), lsn=12)))
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob")) == (None, None)


def test_rows_without_old_values_leave_where_they_were(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    """As of a partition whose REPLICA IDENTITY is not FULL: updates have no old values, deletes only the key's."""
    platform.produce(*((key(i), envelope("c", row(i, "ann", float(i)), lsn=10 + i)) for i in (1, 2)))
    platform.run()
    platform.produce(
        (key(1), envelope("u", row(1, "bob", 3.0), lsn=20)),
        (key(1), envelope("u", row(1, "cid", 4.0), lsn=21)),
        (key(2), envelope("d", None, before={"id": 2}, lsn=22)),
        (key(1), envelope("d", None, before=row(1, "", 0.0, "1970-01-01T00:00:00Z"), lsn=23)),
    )
    platform.run()
    assert [platform.customer(name) for name in ("ann", "bob", "cid")] == [None, None, None]
    assert "REPLICA IDENTITY of the table, or of a partition of it, is not FULL" in caplog.text


def test_a_rejected_insert_leaves_nothing_to_look_up(platform: Platform) -> None:
    """It is in no view. Of other rejected changes the lake keeps whether a later one was accepted."""
    platform.produce(
        (key(1), envelope("c", row(1, "ann", -1.0), lsn=10)),
        (key(2), envelope("c", row(2, "bob", 1.0), lsn=11)),
        (key(2), envelope("u", row(2, "bob", -2.0), before=row(2, "bob", 1.0), lsn=12)),
        (key(3), envelope("c", row(3, "bob", 3.0), lsn=13)),
        (key(2), envelope("u", row(2, "bob", 2.0), before=row(2, "bob", -2.0), lsn=14)),
    )
    platform.run()
    kept = platform.lake.scan(rejected_table(TOPIC)).read_all()
    assert list(zip(*(kept[name].to_pylist() for name in ("_key", "_open", "_offset")), strict=True)) == [
        (key(2), True, 2),
        (key(2), False, 4),
    ]
