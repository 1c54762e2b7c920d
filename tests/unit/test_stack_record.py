"""What a stack's folder remembers."""

import json
import threading
from pathlib import Path

import pytest

from millrace.stack.daemon import Daemon
from millrace.stack.errors import StackError, StackRunning
from millrace.stack.record import Record


def test_an_empty_folder_remembers_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path)
    assert (record.exists(), record.ports(), record.daemons()) == (False, {}, {})


def test_ports_and_processes_come_back(tmp_path: Path) -> None:
    one, two = Daemon(1, "a", 1.5), Daemon(2, "b", 2.5)
    record = Record(tmp_path)
    record.begin({"redis": 20000})
    record.add("redis", one)
    record.add("kafka", two)
    assert Record(tmp_path).ports() == {"redis": 20000}
    assert Record(tmp_path).daemons() == {"redis": one, "kafka": two}
    record.remove("redis")
    assert Record(tmp_path).daemons() == {"kafka": two}
    record.begin({"redis": 20001})
    assert Record(tmp_path).daemons() == {}


def test_threads_lose_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.begin({})
    threads = [threading.Thread(target=record.add, args=(str(pid), Daemon(pid, "", 0.0))) for pid in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(record.daemons()) == {str(pid) for pid in range(20)}


def test_only_one_command_at_a_time(tmp_path: Path) -> None:
    with Record(tmp_path).locked(), pytest.raises(StackRunning, match=str(tmp_path)), Record(tmp_path).locked():
        pass
    with Record(tmp_path).locked():
        pass


def test_a_folder_that_nobody_may_write_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()  # root may write in any
    with pytest.raises(StackError, match=f"{tmp_path}/lock cannot be opened"), Record(tmp_path).locked():
        pass


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.begin({"redis": 20000})
    record.add("redis", Daemon(1, "a", 1.5))
    content = json.loads((tmp_path / "stack.json").read_text())
    assert content == {"ports": {"redis": 20000}, "daemons": {"redis": {"pid": 1, "birth": "a", "started": 1.5}}}
