"""The in-memory online store does what every `FeatureWriter` does."""

import pytest

from stores.memory import MemoryOnline
from tests.feature_writer_suite import FeatureWriterSuite, Store, by_inspection


class TestMemoryOnline(FeatureWriterSuite):
    @pytest.fixture
    def store(self) -> Store:
        memory = MemoryOnline()
        return Store(memory, by_inspection(memory))
