"""The audit log: one line a request, of who asked for what and what became of it.

A line has the key's name, the feature service or the views, how many entities, and the status; no values, no entity
keys, no secrets. Lines are written many at a time, by a thread of their own, so that a slow disk or terminal delays no
request and a fast server is not slowed by its log. As many as may wait are bounded: beyond that lines are lost, and so
are those whose write fails; the next write that succeeds is followed by how many.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("millrace")

WAITING = 65_536
"""Lines that may wait to be written."""

WRITE_SECONDS = 0.1

AT_ONCE = 4_096
"""Bytes in one write: up to here processes that share a pipe do not break each other's lines (PIPE_BUF, pipe(7))."""

Line = Callable[[str, Mapping[str, object]], str]
"""A line of the log, without its end, from its level and its fields (`millrace.logs.line`)."""


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
    """Lines with `event=request`, made by `line` and handed to `write`."""

    def __init__(self, line: Line, write: Callable[[str], object], waiting: int = WAITING) -> None:
        self._line = line
        self._write = write
        self._most = waiting
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._failing = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def note(self, request: Request) -> None:
        if len(self._waiting) < self._most:
            self._waiting.append(self._line("INFO", _told(request)))
        else:
            self._lose(1)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(WRITE_SECONDS):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        with self._lock:
            lost, self._lost = self._lost, 0
        for part in _parts(lines):
            if not self._is_written(part):
                self._lose(part.count("\n"))
        if lost:
            said = f"{lost} requests are missing from the audit log: it was written too slowly, or could not be written"
            notice = self._line("WARNING", {"event": "audit_lost", "msg": said, "lines": lost})
            if not self._is_written(notice + "\n"):
                self._lose(lost)

    def _is_written(self, text: str) -> bool:
        """Write it; what cannot be is said when it begins."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # a full disk, a pipe that nobody reads; a file that was closed
            if not self._failing:
                log.error("the audit log cannot be written: %s", error, extra={"event": "audit_unwritable"})
            self._failing = True
            return False
        self._failing = False
        return True

    def _lose(self, lines: int) -> None:
        with self._lock:
            self._lost += lines


def _parts(lines: Sequence[str]) -> Iterator[str]:
    """The lines joined into texts of at most `AT_ONCE` bytes; a longer line is a text of its own."""
    part, size = "", 0
    for line in lines:
        length = len(line.encode("utf-8", "replace")) + 1
        if part and size + length > AT_ONCE:
            yield part
            part, size = "", 0
        part += line + "\n"
        size += length
    if part:
        yield part


def _told(request: Request) -> dict[str, object]:
    asked = {"service": request.service} if request.service else {"views": sorted(set(request.views))}
    return {
        "event": "request",
        "msg": "answered" if request.status in (200, "OK") else "refused",
        "key": request.caller or "-",
        **asked,
        "entities": request.entities,
        "status": request.status,
        "protocol": request.protocol,
    }
