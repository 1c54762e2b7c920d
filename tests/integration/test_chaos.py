"""A short run of `make chaos`: a stack of its own, faults of a fixed seed, the exact verdict."""

import pytest

from tests.chaos.run import Run

SEED, FAULTS = 1458, 10
"""Kafka, Connect and PostgreSQL are killed, Redis comes back empty, a worker is frozen and one killed, two die at steps
between poll and commit, offsets are set back, records come again."""


@pytest.mark.timeout(900)
def test_nothing_is_lost_stale_undead_or_doubled() -> None:
    said: list[str] = []
    report = Run(seed=SEED, faults=FAULTS).report(said.append)
    assert report.right, "\n".join(said)
    assert report.value["faults"] == FAULTS
    assert report.value["changes"] > 500
    assert report.value["died_at_steps"] > 0
    assert report.value["duplicates_suppressed"] + report.value["stale_writes_refused"] > 0
