"""A Redis server of a test's own."""

import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from millrace.stack.ports import choose_ports
from millrace.stack.redis_server import redis_program


@dataclass
class RedisServer:
    """A redis-server on loopback without persistence; `options` as on its command line."""

    options: tuple[str, ...] = ()
    port: int = field(default_factory=lambda: choose_ports(("redis",), {})["redis"])
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None

    @property
    def connection_string(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "RedisServer":
        """Starts it on the same port as before, and waits until it accepts connections."""
        command = [redis_program(), "--port", str(self.port), "--save", "", "--appendonly", "no", *self.options]
        # A folder of its own: a replica leaves what it was sent there, and whoever starts in it would load that.
        self.folder = Path(tempfile.mkdtemp(prefix="millrace-redis-"))
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"redis-server does not accept connections on port {self.port}")

    def stop(self) -> None:
        """Stops it; nothing it held remains."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
