"""The HTTP server: processes that listen on one port, each with an event loop. The one door to uvloop."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event

import uvloop

from serving.connection import ConnectionLimits, Connections
from serving.http import Application
from serving.tls import Postponed, TlsFiles, TlsWatch
from stores.errors import RegistryUnreadable

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
RENEW_SECONDS = 60.0
"""For a new process to serve, before the one whose place it is to take is kept."""
AGAIN_SECONDS = 1.0
"""Between two starts of a process that ends by itself."""
BACKLOG = 1024
"""Connections that wait to be accepted."""

STOPS = (signal.SIGTERM, signal.SIGINT)

_fork = get_context("fork")  # what was read and built before is each process's own, and the counts are shared


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens, by TLS if there are files for it, and with how many processes; a `grpc_port` of 0 is
    no gRPC. A client that takes nothing of what is sent to it for `request_seconds` loses its connection."""

    host: str
    port: int
    workers: int
    header_seconds: float
    drain_seconds: float
    connections: int
    request_seconds: float
    grpc_port: int = 0
    tls: TlsFiles | None = None


class AddressRefused(Exception):
    """Nobody can listen there."""


def address_of(host: str, port: int) -> str:
    """The number of a host to listen on. Raises `AddressRefused` for one that is not
    this machine's, or where another program listens. Servers of millrace share a port, so that one can be replaced by
    another, which is told of: it may be one of another project."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        with socket.socket(family, kind) as probe:
            # Else what the kernel remembers of a program that has just ended there would count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(address)
                return str(address[0])
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
        shared = "another server listens on %s:%s, and gets a part of the requests until it is stopped"
        log.warning(shared, address[0], port, extra={"event": "shared_port"})
        return str(address[0])
    except OSError as error:
        raise AddressRefused(f"nobody can listen on {host}:{port}: {error.strerror}") from error


def serve(listening: Listening, build: Callable[[], Application], check: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; on either stop listening and answer what has begun.

    `build` is called in each process, after the fork. `check` raises `RegistryUnreadable` where a new process could not
    answer yet: then none takes the place of one that does. Raises `TlsError`.
    """
    processes = Processes(listening, build)
    watch = TlsWatch(listening.tls, partial(_renew, processes, check)) if listening.tls is not None else None
    for number in STOPS:
        signal.signal(number, lambda *_: processes.stop())
    processes.start()
    while not processes.stopped:
        processes.look()
        if watch is not None:
            watch.look()
    processes.end()


def _renew(processes: "Processes", check: Callable[[], None]) -> None:
    """New processes take the place of the old ones. Raises `Postponed`."""
    try:
        check()
    except RegistryUnreadable as error:
        raise Postponed(f"new processes could not serve yet: {error}") from error
    processes.renew()


class Worker:
    """One process of the server."""

    def __init__(self, listening: Listening, build: Callable[[], Application]) -> None:
        self.began = time.monotonic()
        self._ready = _fork.Event()
        """Set once it listens, and has a registry to answer from."""
        arguments = (listening, build, self._ready, os.getpid())
        self.process: ForkProcess = _fork.Process(target=_work, args=arguments, name="serve")
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until it has handlers of its own, it has this process's
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def is_ready(self, seconds: float) -> bool:
        """Whether it answers requests, or does within so many seconds."""
        return self._ready.wait(seconds)


class Processes:
    """The server's processes. A process that ends by itself is replaced; those that are to end answer first what they
    have begun."""

    def __init__(self, listening: Listening, build: Callable[[], Application]) -> None:
        self._listening = listening
        self._build = build
        self._workers: list[Worker] = []
        self._leaving: list[tuple[Worker, float]] = []
        self._woken, self._wake = os.pipe()
        self.stopped = False

    def start(self) -> None:
        """As many as there are to be."""
        self._workers = [self._begin() for _ in range(self._listening.workers)]

    def stop(self) -> None:
        """No more are started. May be called by a signal's handler."""
        self.stopped = True
        os.write(self._wake, b".")

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        """Wait until something becomes of them, or so many seconds, and replace those that have ended."""
        everybody = [*self._workers, *(worker for worker, _ in self._leaving)]
        alive = [worker.process.sentinel for worker in everybody if worker.process.is_alive()]
        connection.wait([self._woken, *alive], seconds)
        self._bury()
        for place, worker in enumerate(self._workers):
            if self.stopped or worker.process.is_alive() or time.monotonic() < worker.began + AGAIN_SECONDS:
                continue
            ended = "a process ended by itself (%s); another takes its place"
            log.error(ended, worker.process.exitcode, extra={"event": "process_ended"})
            self._workers[place] = self._begin()

    def renew(self) -> None:
        """Replace each by a new one that serves by then. Raises `Postponed` where a new one does not."""
        for place, old in enumerate(self._workers):
            new = self._begin()
            if not self._serves(new):
                self._leave(new)
                why = "the server is told to stop" if self.stopped else f"it did not within {RENEW_SECONDS:g} s"
                raise Postponed(f"a new process has to serve first: {why}")
            self._workers[place] = new
            self._leave(old)

    def end(self) -> None:
        """Returns once all have ended, and answered what they had begun."""
        for worker in self._workers:
            self._leave(worker)
        self._workers = []
        while self._leaving:
            connection.wait([worker.process.sentinel for worker, _ in self._leaving], LOOK_SECONDS)
            self._bury()

    def _begin(self) -> Worker:
        return Worker(self._listening, self._build)

    def _serves(self, worker: Worker) -> bool:
        deadline = time.monotonic() + RENEW_SECONDS
        while time.monotonic() < deadline and worker.process.is_alive() and not self.stopped:
            if worker.is_ready(0.1):
                return True
        return False

    def _leave(self, worker: Worker) -> None:
        worker.process.terminate()
        self._leaving.append((worker, time.monotonic() + self._listening.drain_seconds + 2 * LOOK_SECONDS))

    def _bury(self) -> None:
        """Those that were to end and have; who takes too long is killed."""
        for worker, until in self._leaving:
            if time.monotonic() > until:
                worker.process.kill()
        self._leaving = [(worker, until) for worker, until in self._leaving if worker.process.is_alive()]


def _work(listening: Listening, build: Callable[[], Application], ready: Event, parent: int) -> None:
    """One process, to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to all: the first process says when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_end_with, args=(parent, listening.drain_seconds), name="parent", daemon=True).start()
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_answer(listening, build(), ready))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is answered: a thread that still waits for a store that is away would keep the process


async def _answer(listening: Listening, application: Application, ready: Event) -> None:
    """Listen once the application is there, until SIGTERM; then answer what has begun."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    await application.start()
    connections = Connections(application, ConnectionLimits(listening.header_seconds, listening.connections))
    server = await loop.create_server(
        connections.open,
        sock=_bound(listening),
        backlog=BACKLOG,
        ssl=listening.tls.context() if listening.tls is not None else None,
        ssl_handshake_timeout=listening.header_seconds if listening.tls is not None else None,
    )
    loop.add_signal_handler(signal.SIGTERM, told.set)
    beside = [loop.create_task(connections.sweep()), loop.create_task(_say(application, ready))]
    await told.wait()
    server.close()
    await asyncio.gather(connections.end(listening.drain_seconds), application.drain())
    for task in beside:
        task.cancel()
    await application.close()


async def _say(application: Application, ready: Event) -> None:
    """Tell the first process once requests are answered."""
    while not application.ready:
        await asyncio.sleep(0.1)
    ready.set()


def _bound(listening: Listening) -> socket.socket:
    """A socket on the server's port, which its processes share."""
    made = socket.socket(socket.AF_INET6 if ":" in listening.host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sys.platform == "linux":
        # Of the connections too: else a client that sends and never reads holds its place for as long as it likes, as
        # its system goes on answering that it has no room (RFC 1122, 4.2.2.17).
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ceil(listening.request_seconds * 1000))
    made.bind((listening.host, listening.port))
    return made


def _end_with(parent: int, drain_seconds: float) -> None:
    """End this process once the first one is gone: killed, it cannot, and its port would go on answering."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_seconds)
    os.kill(os.getpid(), signal.SIGKILL)
