"""The lake in memory does what every `Lake` does, and fails when a test wants it to."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import StoreUnavailable
from stores.memory_lake import MemoryLake
from tests.lake_suite import NAME, SCHEMA, LakeSuite, Open, append, each_record_stands_once, ids


class TestMemoryLake(LakeSuite):
    @pytest.fixture
    def new_lake(self) -> Callable[[], Open]:
        def make() -> Open:
            lake = MemoryLake()
            return lambda: lake

        return make


@settings(max_examples=50)
@given(st.data())
def test_each_record_stands_once_whatever_the_writers_do(data: st.DataObject) -> None:
    lake = MemoryLake()
    each_record_stands_once(lambda: lake, data)


def test_an_outage_ends_as_it_began() -> None:
    lake = MemoryLake()
    lake.create(NAME, SCHEMA, {})
    lake.outage = "no space left"
    with pytest.raises(StoreUnavailable, match="the lake is unavailable: no space left"):
        append(lake, 0, 1)
    lake.outage = None
    append(lake, 0, 1)
    assert ids(lake) == [0]
