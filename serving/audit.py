"""The audit log: one line a request, of who asked for what and what became of it.

A line has the key's name, the feature service or the views, how many entities, and the status; no values, no entity
keys, no secrets. It is put into a queue, and written by a thread of its own in the log's format, so that a slow disk
or terminal delays no request. The queue is bounded: if it is full, lines are lost, and the next line written says how
many.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger("millrace.audit")

WAITING = 65_536
"""Lines that may wait to be written."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request. `caller` is the key's name, "" where none was recognised; `service` is None for
    features named one by one; `status` is HTTP's or gRPC's, by number or name."""

    caller: str
    service: str | None
    views: Sequence[str]
    entities: int
    status: int | str
    protocol: str = "http"


class Audit(Protocol):
    """Takes note of each request."""

    def note(self, request: Request) -> None:
        """Never waits. May be called from any thread."""

    def close(self) -> None:
        """Writes what still waits."""


class NoAudit(Audit):
    """The audit log is off."""

    def note(self, request: Request) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing waits."""


class LoggedAudit(Audit):
    """Lines with `event=request`, through Python's logging, by a thread of its own."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: queue.Queue[Request | None] = queue.Queue(waiting)
        self._lost = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def note(self, request: Request) -> None:
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            with self._lock:
                self._lost += 1

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            _write(request)
            with self._lock:
                lost, self._lost = self._lost, 0
            if lost:
                logger.warning(
                    "%d requests are missing from the audit log: it was written too slowly",
                    lost,
                    extra={"event": "audit_lost", "lines": lost},
                )


def _write(request: Request) -> None:
    asked = {"service": request.service} if request.service else {"views": sorted(set(request.views))}
    logger.info(
        "answered" if str(request.status) in ("200", "OK") else "refused",
        extra={
            "event": "request",
            "key": request.caller or "-",
            **asked,
            "entities": request.entities,
            "status": request.status,
            "protocol": request.protocol,
        },
    )
