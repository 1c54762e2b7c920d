"""A changed primary key whose second half never comes is told, and nothing else is."""

from typing import Any

import pytest

from stores.history import change_properties
from stores.memory_lake import MemoryLake
from streams.changes import changes_schema
from streams.clock import SystemClock
from streams.decide import changes_table
from streams.decode import decode_records
from streams.key_changes import WAIT_SECONDS, KeyChanges
from streams.messages import Headers, Records
from streams.personal import NOTHING, PersonalColumns
from tests.envelopes import ORDERS, TOPIC, envelope, key, records, row

Record = tuple[bytes, bytes | None, Headers]

# As Debezium writes them: tests/integration/test_connectors_changes.py.
FIRST: Record = (key(1), envelope("d", None, before=row(1), lsn=12), {"__debezium.newkey": key(7)})
TOMBSTONE: Record = (key(1), None, {"__debezium.newkey": key(7)})
SECOND: Record = (key(7), envelope("c", row(7), lsn=12), {"__debezium.oldkey": key(1)})
ORDINARY: Record = (key(3), envelope("d", None, before=row(3), lsn=13), {"traceparent": b"00"})
BROKEN: Record = (key(4), b"{oops", {"__debezium.oldkey": key(1)})


class Clock(SystemClock):
    """Set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Tables:
    """Key changes over a lake with the table's changes, and minutes that pass when they are told to."""

    def __init__(self) -> None:
        self.lake, self.clock = MemoryLake(), Clock()
        self.lake.create(changes_table(TOPIC), changes_schema(ORDERS), change_properties(TOPIC, ("id",)))
        self.behind: set[str] = set()
        self.personal = NOTHING
        self.restart()

    def restart(self) -> None:
        self.changes = KeyChanges(self.lake, self.clock, {TOPIC: self.personal})

    def note(self, *several: Record) -> None:
        self.changes.note(_records(*several))

    def hold(self, *several: Record) -> None:
        """Another worker brings these into the lake."""
        decoded = decode_records(_records(*several), ORDERS, (), 10_000)
        self.lake.append(changes_table(TOPIC), decoded.changes.rows, {})

    def minute(self) -> dict[str, str]:
        self.clock.now += WAIT_SECONDS
        self.changes.tick(lambda: self.behind)
        return dict(self.changes.lost)


def _records(*several: Record) -> Records:
    return records(*[(k, v) for k, v, _ in several], headers={i: h for i, (_, _, h) in enumerate(several)})


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.mark.parametrize("several", [(FIRST, TOMBSTONE, SECOND), (SECOND, FIRST, TOMBSTONE)])
def test_both_halves_are_no_news(tables: Tables, several: tuple[Record, ...]) -> None:
    tables.note(*several)
    assert [tables.minute() for _ in range(3)] == [{}] * 3


@pytest.mark.parametrize("several", [(SECOND,), (ORDINARY, BROKEN, TOMBSTONE)])
def test_what_is_no_first_half_is_no_news(tables: Tables, several: tuple[Record, ...]) -> None:
    tables.note(*several)
    assert [tables.minute() for _ in range(3)] == [{}] * 3


def test_a_second_half_that_never_comes_is_told_once(tables: Tables, caplog: pytest.LogCaptureFixture) -> None:
    tables.note(FIRST, TOMBSTONE, ORDINARY)
    assert tables.changes.lost == {}
    told = tables.minute()
    assert '{"id":7}' in told[TOPIC] and f"millrace resnapshot {TOPIC}" in told[TOPIC]
    assert tables.minute() == tables.minute() == told
    assert [record.event for record in caplog.records] == ["key_change_lost"]  # type: ignore[attr-defined]


def test_a_second_half_that_another_worker_read_is_in_the_lake(tables: Tables) -> None:
    tables.note(FIRST)
    tables.hold(SECOND)
    assert tables.minute() == {}


def test_one_that_comes_late_is_not_lost_any_more(tables: Tables) -> None:
    tables.note(FIRST)
    assert TOPIC in tables.minute()
    tables.hold(SECOND)
    assert tables.minute() == {}


def test_a_table_read_anew_has_the_row(tables: Tables) -> None:
    tables.note(FIRST)
    assert TOPIC in tables.minute()
    tables.hold((key(7), envelope("r", row(7), lsn=11), {}))
    assert TOPIC in tables.minute(), "that snapshot was taken before the change"
    tables.hold((key(7), envelope("r", row(7), lsn=20), {}))
    assert tables.minute() == {}


def test_while_the_lake_is_away_nothing_is_said_or_forgotten(tables: Tables) -> None:
    tables.note(FIRST)
    tables.lake.outage = "no disk"
    assert tables.minute() == {}
    tables.lake.outage = None
    assert TOPIC in tables.minute()


def test_a_table_that_is_far_behind_is_not_judged(tables: Tables) -> None:
    tables.note(FIRST)
    tables.behind = {TOPIC}
    assert [tables.minute() for _ in range(3)] == [{}] * 3
    tables.behind = set()
    assert TOPIC in tables.minute()


def test_of_too_many_that_wait_the_oldest_are_forgotten(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.key_changes.MOST_HALVES", 2)
    tables.behind = {TOPIC}
    for i in (7, 8, 9):
        tables.note((key(1), envelope("d", None, before=row(1), lsn=10 + i), {"__debezium.newkey": key(i)}))
        assert tables.minute() == {}
    tables.behind = set()
    assert 'changed to {"id":8}, {"id":9}, and' in tables.minute()[TOPIC]


def test_what_is_lost_outlives_its_worker_until_the_table_is_read_anew(tables: Tables) -> None:
    tables.note(FIRST)
    told = tables.minute()
    assert told.keys() == {TOPIC}
    tables.restart()
    assert tables.changes.lost == {}
    tables.changes.tick(lambda: ())  # the first look is at once
    assert tables.changes.lost == told
    tables.hold((key(7), envelope("r", row(7), lsn=20), {}))
    assert tables.minute() == {}
    tables.restart()
    assert tables.minute() == {}


def test_a_new_key_that_is_null_is_told_without_a_name(tables: Tables) -> None:
    headers: Any = {"__debezium.newkey": None}
    tables.note((key(1), envelope("d", None, before=row(1), lsn=12), headers))
    assert tables.minute().keys() == {TOPIC}


def test_each_worker_of_a_table_tells_what_another_found_lost(tables: Tables) -> None:
    other = KeyChanges(tables.lake, tables.clock, {TOPIC: NOTHING})
    tables.note(FIRST)
    told = tables.minute()
    other.tick(lambda: ())
    assert other.lost == told
    other.note(_records((key(2), envelope("d", None, before=row(2), lsn=14), {"__debezium.newkey": key(8)})))
    tables.minute()
    other.tick(lambda: ())
    both = tables.minute()
    assert both == other.lost
    assert '{"id":7}, {"id":8}' in both[TOPIC]


def test_a_key_that_is_personal_data_is_not_told(tables: Tables, caplog: pytest.LogCaptureFixture) -> None:
    tables.personal = PersonalColumns(frozenset({"id"}))
    tables.restart()
    tables.note(FIRST)
    told = tables.minute()[TOPIC]
    assert '{"id":"(personal data)"}' in told and '"id":7' not in told
    assert [record.getMessage() for record in caplog.records] == [told]
