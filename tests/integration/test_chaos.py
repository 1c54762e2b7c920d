"""A short run of `make chaos`: a stack of its own, faults of a fixed seed, the exact verdict."""

import pytest

from tests.chaos.run import Run

FAULTS = 10


@pytest.mark.timeout(900)
def test_nothing_is_lost_stale_undead_or_doubled() -> None:
    said: list[str] = []
    report = Run(seed=20, faults=FAULTS).report(said.append)
    assert report.right, "\n".join(said)
    assert report.value["faults"] == FAULTS
    assert report.value["changes"] > 500
    assert report.value["duplicates_suppressed"] + report.value["stale_writes_refused"] > 0
