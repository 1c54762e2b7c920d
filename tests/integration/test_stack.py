"""The real local stack: what it answers, and what it survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from millrace.stack import daemon, ports, services
from millrace.stack.daemon import Daemon, Launch
from millrace.stack.endpoints import Endpoints
from millrace.stack.errors import ServiceFailed, StackRunning
from millrace.stack.jars import REQUIRED
from millrace.stack.postgres import Postgres, postgres_programs, read_or_make_password
from millrace.stack.privileges import reachable_data, reachable_programs, unprivileged_user
from millrace.stack.stack import ServiceStatus, Stack
from tests.integration.database import Database
from tests.waiting import waited


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that was started with the folder's name or works in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def make_topic(kafka: str, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": kafka})
    client.create_topics([NewTopic(topic, 1)])[topic].result(30)


def produce(kafka: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka, "message.max.bytes": services.LARGEST_RECORD_BYTES})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def first_value(kafka: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None and message.error() is None
    value = message.value()
    return value if isinstance(value, bytes) else None


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that PostgreSQL's user can enter; whatever still runs in it afterwards is killed."""
    made = Path(tempfile.mkdtemp(prefix="millrace-stack-"))
    made.chmod(0o755)
    yield made
    for process in processes_of(made):
        process.kill()
    shutil.rmtree(made)


# What it answers.


def test_postgres_replicates_logically(stack: Endpoints, database: Database) -> None:
    assert query(database.url, "show wal_level") == [("logical",)]
    assert query(database.url, "select current_setting('server_version_num')::int / 10000") == [(18,)]
    query(database.url, "select pg_create_logical_replication_slot('probe', 'pgoutput')")
    assert query(database.url, "select wal_status from pg_replication_slots where slot_name = 'probe'") == [
        ("reserved",)
    ]


def test_postgres_has_vectors(stack: Endpoints, database: Database) -> None:
    query(database.url, "create extension vector")
    assert query(database.url, "select '[3,4]'::vector <-> '[0,0]'::vector") == [(5.0,)]
    vectors = stack.environment()["MILLRACE_VECTORS"]
    assert query(vectors, "select extname from pg_extension where extname = 'vector'") == [("vector",)]


def test_postgres_wants_the_password(stack: Endpoints) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(stack.postgres.replace("millrace:", "millrace:not") + "/millrace", "select 1")


def test_kafka_carries_big_records(stack: Endpoints) -> None:
    topic = f"big-{uuid.uuid4().hex}"
    make_topic(stack.kafka, topic)
    value = os.urandom(services.LARGEST_RECORD_BYTES - 64 * 1024)
    produce(stack.kafka, topic, value)
    assert first_value(stack.kafka, topic) == value


def test_kafka_makes_no_topic_by_itself(stack: Endpoints) -> None:
    topic = f"misspelt-{uuid.uuid4().hex}"
    client = AdminClient({"bootstrap.servers": stack.kafka})
    client.list_topics(topic, timeout=30)
    assert topic not in client.list_topics(timeout=30).topics


def test_connect_offers_debezium(stack: Endpoints) -> None:
    with urllib.request.urlopen(f"{stack.connect}/") as answer:
        assert json.load(answer)["version"] == services.KAFKA_VERSION
    with urllib.request.urlopen(f"{stack.connect}/connector-plugins") as answer:
        versions = {plugin["class"]: plugin["version"] for plugin in json.load(answer)}
    assert versions["io.debezium.connector.postgresql.PostgresConnector"] == services.DEBEZIUM_VERSION


def test_redis_keeps_what_it_is_given(stack: Endpoints) -> None:
    host, port = stack.redis.split(":")
    client = redis.Redis(host=host, port=int(port))
    assert client.ping()
    for name, value in services.REDIS.items():
        assert client.config_get(name) == {name: value}


def test_the_folder_tells_the_addresses_and_hides_the_password(stack: Endpoints) -> None:
    home = stack.lake.parent
    assert (home / "env").read_text() == stack.exports()
    password = (home / "password").read_text().strip()
    for path in (home / "env", home / "password"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not any(password in log.read_text(errors="replace") for log in (home / "logs").iterdir())
    assert not any(password in " ".join(process.cmdline()) for process in processes_of(home))


def test_everything_listens_on_loopback_alone(stack: Endpoints) -> None:
    addresses = {
        socket.laddr.ip
        for process in processes_of(stack.lake.parent)
        for socket in process.net_connections(kind="tcp")
        if socket.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_second_up_is_refused(stack: Endpoints, jars: Path) -> None:
    home = stack.lake.parent
    pid = next(status.pid for status in Stack(home, jars).status() if status.name == "kafka")
    with pytest.raises(StackRunning, match=rf"{home}.*kafka pid {pid}.*millrace down"):
        Stack(home, jars).up()
    assert {status.state for status in Stack(home, jars).status()} == {"running"}


# What it survives. Each of these has its own stack beside the session's.


def test_state_survives_a_death_and_down_and_up(folder: Path, jars: Path) -> None:
    local = Stack(folder, jars)
    first = local.up()
    vectors = first.environment()["MILLRACE_VECTORS"]
    query(vectors, "create table kept (id int primary key); insert into kept values (7)")
    host, port = first.redis.split(":")
    redis.Redis(host=host, port=int(port)).set("kept", "yes")
    make_topic(first.kafka, "kept")
    produce(first.kafka, "kept", b"yes")

    victim = next(status for status in local.status() if status.name == "redis")
    assert victim.pid and victim.rss and victim.uptime
    os.kill(victim.pid, signal.SIGKILL)

    def states_with_a_dead_redis() -> dict[str, ServiceStatus] | None:
        states = {status.name: status for status in local.status()}
        return states if states["redis"].state == "dead" else None

    states = waited(states_with_a_dead_redis, "a dead redis")
    assert "Ready to accept connections" in states["redis"].last_lines[-1]
    assert {name for name, status in states.items() if status.state == "running"} == {"postgres", "kafka", "connect"}
    kept = {name: status.pid for name, status in states.items() if name != "redis"}
    assert local.up() == first
    assert redis.Redis(host=host, port=int(port)).get("kept") == b"yes"
    revived = {status.name: status for status in local.status()}
    assert revived["redis"].state == "running" and revived["redis"].pid != victim.pid
    assert {name: status.pid for name, status in revived.items() if name != "redis"} == kept
    with pytest.raises(StackRunning, match="millrace down"):
        local.up()

    os.kill(revived["redis"].pid or 0, signal.SIGKILL)
    events: list[str] = []
    Stack(folder, jars).down(events.append)
    assert "redis was dead already" in events
    assert processes_of(folder) == []
    assert {status.state for status in local.status()} == {"stopped"}

    # The same again in the foreground, by another process.
    report = folder / "report"
    foreground = run_in_background(
        "from millrace.stack.supervisor import supervise\n"
        "import threading\n"
        "stack.up(say)\n"
        "supervise(stack, threading.Event(), say)\n",
        folder,
        jars,
        report,
    )
    wait_for("connect answers", report, foreground)
    wait_for("kafka answers", report, foreground)
    wait_for("postgres answers", report, foreground)
    second = local.endpoints()
    assert second == first
    assert query(vectors, "select id from kept") == [(7,)]
    assert redis.Redis(host=host, port=int(port)).get("kept") == b"yes"
    assert first_value(second.kafka, "kept") == b"yes"

    os.kill(next(status.pid for status in local.status() if status.name == "postgres") or 0, signal.SIGKILL)
    wait_for("postgres (pid", report, foreground)
    foreground.send_signal(signal.SIGTERM)
    assert foreground.wait(60) == 0
    assert "postgres was dead already" in report.read_text()
    assert "kafka stopped" in report.read_text()
    assert processes_of(folder) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(folder: Path, ending: signal.Signals, jars: Path) -> None:
    report = folder / "report"
    starter = run_in_background("stack.up(say)\n", folder, jars, report)
    wait_for("redis answers", report, starter)
    starter.send_signal(ending)
    assert starter.wait(60) != 0
    assert processes_of(folder) == []
    assert {status.state for status in Stack(folder, jars).status()} == {"stopped"}


def test_an_up_killed_half_way_is_cleaned_by_down(folder: Path, jars: Path) -> None:
    report = folder / "report"
    starter = run_in_background("stack.up(say)\n", folder, jars, report)
    wait_for("redis answers", report, starter)
    with pytest.raises(StackRunning, match="another command"):
        Stack(folder, jars).down()
    starter.kill()
    starter.wait()
    with pytest.raises(StackRunning, match="redis pid"):
        Stack(folder, jars).up()
    Stack(folder, jars).down()
    assert processes_of(folder) == []


def test_a_service_that_cannot_start_ends_the_others(folder: Path) -> None:
    empty = folder / "jars"
    empty.mkdir()
    for name in REQUIRED:
        (empty / name).touch()
    with pytest.raises(ServiceFailed, match=r"(?s)(connect|kafka).*ClassNotFoundException"):
        Stack(folder, empty).up()
    assert processes_of(folder) == []
    assert {status.state for status in Stack(folder, empty).status()} == {"stopped"}


def test_postgres_starts_in_a_private_folder_and_over_a_stale_pid(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    user = unprivileged_user(private / "postgres")
    data = reachable_data(private, user, folder / "elsewhere")
    programs = reachable_programs(copy_of_programs(private), user, folder / "elsewhere")
    port = ports.choose_ports(("postgres",), {})["postgres"]
    server = Postgres(programs, data, folder / "log", port, user, read_or_make_password(private / "password", data))
    url = f"postgresql://millrace:{server.password}@127.0.0.1:{port}/millrace"

    started = start(server)
    query(url, "create table kept (id int)")
    with pytest.raises(StackRunning, match=rf"kill .*\b{started.pid}\b"):
        server.prepare(run)
    daemon.stop(started, signal.SIGKILL, 0.0)

    # After a reboot the pid in the server's file may be that of any other process of the same user.
    other = subprocess.Popen(["sleep", "60"], user=user, cwd="/")
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        (data / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:7], "stopping"]) + "\n")
        started = start(server)
        assert query(url, "select count(*) from kept") == [(0,)]
        assert daemon.stop(started, signal.SIGINT, 20.0)
    finally:
        other.kill()
        other.wait()

    assert reachable_data(private, user, folder / "elsewhere") == data
    if user is not None:
        assert (private / "postgres").is_symlink()
        (private / "postgres").unlink()
        assert reachable_data(private, user, folder / "elsewhere") != data
        assert not data.exists()


def run(step: Launch) -> None:
    _, process = daemon.start(step)
    assert process.wait() == 0, step.log.read_text()


def start(server: Postgres) -> Daemon:
    started, process = daemon.start(server.prepare(run))
    while not server.is_ready():
        assert process.poll() is None, server.log.read_text()
        time.sleep(0.02)
    return started


def copy_of_programs(private: Path) -> Path:
    """PostgreSQL as if the virtual environment stood in the private folder."""
    programs = postgres_programs()
    package = programs.parent.parent
    for part in (package / programs.parent.name, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, private / part.relative_to(package.parent), symlinks=True)
    return private / programs.relative_to(package.parent)


def run_in_background(program: str, folder: Path, jars: Path, report: Path) -> subprocess.Popen[bytes]:
    """A Python process with `stack`, and `say`, which writes lines to its output, the file `report`."""
    head = (
        "import sys\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from millrace.stack.stack import Stack\n"
        "stack = Stack(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "say = partial(print, flush=True)\n"
    )
    with report.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", head + program, str(folder), str(jars)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[2],
        )


def wait_for(text: str, report: Path, process: subprocess.Popen[bytes]) -> None:
    while text not in report.read_text():
        assert process.poll() is None, report.read_text()
        time.sleep(0.02)
