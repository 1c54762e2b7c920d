"""The HTTP server: granian's processes, one a core, on one port. The one door to granian."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings

from serving.http import Application
from serving.tls import TlsFiles, TlsWatch


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens and with how many processes, by TLS if there are files for it; a `grpc_port` of 0 is
    no gRPC."""

    host: str
    port: int
    workers: int
    header_seconds: float
    drain_seconds: float
    connections: int
    grpc_port: int = 0
    tls: TlsFiles | None = None


def serve(listening: Listening, build: Callable[[], Application]) -> None:
    """Serve until SIGTERM or SIGINT; on either stop listening and answer what has begun.

    `build` is called in each process, after the fork. New TLS files start new processes. Raises `TlsError`.
    """
    server = Granian(
        "millrace",
        address=listening.host,
        port=listening.port,
        interface=Interfaces.RSGI,
        workers=listening.workers,
        websockets=False,
        http=HTTPModes.auto,
        http1_settings=HTTP1Settings(header_read_timeout=int(listening.header_seconds * 1000)),
        backlog=max(listening.connections, 1024),
        backpressure=listening.connections,
        workers_kill_timeout=max(1, int(listening.drain_seconds)),
        log_enabled=False,
        **(listening.tls.granian() if listening.tls is not None else {}),
    )
    if listening.tls is not None:
        TlsWatch(listening.tls, server.signal_handler_reload).start()
    server.serve(target_loader=cast(Any, build), wrap_loader=False)
