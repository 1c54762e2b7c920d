"""The online store: Feast's exact Redis layout, where the newest version of each entity wins.

Feast's own `online_store: {type: redis}` reads what is written here. An entity is a hash named by its
entity key; beside Feast's fields (`stores.fields`) it holds `_v:{view}`, the version of the newest applied
change. A write is one compare-and-set script an entity (`stores.redis_scripts`), pipelined over the batch.
"""

import hashlib
import json
import re
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hiredis
import pyarrow as pa
import pyarrow.compute as pc
import redis

from stores.batches import Batch, plain, versioned
from stores.entity_keys import EntityKeys, entity_keys
from stores.errors import StoreRefused, StoreUnavailable
from stores.fields import fields_of
from stores.operations import Chunk, bulk, command
from stores.records import feature_tables, with_versions
from stores.redis_scripts import decide_script, drop_script, update_plain_script, write_script
from stores.rows import FeatureReader, FeatureRows, FeatureWriter, WriteResult
from stores.view import View

READS_PER_ROUND_TRIP = 1_000
SCAN_COUNT = 1_000

_TRANSIENT = re.compile(
    r"(^|: -)(LOADING|READONLY|OOM|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS) "
    r"|max number of clients reached"
)
"""Errors of a Redis that will take the command later; Redis 6 wraps those of a script's commands."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is; `options` are the keyword arguments of redis-py's connection."""

    host: str
    port: int
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, connection_string: str) -> "RedisAddress":
        """Reads Feast's `connection_string`: `host:port,db=0,ssl=true,password=...`.

        Values are JSON where they can be, as in Feast; a user name or password is always text. Raises
        `ValueError` for a string that names no host or, as a cluster would, several.
        """
        found = cls.parse_all(connection_string)
        if len(found) != 1:
            raise ValueError(
                f"the Redis connection string names {len(found)} hosts; write one, as in 'localhost:6379,db=0' (of a "
                "Redis Cluster, millrace serve reads)"
            )
        return found[0]

    @classmethod
    def parse_all(cls, connection_string: str) -> "list[RedisAddress]":
        """As `parse`, of one or several hosts, which share the options: `host:port,host:port,password=...`."""
        parts = connection_string.split(",")
        nodes = [part for part in parts if part and "=" not in part]
        if not nodes:
            raise ValueError("the Redis connection string names no host; write one, as in 'localhost:6379,db=0'")
        options = {}
        for part in parts:
            name, equals, text = part.partition("=")
            if equals:
                options[name] = text if name in ("username", "password") else _json_or_text(text)
        found = []
        for node in nodes:
            host, _, port = node.partition(":")
            if not host or not (port or "6379").isdigit():
                raise ValueError(  # without the part, which may be a URL with a password
                    "a part of the Redis connection string is not host:port; write it as in 'localhost:6379,db=0'"
                )
            found.append(cls(host, int(port or 6379), tuple(options.items())))
        return found

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


Request = tuple[bytes | memoryview, int]
"""Packed commands, and how many replies will come to them."""


class _Pipeline:
    """What a connection needs to carry whole pipelines: packed commands out, all their replies back."""

    _sock: Any

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._received = bytearray(1 << 16)

    def stands(self) -> bool:
        """Whether it is still open, while it is idle: nothing has come, not even its end."""
        look = select.poll()
        look.register(self._sock, select.POLLIN)
        return not look.poll(0)

    def send(self, packed: bytes | memoryview) -> None:
        self._sock.sendall(packed)

    def receive(self, count: int) -> list[Any]:
        """The next `count` replies; an error reply is among them as `hiredis.ReplyError`."""
        reader, replies = hiredis.Reader(), list[Any]()
        while len(replies) < count:
            size = self._sock.recv_into(self._received)
            if not size:
                raise redis.ConnectionError("the connection was closed")
            reader.feed(self._received, 0, size)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        return replies


class _PlainConnection(_Pipeline, redis.Connection):
    """A connection over TCP."""


class _TlsConnection(_Pipeline, redis.SSLConnection):
    """A connection over TLS."""


class RedisOnline(FeatureWriter, FeatureReader):
    """`FeatureWriter` and `FeatureReader` over Redis. May be shared by threads.

    A hash that has lost the features of all its views keeps their versions for `retention_seconds`: as long
    as a late write can come, the retention of the topics. Redis has `timeout` seconds to be connected to, and as many
    for each part of its answer; without one 5 and 30.
    """

    def __init__(self, address: RedisAddress, retention_seconds: float, timeout: float | None = None) -> None:
        """Connects at first use. Raises `ValueError` for an option that redis-py does not know."""
        self._address = address
        options = dict(address.options)
        connection = _TlsConnection if options.pop("ssl", False) else _PlainConnection
        defaults = {
            "socket_connect_timeout": timeout or 5,
            "socket_timeout": timeout or 30,
            "socket_keepalive": True,
        }

        def build() -> Any:
            return connection(host=address.host, port=address.port, **{**defaults, **options})

        try:
            build()
        except TypeError as error:
            raise ValueError(f"the Redis connection string has an option that does not exist: {error}") from None
        self._build = build
        self._idle: list[Any] = []
        retention_ms = int(retention_seconds * 1000)
        makers = (write_script, decide_script, update_plain_script, drop_script)
        scripts = [maker(retention_ms).encode() for maker in makers]
        self._load = b"".join(command(b"SCRIPT", b"LOAD", script) for script in scripts)
        shas = [hashlib.sha1(script).hexdigest().encode() for script in scripts]
        self._write, self._decide, self._update_plain, self._drop = shas
        self._script_count = len(scripts)

    def ping(self) -> None:
        """Raises `StoreUnavailable` if Redis does not answer."""
        self.ask([command(b"PING")])

    def close(self) -> None:
        """Closes the idle connections; the store can be used again."""
        while (connection := self._pop_idle()) is not None:
            connection.disconnect()

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        """Applies the rows by the rule of `FeatureWriter`, in one pipelined round trip.

        Of several changes of one source row only the newest is sent; those it stands for count as it
        does, applied or refused. An entity whose mark was already set is reported as undecided too.
        Raises `StoreUnavailable` (some rows may have been written: write the batch again), `StoreRefused`,
        and `ValueError` if a join key is null.
        """
        return self._evaluate(self._write, versioned(batches), marking=True)

    def decide(self, rows: FeatureRows) -> WriteResult:
        """As `FeatureWriter.decide`."""
        result = self._evaluate(self._decide, versioned([rows]), marking=False)
        return WriteResult(result.applied, result.refused)

    def update_plain(self, view: View, rows: pa.Table) -> WriteResult:
        """Writes rows that know no log position: what Feast itself materializes or pushes.

        `rows` has the join keys, the features and `event_timestamp`. A row is applied if it is newer than
        what is stored and than a delete, or as old as it where no change was ever streamed into the view
        for that entity; what is known of versions stays.
        """
        return self._evaluate(self._update_plain, plain(view, rows), marking=False)

    def read(self, views: Sequence[View], keys: pa.Table) -> list[pa.Table]:
        """As `FeatureReader.read`: all views of an entity in one HMGET, pipelined over the entities.

        Raises `StoreRefused` if a stored value is not of the declared type.
        """
        codec = _shared_codec(views)
        names = [name for view in views for name in fields_of(view).every()[1:]]
        return feature_tables(views, self._fetch(codec.encode(keys).to_pylist(), names))

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        """As `read`, of one view, and with what is known of versions: `_order`, `_lsn`, `_row` and
        `_undecided`, null where nothing was ever written."""
        return self._inspect(view, entity_keys(view).encode(keys).to_pylist())

    def scan(self, view: View) -> Iterator[pa.Table]:
        """As `FeatureWriter.scan`; an entity can come twice while Redis resizes its table of keys (the guarantees of
        SCAN)."""
        for keys, columns in self._scan_keys(entity_keys(view)):
            table = self._inspect(view, keys)
            for name in reversed(columns.column_names):
                table = table.add_column(0, name, columns.column(name))
            known = table.filter(pc.or_(table.column("_present"), pc.is_valid(table.column("_lsn"))))
            if known.num_rows:
                yield known

    def drop(self, view: View) -> int:
        """Removes all that Redis holds of a view, versions included; how many entities that were."""
        fields, dropped = fields_of(view).every(), 0
        for keys, _ in self._scan_keys(entity_keys(view)):
            replies = self.ask([command(b"EVALSHA", self._drop, b"1", key, *fields) for key in keys])
            dropped += sum(map(int, replies))
        return dropped

    def _evaluate(self, sha: bytes, batch: Batch, marking: bool) -> WriteResult:
        if not batch.changes:
            return WriteResult(0, 0)
        chunks: list[Chunk] = []

        def packed() -> Iterator[Request]:
            chunks.clear()
            for part in batch.chunks(sha, marking):
                chunks.append(part)
                yield part.stream, part.calls

        replies = self._pipeline(packed)
        return batch.result(chunks, b"".join(replies))

    def _inspect(self, view: View, keys: list[bytes]) -> pa.Table:
        fields = fields_of(view)
        hashes = self._fetch(keys, [fields.timestamp, *fields.features, fields.version])
        (table,) = feature_tables([view], [stored[:-1] for stored in hashes])
        return with_versions(table, [stored[-1] for stored in hashes])

    def _fetch(self, keys: Sequence[bytes], names: Sequence[bytes]) -> list[list[bytes | None]]:
        """The named fields of each hash."""
        start = b"*%d\r\n%s" % (len(names) + 2, bulk(b"HMGET"))
        rest = b"".join(map(bulk, names))
        hashes: list[list[bytes | None]] = []
        for first in range(0, len(keys), READS_PER_ROUND_TRIP):
            some = keys[first : first + READS_PER_ROUND_TRIP]
            hashes += self.ask([b"%s$%d\r\n%s\r\n%s" % (start, len(key), key, rest) for key in some])
        return hashes

    def _scan_keys(self, codec: EntityKeys) -> Iterator[tuple[list[bytes], pa.Table]]:
        """The keys of a codec in Redis, a page at a time, and their join key columns."""
        pattern, cursor = _literal(codec.prefix) + b"*" + _literal(codec.project), b"0"
        while True:
            page = command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % SCAN_COUNT)
            ((cursor, found),) = self.ask([page])
            belongs, columns = codec.decode(found)
            keys = [key for key, belonging in zip(found, belongs, strict=True) if belonging]
            if keys:
                yield keys, columns
            if cursor == b"0":
                return

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands (`stores.operations.command`), in one round trip.

        Raises `StoreUnavailable` and `StoreRefused`.
        """
        return self._pipeline(lambda: iter([(b"".join(commands), len(commands))]))

    def _pipeline(self, requests: Callable[[], Iterator[Request]]) -> list[Any]:
        """Sends all requests, then reads all replies; once more if Redis does not have the scripts yet.

        Raises `StoreUnavailable` if Redis does not answer or cannot take the commands now, `StoreRefused`
        if it never will.
        """
        replies = self._exchange(requests)
        errors = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
        if any(str(error).startswith("NOSCRIPT") for error in errors):
            self._exchange(lambda: iter([(self._load, self._script_count)]))
            replies = self._exchange(requests)
            errors = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
        if errors:
            raise failure(self._address, str(errors[0]))
        return replies

    def _exchange(self, requests: Callable[[], Iterator[Request]]) -> list[Any]:
        with self._connection() as connection:
            expected = 0
            for packed, count in requests():
                connection.send(packed)
                expected += count
            replies: list[Any] = connection.receive(expected)
        return replies

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of the pool; closed instead of given back if anything goes wrong on it."""
        connection = self._checkout()
        try:
            yield connection
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise StoreUnavailable("Redis", f"{self._address}: {error}") from error
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)

    def _checkout(self) -> Any:
        """An idle connection that still stands, or a new one."""
        while (connection := self._pop_idle()) is not None:
            if connection.stands():
                return connection
            connection.disconnect()
        connection = self._build()
        try:
            connection.connect()
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise failure(self._address, str(error)) from error
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable("Redis", f"{self._address}: {error}") from error
        return connection

    def _pop_idle(self) -> Any:
        """An idle connection, None if there is none; a list gives each of its items to one thread only."""
        try:
            return self._idle.pop()
        except IndexError:
            return None


def failure(address: RedisAddress, error: str) -> StoreUnavailable | StoreRefused:
    """What an error reply means: wait, or stop and say so."""
    if _TRANSIENT.search(error):
        return StoreUnavailable("Redis", f"{address}: {error}")
    return StoreRefused(f"Redis at {address} refuses: {error}")


def _shared_codec(views: Sequence[View]) -> EntityKeys:
    """The entity keys of views that share an entity's hash. Raises `ValueError` if they do not."""
    codec = entity_keys(views[0])
    for view in views[1:]:
        if entity_keys(view) != codec:
            raise ValueError(f"views {views[0].name!r} and {view.name!r} have different join keys: read them apart")
    return codec


def _literal(text: bytes) -> bytes:
    """The text as a pattern of SCAN that matches nothing else."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", text)
