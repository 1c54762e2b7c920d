"""What every `FeatureWriter` does: one suite, run over each store.

A test module subclasses `FeatureWriterSuite` and gives it the fixture `store`: a `Store` around the
writer under test, whose tables may be shared by all tests (each takes entities of its own).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.rows import FeatureRows, FeatureWriter, WriteResult
from stores.view import View
from tests.feature_changes import Change, batches, deliveries, newest, none_remains, remaining, rows, view

Version = tuple[int, int, bytes]
"""Order, lsn and row; the row of a state view has 16 zero bytes."""

Read = Callable[[View, pa.Table], list[tuple[dict[str, Any] | None, Version | None]]]

_entities = itertools.count(1)


@dataclass(frozen=True)
class Store:
    """A writer under test. `read` gives, for each row of a table of join keys, the features (None if the
    entity has none) and the version (None if nothing was ever written).

    The views have the join key `id` (INT64) and at least the features `x` (INT64) and `name` (STRING).
    """

    writer: FeatureWriter
    read: Read
    state: View = field(default_factory=lambda: view("suite_state", "state"))
    other: View = field(default_factory=lambda: view("suite_other", "state"))
    event: View = field(default_factory=lambda: view("suite_event", "event"))

    def write(self, *batches: FeatureRows) -> WriteResult:
        return self.writer.write(batches)

    def one(self, view: View, entity: int) -> tuple[dict[str, Any] | None, Version | None]:
        """The features and the version of one entity."""
        ((features, version),) = self.read(view, pa.table({"id": pa.array([entity], pa.int64())}))
        return features, version

    def x(self, view: View, entity: int) -> int | None:
        """The feature `x` of an entity; None if it has no features."""
        features, _ = self.one(view, entity)
        return None if features is None else features["x"]


def by_inspection(writer: Any) -> Read:
    """The `Read` of a store with `inspect`."""

    def read(view: View, keys: pa.Table) -> list[tuple[dict[str, Any] | None, Version | None]]:
        names = [feature.name for feature in view.features]
        return [
            (
                {name: row[name] for name in names} if row["_present"] else None,
                None if row["_lsn"] is None else (row["_order"], row["_lsn"], row["_row"] or bytes(16)),
            )
            for row in writer.inspect(view, keys).to_pylist()
        ]

    return read


def entity() -> int:
    """An entity that no other test has."""
    return next(_entities)


def undecided(result: WriteResult, view: View) -> list[int]:
    """The entities of a view that a write left undecided."""
    found = [keys for concerned, keys in result.undecided if concerned == view]
    return sorted(key for keys in found for key in keys["id"].to_pylist())


# One suite over several stores, each of which a fixture makes anew for every test.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class FeatureWriterSuite:
    """The behaviours. Subclass it, and give a fixture `store`."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def test_it_answers(self, store: Store) -> None:
        store.writer.ping()

    def test_nothing_to_write(self, store: Store) -> None:
        assert store.write() == WriteResult(0, 0)
        assert store.write(rows(store.state)) == WriteResult(0, 0)

    def test_what_was_never_written(self, store: Store) -> None:
        assert store.one(store.state, entity()) == (None, None)

    def test_a_row_is_readable_with_its_version(self, store: Store) -> None:
        one = entity()
        assert store.write(rows(store.state, Change(one, lsn=10, x=7, name="Ä"))) == WriteResult(1, 0)
        features, version = store.one(store.state, one)
        assert features is not None and features["x"] == 7 and features["name"] == "Ä"
        assert version == (0, 10, bytes(16))

    def test_a_scan_says_of_every_entity_what_an_inspection_says(self, store: Store) -> None:
        here, gone = entity(), entity()
        store.write(rows(store.state, Change(here, lsn=10, x=7), Change(gone, lsn=11, deleted=True)))
        keys = pa.table({"id": pa.array([here, gone], pa.int64())})
        scanned = pa.concat_tables(store.writer.scan(store.state))
        found = scanned.filter(pc.is_in(scanned["id"], keys["id"].combine_chunks())).sort_by("id")
        inspected = store.writer.inspect(store.state, keys)
        assert found.select(["id", *inspected.column_names]).to_pylist() == [
            {**key, **row} for key, row in zip(keys.to_pylist(), inspected.to_pylist(), strict=True)
        ]

    def test_a_null_is_a_value(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=7)))
        store.write(rows(store.state, Change(one, lsn=11, x=None, name=None)))
        features, _ = store.one(store.state, one)
        assert features is not None and features["x"] is None and features["name"] is None

    def test_a_newer_change_replaces(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=1)))
        assert store.write(rows(store.state, Change(one, lsn=11, x=2))) == WriteResult(1, 0)
        assert store.x(store.state, one) == 2

    def test_an_older_change_is_refused(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=11, x=2, minute=0)))
        assert store.write(rows(store.state, Change(one, lsn=10, x=1, minute=9))) == WriteResult(0, 1)
        assert store.x(store.state, one) == 2

    def test_the_same_change_again_is_applied_without_effect(self, store: Store) -> None:
        one = entity()
        for _ in range(2):
            assert store.write(rows(store.state, Change(one, lsn=10, x=1))) == WriteResult(1, 0)
        assert store.x(store.state, one) == 1

    def test_two_changes_with_one_event_time_are_told_apart(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=1, minute=5)))
        store.write(rows(store.state, Change(one, lsn=11, x=2, minute=5)))
        assert store.x(store.state, one) == 2

    def test_a_delete_removes_the_features_and_keeps_the_version(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=1)))
        result = store.write(rows(store.state, Change(one, lsn=11, deleted=True)))
        assert result == WriteResult(1, 0)
        assert store.one(store.state, one) == (None, (0, 11, bytes(16)))

    def test_a_late_write_does_not_revive_a_deleted_row(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=11, deleted=True)))
        assert store.write(rows(store.state, Change(one, lsn=10, x=1))) == WriteResult(0, 1)
        assert store.x(store.state, one) is None

    def test_a_row_can_come_back_after_its_delete(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=1)))
        store.write(rows(store.state, Change(one, lsn=11, deleted=True)))
        store.write(rows(store.state, Change(one, lsn=12, x=3)))
        assert store.x(store.state, one) == 3

    def test_within_a_batch_the_newest_wins(self, store: Store) -> None:
        one, two = entity(), entity()
        result = store.write(
            rows(store.state, Change(one, lsn=10, x=1), Change(one, lsn=11, x=2)),
            rows(store.state, Change(two, lsn=11, x=2), Change(two, lsn=10, x=1)),
        )
        assert result.applied + result.refused == 4
        assert (store.x(store.state, one), store.x(store.state, two)) == (2, 2)

    def test_within_a_batch_an_insert_and_its_delete(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.state, Change(one, lsn=10, x=1), Change(one, lsn=11, deleted=True)))
        assert store.one(store.state, one) == (None, (0, 11, bytes(16)))

    def test_views_of_one_entity_do_not_touch_each_other(self, store: Store) -> None:
        one = entity()
        store.write(
            rows(store.state, Change(one, lsn=10, x=1)),
            rows(store.other, Change(one, lsn=10, x=2)),
            rows(store.event, Change(one, lsn=10, x=3)),
        )
        assert [store.x(v, one) for v in (store.state, store.other, store.event)] == [1, 2, 3]
        store.write(rows(store.state, Change(one, lsn=11, deleted=True)))
        assert [store.x(v, one) for v in (store.state, store.other, store.event)] == [None, 2, 3]

    def test_large_positions_are_compared_exactly(self, store: Store) -> None:
        one, two = entity(), entity()
        high = 2**62  # doubles cannot tell it from the next number
        store.write(rows(store.state, Change(one, lsn=high + 1, x=1), Change(two, lsn=high, x=1)))
        result = store.write(rows(store.state, Change(one, lsn=high, x=2), Change(two, lsn=high + 1, x=2)))
        assert result == WriteResult(1, 1)
        assert (store.x(store.state, one), store.x(store.state, two)) == (1, 2)

    def test_many_entities_in_one_batch(self, store: Store) -> None:
        many = [entity() for _ in range(2_000)]
        assert store.write(rows(store.state, *(Change(one, lsn=5, x=one) for one in many))) == WriteResult(2_000, 0)
        mixed = [Change(one, lsn=4 + 2 * (one % 2), x=-one) for one in many]
        assert store.write(rows(store.state, *mixed)) == WriteResult(1_000, 1_000)
        found = store.read(store.state, pa.table({"id": pa.array(many, pa.int64())}))
        assert [features and features["x"] for features, _ in found] == [-one if one % 2 else one for one in many]

    def test_the_event_time_decides_between_rows(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        assert store.write(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2))) == WriteResult(0, 1)
        assert store.write(rows(store.event, Change(one, row=3, minute=30, lsn=9, x=3))) == WriteResult(1, 0)
        assert store.x(store.event, one) == 3

    def test_with_one_event_time_the_log_position_decides_then_the_row(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        store.write(rows(store.event, Change(one, row=2, minute=20, lsn=11, x=2)))
        store.write(rows(store.event, Change(one, row=3, minute=20, lsn=11, x=3)))
        assert store.write(rows(store.event, Change(one, row=2, minute=20, lsn=10, x=4))).refused == 1
        assert store.x(store.event, one) == 3

    def test_event_times_before_1970(self, store: Store) -> None:
        one, decade = entity(), 10 * 366 * 24 * 60
        store.write(rows(store.event, Change(one, row=1, minute=-5 * decade, lsn=10, x=1)))
        assert store.write(rows(store.event, Change(one, row=2, minute=-6 * decade, lsn=11, x=2))).refused == 1
        store.write(rows(store.event, Change(one, row=3, minute=-4 * decade, lsn=9, x=3)))
        assert store.x(store.event, one) == 3

    def test_the_winning_row_corrected(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        assert store.write(rows(store.event, Change(one, row=1, minute=20, lsn=11, x=2))) == WriteResult(1, 0)
        assert store.write(rows(store.event, Change(one, row=1, minute=30, lsn=12, x=3))) == WriteResult(1, 0)
        assert store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1))) == WriteResult(0, 1)
        assert store.x(store.event, one) == 3

    def test_the_winning_row_moved_back_leaves_the_entity_undecided(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        store.write(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2)))
        result = store.write(rows(store.event, Change(one, row=1, minute=5, lsn=12, x=3)))
        assert (result.applied, undecided(result, store.event)) == (1, [one])
        assert store.writer.decide(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2))).applied == 1
        assert store.x(store.event, one) == 2
        assert undecided(store.write(rows(store.event, Change(one, row=3, minute=40, lsn=13, x=4))), store.event) == []

    def test_the_winning_row_deleted_leaves_the_entity_undecided(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        result = store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        assert (result.applied, undecided(result, store.event)) == (1, [one])
        assert store.x(store.event, one) is None
        store.writer.decide(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2)))
        assert store.x(store.event, one) == 2

    def test_no_row_remains(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        store.writer.decide(none_remains(store.event, one))
        assert store.x(store.event, one) is None
        late = store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        assert (late.refused, undecided(late, store.event)) == (1, [])

    def test_the_delete_of_another_row_does_nothing(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        result = store.write(rows(store.event, Change(one, row=2, lsn=12, deleted=True)))
        assert result == WriteResult(0, 1)
        assert store.x(store.event, one) == 1

    def test_the_delete_of_a_row_that_was_never_seen(self, store: Store) -> None:
        one = entity()
        result = store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        assert (result.applied, undecided(result, store.event)) == (1, [one])
        assert store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1))).refused == 1
        assert store.x(store.event, one) is None

    def test_a_state_view_is_never_undecided(self, store: Store) -> None:
        one = entity()
        for change in (Change(one, lsn=1, x=1, minute=9), Change(one, lsn=2, x=1), Change(one, lsn=3, deleted=True)):
            assert store.write(rows(store.state, change)).undecided == ()

    def test_the_mark_stays_until_it_is_decided(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        newer = store.write(rows(store.event, Change(one, row=3, minute=5, lsn=13, x=3)))
        assert (newer.applied, undecided(newer, store.event)) == (1, [one])
        # A refused row tells of the mark too: after a crash it may be all that comes again.
        late = store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        assert (late.refused, undecided(late, store.event)) == (1, [one])
        store.writer.decide(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2)))
        assert store.x(store.event, one) == 2
        again = store.write(rows(store.event, Change(one, row=4, minute=1, lsn=14, x=4)))
        assert undecided(again, store.event) == []

    def test_a_decision_that_is_refused_leaves_the_mark(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        store.write(rows(store.event, Change(one, row=1, lsn=12, deleted=True)))
        store.write(rows(store.event, Change(one, row=3, minute=30, lsn=13, x=3)))
        result = store.writer.decide(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2)))
        assert (result.refused, result.undecided) == (1, ())
        # Row 3 is not in the lake yet, else the decision had named it: whoever brings it there is told.
        assert undecided(store.write(rows(store.event, Change(one, row=4, lsn=14, x=4))), store.event) == [one]
        assert store.x(store.event, one) == 3
        store.writer.decide(rows(store.event, Change(one, row=3, minute=30, lsn=13, x=3)))
        assert undecided(store.write(rows(store.event, Change(one, row=4, lsn=14, x=4))), store.event) == []

    def test_a_decision_that_is_refused_marks_the_entity(self, store: Store) -> None:
        one = entity()
        store.write(rows(store.event, Change(one, row=1, minute=5, lsn=14, x=1)))
        # The decision knows row 1 as it was, at minute 20, and says nothing of a row 2 at minute 10.
        result = store.writer.decide(rows(store.event, Change(one, row=1, minute=20, lsn=10, x=1)))
        assert (result.applied, result.refused) == (0, 1)
        again = rows(store.event, Change(one, row=1, minute=5, lsn=14, x=1))
        assert undecided(store.write(again), store.event) == [one]
        store.writer.decide(rows(store.event, Change(one, row=2, minute=10, lsn=11, x=2)))
        assert undecided(store.write(again), store.event) == []
        assert store.x(store.event, one) == 2

    def test_a_decision_that_none_remains_clears_the_mark_of_what_is_gone_only(self, store: Store) -> None:
        one, two = entity(), entity()
        for who in (one, two):
            store.write(rows(store.event, Change(who, row=1, minute=20, lsn=10, x=1)))
            store.write(rows(store.event, Change(who, row=1, lsn=12, deleted=True)))
        store.write(rows(store.event, Change(two, row=3, minute=30, lsn=13, x=3)))
        for who in (one, two):
            store.writer.decide(rows(store.event, Change(who, row=9, lsn=0, deleted=True)))
        late = rows(store.event, *(Change(who, row=4, lsn=14, deleted=True) for who in (one, two)))
        assert undecided(store.write(late), store.event) == [two]

    def test_each_undecided_entity_is_named_once(self, store: Store) -> None:
        one, two = entity(), entity()
        changes = [
            change
            for who in (one, two)
            for change in (
                Change(who, row=1, minute=20, lsn=10, x=1),
                Change(who, row=1, lsn=12, deleted=True),
                Change(who, row=2, minute=30, lsn=13, x=2),
                Change(who, row=2, lsn=14, deleted=True),
            )
        ]
        for change in changes:
            store.write(rows(store.event, change))
        assert undecided(store.write(rows(store.event, *changes)), store.event) == [one, two]

    @settings(
        max_examples=30,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_any_order_of_a_rows_changes_leaves_the_newest(self, store: Store, data: st.DataObject) -> None:
        one = entity()
        history = [
            Change(one, lsn=lsn, x=lsn, deleted=deleted)
            for lsn, deleted in enumerate(data.draw(st.lists(st.booleans(), min_size=1, max_size=6)))
        ]
        for batch in data.draw(batches(history)):
            store.write(rows(store.state, *batch))
        newest = history[-1]
        assert store.x(store.state, one) == (None if newest.deleted else newest.x)

    @settings(
        max_examples=30,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_any_order_of_events_leaves_the_newest(self, store: Store, data: st.DataObject) -> None:
        one = entity()
        minutes = data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4))
        changed = data.draw(st.lists(st.integers(0, len(minutes) - 1), min_size=1, max_size=8))
        history = [Change(one, lsn=lsn, x=lsn, row=row, minute=minutes[row]) for lsn, row in enumerate(changed)]
        for batch in data.draw(batches(history)):
            store.write(rows(store.event, *batch))
        assert store.x(store.event, one) == max(history, key=lambda change: change.order).x

    @settings(
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_corrections_deletes_and_replays_of_events(self, store: Store, data: st.DataObject) -> None:
        """Rows come from several partitions, each in its own order and from an earlier offset again after
        a crash; what is undecided is decided now or later from what was delivered so far."""
        one, delivered, open_ = entity(), list[Change](), False
        for batch in data.draw(deliveries(one)):
            delivered += batch
            open_ = undecided(store.write(rows(store.event, *batch)), store.event) == [one] or open_
            if open_ and data.draw(st.booleans()):
                store.writer.decide(remaining(store.event, one, delivered))
                open_ = False
        if open_:
            store.writer.decide(remaining(store.event, one, delivered))
        expected = newest(delivered)
        assert store.x(store.event, one) == (expected and expected.x)
