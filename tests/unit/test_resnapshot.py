"""What `millrace resnapshot` and `recover` refuse before they ask for anything, and what they wait for."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import millrace.resnapshot
from connectors.snapshots import Base
from millrace.repo import UnknownTable
from millrace.resnapshot import CannotAsk, LogWentBack, Paused, Stalled, _Job, recover, resnapshot
from streams.memory import MemoryBroker, MemoryTopics
from streams.messages import Partition
from tests.envelopes import ORDERS, TOPIC

OTHER = replace(ORDERS, name="others", topic="shop.public.others")
REASON = f"{TOPIC} is paused: 60 of its last 100 records were rejected. Mend the source, then millrace resume {TOPIC}"

Command = Callable[[Any], object]
COMMANDS: dict[str, Command] = {
    "resnapshot": lambda repo: resnapshot(repo, [OTHER.topic, TOPIC], 0.3, lambda text: None),
    "recover": lambda repo: recover(repo, "shop", 0.3, lambda text: None),
}


def test_a_table_that_debezium_cannot_find_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser of names ends at a blank, and says so in the connector's log only."""
    odd = SimpleNamespace(table=replace(ORDERS, name="Order Items"))
    monkeypatch.setattr(millrace.resnapshot, "flows", lambda repo: {"shop.public.Order_Items": odd})
    with pytest.raises(CannotAsk, match=r"public\.Order Items has a blank in its name.*run millrace recover shop"):
        resnapshot(None, ["shop.public.Order_Items"], 1.0, print)  # type: ignore[arg-type]  # it is not asked
    with pytest.raises(UnknownTable, match=r"did you mean shop\.public\.Order_Items"):
        resnapshot(None, ["shop.public.Order Items"], 1.0, print)  # type: ignore[arg-type]  # nor here


class Begun(Exception):
    """The command went on to the source."""


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the one worker tells of its paused tables each time that it is asked; the last of it for ever."""
    told: list[dict[str, str]] = []

    def workers(folder: Path) -> dict[str, dict[str, Any]]:
        return {"1": {"paused": told.pop(0) if len(told) > 1 else told[0]}}

    def begin(*arguments: object) -> None:
        raise Begun

    declared = {table.topic: SimpleNamespace(table=table) for table in (ORDERS, OTHER)}
    monkeypatch.setattr(millrace.resnapshot, "flows", lambda repo: declared)
    monkeypatch.setattr(millrace.resnapshot, "wait_anew", lambda repo, say: None)
    monkeypatch.setattr(millrace.resnapshot, "running_workers", workers, raising=False)
    monkeypatch.setattr(millrace.resnapshot, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(millrace.resnapshot, "_job", begin)
    return told


REPO = SimpleNamespace(workers_folder=Path("workers"))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_paused_table_is_told_of_before_anything_is_changed(paused: list[dict[str, str]], command: Command) -> None:
    """Its records would be waited for in vain, with the connector stopped and its position forgotten."""
    paused.append({TOPIC: REASON, "shop.public.third": "not asked for"})
    with pytest.raises(Paused) as refused:
        command(REPO)
    assert REASON in str(refused.value) and "not asked for" not in str(refused.value)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_workers_that_start_anew_after_an_apply_are_waited_for(paused: list[dict[str, str]], command: Command) -> None:
    """Until they do, they tell why the table was held."""
    paused += [{TOPIC: REASON}, {TOPIC: REASON}, {"shop.public.third": "not asked for"}]
    with pytest.raises(Begun):
        command(REPO)
    assert len(paused) == 1


def job(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> _Job:
    """One that waits for the workers' group `g` over two tables."""
    flows: Sequence[Any] = [SimpleNamespace(table=table) for table in (ORDERS, OTHER)]
    nothing: Any = None
    repo: Any = SimpleNamespace(group="g")
    monkeypatch.setattr(millrace.resnapshot, "topics", lambda repo: MemoryTopics(broker))
    monkeypatch.setattr(millrace.resnapshot, "LOOK_SECONDS", 0.01)
    return _Job(repo, nothing, nothing, flows, 0.05, said.append, nothing)


def test_records_that_expired_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group that has committed nothing, or whose offsets expired as well."""
    broker, said = MemoryBroker(), list[str]()
    for _ in range(5):
        broker.append(Partition(TOPIC, 0), b"key", b"value")
    broker.expired[Partition(TOPIC, 0)] = 5
    job(broker, monkeypatch, said).drain()
    assert not said


def test_who_waits_in_vain_is_told_for_which_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    for _ in range(5):
        broker.append(Partition(TOPIC, 0), b"key", b"value")
    broker.expired[Partition(TOPIC, 0)] = 2
    with pytest.raises(Stalled, match=rf"3 records to go of {TOPIC} \(") as stalled:
        job(broker, monkeypatch, []).drain()
    assert OTHER.topic not in str(stalled.value)


def test_changes_that_come_while_it_looks_are_no_log_that_went_back(monkeypatch: pytest.MonkeyPatch) -> None:
    log = 100

    def taken(*_: object) -> int:
        """The lake's: workers write what is committed meanwhile."""
        nonlocal log
        log += 10
        return log - 1

    monkeypatch.setattr(millrace.resnapshot, "lake", lambda repo: None)
    monkeypatch.setattr(millrace.resnapshot, "highest", taken)
    monkeypatch.setattr("connectors.snapshots.base", lambda engine, source: Base(log, 0, 0))
    source: Any = SimpleNamespace(name="shop", partitions=1)
    looking = replace(job(MemoryBroker(), monkeypatch, []), source=source)
    assert looking.end_of_log() == Base(120, 0, 0)
    monkeypatch.setattr(millrace.resnapshot, "highest", lambda *_: 120)
    with pytest.raises(LogWentBack, match=r"ends at 0/78, but the lake holds changes of .* up to 0/78"):
        looking.end_of_log()
