"""What `millrace status` tells, and `resume` of the workers that it asked."""

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import millrace.resume
import millrace.status
from connectors.connect import ConnectorState, ConnectUnavailable, TaskState
from connectors.health import SlotHealth
from millrace.commands.stream import _state
from millrace.made_again import Dropped
from millrace.resume import resume_table
from millrace.status import _at_once, _lag, _not_running, _slots, _snapshots, _workers, repo_status
from millrace.workers import announced
from streams.health import Health
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.messages import Partition
from tests.envelopes import TOPIC
from tests.worker_platform import Platform


def test_all_parts_are_asked_at_once_and_told_of_in_their_order() -> None:
    """One that hangs takes its time, and no more than that."""
    together = threading.Barrier(3, timeout=30)

    def part(problems: list[str], name: str, known: int) -> int:
        together.wait()
        problems += [f"{name} {number}" for number in range(known)]
        return known

    problems = ["before"]
    asks = {name: partial(part, name=name, known=known) for name, known in (("c", 2), ("a", 0), ("b", 1))}
    assert _at_once(asks, problems) == {"c": 2, "a": 0, "b": 1}
    assert problems == ["before", "c 0", "c 1", "b 0"]


class Asked(MemoryProducer):
    """Does what the workers do of which the test is, once they are asked to resume."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__(MemoryBroker({"p.control": 1}))
        self._then = then

    def flush(self) -> None:
        super().flush()
        self._then()


def test_a_worker_that_is_gone_did_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "platform").mkdir()
    state = {**_state("shop", Platform(tmp_path / "platform").start(), None), "paused": {TOPIC: "bad"}}
    goes_on, silent, gone = "11", "12", "13"
    states = {name: {**state, "pid": int(name), "resumed": {TOPIC: 1}} for name in (goes_on, silent, gone)}
    workers = {
        name: Health("127.0.0.1", 0, partial(states.__getitem__, name), lambda accept: (b"", "")) for name in states
    }
    notes = tmp_path / "shop"
    notes.mkdir()
    for name, health in workers.items():
        (notes / name).write_text(f"{health.address}/health")

    def then() -> None:
        states[goes_on] = {**states[goes_on], "resumed": {TOPIC: 2}}
        workers.pop(gone).close()

    monkeypatch.setattr(millrace.resume, "producer", lambda repo: Asked(then))
    repo = SimpleNamespace(
        declared=lambda: [SimpleNamespace(topic=TOPIC)], control_topic="p.control", workers_folder=notes
    )
    try:
        told = resume_table(repo, TOPIC, 0.5)  # type: ignore[arg-type]  # as much of a repo as it asks for
    finally:
        for health in workers.values():
            health.close()
    assert told == {"table": TOPIC, "resumed": [goes_on], "silent": [silent], "gone": [gone]}


@pytest.mark.parametrize(
    ("state", "tasks", "shown"),
    [("RUNNING", ["FAILED"], "FAILED"), ("RUNNING", [], "without tasks"), ("PAUSED", ["PAUSED"], "PAUSED")],
)
def test_a_connector_is_in_the_state_of_its_tasks(state: str, tasks: list[str], shown: str) -> None:
    """Kafka Connect says RUNNING of one whose only task has failed."""
    found = ConnectorState("shop", state, "", tuple(TaskState(0, task, "w", "") for task in tasks))
    assert not found.running
    assert _not_running(found) == shown


def test_records_that_expired_are_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker({TOPIC: 2})
    for partition in broker.all(TOPIC):
        for _ in range(5):
            broker.append(partition, b"key", b"value")
    broker.expired[Partition(TOPIC, 0)] = 5
    broker.offsets["g", Partition(TOPIC, 1)] = 4
    monkeypatch.setattr(millrace.status, "topics", lambda repo: MemoryTopics(broker))
    problems: list[str] = []
    repo = SimpleNamespace(group="g")
    assert _lag(repo, [TOPIC], problems) == {TOPIC: 1}  # type: ignore[arg-type]  # as much of a repo as it asks for
    assert not problems


def went_back(monkeypatch: pytest.MonkeyPatch, asked: Callable[[str], int | None]) -> list[str]:
    """The problems of a source whose log ends at 100 and whose slot is well."""
    health = SlotHealth(True, 0, 0, "reserved", None, 1, 100, timedelta(0))
    parts = {
        "connect": lambda repo, seconds: SimpleNamespace(offset_lsn=asked),
        "source": lambda repo, name: SimpleNamespace(name=name, slot="slot", opened=lambda *seconds: nullcontext()),
        "slot_health": lambda engine, database: health,
    }
    for name, part in parts.items():
        monkeypatch.setattr(millrace.status, name, part)
    problems: list[str] = []
    _slots(None, ["shop"], problems)  # type: ignore[arg-type]  # it is not asked
    return problems


def test_a_log_that_ends_before_the_stored_position_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything runs then, and what is committed below the position comes to nobody."""
    assert went_back(monkeypatch, lambda name: None) == []
    assert went_back(monkeypatch, lambda name: 100) == []
    (problem,) = went_back(monkeypatch, lambda name: 101)
    assert "went back in its log" in problem and "millrace recover shop" in problem


def test_a_connect_that_does_not_answer_hides_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(name: str) -> int | None:
        raise ConnectUnavailable("away")

    assert went_back(monkeypatch, away) == []


def test_a_source_that_no_view_captures_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connector nor a slot is made for it: nothing is wrong without them."""
    absent = SimpleNamespace(state=lambda name: None, offset_lsn=lambda name: None)
    parts = {
        "connect": lambda repo, seconds: absent,
        "source": lambda repo, name: SimpleNamespace(name=name, slot="slot", opened=lambda *seconds: nullcontext()),
        "slot_health": lambda engine, database: None,
        "_snapshots": lambda repo, captured, problems: {},
        "_dropped": lambda repo, views, problems: Dropped([], [], {}, [], []),
        "_altered": lambda repo, views, problems: {},
        "_uncaptured": lambda repo, views, problems: [],
        **dict.fromkeys(("_stores", "_workers"), lambda asked, problems: {}),
        "_lag": lambda repo, tables, problems: {},
        "check": lambda config: None,
    }
    for name, part in parts.items():
        monkeypatch.setattr(millrace.status, name, part)
    declared = [SimpleNamespace(topic=TOPIC, view=SimpleNamespace(name="orders"))]
    settings = SimpleNamespace(sources={"depot": None, "shop": None})
    repo = SimpleNamespace(settings=settings, config=None, declared=lambda: declared, workers_folder=None)
    told = repo_status(repo)  # type: ignore[arg-type]  # as much of a repo as it asks for
    assert told["connectors"] == {"shop": "absent"}
    assert [problem.split(":")[0] for problem in told["problems"]] == [
        "connector shop does not exist",
        "source shop has no replication slot slot",
    ]


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("overrides", [{}, {"snapshot.max.threads": "2"}])
def test_a_first_snapshot_that_was_begun_anew_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, twice: bool, overrides: dict[str, str]
) -> None:
    """Of its tables those are asked for together that one transaction read."""
    asked: list[list[str]] = []

    def begun_anew(lake: object, topics: list[str], partitions: int) -> list[str]:
        assert partitions == 3
        asked.append(topics)
        return topics[:1] if twice else []

    parts = {
        "lake": lambda repo: None,
        "unreconciled": lambda lake, topic: None,
        "source": lambda repo, name: SimpleNamespace(partitions=3, overrides=overrides),
        "begun_anew": begun_anew,
    }
    for name, part in parts.items():
        monkeypatch.setattr(millrace.status, name, part)
    problems: list[str] = []
    others = ["depot.public.bays", "shop.public.zones"]
    assert _snapshots(SimpleNamespace(), [TOPIC, *others], problems) == {}  # type: ignore[arg-type]
    together = [[TOPIC, others[1]]] if not overrides else [[TOPIC], others[1:]]
    assert asked == [others[:1], *together]
    told = f"millrace resnapshot {' '.join(topics[0] for topics in asked)}"
    assert [problem.split("Run ")[1] for problem in problems] == [told] * twice


def test_workers_that_start_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All start anew at an apply, for which nobody is to be woken."""
    monkeypatch.setattr(millrace.status, "_elsewhere", lambda repo: False)
    monkeypatch.setattr(millrace.status, "LOOK_SECONDS", 0)
    monkeypatch.setattr(millrace.status, "START_SECONDS", 60)
    state = {"waiting_for": "", "paused": {}, "key_changes_lost": {}}
    looks = [["7"], ["7"], []]
    monkeypatch.setattr(millrace.status, "starting_workers", lambda folder: looks.pop(0))
    monkeypatch.setattr(millrace.status, "running_workers", lambda folder: {} if looks else {"7": state})
    problems: list[str] = []
    repo: Any = SimpleNamespace(workers_folder=tmp_path)
    assert _workers(repo, problems) == {"7": state}
    assert problems == []


def test_a_worker_that_does_not_get_through_its_start_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(millrace.status, "START_SECONDS", 0.01)
    problems: list[str] = []
    repo: Any = SimpleNamespace(workers_folder=tmp_path)
    with announced(tmp_path):
        assert _workers(repo, problems) == {}
    (problem,) = problems
    assert problem.startswith(f"worker {os.getpid()} is starting")
