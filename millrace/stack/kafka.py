"""Kafka: one KRaft node, broker and controller in one process."""

import base64
import socket
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from millrace.stack import services
from millrace.stack.daemon import Launch
from millrace.stack.java import LOG4J, LOGGING, Java, write_properties
from millrace.stack.service import Run

API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""An ApiVersions request, version 0, correlation id 1, no client id (https://kafka.apache.org/protocol)."""

# Names in the service's own folder, where its process works: a list setting like log.dirs would break on a
# folder with a comma in its name.
SETTINGS = "server.properties"
DATA = "data"


@dataclass(frozen=True, slots=True)
class Kafka:
    """A broker on `port`, its controller on `controller_port`, topics under `folder`/data."""

    java: Java
    folder: Path
    log: Path
    port: int
    controller_port: int
    name: str = "kafka"

    def prepare(self, run: Run) -> Launch:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / LOGGING).write_text(LOG4J)
        write_properties(self.folder / SETTINGS, self._settings())
        if not (self.folder / DATA / "meta.properties").is_file():
            # What gives the storage its ids; a node refuses to start without them.
            cluster = random_cluster_id()
            run(self._command("kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", SETTINGS))
        return self._command("kafka.Kafka", SETTINGS)

    def _settings(self) -> dict[str, str]:
        broker, controller = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.controller_port}"
        return {
            **services.KAFKA,
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "controller.quorum.voters": f"{services.KAFKA['node.id']}@{controller}",
            "log.dirs": DATA,
        }

    def _command(self, main_class: str, *arguments: str) -> Launch:
        return Launch(self.java.command(main_class, *arguments), folder=self.folder, log=self.log)

    def is_ready(self) -> bool:
        """Whether an ApiVersions request is answered without an error."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(API_VERSIONS)
                answer = connection.recv(10, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)


def random_cluster_id() -> str:
    """A UUID in Kafka's form, 22 characters of URL-safe base64; none begins like an option of a command line."""
    while True:
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not identity.startswith("-"):
            return identity
