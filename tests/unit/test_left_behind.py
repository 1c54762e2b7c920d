"""A row that leaves an entity by a change whose old values were rejected, and a worker that ends in between."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stores.errors import StoreUnavailable
from streams.decide import LakeTableName, changes_table, features_table, rejected_table
from tests.envelopes import TOPIC, envelope, key, row
from tests.worker_platform import CUSTOMER, Killed, Platform

FIRST, SECOND, THIRD, FOURTH = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3, 4))
TABLES = (features_table("customer_last"), rejected_table(TOPIC), changes_table(TOPIC))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Row 2, the newest of ann, was to move to bob by a change that is rejected, and moves to cleo by a good one."""
    found = Platform(tmp_path)
    found.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, FIRST), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, SECOND), lsn=11)),
    )
    found.run()
    found.produce((key(2), envelope("u", row(2, "bob", -1.0, THIRD), before=row(2, "ann", 2.0, SECOND), lsn=12)))
    found.run()
    assert len(found.letters()) == 1 and found.customer("ann") == 2.0
    found.produce((key(2), envelope("u", row(2, "cleo", 3.0, FOURTH), before=row(2, "bob", -1.0, THIRD), lsn=13)))
    return found


def check(platform: Platform) -> None:
    assert (platform.customer("ann"), platform.customer("cleo")) == (1.0, 3.0)
    (version,) = platform.online.inspect(CUSTOMER, pa.table({"customer": ["ann"]})).to_pylist()
    assert not version["_undecided"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("table", TABLES)
def test_a_kill_at_a_write_to_the_lake(platform: Platform, table: LakeTableName, when: str) -> None:
    getattr(platform.lake, when)[table] = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    check(platform)


def test_a_kill_as_the_entity_is_decided(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(platform.online, "decide", killed)
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    check(platform)


def test_a_lake_that_is_away_as_the_changes_are_written(platform: Platform) -> None:
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "no space left")]
    platform.run()
    check(platform)
