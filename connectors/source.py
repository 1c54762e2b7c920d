"""A source database of `millrace.yaml`, and what the declarations ask of its tables."""

import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

# Kafka allows these in a topic name; a dot would make `<source>.<schema>.<table>` ambiguous.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION
_SLOT = re.compile(r"[a-z0-9_]{1,63}")
# Named, because for other styles of parameters SQLAlchemy doubles the percent signs in names.
_PREPARER = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy's

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TO_DO = {
    "42501": "grant the user that, then try again",
    "42P01": "run millrace apply, which names what is missing",
    "42703": "run millrace apply, which names what is missing",
}

# What libpq, and a server that speaks English, say of a connection that was not made.
_UNREACHED = {
    r"password authentication failed|no password supplied|role .* does not exist": "mend user and password",
    r"database .* does not exist": "create it, or mend its name",
    r"resolve host|translate host name": "mend the host",
    r"Connection refused|timeout|timed out|No route to host|unreachable": "start the server, or mend host and port",
    r"pg_hba\.conf": "let the user in by the server's pg_hba.conf, or mend user, database and sslmode",
}

# A connection that the network has forgotten ends within a minute.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
_NOTICED_DEAD = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

EXCLUDED = "column.exclude.list"
"""Debezium's property: the columns that do not leave the database."""


class SourceUnavailable(Exception):
    """A source database does not answer, or refuses the user or what is asked of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source database. `name` is Debezium's `topic.prefix` and the name of the connector.

    `url` is a PostgreSQL URL with user, password, host and database (`postgresql://u:p@host:5432/db`); its
    query may carry libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey`. `partitions` is that of its
    topics. `overrides` are connector properties that win over the derived ones. `heartbeat_table` and
    `signal_table` ("schema.name") are tables of ours in the source database; the latter is the connector's alone.
    Raises `ValueError` if a value cannot be used.
    """

    name: str
    url: str = field(repr=False)
    slot: str
    publication: str
    partitions: int = 1
    overrides: Mapping[str, str] = field(default_factory=dict, repr=False)
    heartbeat_table: str = "public.millrace_heartbeat"
    signal_table: str = "public.millrace_signal"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"source name {self.name!r}: use letters, digits, '_' and '-' only")
        if not _SLOT.fullmatch(self.slot):
            raise ValueError(
                f"slot {self.slot!r} of source {self.name}: use lower-case letters, digits and '_', at most 63"
            )
        if self.partitions < 1:
            raise ValueError(f"partitions of source {self.name} is {self.partitions}: use 1 or more")
        for table in (self.heartbeat_table, self.signal_table):
            split(table)
        self.address()
        self._exclusions()

    @property
    def notifications_topic(self) -> str:
        """Where Debezium tells of its snapshots; one partition. No table's topic has two parts."""
        return f"{self.name}.notifications"

    def excludes(self, column: str) -> bool:
        """Whether a column, "schema.table.column", is left out of the changes by the override `column.exclude.list`."""
        return any(pattern.fullmatch(column) for pattern in self._exclusions())

    def _exclusions(self) -> list[re.Pattern[str]]:
        """The regular expressions of `column.exclude.list`, as Debezium reads them (`io.debezium.util.Strings`): at
        commas without a backslash, trimmed, for whole names, and without case, but of ASCII alone.

        Raises `ValueError` for one that Python reads otherwise than Java, or not at all.
        """
        items = re.findall(r"(?:[^,\\]|\\.?)+", self.overrides.get(EXCLUDED, ""), re.DOTALL)
        patterns = []
        for item in filter(None, map(str.strip, items)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # of what means another thing in Java, as && in a set
                    patterns.append(re.compile(item.replace("\\,", ","), re.IGNORECASE | re.ASCII))
            except (re.error, ValueError, FutureWarning) as error:
                raise ValueError(
                    f"{EXCLUDED} of source {self.name}: {item!r} cannot be read here: {error}; use plain regular "
                    r"expressions of schema\.table\.column, separated by commas"
                ) from error
        return patterns

    def address(self) -> URL:
        """The parsed `url`. Raises `ValueError`, without the password, if it is not a usable URL."""
        try:
            url = make_url(self.url)
        except (ArgumentError, ValueError):  # a port that is no number is quoted, and may be a password without a host
            raise ValueError(f"url of source {self.name}: not a URL") from None
        if "@" in (url.host or ""):  # which would be shown
            raise ValueError(f"url of source {self.name}: write an @ in the password as %40")
        if not url.drivername.startswith(("postgresql", "postgres")) or not url.host or not url.username:
            raise ValueError(
                f"url of source {self.name}: use postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
                f"not {url.set(query={}).render_as_string()}"
            )
        return url

    def engine(self, connect_seconds: int = 10, life_seconds: float | None = None) -> Engine:
        """A new SQLAlchemy engine; the caller disposes of it. Connections end after `life_seconds`, if these are given:
        so long one waits for an answer at most, whatever the server or the network is at."""
        url = self.address().set(drivername="postgresql+psycopg")
        options = {"connect_timeout": connect_seconds, "application_name": "millrace", **_NOTICED_DEAD}
        engine = create_engine(url, pool_size=1, connect_args=options)
        if life_seconds is not None:
            _end_connections(engine, life_seconds)
        return engine

    @contextmanager
    def opened(self, connect_seconds: int = 10, life_seconds: float | None = None) -> Iterator[Engine]:
        """An `engine` that is disposed of after the block."""
        engine = self.engine(connect_seconds, life_seconds)
        try:
            yield engine
        finally:
            engine.dispose()


@dataclass(frozen=True, slots=True)
class Capture:
    """A table that the declarations capture: `table` is "schema.name". `full_identity` asks for REPLICA
    IDENTITY FULL: event views need the old row, columns that can be TOASTed need the unchanged value."""

    table: str
    full_identity: bool


def _end_connections(engine: Engine, seconds: float) -> None:
    """Hang up on every connection so long after it was made. A server that hangs heeds no time-out of its own, and a
    proxy before it keeps the connection alive; so the questions that SQLAlchemy asks first are bounded, too."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: object, arguments: Any, parameters: Any) -> Any:
        made = dialect.connect(*arguments, **parameters)
        line = socket.socket(fileno=os.dup(made.fileno()))  # its own number, which nobody else gets meanwhile
        end = threading.Timer(seconds, _hang_up, [line])
        end.daemon = True
        end.start()
        return made


def _hang_up(line: socket.socket) -> None:
    with line, suppress(OSError):  # the server may have hung up before
        line.shutdown(socket.SHUT_RDWR)


@contextmanager
def connected(engine: Engine, source: Source) -> Iterator[Connection]:
    """A connection to the source database. Raises `SourceUnavailable`, also for an error of the database in the block,
    without the statement and its values."""
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise SourceUnavailable(_unreached(source, error)) from error
    try:
        with connection:
            yield connection
    except DBAPIError as error:
        raise SourceUnavailable(_refusal(source, error)) from error


def _unreached(source: Source, error: DBAPIError) -> str:
    """Why there is no connection, and what to do."""
    said = " ".join(str(error.orig).split())
    todo = next((do for words, do in _UNREACHED.items() if re.search(words, said)), "")
    following = f"{todo} in sources.{source.name}.url of millrace.yaml" if todo else "try again once it answers"
    return f"source {source.name} is unavailable: {said}; {following}"


def _refusal(source: Source, error: DBAPIError) -> str:
    """What a database said instead of an answer, and what to do."""
    url = source.address()
    place = f"{url.host}:{url.port or 5432}/{url.database or url.username}"
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or str(error.orig).split("\n", 1)[0]
    if isinstance(error, OperationalError | InterfaceError):
        return f"source {source.name} is unavailable: {place}: {said}; try again once it answers"
    todo = _TO_DO.get(getattr(error.orig, "sqlstate", None) or "", "the log of PostgreSQL has the statement")
    return f"source {source.name} refuses: {place}, user {url.username}: {said}; {todo}"


def default_slot(name: str) -> str:
    """The slot, and the publication, of a source whose `millrace.yaml` names none."""
    return ("millrace_" + re.sub(r"[^a-z0-9_]", "_", name.lower()))[:63]


def default_signal_table(slot: str) -> str:
    """The table by which the connector that reads a slot is asked for snapshots: its own, for those of one database
    would all take what is asked of one."""
    name = f"{slot}_signal"
    return f"public.{name}" if len(name) <= 63 else f"public.{slot[:47]}_{crc32(slot.encode()):08x}_signal"


def split(table: str) -> tuple[str, str]:
    """ "schema.name" as its two parts, at the first dot. Raises `ValueError` if one is missing."""
    schema, _, name = table.partition(".")
    if not schema or not name:
        raise ValueError(f"table {table!r}: write it as schema.table, for example public.{table}")
    return schema, name


def quoted(table: str) -> str:
    """ "schema.name" as SQL, each part quoted where PostgreSQL needs it."""
    return ".".join(_PREPARER.quote(part) for part in split(table))


def quoted_name(name: str) -> str:
    """One identifier as SQL, quoted where PostgreSQL needs it."""
    return _PREPARER.quote(name)
