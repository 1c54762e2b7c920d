"""Versions: what is stored compares as the rule says, and dropping what cannot matter changes nothing."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import StoreRefused
from stores.memory import MemoryOnline
from stores.rows import rows_schema
from stores.versions import LEAST_ORDER, WIDTH, Version, Versions, surviving, unpack, versions
from tests.feature_changes import Change, batches, deliveries, newest, remaining, rows, view

numbers = st.integers(-(2**63), 2**63 - 1)
positions = st.integers(0, 2**63 - 1)
packed = st.builds(Version, numbers, positions, st.binary(min_size=16, max_size=16))


def columns(some: list[Version]) -> Versions:
    matrix = np.frombuffer(b"".join(version.row for version in some), np.uint8).reshape(-1, 16)
    return Versions(
        np.array([version.order for version in some], np.int64),
        np.array([version.lsn for version in some], np.int64),
        matrix,
        np.zeros(len(some), bool),
    )


def pack(some: list[Version], mark: bool) -> list[bytes]:
    return [row.tobytes() for row in columns(some).pack(np.arange(len(some)), mark)]


@given(st.lists(packed, min_size=1, max_size=5), st.booleans())
def test_a_version_is_read_back(some: list[Version], mark: bool) -> None:
    stored = pack(some, mark)
    assert [len(one) for one in stored] == [WIDTH] * len(some)
    assert [unpack(one) for one in stored] == [(version, mark) for version in some]
    assert unpack(stored[0] + b"\x08\x01") == (some[0], mark)
    with pytest.raises(StoreRefused, match="holds 32 bytes that are no version"):
        unpack(stored[0][:32])


@given(packed, packed)
def test_stored_versions_sort_as_versions_do(one: Version, two: Version) -> None:
    first, second = pack([one, two], False)
    assert (first < second) == (one < two)


def test_versions_of_rows() -> None:
    event = rows(view("v", "event"), Change(1, lsn=5, minute=1, row=9), Change(1, lsn=6, row=9, deleted=True))
    found = versions(event.view, event.table)
    (time,) = event.table["event_timestamp"].cast(pa.int64())[:1].to_pylist()
    assert found.orders.tolist() == [time, LEAST_ORDER]
    assert found.lsns.tolist() == [5, 6]
    assert [bytes(row) for row in found.rows] == [(9).to_bytes(16)] * 2
    state = rows(view("v", "state"), Change(1, lsn=5, minute=1), Change(1, lsn=6, deleted=True))
    found = versions(state.view, state.table)
    assert found.orders.tolist() == [0, 0] and not found.rows.any()


def test_a_decision_that_no_row_remains_has_nulls() -> None:
    gone = view("v", "event")
    schema = rows_schema(gone)
    nothing = {f.name: pa.nulls(1, f.type) for f in schema} | {"_deleted": pa.array([True])}
    found = versions(gone, pa.table(nothing, schema=schema))
    assert (found.orders.tolist(), found.lsns.tolist()) == ([LEAST_ORDER], [0])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=12))
def test_the_newest_change_of_each_row_survives(changes: list[tuple[int, int, int]]) -> None:
    some = [Version(0, lsn, row.to_bytes(16)) for _, row, lsn in changes]
    entities = np.array([entity for entity, _, _ in changes], np.int64)
    kept, counts = surviving(columns(some), entities)
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (entity, row, _) in enumerate(changes):
        groups.setdefault((entity, row), []).append(place)
    expected = sorted(
        (max(places, key=lambda place: (changes[place][2], place)), len(places)) for places in groups.values()
    )
    assert list(zip(kept.tolist(), counts.tolist(), strict=True)) == expected


def reduced(batch: list[Change]) -> list[Change]:
    """The changes that survive."""
    state = rows(view("v", "event"), *batch)
    kept, _ = surviving(versions(state.view, state.table), np.zeros(len(batch), np.int64))
    return [batch[place] for place in kept]


@settings(max_examples=60)
@given(st.data())
def test_what_does_not_survive_changes_no_state_view(data: st.DataObject) -> None:
    state, whole, less = view("v", "state"), MemoryOnline(), MemoryOnline()
    history = [
        Change(1, lsn=lsn, x=lsn, deleted=deleted)
        for lsn, deleted in enumerate(data.draw(st.lists(st.booleans(), min_size=1, max_size=6)))
    ]
    for batch in data.draw(batches(history)):
        whole.write([rows(state, *batch)])
        less.write([rows(state, *reduced(batch))])
        assert inspected(whole, state) == inspected(less, state)


@settings(max_examples=60)
@given(deliveries(1))
def test_what_does_not_survive_changes_no_event_view_once_decided(history: list[list[Change]]) -> None:
    event, less, delivered, open_ = view("v", "event"), MemoryOnline(), list[Change](), False
    for batch in history:
        delivered += batch
        open_ = bool(less.write([rows(event, *reduced(batch))]).undecided) or open_
    if open_:
        less.decide(remaining(event, 1, delivered))
    winner = newest(delivered)
    (found,) = inspected(less, event)
    assert found["x"] == (winner and winner.x)
    assert found["_undecided"] is False


def inspected(store: MemoryOnline, of: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.inspect(of, pa.table({"id": [1]})).to_pylist()
    return found
