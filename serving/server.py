"""The HTTP server: granian's processes, one a core, on one port. The one door to granian."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings

from serving.http import Application


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens and with how many processes; `tls` are granian's own arguments."""

    host: str
    port: int
    workers: int
    header_seconds: float
    drain_seconds: float
    connections: int
    tls: Mapping[str, Any] = field(default_factory=dict)


def serve(listening: Listening, build: Callable[[], Application]) -> None:
    """Serve until SIGTERM or SIGINT; on either stop listening and answer what has begun.

    `build` is called in each process, after the fork.
    """
    Granian(
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
        **listening.tls,
    ).serve(target_loader=cast(Any, build), wrap_loader=False)
