"""What became of each record: a change in the lake once, a letter, silent, repeated, or lost."""

from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connectors.table import Column
from streams.accounted import Account, account, letter_places
from streams.changes import changes_schema
from streams.decide import changes_table
from streams.letters import read, replay
from streams.memory import MemoryProducer, MemoryTopics
from streams.snapshots import begin_first
from tests.envelopes import ORDERS, TOPIC, base, envelope, key, row
from tests.unit.test_truncate import Member
from tests.worker_platform import GROUP, LETTERS, P0, P1, Platform

RECORDS = [
    (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
    (key(2), envelope("c", row(2, "bob", -2.0), lsn=11)),
    (key(3), b"no envelope"),
    (key(1), envelope("d", None, before=row(1, "ann", 1.0), lsn=12)),
    (key(1), None),
    (None, envelope("t", None, lsn=13)),
]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    platform = Platform(tmp_path)
    platform.produce(*RECORDS)
    Member(platform, P0).finish()
    return platform


def accounted(platform: Platform) -> Account:
    topics = MemoryTopics(platform.broker)
    committed = {partition: offset for partition, (offset, _) in topics.committed(GROUP, [TOPIC]).items()}
    letters = letter_places(read(topics, LETTERS)).get(TOPIC, [])
    told: list[int] = []
    report = account(topics, platform.lake, platform.flow, committed, letters, 1 << 20, told.append)
    assert told[-1] == report.records
    return report


def test_each_record_is_one_of_these(platform: Platform) -> None:
    assert accounted(platform) == Account(records=6, changes=3, letters=2, silent=1)


def test_what_is_not_committed_is_not_asked_for(platform: Platform) -> None:
    platform.produce((key(4), envelope("c", row(4), lsn=20)))
    assert accounted(platform).records == 6


def test_what_comes_again_is_repeated(platform: Platform) -> None:
    """A source connector that died sends it again, an operator replays letters."""
    platform.produce(RECORDS[0], RECORDS[3], RECORDS[5])
    Member(platform, P0).finish()
    assert accounted(platform) == Account(records=9, changes=3, letters=2, silent=1, repeated=3)
    replay(MemoryProducer(platform.broker), read(MemoryTopics(platform.broker), LETTERS))
    for partition in (P0, P1):
        Member(platform, partition).finish()
    assert accounted(platform) == Account(records=11, changes=3, letters=4, silent=1, repeated=3)


def test_a_row_that_a_snapshot_read_again_is_repeated_with_all_its_values(platform: Platform) -> None:
    start = base(1000)
    begin_first(platform.lake, TOPIC, start, under_way=False)
    for begun, amount in ((1, 1.0), (2, 1.0), (3, 2.0)):
        platform.produce((key(7), envelope("r", row(7, "kim", amount), lsn=1500, ts_us=start.micros + begun)))
        Member(platform, P0).finish()
    assert accounted(platform) == Account(records=9, changes=5, letters=2, silent=1, repeated=1)
    table = platform.lake.scan(changes_table(TOPIC)).read_all()
    platform.lake.replace(changes_table(TOPIC), table.filter(pc.not_equal(table["_offset"], 6)))
    report = accounted(platform)
    assert (report.repeated, report.lost) == (0, 2), "nothing in the lake has the values of the first two"


@pytest.mark.parametrize("lost", [0, 3])
def test_a_change_that_is_nowhere_is_lost(platform: Platform, lost: int) -> None:
    table = platform.lake.scan(changes_table(TOPIC)).read_all()
    platform.lake.replace(changes_table(TOPIC), table.filter(pc.not_equal(table["_offset"], lost)))
    report = accounted(platform)
    assert (report.records, report.changes, report.lost) == (6, 2, 1)
    assert report.examples == [
        f"lost: the record of {TOPIC}[0] at offset {lost} is neither a change in the lake nor a letter"
    ]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_rejected_record_without_its_letter_is_lost(platform: Platform, lost: int) -> None:
    topics = MemoryTopics(platform.broker)
    committed = {partition: offset for partition, (offset, _) in topics.committed(GROUP, [TOPIC]).items()}
    letters = [place for place in letter_places(read(topics, LETTERS))[TOPIC] if place != lost]
    report = account(topics, platform.lake, platform.flow, committed, letters, 1 << 20)
    assert (report.letters, report.lost) == (1, 1)


def test_a_change_that_stands_twice_is_doubled(platform: Platform) -> None:
    table = platform.lake.scan(changes_table(TOPIC)).read_all()
    elsewhere = table.slice(0, 1).set_column(
        table.schema.get_field_index("_offset"), table.schema.field("_offset"), pa.array([77], pa.int64())
    )
    platform.lake.append(changes_table(TOPIC), elsewhere, {})
    report = accounted(platform)
    assert (report.lost, report.doubled) == (0, 1)
    assert report.examples == [f"doubled: {changes_table(TOPIC)} holds 2 times id 1, _lsn 10, _op c"]
    platform.lake.append(changes_table(TOPIC), elsewhere, {})
    assert accounted(platform).doubled == 2


def test_the_names_of_the_columns_do_not_matter(tmp_path: Path) -> None:
    """They may be any words of SQL."""
    platform = named(tmp_path, {"customer": "select"}, ("id",))
    created = (key(1), envelope("c", {"id": 1, "select": "ann", "amount": 1.0, "placed_at": None, "times": 3}, lsn=10))
    platform.produce(created)
    Member(platform, P0).finish()
    platform.produce(created)
    Member(platform, P0).finish()
    assert accounted(platform) == Account(records=2, changes=1, repeated=1)


def test_the_names_of_the_key_do_not_matter(tmp_path: Path) -> None:
    """They may be those of what is counted."""
    platform = named(tmp_path, {"customer": "count_star()"}, ("id", "times", "count_star()"))
    of_key = {"id": 1, "times": 3, "count_star()": "ann"}
    platform.produce((orjson.dumps(of_key), envelope("c", {**of_key, "amount": 1.0, "placed_at": None}, lsn=10)))
    Member(platform, P0).finish()
    assert accounted(platform) == Account(records=1, changes=1)
    table = changes_table(TOPIC)
    platform.lake.append(table, platform.lake.scan(table).read_all(), {})
    report = accounted(platform)
    assert report.doubled == 2
    assert report.examples == [
        f"doubled: {table} holds 2 times _partition 0, _offset 0",
        f"doubled: {table} holds 2 times id 1, times 3, count_star() ann, _lsn 10, _op c",
    ]


def named(folder: Path, names: dict[str, str], primary_key: tuple[str, ...]) -> Platform:
    """A platform of a table with a column `times`, and other names for some columns."""
    platform = Platform(folder)
    columns = tuple(replace(column, name=names.get(column.name, column.name)) for column in ORDERS.columns)
    times = Column("times", "bigint", pa.int64(), "plain", nullable=True)
    table = replace(ORDERS, columns=(*columns, times), primary_key=primary_key)
    views = tuple(replace(v, table=table) for v in platform.flow.views[:1])
    platform.flow = replace(platform.flow, table=table, views=views)
    platform.lake.replace(changes_table(TOPIC), changes_schema(table).empty_table())
    return platform
