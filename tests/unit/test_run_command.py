"""`millrace run` while a store goes away between two steps of its start."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import millrace.wiring
from millrace.cli import millrace as command_line
from stores.errors import StoreUnavailable
from stores.memory_lake import MemoryLake
from streams.changes import changes_schema
from streams.decide import changes_table
from tests.envelopes import ORDERS, TOPIC
from tests.unit.command_repo import command_repo


class Going(MemoryLake):
    """Away when it is asked first, and back after that."""

    asked = 0

    def properties(self, name: str) -> Mapping[str, str]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("the lake", "its volume is gone")
        return super().properties(name)


def test_a_lake_that_goes_once_the_worker_is_made_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_repo(tmp_path)
    lake, ran = Going(), list[object]()
    lake.create(changes_table(TOPIC), changes_schema(ORDERS), {})
    state = {"rows": {"applied": 0, "refused": 0}}
    member: Any = SimpleNamespace(
        tables={TOPIC: ORDERS}, paused={}, state=lambda: state, run=ran.append, tally=SimpleNamespace(stores={})
    )
    for name, made in (("flows", {}), ("worker", member), ("lake", lake)):
        monkeypatch.setattr(millrace.wiring, name, lambda repo, made=made: made)
    result = CliRunner().invoke(command_line, ["run", "--json", "--repo", str(tmp_path), "--stack", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(ran) == 1 and lake.asked > 1
