"""The HTTP server: granian's processes, one a core, on one port. The one door to granian."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # it has no stub there

from serving.http import Application
from serving.tls import Postponed, TlsFiles, TlsWatch
from stores.errors import RegistryUnreadable

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
RENEW_SECONDS, RENEW_TIMES = 3.5, 4
"""Before an old process ends, a new one has so many seconds to begin to serve, or so many times what it took to read
the registry."""
HEAD_BYTES = 64 << 10
"""Of a request's line and headers; more is answered 431."""


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
    """The number of a host to listen on, which granian has to be given. Raises `AddressRefused` for one that is not
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
    server = _granian(listening)
    with ExitStack() as beside:
        if listening.tls is not None:
            watch = TlsWatch(listening.tls, partial(_renew, server, check))
            watch.start()
            beside.callback(watch.close)
        build_here = partial(_built, build, os.getpid(), listening.drain_seconds)
        server.serve(spawn_target=partial(_work, listening), target_loader=build_here, wrap_loader=False)


def _renew(server: Any, check: Callable[[], None]) -> None:
    """Have granian start new processes, which it does on SIGHUP, each `respawn_interval` before it ends an old one:
    time enough to read the registry as it was read now. Raises `Postponed`."""
    began = time.monotonic()
    try:
        check()
    except RegistryUnreadable as error:
        raise Postponed(f"new processes could not serve yet: {error}") from error
    server.respawn_interval = max(RENEW_SECONDS, RENEW_TIMES * (time.monotonic() - began))
    os.kill(os.getpid(), signal.SIGHUP)


def _work(listening: Listening, number: int, name: str, loader: Any, granians: Any, *rest: Any) -> None:
    """One process, as granian's own is, but for the socket: granian cannot be told what this one has to have. It
    listens once the application is built."""
    holder = SocketHolder(_bound(listening).detach(), False, _backlog(listening))  # type: ignore[call-arg]  # its stub is old
    Granian._spawn_rsgi_worker(number, name, loader, ((None, holder), None), *rest)


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


def _backlog(listening: Listening) -> int:
    return max(listening.connections, 1024)


def _built(build: Callable[[], Application], parent: int, drain_seconds: float) -> Application:
    threading.Thread(target=_end_with, args=(parent, drain_seconds), name="parent", daemon=True).start()
    return build()


def _end_with(parent: int, drain_seconds: float) -> None:
    """End this process once granian's first one is gone: killed, it cannot, and its port would go on answering."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _granian(listening: Listening) -> Any:
    return Granian(
        "millrace",
        address=listening.host,
        port=listening.port,
        interface=Interfaces.RSGI,
        workers=listening.workers,
        websockets=False,
        # Alone: the bounds of a request's head are those of HTTP/1.1, and a Host header need not be sent by HTTP/2.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(listening.header_seconds * 1000), max_buffer_size=HEAD_BYTES
        ),
        backlog=_backlog(listening),
        backpressure=listening.connections,
        respawn_failed_workers=True,
        workers_kill_timeout=max(1, int(listening.drain_seconds)),
        log_enabled=False,
        **(listening.tls.granian() if listening.tls is not None else {}),
    )
