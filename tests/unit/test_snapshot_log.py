"""The two lines of a snapshot."""

import logging

import pytest

from streams.snapshot_log import LOOK_SECONDS, QUIET_SECONDS, SnapshotLog
from streams.tally import Tally


def test_a_snapshot_is_told_when_it_begins_and_when_it_is_read(caplog: pytest.LogCaptureFixture) -> None:
    tally, now = Tally(), 1_000.0
    snapshot_log = SnapshotLog(tally)
    with caplog.at_level(logging.INFO, "streams.snapshot_log"):
        for rows in (0, 5_000, 0, 3_000, 0):
            tally.topics["t"]["snapshot"] += rows
            tally.topics["live"]["accepted"] += 1
            now += LOOK_SECONDS
            snapshot_log.tick(now)
        assert [record.event for record in caplog.records] == ["snapshot_begins"]  # type: ignore[attr-defined]
        snapshot_log.tick(now + QUIET_SECONDS)
        snapshot_log.tick(now + 2 * QUIET_SECONDS)
        tally.topics["t"]["snapshot"] += 7
        snapshot_log.tick(now + 3 * QUIET_SECONDS)
        snapshot_log.tick(now + 4 * QUIET_SECONDS)
    told = [(record.event, record.table, getattr(record, "rows", None)) for record in caplog.records]  # type: ignore[attr-defined]
    begins = ("snapshot_begins", "t", None)
    assert told == [begins, ("snapshot_read", "t", 8_000), begins, ("snapshot_read", "t", 7)]
