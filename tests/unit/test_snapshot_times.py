"""Snapshot rows of an event view without an event time: which of an entity's rows was committed last."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from stores.history import newest
from streams.letters import replay
from streams.memory import MemoryProducer
from streams.snapshots import begin_snapshot
from tests.envelopes import TOPIC, base, envelope, key, row
from tests.worker_platform import CUSTOMER, Platform

BASE = 8_000
LATER = 9_000_000_000
"""Microseconds after the base at which the snapshot is read, longer than anything else takes."""


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """The customers' view goes by commits."""
    made = Platform(tmp_path)
    order, customer = made.flow.views
    made.flow = replace(made.flow, views=(order, replace(customer, event_time=None)))
    return made


def snapshot(platform: Platform, *rows: dict[str, Any], lsn: int = BASE) -> None:
    """An incremental one that reads the rows one after the other, in partition 0."""
    begin_snapshot(platform.lake, TOPIC, base(lsn))
    for number, values in enumerate(rows):
        read = envelope("r", values, lsn=0, ts_us=base(lsn).micros + LATER + number)
        value = orjson.loads(read)
        value["source"] |= {"lsn": None, "snapshot": "incremental"}
        platform.produce((key(values["id"]), orjson.dumps(value)))


def commit(platform: Platform, lsn: int, after: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """A create, or an update, committed at its LSN."""
    op = "c" if before is None else "u"
    platform.produce((key(after["id"]), envelope(op, after, lsn=lsn, before=before)))


def served(platform: Platform, name: str) -> Any:
    """The amount, which is that of the lake's newest row too."""
    keys = pa.table({"customer": [name]})
    (of_lake,) = newest(platform.lake, CUSTOMER, keys)["amount"].to_pylist()
    assert platform.customer(name) == of_lake
    return of_lake


def both_ways() -> Iterator[Any]:
    """In one poll with the changes before the snapshot, or after them."""
    yield pytest.param(False, id="together")
    yield pytest.param(True, id="apart")


@pytest.mark.parametrize("apart", both_ways())
def test_rows_that_are_as_they_were_keep_their_order(platform: Platform, apart: bool) -> None:
    """Order 1 was updated last; the snapshot reads order 2 last."""
    commit(platform, 800, row(2, amount=222.0))
    commit(platform, 808, row(1, amount=100.0))
    commit(platform, 1_600, row(1, amount=111.0), row(1, amount=100.0))
    if apart:
        platform.run()
    snapshot(platform, row(1, amount=111.0), row(2, amount=222.0))
    platform.run()
    assert served(platform, "ann") == 111.0
    snapshot(platform, row(1, amount=111.0), row(2, amount=222.0), lsn=2 * BASE)
    platform.run()
    assert served(platform, "ann") == 111.0
    table = platform.lake.scan(f"changes/{TOPIC}").read_all()
    assert sorted(zip(table["_op"].to_pylist(), table["_commit_ts"].cast(pa.int64()).to_pylist(), strict=True))[1:] == [
        ("c", base(808).micros),
        *[("r", base(800).micros), ("r", base(800).micros), ("r", base(1_600).micros), ("r", base(1_600).micros)],
        ("u", base(1_600).micros),
    ]


def test_a_change_beside_the_snapshot_is_newer_than_all_that_it_reads(platform: Platform) -> None:
    """Also of a first one, which finds an empty lake."""
    snapshot(platform, row(1, amount=1.0), row(2, amount=2.0))
    commit(platform, BASE + 8, row(1, amount=9.0), row(1, amount=1.0))
    platform.run()
    assert served(platform, "ann") == 9.0


def test_a_row_that_changed_unheard_is_newer_than_those_that_were_heard(platform: Platform) -> None:
    commit(platform, 800, row(1, amount=1.0))
    commit(platform, 1_600, row(2, amount=2.0))
    platform.run()
    snapshot(platform, row(1, amount=7.0), row(2, amount=2.0))
    platform.run()
    assert served(platform, "ann") == 7.0
    commit(platform, BASE + 8, row(2, amount=3.0), row(2, amount=2.0))
    platform.run()
    assert served(platform, "ann") == 3.0


def test_a_row_that_was_deleted_and_is_there_again_counts_from_the_base(platform: Platform) -> None:
    commit(platform, 800, row(1, amount=1.0))
    platform.produce((key(1), envelope("d", None, before=row(1, amount=1.0), lsn=808)))
    commit(platform, 1_600, row(2, amount=2.0))
    platform.run()
    snapshot(platform, row(1, amount=1.0), row(2, amount=2.0))
    platform.run()
    assert served(platform, "ann") == 1.0


def test_a_column_that_the_lake_did_not_have_changes_no_order(platform: Platform) -> None:
    commit(platform, 800, row(2, amount=2.0, placed_at=None))
    commit(platform, 1_600, row(1, amount=1.0, placed_at=None))
    platform.run()
    snapshot(platform, row(1, amount=1.0), row(2, amount=2.0))
    platform.run()
    assert served(platform, "ann") == 1.0


def test_what_is_read_again_has_the_time_that_it_had(platform: Platform) -> None:
    """After a later snapshot too, by which a row that it alone tells of would count from another base."""
    snapshot(platform, row(1, amount=1.0), row(2, amount=2.0))
    platform.run()
    times = platform.online.inspect(CUSTOMER, pa.table({"customer": ["ann"]}))["_order"].to_pylist()
    assert times == [base(BASE).micros]
    begin_snapshot(platform.lake, TOPIC, base(2 * BASE))
    platform.broker.offsets.clear()
    platform.run()
    assert platform.online.inspect(CUSTOMER, pa.table({"customer": ["ann"]}))["_order"].to_pylist() == times


def test_a_letter_of_a_snapshot_is_no_later_than_the_base(platform: Platform) -> None:
    snapshot(platform, row(1, amount=-1.0), row(2, amount=2.0))
    commit(platform, BASE + 8, row(2, amount=3.0), row(2, amount=2.0))
    platform.run()
    assert served(platform, "ann") == 3.0
    platform.take_the_rule_back()
    order, customer = platform.flow.views
    platform.flow = replace(platform.flow, views=(order, replace(customer, event_time=None)))
    replay(MemoryProducer(platform.broker), platform.letters())
    platform.run()
    assert served(platform, "ann") == 3.0
    assert platform.order(1) == -1.0


def test_a_first_snapshot_may_take_several_polls(platform: Platform) -> None:
    snapshot(platform, *(row(i, amount=float(i)) for i in range(1, 200)))
    platform.run(poll_records=7)
    assert platform.online.inspect(CUSTOMER, pa.table({"customer": ["ann"]}))["_order"].to_pylist() == [
        base(BASE).micros
    ]
    assert served(platform, "ann") is not None
