"""What the stack knows of each of its services."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from millrace.stack.daemon import Launch

Run = Callable[[Launch], None]
"""Runs a command of a service's preparation to its end; raises ServiceFailed when it does not succeed."""


class Service(Protocol):
    """One process of the stack. Its module knows its files, its command and when it answers."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1 that its clients use."""
        ...

    @property
    def log(self) -> Path: ...

    def prepare(self, run: Run) -> Launch:
        """Write its configuration, create its data on the first start, and say how to start it.

        Raises:
            StackError: its data cannot be made or used.
        """
        ...

    def is_ready(self) -> bool:
        """Whether it answers its clients now."""
        ...


def last_lines(log: Path, count: int = 12) -> tuple[str, ...]:
    """The end of a log file; empty when there is none."""
    if not log.is_file():
        return ()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return tuple(file.read().decode(errors="replace").splitlines()[-count:])
