"""Where the services of a stack answer."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from millrace.stack import services


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of one stack.

    Attributes:
        kafka: bootstrap address, host:port.
        connect: URL of the REST interface.
        redis: host:port.
        postgres: SQLAlchemy URL of the superuser, without a database; holds the password, so it is not printed.
        lake: the folder for Delta tables.
    """

    kafka: str
    connect: str
    redis: str
    postgres: str = field(repr=False)
    lake: Path

    def environment(self) -> dict[str, str]:
        """The same as the environment variables that millrace's settings read."""
        return {
            "MILLRACE_KAFKA": self.kafka,
            "MILLRACE_CONNECT": self.connect,
            "MILLRACE_REDIS": self.redis,
            "MILLRACE_POSTGRES": self.postgres,
            "MILLRACE_VECTORS": f"{self.postgres}/{services.DATABASE}",
            "MILLRACE_LAKE": str(self.lake),
            "MILLRACE_REGISTRY": str(self.lake.parent / "registry.db"),
        }

    def exports(self) -> str:
        """The environment as shell text, to be read with `source`."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment().items())
