"""Newest rows and point-in-time joins, against a plain reading of the rules over generated histories."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.asof import Join, asof
from stores.history import (
    change_properties,
    current,
    deleted_at,
    every_newest,
    feature_properties,
    newest,
    standing,
)
from stores.memory_lake import MemoryLake
from stores.rows import TIMESTAMP, rows_schema
from stores.view import Feature, Kind, View

SECOND = 1_000_000
TABLE = "features/v"


@dataclass(frozen=True)
class Change:
    """What happened to one source row: it has `entity` and `value` from this change on, or is gone (None)."""

    row: int
    entity: int | None
    event: int
    commit: int
    lsn: int

    @property
    def value(self) -> int:
        return self.lsn * 10 + self.row


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Inserts, updates, moves to another entity, deletes and insertions of the same row again.

    Commit times do not decrease, but for rows that a snapshot read: they stand below changes that were committed
    before. Rows of one statement share an LSN, event times are late, early and equal, or that of the commit.
    """
    changes: list[Change] = []
    alive: set[int] = set()
    commit = lsn = 0
    for _ in range(draw(st.integers(0, 14))):
        row = draw(st.integers(0, 5))
        commit += draw(st.integers(0, 3))
        shared = changes and changes[-1].row < row and draw(st.booleans())
        lsn += 0 if shared else 1
        if row in alive and draw(st.integers(0, 3)) == 0:
            alive.discard(row)
            changes.append(Change(row, None, commit, commit, lsn))
        else:
            alive.add(row)
            read = commit + draw(st.sampled_from([0, 0, 0, 3]))
            event = draw(st.integers(0, 12) | st.just(read))
            changes.append(Change(row, draw(st.integers(0, 2)), event, read, lsn))
    return changes


def view_of(kind: Kind, keys: Sequence[str] = ("k",)) -> View:
    features = (Feature("V", 4, pa.int64()), Feature('weird "name', 2, pa.string()))
    return View("p", "v", "v", kind, tuple(Feature(key, 4, pa.int64()) for key in keys), features)


SCHEMA = rows_schema(view_of("event"))


@dataclass
class Rows:
    """Rows of a feature table, as the worker writes them: a move leaves a delete at the same LSN."""

    columns: dict[str, list[object]] = field(default_factory=lambda: {name: [] for name in SCHEMA.names})

    def add(self, entity: int, change: Change, row: int | None, *, deleted: bool, event: int) -> None:
        value = None if deleted else change.value
        values: list[object] = [entity, value, None if value is None else str(value)]
        values += [event * SECOND, change.commit * SECOND, change.lsn]
        values += [None if row is None else bytes([row] * 16), deleted, 0, len(self.columns["k"])]
        for name, cell in zip(SCHEMA.names, values, strict=True):
            self.columns[name].append(cell)

    def table(self) -> pa.Table:
        return pa.table({n: pa.array(c, SCHEMA.field(n).type) for n, c in self.columns.items()})


def event_rows(history: Sequence[Change]) -> pa.Table:
    rows, entities = Rows(), dict[int, int]()
    for change in history:
        before = entities.get(change.row)
        if before is not None and before != change.entity:
            rows.add(before, change, change.row, deleted=True, event=change.commit)
        if change.entity is None:
            del entities[change.row]
        else:
            entities[change.row] = change.entity
            rows.add(change.entity, change, change.row, deleted=False, event=change.event)
    return rows.table()


def state_rows(history: Sequence[Change]) -> pa.Table:
    """The same changes where the row itself is the entity."""
    rows = Rows()
    for change in history:
        rows.add(change.row, change, None, deleted=change.entity is None, event=change.event)
    return rows.table()


def filled(view: View, rows: pa.Table, order: Sequence[int] = ()) -> MemoryLake:
    lake = MemoryLake()
    lake.create(TABLE, rows_schema(view), feature_properties(view, "t"))
    lake.append(TABLE, rows.take(pa.array(order, pa.int64())) if order else rows, {})
    return lake


def event_value(history: Sequence[Change], entity: int, time: int, ttl: int, known: bool) -> int | None:
    """The value that the rules give an entity of an event view at a time."""
    counting = []
    for row in {change.row for change in history}:
        versions = _telling([c for c in history if c.row == row])
        for place, version in enumerate(versions):
            later = versions[place + 1 :]
            ends = [c.commit if known or c.entity is None else c.event for c in later]
            begun = version.event <= time and (not known or version.commit <= time)
            if version.entity == entity and begun and all(time < end for end in ends):
                counting.append((version.event, version.lsn, version.row, version.value))
    if not counting:
        return None
    event, *_, value = max(counting)
    return value if not ttl or event >= time - ttl else None


def _telling(versions: Sequence[Change]) -> list[Change]:
    """Without deletes of what a delete before them has ended."""
    ended = [place > 0 and versions[place - 1].entity is None for place in range(len(versions))]
    return [c for c, over in zip(versions, ended, strict=True) if c.entity is not None or not over]


def state_value(history: Sequence[Change], entity: int, time: int, ttl: int, known: bool) -> int | None:
    """The value that the rules give an entity of a state view at a time."""
    value, begun = None, 0
    versions = _telling([c for c in history if c.row == entity])
    for place, change in enumerate(versions):
        heard = min(c.commit for c in versions[place:])
        counts = heard if change.event == change.commit else change.event
        # What was yet to begin when this version was committed never does.
        begun = max(counts, heard if known else 0, min(begun, heard))
        if begun <= time:
            old = ttl and change.event < time - ttl
            value = None if change.entity is None or old else change.value
    return value


def joined(lake: MemoryLake, spine: Sequence[tuple[int | None, int]], ttl: int, known: bool) -> list[object]:
    entities = pa.table({"id": pa.array([key for key, _ in spine], pa.int64())})
    times = pa.chunked_array([pa.array([time * SECOND for _, time in spine], TIMESTAMP)])
    join = Join(TABLE, {"k": "id"}, ('weird "name', "V"), timedelta(seconds=ttl))
    answer = asof(lake, entities, times, join, known=known)
    assert answer['weird "name'].to_pylist() == [None if v is None else str(v) for v in answer["V"].to_pylist()]
    return answer["V"].to_pylist()


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([Change(0, 0, 1, 1, 1), Change(0, 1, 1, 6, 2)], id="a row that moves"),
        pytest.param([Change(0, 0, 3, 4, 1), Change(1, 0, 1, 5, 2)], id="a late event"),
        pytest.param(
            [Change(0, 0, 1, 1, 1), Change(0, 1, 2, 8, 2), Change(0, 1, 2, 5, 3)],
            id="a row that a snapshot read after a change that came beside it",
        ),
        pytest.param([Change(0, 0, 3, 3, 1), Change(0, 0, 3, 6, 2)], id="a correction"),
        pytest.param([Change(0, 0, 3, 3, 1), Change(0, None, 6, 6, 2), Change(0, 0, 2, 8, 3)], id="a row again"),
        pytest.param(
            [Change(0, 0, 1, 1, 1), Change(1, 0, 2, 2, 2), Change(1, None, 4, 4, 3), Change(0, None, 9, 9, 4)],
            id="a deleted row that outlives the next",
        ),
        pytest.param(
            [Change(0, 0, 3, 3, 1), Change(1, 0, 1, 4, 2), Change(0, None, 6, 6, 3), Change(1, None, 9, 9, 4)],
            id="a late row that outlives the leader",
        ),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_an_event_view_over_time(history: list[Change], known: bool) -> None:
    spine = [(entity, time) for entity in (0, 1) for time in range(12)]
    expected = [event_value(history, entity, time, 0, known) for entity, time in spine]
    assert joined(filled(view_of("event"), event_rows(history)), spine, 0, known) == expected


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("kind", ["state", "event"])
def test_an_event_time_that_was_mistaken_for_years_to_come_freezes_nothing(kind: Kind, known: bool) -> None:
    history = [Change(0, 0, 1, 1, 1), Change(0, 0, 2_000, 4, 2), Change(0, 0, 4, 6, 3), Change(0, 0, 8, 8, 4)]
    spine = [(0, time) for time in (3, 5, 7, 9, 3_000)]
    rows = event_rows(history) if kind == "event" else state_rows(history)
    corrected = {"state": 10, "event": None if known else 30}[kind]
    assert joined(filled(view_of(kind), rows), spine, 0, known) == [10, corrected, 30, 40, 40]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("kind", ["state", "event"])
def test_a_second_delete_says_nothing(kind: Kind, known: bool) -> None:
    """Of two truncates the first that was heard of ends a row as well, and its clock may have gone back since."""
    live, first, second = Change(0, 0, 1, 1, 1), Change(0, None, 8, 8, 2), Change(0, None, 5, 5, 3)
    spine = [(0, time) for time in range(12)]
    answers = []
    for deletes in ([first], [first, second]):
        rows, row = Rows(), None if kind == "state" else 0
        rows.add(0, live, row, deleted=False, event=live.event)
        for delete in deletes:
            rows.add(0, delete, row, deleted=True, event=delete.commit)
        answers.append(joined(filled(view_of(kind), rows.table()), spine, 0, known))
    assert answers[0] == answers[1]
    assert [value is not None for value in answers[0]] == [1 <= time < 8 for _, time in spine]


spines = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), max_size=12)
ttls = st.sampled_from([0, 0, 2, 5])


@settings(max_examples=25)
@given(histories(), spines, ttls, st.booleans(), st.randoms())
def test_an_event_view_has_at_each_time_what_the_rules_say(
    history: list[Change], spine: list[tuple[int, int]], ttl: int, known: bool, random: Random
) -> None:
    rows = event_rows(history)
    order = list(range(rows.num_rows))
    random.shuffle(order)
    lake = filled(view_of("event"), rows, order)
    expected = [event_value(history, entity, time, ttl, known) for entity, time in spine]
    assert joined(lake, spine, ttl, known) == expected


@settings(max_examples=25)
@given(histories(), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 14)), max_size=12), ttls, st.booleans())
def test_a_state_view_has_at_each_time_what_the_rules_say(
    history: list[Change], spine: list[tuple[int, int]], ttl: int, known: bool
) -> None:
    lake = filled(view_of("state"), state_rows(history))
    expected = [state_value(history, entity, time, ttl, known) for entity, time in spine]
    assert joined(lake, spine, ttl, known) == expected


@pytest.mark.parametrize("known", [False, True])
def test_a_row_that_a_snapshot_read_does_not_put_off_a_change_that_came_beside_it(known: bool) -> None:
    """The change at 5 was committed before the snapshot read the row at 8, and is newer than what it read."""
    event = 1 if known else None
    history = [Change(0, 0, event or commit, commit, lsn) for lsn, commit in ((1, 2), (2, 8), (3, 5))]
    spine = [(0, time) for time in (1, 2, 4, 5, 9)]
    assert joined(filled(view_of("state"), state_rows(history)), spine, 0, known) == [None, 10, 10, 30, 30]


def test_an_entity_without_a_key_has_no_features() -> None:
    lake = filled(view_of("event"), event_rows([Change(1, 1, 1, 1, 1)]))
    assert joined(lake, [(None, 5), (1, 5)], 0, False) == [None, 11]


@settings(max_examples=25)
@given(histories(), st.lists(st.integers(0, 3), unique=True), st.randoms())
def test_the_newest_row_of_an_event_view(history: list[Change], asked: list[int], random: Random) -> None:
    rows = event_rows(history)
    order = list(range(rows.num_rows))
    random.shuffle(order)
    lake, view = filled(view_of("event"), rows, order), view_of("event")
    last = {change.row: change for change in history}
    live = [change for change in last.values() if change.entity is not None]
    best = {
        e: max((c.event, c.lsn, c.row, c.value) for c in live if c.entity == e)[-1] for e in {c.entity for c in live}
    }
    found = newest(lake, view)
    assert found.schema.equals(rows_schema(view))
    assert dict(zip(found["k"].to_pylist(), found["V"].to_pylist(), strict=True)) == best
    with patch("stores.history.PART_ROWS", 2):
        several = list(every_newest(lake, view))
    assert pa.concat_tables(several, promote_options="none").num_rows == len(best) if several else not best
    assert {k: v for part in several for k, v in zip(part["k"].to_pylist(), part["V"].to_pylist(), strict=True)} == best
    some = newest(lake, view, pa.table({"k": pa.array(asked, pa.int32())}))
    assert dict(zip(some["k"].to_pylist(), some["V"].to_pylist(), strict=True)) == {
        e: v for e, v in best.items() if e in asked
    }


@settings(max_examples=50)
@given(histories(), st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)), st.sampled_from(["event", "state"]))
def test_the_rows_that_stood_at_some_moments(
    history: list[Change], moments: set[int], among: set[int], kind: Kind
) -> None:
    """What a truncate at each of these LSNs deleted; of some among them."""
    lake = filled(view_of(kind), event_rows(history) if kind == "event" else state_rows(history))
    expected = []
    for previous, moment in zip([-1, *sorted(moments)], sorted(moments), strict=False):
        last = {change.row: change for change in history if previous < change.lsn <= moment and moment in among}
        stood = [change for change in last.values() if change.entity is not None]
        expected += [(change.entity if kind == "event" else change.row, change.lsn) for change in stood]
    with patch("stores.history.PART_ROWS", 2):
        assert told(standing(lake, view_of(kind), list(moments), among)) == sorted(expected)


def test_a_row_that_moved_stands_where_it_moved_to_though_it_is_deleted_where_it_was() -> None:
    """The move came late: a truncate had deleted the row where it had been before."""
    moved = event_rows([Change(0, 1, 1, 1, 10), Change(0, 2, 1, 2, 15)])
    truncated = event_rows([Change(0, 1, 1, 1, 10), Change(0, None, 3, 3, 20)]).slice(1)
    found = standing(filled(view_of("event"), pa.concat_tables([moved, truncated])), view_of("event"), [20], [20])
    assert told(found) == [(2, 15)]


@settings(max_examples=50)
@given(histories(), st.sets(st.integers(0, 15)), st.sampled_from(["event", "state"]))
def test_the_deletes_at_some_moments(history: list[Change], moments: set[int], kind: Kind) -> None:
    """Each row at an entity is told of once, however often it was deleted there."""
    rows = event_rows(history) if kind == "event" else state_rows(history)
    expected: dict[object, tuple[int, int]] = {}
    for row in sorted(rows.to_pylist(), key=lambda row: row["_lsn"]):
        if row["_deleted"] and row["_lsn"] in moments:
            expected[row["k"], row["_row"]] = row["k"], row["_lsn"]
    with patch("stores.history.PART_ROWS", 2):
        assert told(deleted_at(filled(view_of(kind), rows), view_of(kind), list(moments))) == sorted(expected.values())


def told(parts: Iterable[pa.Table]) -> list[tuple[int, int]]:
    """Entity and LSN of each row."""
    return sorted(pair for part in parts for pair in zip(part["k"].to_pylist(), part["_lsn"].to_pylist(), strict=True))


@settings(max_examples=25)
@given(histories(), st.lists(st.integers(0, 5), unique=True))
def test_the_newest_row_of_a_state_view(history: list[Change], asked: list[int]) -> None:
    lake, view = filled(view_of("state"), state_rows(history)), view_of("state")
    last = {change.row: change for change in history}
    live = {row: change.value for row, change in last.items() if change.entity is not None}
    found = newest(lake, view)
    assert dict(zip(found["k"].to_pylist(), found["V"].to_pylist(), strict=True)) == live
    keys = pa.table({"k": pa.array(asked, pa.int64())})
    some = newest(lake, view, keys, deleted=True)
    gone = dict(zip(some["k"].to_pylist(), some["_deleted"].to_pylist(), strict=True))
    assert gone == {row: last[row].entity is None for row in asked if row in last}


@settings(max_examples=25)
@given(histories(), st.integers(0, 12), st.integers(0, 12), st.integers(0, 15), st.booleans())
def test_the_current_rows_of_a_table_of_changes(
    history: list[Change], start: int, end: int, truncated: int, latest: bool
) -> None:
    """Newest state by primary key, deletes and truncated rows out, in the window, newest first."""
    lake = MemoryLake()
    columns = ["row", "entity", "at", "_op", "_lsn", "_commit_ts", "_partition", "_offset"]
    cells = [
        (c.row, c.entity, c.event * SECOND, "d" if c.entity is None else "u", c.lsn, c.commit * SECOND, 0, i)
        for i, c in enumerate(history)
    ] + [(None, None, None, "t", truncated, 0, 0, len(history))]
    types = [pa.int64(), pa.int64(), TIMESTAMP, pa.string(), pa.int64(), TIMESTAMP, pa.int32(), pa.int64()]
    rows = pa.table({n: pa.array(c, t) for n, c, t in zip(columns, zip(*cells, strict=True), types, strict=True)})
    lake.create("changes/t", rows.schema, change_properties("t", ["row"]))
    lake.append("changes/t", rows, {})
    found = current(
        lake.snapshot("changes/t"),
        {"Row": "row", "entity": "entity", "when": "_commit_ts", "_lsn": "_lsn"},
        "at",
        start=_moment(start),
        end=_moment(end),
        keys=["entity"],
        newest_by=["entity"] if latest else None,
    )
    last = {c.row: c for c in history if c.lsn > truncated}
    live = [c for c in last.values() if c.entity is not None and start <= c.event <= end]
    live.sort(key=lambda c: (c.event, c.lsn), reverse=True)
    if latest:
        best = {e: max((c.event, c.lsn) for c in live if c.entity == e) for e in {c.entity for c in live}}
        got = zip(found["entity"].to_pylist(), found["_lsn"].to_pylist(), strict=True)
        assert dict(got) == {e: lsn for e, (_, lsn) in best.items()}
    else:
        assert found["_lsn"].to_pylist() == [c.lsn for c in live]
        assert sorted(found["Row"].to_pylist()) == sorted(c.row for c in live)


def _moment(seconds: int) -> datetime:
    return pa.scalar(seconds * SECOND, TIMESTAMP).as_py()
