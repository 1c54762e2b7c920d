"""The local stack: PostgreSQL, Kafka, Kafka Connect and Redis as daemons on loopback, all under one folder."""

import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Literal

from millrace.stack import daemon, services
from millrace.stack.connect import Connect
from millrace.stack.daemon import Daemon, Launch
from millrace.stack.endpoints import Endpoints
from millrace.stack.errors import ServiceFailed, StackAbsent, StackError, StackRunning
from millrace.stack.java import find_java
from millrace.stack.kafka import Kafka
from millrace.stack.ports import choose_ports
from millrace.stack.postgres import Postgres, postgres_programs, read_or_make_password, write_private
from millrace.stack.privileges import reachable_data, reachable_programs, unprivileged_user
from millrace.stack.record import Record
from millrace.stack.redis_server import RedisServer, redis_program
from millrace.stack.service import Service, last_lines
from millrace.stack.signals import ending_raises, ending_sets

__all__ = ["Endpoints", "ServiceStatus", "Stack"]

PORTS = ("postgres", "kafka", "kafka_controller", "connect", "redis")

STOPS = (
    ("connect", SIGTERM, 10.0),
    ("kafka", SIGTERM, 20.0),
    ("redis", SIGTERM, 10.0),
    # SIGINT is the "fast" shutdown, which disconnects clients instead of waiting for them
    # (https://www.postgresql.org/docs/18/server-shutdown.html).
    ("postgres", SIGINT, 20.0),
)
"""The order of stopping, who writes first: service, the signal of its orderly end, seconds that it may take."""

START_PATIENCE = 120.0
"""Seconds in which a service must answer."""

Event = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service now.

    Attributes:
        state: `running`; `dead`: it was started, and is gone without `down`; `stopped`.
        pid: of the process that runs or died; None when stopped.
        port: on 127.0.0.1; None before the first `up`.
        uptime: seconds; None unless running.
        rss: resident bytes of its processes; None unless running.
        log: its log file.
        last_lines: the end of the log when dead, else empty.
    """

    name: str
    state: Literal["running", "dead", "stopped"]
    pid: int | None
    port: int | None
    uptime: float | None
    rss: int | None
    log: Path
    last_lines: tuple[str, ...]


class Stack:
    """The services of one folder, which holds all their data, settings and logs.

    `folder`/env has the addresses for a shell, `folder`/stack.json the ports and processes, `folder`/logs a
    file for each service, `folder`/password the superuser's password of PostgreSQL.

    Args:
        folder: made by `up` when it is not there.
        jars: the folder of the jars that pom.xml names.
        java_home: the Java to use; None for the `java` on PATH.
        sharing: whether Kafka and Connect leave archives of their classes; see `share_classes`.
        brief: whether it runs for minutes only, so that Java had better start fast than run fast.
    """

    def __init__(
        self, folder: Path, jars: Path, java_home: Path | None = None, *, sharing: bool = False, brief: bool = False
    ) -> None:
        self._folder = folder.resolve()
        self._jars = jars
        self._java_home = java_home
        self._sharing = sharing
        self._brief = brief
        self._record = Record(self._folder)
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self, on_event: Event | None = None) -> Endpoints:
        """Start every service and wait until all answer. The processes outlive this one.

        On a running stack of which services have died, those are started again, on their ports and over their
        data, and the others are left alone. When anything fails or a signal asks for the end, what was started
        is stopped again.

        Raises:
            StackRunning: every process of this folder is alive, or an `up` ended half-way, or another command is
                at work on it.
            StackIncomplete: a program or a jar is missing.
            ServiceFailed: a service died or did not answer; the end of its log is in the message.
            StackError: the folder cannot be made, or belongs to another user.
        """
        say = on_event or _silent
        self._make_folders()
        with ending_raises(), self._record.locked():
            dead = self._dead()
            if dead:
                ports = self._record.ports()
                built = [service for service in self._services(ports) if service.name in dead]
            else:
                ports = self._choose_ports(say)
                built = self._services(ports)
                self._record.begin(ports)
            try:
                self._start_all(built, say)
                endpoints = self.endpoints()
                write_private(self._folder / "env", endpoints.exports())
            except BaseException:
                # A second, impatient signal does not leave half of it behind.
                with ending_sets(threading.Event()):
                    self._stop_all(say, {service.name for service in built})
                raise
        return endpoints

    def down(self, on_event: Event | None = None) -> None:
        """Stop every service, those that read and write others first; nothing to do is no error.

        Raises:
            StackRunning: another command is at work on the folder.
        """
        if self._record.exists():
            with self._record.locked():
                self._stop_all(on_event or _silent, {name for name, _, _ in STOPS})

    def status(self) -> list[ServiceStatus]:
        """Every service as it is now; never started is `stopped`."""
        ports, daemons = self._record.ports(), self._record.daemons()
        return [self._status(name, ports.get(name), daemons.get(name)) for name, _, _ in reversed(STOPS)]

    def endpoints(self) -> Endpoints:
        """The addresses that the last `up` chose, whether or not the services run now.

        Raises:
            StackAbsent: there was none.
        """
        ports = self._record.ports()
        if not ports:
            raise StackAbsent(f"there is no stack in {self._folder}: start one with `millrace up`")
        password = (self._folder / "password").read_text().strip()
        return Endpoints(
            kafka=f"127.0.0.1:{ports['kafka']}",
            connect=f"http://127.0.0.1:{ports['connect']}",
            redis=f"127.0.0.1:{ports['redis']}",
            postgres=f"postgresql+psycopg://{services.DATABASE}:{password}@127.0.0.1:{ports['postgres']}",
            lake=self._folder / "lake",
        )

    def _make_folders(self) -> None:
        # Other users may pass, as PostgreSQL's must when this is root; what is secret has a mode of its own.
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            for name in ("logs", "lake"):
                (self._folder / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StackError(f"{error.filename} cannot be made ({error.strerror}): name a folder by --stack") from error

    def _dead(self) -> set[str]:
        """The services that died in a running stack; none where nothing runs."""
        daemons = self._record.daemons()
        alive = {name: d for name, d in daemons.items() if daemon.is_alive(d)}
        dead = set(daemons) - set(alive)
        if alive and (not dead or len(daemons) < len(STOPS)):
            running = ", ".join(f"{name} pid {d.pid}" for name, d in alive.items())
            raise StackRunning(
                f"the stack in {self._folder} is running ({running}): stop it first with `millrace down`"
            )
        return dead if alive else set()

    def _choose_ports(self, say: Event) -> dict[str, int]:
        kept = self._record.ports()
        ports = choose_ports(PORTS, kept)
        for name in PORTS:
            if name in kept and kept[name] != ports[name]:
                say(f"port {kept[name]} of {name} is taken by another program: it is {ports[name]} now")
        return ports

    def _services(self, ports: dict[str, int]) -> list[Service]:
        """Everything that must be there is looked for before anything is started."""
        logs = self._folder / "logs"
        java = find_java(self._jars, self._java_home, sharing=self._sharing, brief=self._brief)
        broker = f"127.0.0.1:{ports['kafka']}"
        user = unprivileged_user(self._folder / "postgres")
        data = reachable_data(self._folder, user)
        return [
            Kafka(java, self._folder / "kafka", logs / "kafka.log", ports["kafka"], ports["kafka_controller"]),
            Connect(java, self._folder / "connect", logs / "connect.log", ports["connect"], broker),
            RedisServer(redis_program(), self._folder / "redis", logs / "redis.log", ports["redis"]),
            Postgres(
                programs=reachable_programs(postgres_programs(), user),
                data=data,
                log=logs / "postgres.log",
                port=ports["postgres"],
                user=user,
                password=read_or_make_password(self._folder / "password", data),
            ),
        ]

    def _start_all(self, built: list[Service], say: Event) -> None:
        """Start all at once: Connect waits for Kafka by itself. The first failure ends the waiting for the rest."""
        given_up = threading.Event()
        with ThreadPoolExecutor(len(built)) as pool:
            futures = [pool.submit(self._start, service, given_up, say) for service in built]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            finally:
                given_up.set()

    def _start(self, service: Service, given_up: threading.Event, say: Event) -> None:
        begun = time.monotonic()
        launch = service.prepare(lambda step: self._run(service, step, given_up))
        started, process = self._spawn(service, launch, given_up)
        while not (service.is_ready() and daemon.listens(started, service.port)):
            if process.poll() is not None:
                raise _failure(service, f"died while starting (exit {process.returncode})")
            if time.monotonic() - begun > START_PATIENCE:
                raise _failure(service, f"did not answer within {START_PATIENCE:.0f} s")
            _pause(given_up)
        say(f"{service.name} answers on 127.0.0.1:{service.port} after {time.monotonic() - begun:.1f} s")

    def _run(self, service: Service, step: Launch, given_up: threading.Event) -> None:
        """Run a step of a preparation to its end. It is recorded as its service, so that `down` finds it too."""
        _, process = self._spawn(service, step, given_up)
        while process.poll() is None:
            _pause(given_up)
        if process.returncode != 0:
            raise _failure(service, f"was not prepared by {Path(step.command[0]).name} (exit {process.returncode})")

    def _spawn(
        self, service: Service, launch: Launch, given_up: threading.Event
    ) -> tuple[Daemon, subprocess.Popen[bytes]]:
        if given_up.is_set():
            raise _GivenUp
        started, process = daemon.start(launch)
        self._children.append(process)
        self._record.add(service.name, started)
        return started, process

    def _stop_all(self, say: Event, names: set[str]) -> None:
        daemons = self._record.daemons()
        for name, orderly, patience in STOPS:
            if name not in daemons or name not in names:
                continue
            was_alive = daemon.is_alive(daemons[name])
            if not daemon.stop(daemons[name], orderly, patience):
                say(f"{name} did not end within {patience:.0f} s and was killed")
            elif was_alive:
                say(f"{name} stopped")
            else:
                say(f"{name} was dead already")
            self._record.remove(name)
        for child in self._children:
            # Those that this very process started are collected, so that none is left as a zombie.
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5.0)
        self._children.clear()

    def _status(self, name: str, port: int | None, started: Daemon | None) -> ServiceStatus:
        log = self._folder / "logs" / f"{name}.log"
        if started is None:
            return ServiceStatus(name, "stopped", None, port, None, None, log, ())
        if not daemon.is_alive(started):
            return ServiceStatus(name, "dead", started.pid, port, None, None, log, last_lines(log))
        uptime, rss = time.time() - started.started, daemon.resident_bytes(started)
        return ServiceStatus(name, "running", started.pid, port, uptime, rss, log, ())


class _GivenUp(Exception):
    """The start of the stack failed elsewhere, or was interrupted; nobody waits for this service any more."""


def _pause(given_up: threading.Event) -> None:
    if given_up.wait(0.05):
        raise _GivenUp


def _failure(service: Service, what: str) -> ServiceFailed:
    return ServiceFailed("\n    ".join([f"{service.name} {what}: {service.log}", *last_lines(service.log)]))


def _silent(event: str) -> None:
    """Nobody listens."""
