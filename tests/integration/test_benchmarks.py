"""The benchmarks' own platform, in small: what they measure by is told by the worker, and has to be found."""

from benchmarks.drain import drain, load
from benchmarks.platform import platform

CHANGES = 2_000


def test_a_drain_ends_when_all_is_committed() -> None:
    with platform() as target:
        target.command("apply")
        load(target, CHANGES)
        drained = drain(target)
        committed, end = target.ends()
    assert committed == end >= CHANGES
    assert min(drained.rate, drained.memory, drained.processor) > 0
