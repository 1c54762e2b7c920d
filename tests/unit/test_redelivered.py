"""What a source connector sends again, after it died before it stored its position, stands once in the lake."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.table import Column
from stores.history import change_properties, feature_properties, newest
from stores.rows import FeatureRows, WriteResult, rows_schema
from streams.changes import changes_schema
from streams.decide import changes_table, features_table
from streams.letters import replay
from streams.memory import MemoryProducer
from streams.pipeline import Outcome
from streams.redelivered import READ_LAST, READING, _not_above, begun_anew
from streams.replays import settle_replays
from streams.snapshots import begin_first, begin_snapshot, end_snapshot
from tests.envelopes import ORDERS, TOPIC, base, envelope, key, row
from tests.unit.test_truncate import Member
from tests.worker_platform import CUSTOMER, ORDER, P0, P1, Killed, Platform, UnreliableLake

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


@pytest.mark.parametrize("deleted", [True, False])
def test_what_was_rejected_and_is_sent_again_is_not_newer_than_what_followed(platform: Platform, deleted: bool) -> None:
    """The contract was mended in between, so that it is accepted now."""
    other = envelope("c", row(5, "ann", 5.0, "2023-01-01T00:00:00Z"), lsn=5)
    sent = [
        (key(1), envelope("c", row(1, "ann", -1.0), lsn=10)),
        (key(1), envelope("u", row(1, "bob", 2.0), before=row(1, "ann", -1.0), lsn=20)),
        *([(key(1), envelope("d", None, before=row(1, "bob", 2.0), lsn=30))] if deleted else []),
    ]
    platform.produce((key(5), other), *sent)
    platform.run()
    assert len(platform.letters()) == 1 and platform.customer("ann") == 5.0
    platform.take_the_rule_back()
    platform.produce(*sent)
    platform.run()
    assert platform.changes().count((10, "c")) == 1
    assert (platform.customer("ann"), platform.customer("bob")) == (5.0, None if deleted else 2.0)


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


Row = tuple[int, float]
READ: list[Row] = [(2, 2.0), (1, 1.0), (3, 3.0)]
AT = base(1000).micros
Begun = int | None
INITIAL, INITIAL_AGAIN, INCREMENTAL = AT + 500, AT + 700, None


def read(platform: Platform, begun: Begun, *rows: Row, to: Any = P0) -> None:
    """What a snapshot reads. An initial one's rows have its time, and one LSN, which in a quiet database is that of the
    next one too; an incremental one's have none, and come in the order of their keys."""
    if begun is None:
        made = [(key(i), envelope("r", row(i, "ann", of), lsn=None, ts_us=AT + i)) for i, of in sorted(rows)]
    else:
        made = [(key(i), envelope("r", row(i, "ann", of), lsn=1500, ts_us=begun)) for i, of in rows]
    platform.produce(*made, to=to)


@pytest.fixture
def looked_up(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A snapshot is asked for; gives how many changes were looked up in the lake each time that any were."""
    begin_first(platform.lake, TOPIC, base(1000), under_way=False)
    asked: list[int] = []

    def settle(lake: Any, staged: Any, outcome: Outcome, mask: Any) -> Outcome:
        asked.append(int(mask.sum()))
        return settle_replays(lake, staged, outcome, mask)

    monkeypatch.setattr("streams.worker.settle_replays", settle)
    return asked


@pytest.mark.parametrize(("first", "second"), [(INITIAL, INITIAL_AGAIN), (INCREMENTAL, INCREMENTAL)])
@pytest.mark.parametrize("between", ["taken", "flushed", "another worker"])
@pytest.mark.parametrize("flow", ["with event times", "by commits"])
def test_a_snapshot_that_begins_anew_is_dropped_but_for_what_is_new(
    platform: Platform, looked_up: list[int], first: Begun, second: Begun, between: str, flow: str
) -> None:
    if flow == "by commits":
        state, event = platform.flow.views
        platform.flow = replace(platform.flow, views=(state, replace(event, event_time=None)))
    worker = Member(platform, P0)
    read(platform, first, *READ)
    worker.take()
    if between != "taken":
        worker.flush()
    if between == "another worker":
        worker = Member(platform, P0)
    read(platform, second, *READ[:2])
    worker.take()
    if between == "another worker":
        worker.flush()
        worker = Member(platform, P0)
    read(platform, second, READ[2], (4, 4.0))
    worker.finish()
    new = 998 if first is INCREMENTAL else 999
    assert changes(platform) == [*((998, i, "r") for i in (1, 2, 3)), (new, 4, "r")]
    assert platform.lake.scan(features_table("order_now")).read_all().num_rows == 4
    assert [platform.order(i) for i in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 4.0]


def test_a_snapshot_that_begins_anew_in_the_same_poll(platform: Platform, looked_up: list[int]) -> None:
    read(platform, INITIAL, *READ)
    read(platform, INITIAL_AGAIN, *READ)
    platform.produce((key(1), envelope("u", row(1, "ann", 5.0), before=row(1, "ann", 1.0), lsn=1800)))
    Member(platform, P0).finish()
    assert changes(platform) == [(998, 1, "r"), (998, 2, "r"), (998, 3, "r"), (1800, 1, "u")]


@pytest.mark.parametrize("to", [P0, P1])
@pytest.mark.parametrize("again", [True, False])
def test_a_first_snapshot_that_was_read_twice_is_told_of_until_a_later_one(
    platform: Platform, looked_up: list[int], to: Any, again: bool
) -> None:
    """Whether its second reading brought anything new, or other partitions alone have rows of it."""
    read(platform, INITIAL, *READ)
    Member(platform, P0).finish()
    assert told(platform) == []
    read(platform, INITIAL_AGAIN if again else INITIAL, READ[0], to=to)
    Member(platform, to).finish()
    assert told(platform) == [TOPIC] * again
    later = base(2000)
    begin_snapshot(platform.lake, TOPIC, later)
    assert told(platform) == []
    end_snapshot(platform.lake, TOPIC, later.lsn)
    assert told(platform) == []


@pytest.mark.parametrize("emptied", [True, False])
def test_a_table_that_was_emptied_between_two_readings_is_told_of_by_another(
    platform: Platform, looked_up: list[int], emptied: bool
) -> None:
    read(platform, INITIAL, *READ)
    if not emptied:
        read(platform, INITIAL_AGAIN, *READ)
    Member(platform, P0).finish()
    other = changes_table(OTHER)
    platform.lake.create(other, changes_schema(ORDERS), change_properties(OTHER, ("id",)))
    begin_first(platform.lake, OTHER, base(1000), under_way=False)
    assert told(platform) == ([] if emptied else [TOPIC])
    platform.lake.advance(other, {(OTHER, READING - 1): INITIAL_AGAIN, (OTHER, READ_LAST - 1): INITIAL_AGAIN})
    assert told(platform) == [TOPIC]


OTHER = "shop.public.others"


def told(platform: Platform) -> list[str]:
    """Of which tables it is told that their first snapshot was begun anew; of one there is nothing in the lake yet."""
    return begun_anew(platform.lake, [TOPIC, OTHER, "shop.public.none"], 2)


def newest_of(platform: Platform, id_: int) -> float:
    (row_,) = newest(platform.lake, ORDER, pa.table({"id": [id_]})).to_pylist()
    return float(row_["amount"])


def test_a_row_that_changed_between_two_readings_is_as_it_was_read_last(
    platform: Platform, looked_up: list[int]
) -> None:
    """The change itself is not streamed: that begins where the second snapshot does."""
    worker = Member(platform, P0)
    read(platform, INITIAL, *READ)
    worker.finish()
    read(platform, INITIAL_AGAIN, (1, 1.5), (2, 2.0), (3, 3.0))
    worker.finish()
    assert platform.order(1) == 1.5
    assert changes(platform) == [(998, 1, "r"), (998, 2, "r"), (998, 3, "r"), (999, 1, "r")]
    for begun in (INITIAL_AGAIN + 1, INITIAL_AGAIN + 2):
        read(platform, begun, *READ)
        worker.finish()
        assert platform.order(1) == newest_of(platform, 1) == 1.0
    assert len(changes(platform)) == 5


def test_a_worker_that_is_late_with_a_first_reading_does_not_undo_the_second(
    platform: Platform, looked_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is frozen as it writes, until another worker has its partition and is through."""
    late: list[Sequence[FeatureRows]] = []

    def freeze(batches: Sequence[FeatureRows]) -> WriteResult:
        late.append(batches)
        return WriteResult(0, 0)

    zombie = Member(platform, P0)
    read(platform, INITIAL, *READ)
    with monkeypatch.context() as frozen:
        frozen.setattr(platform.online, "write", freeze)
        zombie.take()
    read(platform, INITIAL_AGAIN, (1, 1.5), *READ[:1])
    Member(platform, P0).finish()
    for batches in late:
        platform.online.write(batches)
    assert platform.order(1) == newest_of(platform, 1) == 1.5
    assert [platform.order(i) for i in (2, 3)] == [2.0, 3.0]


def moves(platform: Platform, begun: int, customer: str) -> None:
    """A reading has order 1 at a customer."""
    platform.produce((key(1), envelope("r", row(1, customer, 1.0), lsn=1500, ts_us=begun)))


@pytest.mark.parametrize("killed", [None, *(features_table("customer_last"), changes_table(TOPIC))])
def test_a_row_that_moved_between_two_readings_leaves_its_entity(
    platform: Platform, looked_up: list[int], killed: str | None
) -> None:
    """In the lake too, and if the worker that read it ends before the entity is decided."""
    platform.produce((key(5), envelope("r", row(5, "ann", 5.0, "2023-01-01T00:00:00Z"), lsn=1500, ts_us=INITIAL)))
    moves(platform, INITIAL, "ann")
    Member(platform, P0).finish()
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, None)
    moves(platform, INITIAL_AGAIN, "bob")
    if killed is not None:
        platform.lake.after[killed] = [Killed()]
        with pytest.raises(Killed):
            Member(platform, P0).finish()
    Member(platform, P0).finish()
    assert (platform.customer("ann"), platform.customer("bob")) == (5.0, 1.0)
    left = platform.lake.scan(features_table("customer_last")).read_all().filter(pc.field("_deleted")).to_pylist()
    assert [(gone["customer"], gone["_lsn"]) for gone in left] == [("ann", 999)]


def test_a_row_that_moves_back_by_a_third_reading(platform: Platform, looked_up: list[int]) -> None:
    for begun, customer in ((INITIAL, "ann"), (INITIAL_AGAIN, "bob"), (INITIAL_AGAIN + 1, "ann")):
        moves(platform, begun, customer)
        Member(platform, P0).finish()
        assert [platform.customer(name) for name in ("ann", "bob") if name != customer] == [None]
        assert platform.customer(customer) == 1.0


def test_a_letter_of_a_first_reading_does_not_undo_the_second(platform: Platform, looked_up: list[int]) -> None:
    read(platform, INITIAL, (1, -1.0), (2, 2.0))
    platform.run()
    read(platform, INITIAL_AGAIN, (1, 1.0), (2, 2.0))
    platform.run()
    platform.take_the_rule_back()
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert platform.order(1) == newest_of(platform, 1) == 1.0
    assert changes(platform) == [(998, 1, "r"), (998, 2, "r"), (999, 1, "r")]


@pytest.mark.parametrize("begun", [INITIAL, INCREMENTAL])
def test_nothing_of_a_snapshot_is_looked_up_while_it_is_read_once(
    platform: Platform, looked_up: list[int], begun: Begun
) -> None:
    worker = Member(platform, P0)
    for start in (1, 4, 7):
        read(platform, begun, *((i, 1.0) for i in (start + 2, start, start + 1)))
        worker.finish()
    if begun is not None:
        worker = Member(platform, P0)
        read(platform, begun, (11, 1.0), (10, 1.0))
        worker.finish()
    assert looked_up == []
    assert len(changes(platform)) == (9 if begun is None else 11)


@pytest.mark.parametrize("to", [P0, P1])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_truncate_that_comes_again_is_dropped(platform: Platform, to: Any, ahead: bool) -> None:
    """It has no key, so it may come in another partition."""
    truncate = (None, envelope("t", None, lsn=20))
    platform.produce(FIRST[0], truncate)
    Member(platform, P0).finish()
    if ahead:
        platform.produce((key(2), envelope("c", row(2, "bob", 2.0), lsn=30)), to=to)
    platform.produce(truncate, to=to)
    Member(platform, to).finish()
    assert changes(platform) == [(10, 1, "c"), (20, None, "t"), *([(30, 2, "c")] if ahead else [])]


keys = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), min_size=1, max_size=8)


@given(st.lists(keys, max_size=4))
def test_keys_that_are_not_above_all_before_them_are_found(parts: list[list[tuple[int, str]]]) -> None:
    schema = pa.schema([("k0", pa.int64()), ("k1", pa.string())])
    greatest, found, seen = schema.empty_table(), list[bool](), list[tuple[int, str]]()
    for part in parts:
        table = pa.Table.from_pylist([dict(zip(schema.names, of, strict=True)) for of in part], schema)
        mask, greatest = _not_above(greatest, table)
        found += mask.tolist()
        seen += part
    assert found == [any(earlier >= of for earlier in seen[:i]) for i, of in enumerate(seen)]
    assert [tuple(of.values()) for of in greatest.to_pylist()] == ([max(seen)] if seen else [])


def test_what_comes_behind_a_later_change_of_its_row_leaves_where_that_was(platform: Platform) -> None:
    """Delivered out of order: the later change does not tell of the entity that the earlier one left."""
    moved = [
        (key(1), envelope("u", row(1, "cleo", 3.0), before=row(1, "bob", 2.0), lsn=30)),
        (key(1), envelope("u", row(1, "bob", 2.0), before=row(1, "ann", 1.0), lsn=20)),
    ]
    worker = Member(platform, P0)
    platform.produce(*FIRST[:1])
    worker.finish()
    platform.produce(moved[0])
    worker.take()
    platform.produce(moved[1])
    worker.finish()
    assert [platform.customer(name) for name in ("ann", "bob", "cleo")] == [None, None, 3.0]
