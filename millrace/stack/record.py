"""What a stack's folder remembers: `stack.json` with the ports and the started processes, and its lock."""

import fcntl
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from millrace.stack.daemon import Daemon
from millrace.stack.errors import StackError, StackRunning


class Record:
    """The memory of one folder. Each write replaces the file as a whole, so a crash leaves the old or the new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "stack.json"
        self._lock = threading.Lock()

    def exists(self) -> bool:
        return self._path.is_file()

    def ports(self) -> dict[str, int]:
        """The TCP port of each service, as chosen by the last `up`; empty before the first."""
        return dict(json.loads(self._path.read_text())["ports"]) if self.exists() else {}

    def daemons(self) -> dict[str, Daemon]:
        """The processes that were started and not stopped since, by service; they may be dead."""
        if not self.exists():
            return {}
        return {name: Daemon(**fields) for name, fields in json.loads(self._path.read_text())["daemons"].items()}

    def begin(self, ports: Mapping[str, int]) -> None:
        """A new start with these ports: no process yet."""
        with self._lock:
            self._write(ports, {})

    def add(self, name: str, daemon: Daemon) -> None:
        """A process was started."""
        with self._lock:
            self._write(self.ports(), {**self.daemons(), name: daemon})

    def remove(self, name: str) -> None:
        """A process was stopped."""
        with self._lock:
            self._write(self.ports(), {kept: daemon for kept, daemon in self.daemons().items() if kept != name})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other command that starts or stops this stack away. A lock ends with its process.

        Raises:
            StackRunning: another command holds the lock.
            StackError: this user may not write in the folder.
        """
        try:
            lock = (self._folder / "lock").open("a")
        except OSError as error:
            raise StackError(f"{error.filename} cannot be opened ({error.strerror}): run this as its owner") from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StackRunning(
                    f"another command is starting or stopping the stack in {self._folder}: wait until it has ended"
                ) from error
            yield

    def _write(self, ports: Mapping[str, int], daemons: Mapping[str, Daemon]) -> None:
        content = {"ports": dict(ports), "daemons": {name: asdict(daemon) for name, daemon in daemons.items()}}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(self._path)
