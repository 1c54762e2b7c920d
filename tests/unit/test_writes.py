"""Writes under way: what is lost meanwhile, of which tables."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streams.clock import SystemClock
from streams.messages import Partition
from streams.patience import Patience
from streams.pipeline import take
from streams.tally import Tally
from streams.writes import Writes
from tests.envelopes import TOPIC, envelope, key, records, row
from tests.worker_platform import P0, Platform


def test_a_write_loses_nothing_of_other_tables(tmp_path: Path) -> None:
    """A partition of another table can be lost, assigned and read anew while the write goes on: to drop it then would
    drop what was read anew."""
    platform, arrived = Platform(tmp_path), list[set[Partition]]()
    outcome = take(records((key(1), envelope("c", row(1), lsn=10))), platform.flow, 10_000)
    with ThreadPoolExecutor(2) as executor:
        writes = Writes(
            platform.online,
            lambda outcome, made: outcome,
            Tally(),
            SystemClock(),
            executor,
            executor,
            Patience(lambda seconds: None),
            lambda outcomes, result, lost: arrived.append(set(lost)),
        )
        writes.begin([outcome], beside=True)
        writes.lose({Partition("shop.public.notes", 0), P0})
        writes.finish_of(TOPIC)
        writes.begin([outcome], beside=True)
        writes.lose({Partition("shop.public.notes", 0)})
        writes.finish_of(TOPIC)
    assert arrived == [{P0}, set()]
