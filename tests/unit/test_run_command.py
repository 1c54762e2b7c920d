"""`millrace run` while a store goes away between two steps of its start, and the sources that it watches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import connectors.slots
import connectors.watch
import millrace.wiring
from connectors.connect import Connect
from connectors.health import SlotHealth
from connectors.source import Source
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
        topics=[TOPIC], paused={}, state=lambda: state, run=ran.append, tally=SimpleNamespace(stores={})
    )
    for name, made in (("flows", {}), ("worker", member), ("lake", lake)):
        monkeypatch.setattr(millrace.wiring, name, lambda *_, made=made: made)
    result = CliRunner().invoke(command_line, ["run", "--json", "--repo", str(tmp_path), "--stack", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(ran) == 1 and lake.asked > 1


class Slots:
    """The sources that a worker watches the slots of."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.names = [source.name for source in sources]

    def slots(self) -> Mapping[str, SlotHealth | str]:
        return {}

    def close(self) -> None:
        pass


class Connectors(Slots):
    """The same of connectors."""

    def __init__(self, connect: Connect, names: Sequence[str]) -> None:
        self.names = list(names)


def test_a_worker_watches_the_sources_that_its_views_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other has a connector or a slot."""
    command_repo(tmp_path)
    monkeypatch.setenv("MILLRACE__SOURCES__DEPOT__URL", "postgresql://user:password@nowhere:5432/depot")
    lake, made = MemoryLake(), list[Slots]()
    lake.create(changes_table(TOPIC), changes_schema(ORDERS), {})
    gone = replace(ORDERS, source="bazaar")  # which millrace.yaml names no more
    contract = SimpleNamespace(version="1")
    flows = {table.source: SimpleNamespace(table=table, views=(), contract=contract) for table in (gone, ORDERS)}
    state = {"rows": {"applied": 0, "refused": 0}}
    member: Any = SimpleNamespace(
        topics=[TOPIC], paused={}, state=lambda: state, run=lambda stop: None, tally=SimpleNamespace(stores={})
    )
    for name, part in (("flows", flows), ("worker", member), ("lake", lake)):
        monkeypatch.setattr(millrace.wiring, name, lambda *_, part=part: part)

    def noted(watch: type[Slots]) -> Callable[..., Slots]:
        return lambda *asked: made.append(watch(*asked)) or made[-1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(connectors.slots, "SlotWatch", noted(Slots))
    monkeypatch.setattr(connectors.watch, "Watch", noted(Connectors))
    result = CliRunner().invoke(command_line, ["run", "--json", "--repo", str(tmp_path), "--stack", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [type(watch) for watch in made] == [Slots, Connectors]
    assert [watch.names for watch in made] == [["shop"], ["shop"]]
