"""Backfills: a view's rows from the changes that the lake holds, once, whoever else is at it."""

from pathlib import Path

import pytest

from streams.backfill import AnotherBackfill, Backfill, Window
from streams.decide import features_table
from tests.envelopes import envelope, key, row
from tests.worker_platform import CUSTOMER, TOPIC, Platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def backfill(platform: Platform) -> None:
    """Fill the event view, which nothing was ever streamed into."""
    job = Backfill({TOPIC: platform.flow}, platform.lake, platform.online, lambda outcome: outcome)
    job.run([CUSTOMER.name], Window(), lambda view, share: None)


def streamed_without_the_view(platform: Platform) -> None:
    both = platform.flow.views
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both[:1])
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 1.0), lsn=10)),
        (key(2), envelope("c", row(2, "bob", 2.0), lsn=11)),
        (key(2), envelope("u", row(2, None, 3.0), before=row(2, "bob", 2.0), lsn=12)),
    )
    platform.run()
    platform.flow = type(platform.flow)(platform.flow.table, platform.flow.contract, both)


def test_a_row_that_left_its_entity_for_none_is_gone_from_it(platform: Platform) -> None:
    streamed_without_the_view(platform)
    backfill(platform)
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, None)


def test_two_at_once_add_no_row_twice(platform: Platform) -> None:
    streamed_without_the_view(platform)
    append = platform.lake.append_once

    def late(*given: object) -> bool:
        platform.lake.append_once = append  # type: ignore[method-assign]
        backfill(platform)
        return append(*given)  # type: ignore[arg-type]

    platform.lake.append_once = late  # type: ignore[method-assign]
    with pytest.raises(AnotherBackfill, match="customer_last"):
        backfill(platform)
    rows = platform.lake.scan(features_table(CUSTOMER.name)).read_all()
    assert sorted(zip(rows["_lsn"].to_pylist(), rows["_deleted"].to_pylist(), strict=True)) == [
        (10, False),
        (11, False),
        (12, True),
    ]
