"""The worker over the broker, the online store and the lake in memory: what becomes of records, and of faults."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stores.errors import StoreUnavailable
from stores.history import change_properties, feature_properties
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import FeatureRows, WriteResult, rows_schema
from stores.view import Feature, Kind, View
from streams.breaker import Breaker, BreakerSettings
from streams.broker import BrokerUnavailable
from streams.changes import changes_schema
from streams.clock import SystemClock
from streams.control import Control, ask_to_resume
from streams.decide import changes_table, features_table
from streams.letters import REPLAY_OF, DeadLetters, read, replay
from streams.memory import MemoryBroker, MemoryConsumer, MemoryFollower, MemoryProducer, MemoryTopics
from streams.messages import Partition
from streams.pipeline import Flow
from streams.positions import RecordsExpired, TopicRecreated
from streams.tally import Tally
from streams.views import StreamView
from streams.windows import Windows
from streams.worker import Parts, Worker, WorkerSettings
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from validation.contract import load

GROUP, LETTERS, CONTROL = "g", "letters", "control"
P0, P1 = Partition(TOPIC, 0), Partition(TOPIC, 1)
SUITE = {
    "name": "orders",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0},
            "severity": "critical",
            "meta": {},
        }
    ],
    "meta": {},
}


def view(kind: Kind, name: str, key_name: str, value_type: int, arrow_type: pa.DataType) -> View:
    return View(
        "p", name, name, kind, (Feature(key_name, value_type, arrow_type),), (Feature("amount", 5, pa.float64()),)
    )


ORDER = view("state", "order_now", "id", 4, pa.int64())
CUSTOMER = view("event", "customer_last", "customer", 2, pa.string())


class Killed(BaseException):
    """What a kill -9 looks like from inside: nothing after it runs."""


class UnreliableOnline(MemoryOnline):
    """Fails on demand, before or after the write took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[BaseException] = []

    def write(self, batches: Any) -> WriteResult:
        if self.faults:
            raise self.faults.pop(0)
        return super().write(batches)


class UnreliableLake(MemoryLake):
    """Fails on demand before an append, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, list[BaseException]] = {}
        self.after: dict[str, list[BaseException]] = {}

    def append(self, name: str, rows: pa.Table, offsets: Any) -> Any:
        if self.before.get(name):
            raise self.before[name].pop(0)
        result = super().append(name, rows, offsets)
        if self.after.get(name):
            raise self.after[name].pop(0)
        return result


@dataclass
class Platform:
    """Everything around a worker; it outlives the workers."""

    folder: Path
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(partitions={TOPIC: 2, LETTERS: 1}))
    online: UnreliableOnline = field(default_factory=UnreliableOnline)
    lake: UnreliableLake = field(default_factory=UnreliableLake)
    consumer: MemoryConsumer | None = None
    worker: Worker | None = None

    def __post_init__(self) -> None:
        contract = self.folder / "public.orders.json"
        contract.write_text(json.dumps(SUITE))
        views = (StreamView(ORDER, ORDERS), StreamView(CUSTOMER, ORDERS, "placed_at"))
        self.flow = Flow(ORDERS, load(contract, changes_schema(ORDERS)), views)
        self.lake.create(changes_table(TOPIC), changes_schema(ORDERS), change_properties(TOPIC, ("id",)))
        for v in (ORDER, CUSTOMER):
            self.lake.create(features_table(v.name), rows_schema(v), feature_properties(v, TOPIC))

    def start(self, **settings: Any) -> Worker:
        self.consumer = MemoryConsumer(self.broker, GROUP)
        self.worker = Worker(
            {TOPIC: self.flow},
            Parts(
                consumer=self.consumer,
                letters=DeadLetters(MemoryProducer(self.broker), LETTERS),
                online=self.online,
                lake=self.lake,
                embedding=lambda outcome: outcome,
                breaker=Breaker(BreakerSettings(least=50)),
                windows=Windows({TOPIC: self.flow}, 1_000, 60.0),
                tally=Tally(),
                control=Control(MemoryFollower(self.broker, CONTROL)),
                clock=SystemClock(),
                beside=ThreadPoolExecutor(max_workers=5),
            ),
            WorkerSettings(poll_seconds=0.001, flush_seconds=0.01, stop_seconds=2.0, **settings),
        )
        return self.worker

    def run(self, until: Any = None, **settings: Any) -> Worker:
        """Run a new worker until everything is committed, or `until` holds."""
        worker = self.start(**settings)
        stop = threading.Event()
        failure: list[BaseException] = []

        def body() -> None:
            try:
                worker.run(stop)
            except BaseException as error:  # noqa: BLE001  # handed to the test's own thread
                failure.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        finished = until or self.drained
        for _ in range(2_000):
            if not thread.is_alive() or finished():
                break
            threading.Event().wait(0.002)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        if failure:
            raise failure[0]
        return worker

    def drained(self) -> bool:
        return all(self.broker.offsets.get((GROUP, p), 0) == len(self.broker.log[p]) for p in (P0, P1))

    def produce(self, *values: tuple[bytes | None, bytes | None], to: Partition = P0) -> None:
        for k, v in values:
            self.broker.append(to, k, v)

    def order(self, id_: int) -> Any:
        return self._read(ORDER, pa.table({"id": [id_]}))

    def customer(self, name: str) -> Any:
        return self._read(CUSTOMER, pa.table({"customer": [name]}))

    def take_the_rule_back(self) -> None:
        contract = self.folder / "public.orders.json"
        contract.write_text(json.dumps({**SUITE, "expectations": []}))
        self.flow = Flow(ORDERS, load(contract, changes_schema(ORDERS)), self.flow.views)

    def _read(self, v: View, keys: pa.Table) -> Any:
        (table,) = self.online.read([v], keys)
        return table["amount"][0].as_py() if table["_present"][0].as_py() else None

    def changes(self) -> list[tuple[int, str]]:
        table = self.lake.scan(changes_table(TOPIC)).read_all()
        return sorted(zip(table["_lsn"].to_pylist(), table["_op"].to_pylist(), strict=True))

    def letters(self) -> list[Any]:
        return list(read(MemoryTopics(self.broker), LETTERS))


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


def test_a_row_that_moved_back_on_its_way_to_the_lake_is_not_overtaken_by_a_decision(platform: Platform) -> None:
    """The decision of one batch finds the row in the lake as it was, while the next batch is already online."""
    early, middle, late, latest = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3, 4))
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, late), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, latest), lsn=11)),
        (key(3), envelope("c", row(3, "ann", 3.0, middle), lsn=12)),
    )
    platform.run()
    worker = platform.start()
    consumer = platform.consumer
    assert consumer is not None
    platform.produce((key(2), envelope("d", None, before=row(2, "ann", 2.0, latest), lsn=13)))
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
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


def test_a_partition_that_is_lost_and_given_back_while_a_store_is_away_loses_nothing(platform: Platform) -> None:
    worker = platform.start()
    platform.produce(*((key(i), envelope("c", row(i, amount=float(i)), lsn=10 + i)) for i in range(1, 4)))
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 2))
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")]
    lose = consumer.poll

    def lose_and_regain(timeout: float, limit: int) -> Any:
        consumer.poll = lose  # type: ignore[method-assign]
        consumer.revoke([P0], lost=True)
        consumer.assign([P0])
        return []

    polled = consumer.poll(0, 1)
    consumer.poll = lose_and_regain  # type: ignore[method-assign]
    worker._take(polled)
    worker._flush_all()
    platform.run()
    assert platform.changes() == [(11, "c"), (12, "c"), (13, "c")]


def test_a_partition_that_is_lost_while_a_write_beside_the_loop_is_tried_again_is_not_doubled(
    platform: Platform,
) -> None:
    worker = platform.start(poll_records=2)
    platform.produce(*((key(i), envelope("c", row(i, amount=float(i)), lsn=10 + i)) for i in range(1, 4)))
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0, P1])
    platform.online.faults = [StoreUnavailable("Redis", "connection refused")] * 2
    worker._take(consumer.poll(0, 2))
    poll = consumer.poll

    def lose_and_regain(timeout: float, limit: int) -> Any:
        consumer.poll = poll  # type: ignore[method-assign]
        consumer.revoke([P0], lost=True)
        consumer.assign([P0])
        return []

    consumer.poll = lose_and_regain  # type: ignore[method-assign]
    worker._writes.finish()
    assert not worker.staged_rows
    platform.run()
    assert platform.changes() == [(11, "c"), (12, "c"), (13, "c")]


def test_offsets_that_could_not_be_handed_over_are_committed_later(platform: Platform) -> None:
    worker = platform.start()
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=10)))
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 100))
    commit = consumer.commit

    def refuse(offsets: Any) -> None:
        consumer.commit = commit  # type: ignore[method-assign]
        raise BrokerUnavailable("no coordinator")

    consumer.commit = refuse  # type: ignore[method-assign]
    consumer.revoke([P1])
    worker._commit(worker._flusher.collect())
    assert platform.broker.offsets == {(GROUP, P0): 1}


def test_a_member_that_checks_its_positions_beside_a_late_writer_goes_on(platform: Platform) -> None:
    """What another member writes between the two questions is no sign of a topic made anew."""
    platform.produce((key(1), envelope("c", row(1), lsn=10)))
    platform.run()
    worker = platform.start()
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0])
    span = consumer.span

    def grows(partition: Partition) -> tuple[int, int]:
        answer = span(partition)
        platform.produce((key(2), envelope("c", row(2), lsn=11)))
        platform.lake.advance(changes_table(TOPIC), {P0: 2})
        return answer

    consumer.span = grows  # type: ignore[method-assign]
    worker._check_positions()


def test_a_table_that_is_mostly_rejected_is_paused_with_its_reason(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 500)))
    worker = platform.run(
        until=lambda: platform.worker is not None and platform.worker.state()["paused"], poll_records=60
    )
    assert "expect_column_values_to_be_between" in str(worker.state()["paused"])
    assert len(platform.letters()) < 499
    assert platform.broker.offsets[GROUP, P0] == len(platform.letters())


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


def test_one_word_reaches_every_worker_of_the_group(platform: Platform) -> None:
    paused = []
    for partition in (P0, P1):
        platform.produce(
            *((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 100)),
            (key(200), envelope("c", row(200, amount=2.0), lsn=200)),
            to=partition,
        )
        worker, consumer = platform.start(), platform.consumer
        assert consumer is not None
        consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
        consumer.assign([partition])
        worker._take(consumer.poll(0, 99))
        assert consumer.poll(0, 1_000) == []
        paused.append((worker, consumer))
    ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
    for worker, consumer in paused:
        worker._resume_asked()
        assert [records.offsets for records in consumer.poll(0, 1_000)] == [[99]]


def test_a_word_on_the_control_topic_that_is_no_command_is_left_alone(platform: Platform) -> None:
    worker = platform.start()
    for value in (b"{oops", b"[]", b'{"command": "jump"}', None):
        platform.broker.append(Partition(CONTROL, 0), TOPIC.encode(), value)
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=1)))
    assert worker._parts.control.resumes() == []


def test_a_paused_table_stays_paused_when_more_of_it_is_assigned(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 100)))
    platform.produce((key(200), envelope("c", row(200, amount=2.0), lsn=200)), to=P1)
    worker = platform.start()
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0])
    worker._take(consumer.poll(0, 1_000))
    assert TOPIC in worker.paused
    consumer.assign([P1])
    assert consumer.poll(0, 1_000) == []
    ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
    worker._resume_asked()
    assert [records.offsets for records in consumer.poll(0, 1_000)] == [[0]]


def test_a_worker_with_nothing_to_do_says_that_the_broker_is_away(platform: Platform) -> None:
    seen: list[object] = []

    def back() -> bool:
        assert platform.worker is not None
        seen.append(platform.worker.state()["waiting_for"])
        platform.broker.available = len(seen) > 3
        return len(seen) > 5

    platform.broker.available = False
    worker = platform.run(until=back)
    assert "away" in str(seen[0])
    assert worker.state()["waiting_for"] is None


def test_partitions_are_handed_over_without_loss(platform: Platform) -> None:
    worker = platform.start()
    platform.produce((key(1), envelope("c", row(1, amount=1.0), lsn=10)))
    platform.produce((key(2), envelope("c", row(2, amount=2.0), lsn=11)), to=P1)
    consumer = platform.consumer
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0, P1])
    worker._take(consumer.poll(0, 100))
    consumer.revoke([P1], lost=True)
    consumer.revoke([P0])
    assert platform.broker.offsets == {(GROUP, P0): 1}
    assert platform.changes() == [(10, "c")]
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "c")]


def test_a_topic_made_anew_is_refused_instead_of_taken_for_a_replay(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 5)))
    platform.run()
    platform.broker.log.clear()
    platform.broker.offsets.clear()
    platform.produce((key(9), envelope("c", row(9), lsn=100)))
    with pytest.raises(TopicRecreated, match="made anew"):
        platform.run(until=lambda: False)


def test_records_that_expired_unread_stop_the_worker(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 5)))
    platform.run()
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(5, 9)))
    platform.broker.expired[P0] = 6
    with pytest.raises(RecordsExpired, match="2 records passed their retention unread"):
        platform.run(until=lambda: False)


def test_a_partition_that_is_assigned_while_another_is_checked_is_checked_too(platform: Platform) -> None:
    worker = platform.start()
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 4)), to=P1)
    platform.broker.offsets[GROUP, P1] = 1
    platform.broker.expired[P1] = 2
    consumer, next_offset = platform.consumer, platform.lake.next_offset
    assert consumer is not None
    consumer.subscribe([TOPIC], worker._assigned, worker._revoked, worker._lost)
    consumer.assign([P0])

    def away_once(*place: Any) -> int | None:
        if P1 in worker._owned:
            return next_offset(*place)
        consumer.assign([P1])  # as a poll that waits for the lake may find
        raise StoreUnavailable("the lake", "slow")

    platform.lake.next_offset = away_once  # type: ignore[method-assign]
    with pytest.raises(RecordsExpired, match=r"orders\[1\] begins at offset 2"):
        worker._check_positions()


def test_a_pause_that_outlasts_the_retention_is_no_gap_in_silence(platform: Platform) -> None:
    platform.produce(*((key(i), envelope("c", row(i, amount=-1.0), lsn=i)) for i in range(1, 200)))

    def expired_while_paused() -> bool:
        assert platform.worker is not None
        if platform.worker.paused:
            platform.broker.expired[P0] = 150
            ask_to_resume(MemoryProducer(platform.broker), CONTROL, TOPIC)
        return False

    with pytest.raises(RecordsExpired, match=r"begins at offset 150, but was read up to \d+ only"):
        platform.run(until=expired_while_paused, poll_records=60)


def test_a_full_stage_waits_for_the_flush(platform: Platform) -> None:
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "slow")] * 3
    platform.produce(*((key(i), envelope("c", row(i), lsn=i)) for i in range(1, 200)))
    platform.run(poll_records=10, stage_rows=30)
    assert len(platform.changes()) == 199


def test_event_rows_carry_their_own_time(platform: Platform) -> None:
    platform.produce((key(1), envelope("c", row(1, "ann", 1.0, "2024-01-01T00:00:00Z"), lsn=10)))
    platform.run()
    rows = platform.lake.scan(features_table("customer_last")).read_all()
    assert rows["event_timestamp"][0].as_py().isoformat().startswith("2024-01-01T00:00:00")
    assert rows["created_timestamp"][0].as_py() - rows["event_timestamp"][0].as_py() != timedelta(0)


def test_the_double_keeps_the_seam(platform: Platform) -> None:
    result = platform.online.write([FeatureRows(ORDER, rows_schema(ORDER).empty_table())])
    assert (result.applied, result.refused) == (0, 0)
