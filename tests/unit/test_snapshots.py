"""The two lines of a snapshot."""

import logging

import pytest

from streams.snapshots import LOOK_SECONDS, QUIET_SECONDS, Snapshots
from streams.tally import Tally


def test_a_snapshot_is_told_when_it_begins_and_when_it_is_read(caplog: pytest.LogCaptureFixture) -> None:
    tally, now = Tally(), 1_000.0
    snapshots = Snapshots(tally)
    with caplog.at_level(logging.INFO, "streams.snapshots"):
        for rows in (0, 5_000, 0, 3_000, 0):
            tally.topics["t"]["snapshot"] += rows
            tally.topics["live"]["accepted"] += 1
            now += LOOK_SECONDS
            snapshots.tick(now)
        assert [record.event for record in caplog.records] == ["snapshot_begins"]  # type: ignore[attr-defined]
        snapshots.tick(now + QUIET_SECONDS)
        snapshots.tick(now + 2 * QUIET_SECONDS)
        tally.topics["t"]["snapshot"] += 7
        snapshots.tick(now + 3 * QUIET_SECONDS)
        snapshots.tick(now + 4 * QUIET_SECONDS)
    told = [(record.event, record.table, getattr(record, "rows", None)) for record in caplog.records]  # type: ignore[attr-defined]
    begins = ("snapshot_begins", "t", None)
    assert told == [begins, ("snapshot_read", "t", 8_000), begins, ("snapshot_read", "t", 7)]
