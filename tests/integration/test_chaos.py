"""A short run of `make chaos`: a stack of its own, faults of a fixed seed, the exact verdict."""

import pytest

from tests.chaos.run import Run

SEED, FAULTS = 3255, 10
"""Kafka, PostgreSQL and Redis are killed, Redis comes back empty, the lake is full, workers storm, two die at steps
between poll and commit, records come again, a replay of letters is killed."""


@pytest.mark.timeout(900)
def test_nothing_is_lost_stale_undead_or_doubled() -> None:
    said: list[str] = []
    report = Run(seed=SEED, faults=FAULTS).report(said.append)
    assert report.right, "\n".join(said)
    assert report.value["faults"] == FAULTS
    assert report.value["changes"] > 500
    assert report.value["died_at_steps"] > 0
    assert report.value["duplicates_suppressed"] + report.value["stale_writes_refused"] > 0
