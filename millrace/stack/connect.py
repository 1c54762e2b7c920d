"""Kafka Connect: one distributed worker with Debezium's PostgreSQL connector on its class path."""

import http.client
from dataclasses import dataclass
from pathlib import Path

from millrace.stack import services
from millrace.stack.daemon import Launch
from millrace.stack.java import LOG4J, LOGGING, Java, write_properties
from millrace.stack.service import Run

# Names in the service's own folder, where its process works.
SETTINGS = "connect.properties"
PLUGINS = "plugins"


@dataclass(frozen=True, slots=True)
class Connect:
    """A worker with its REST interface on `port`; configs and offsets are topics of the broker at `kafka`."""

    java: Java
    folder: Path
    log: Path
    port: int
    kafka: str
    name: str = "connect"

    def prepare(self, _run: Run) -> Launch:
        (self.folder / PLUGINS).mkdir(parents=True, exist_ok=True)
        (self.folder / LOGGING).write_text(LOG4J)
        place = {
            "bootstrap.servers": self.kafka,
            "listeners": f"http://127.0.0.1:{self.port}",
            "rest.advertised.host.name": "127.0.0.1",
            "rest.advertised.port": str(self.port),
            # Empty: the connector stands on the class path, and service_load finds it there.
            "plugin.path": PLUGINS,
        }
        write_properties(self.folder / SETTINGS, {**services.CONNECT, **place})
        command = self.java.command("org.apache.kafka.connect.cli.ConnectDistributed", SETTINGS)
        return Launch(command, folder=self.folder, log=self.log)

    def is_ready(self) -> bool:
        """Whether the worker says that it is healthy: it has read its topics and joined its group (KIP-1017)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
