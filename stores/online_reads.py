"""Reads of the online store for a server: one connection that all coroutines of an event loop share.

Commands that are asked for in one turn of the loop leave in one write, and replies come back in the order asked.
While Redis is away or slow every read fails at once, and a probe brings the connection back by itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.crc import key_slot

from stores.errors import StoreUnavailable
from stores.online import RedisAddress, failure
from stores.operations import command

log = logging.getLogger("millrace")

RETRY_SECONDS = 0.1
PAUSE_SECONDS = 0.5
"""How long a Redis that was too slow is left alone before it is probed."""

PING = command(b"PING")


def error_of(reply: Any) -> str | None:
    """The words of a reply that is an error, None for any other."""
    return str(reply) if isinstance(reply, hiredis.ReplyError) else None


def slot_of(packed: bytes) -> int:
    """The slot in a Redis Cluster of a packed command's first argument."""
    _, _, _, size, rest = packed.split(b"\r\n", 4)  # `*3`, `$5`, `HMGET`, `$4`, the key ...
    return int(key_slot(rest[: int(size[1:])]))


@dataclass(slots=True)
class _Waiting:
    """Replies that somebody waits for: how many are to come, since when (the loop's time), and those that came."""

    count: int
    since: float
    future: asyncio.Future[list[Any]]
    replies: list[Any] = field(default_factory=list)


class _Replies(asyncio.Protocol):
    """Hands replies to those who wait for them, in order. Takes a connection over once redis-py has made it:
    address, TLS and authentication are its own."""

    def __init__(self, transport: Any, lost: Callable[[str], None]) -> None:
        self._transport = transport
        self._lost = lost
        self._reader = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[bytes] = []
        self.waiting: deque[_Waiting] = deque()
        self.heard = self._loop.time()
        """When Redis last sent anything (the loop's time)."""

    def ask(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self.waiting.append(_Waiting(count, self._loop.time(), future))
        if not self._outgoing:
            self._loop.call_soon(self._send)
        self._outgoing.append(packed)
        return future

    def _send(self) -> None:
        self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                head = waiting[0]
                head.replies.append(reply)
                if len(head.replies) == head.count:
                    waiting.popleft()
                    if not head.future.done():
                        head.future.set_result(head.replies)
        except (hiredis.ProtocolError, IndexError) as error:
            self._lost(f"what it answers is not Redis's protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(str(error) if error else "the connection was closed")

    def fail(self, error: StoreUnavailable) -> None:
        """Nobody waits any longer, and what still happens on this connection is of no interest."""
        self._lost = _nobody
        while self.waiting:
            future = self.waiting.popleft().future
            if not future.done():
                future.set_exception(error)
        self._transport.abort()


def _nobody(why: str) -> None:
    """Hears of a connection that was given up."""


class RedisReads:
    """Reads from one Redis within one event loop.

    A Redis that sends nothing for `timeout` seconds (a quarter more at the most) while somebody waits is taken for
    slow: whoever waits is told, the connection is dropped, and reads fail at once until a probe is answered in time
    again. How long one that goes on sending may take is for the callers to bound.
    """

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._connection: Any = None
        self._replies: _Replies | None = None
        self._why = "it is not connected yet"
        self._wake = asyncio.Event()
        self._first = asyncio.Event()
        self._overdue: _Waiting | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect and stay connected, in the background of the running loop; a Redis that answers is waited for."""
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._watch())]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._first.wait()

    async def close(self) -> None:
        """Disconnect for good."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._drop("the server stops")

    @property
    def ready(self) -> bool:
        """Whether Redis answers."""
        return self._replies is not None

    @property
    def connection(self) -> object | None:
        """What it reads by now, None while Redis does not answer. After a break it is another one, and what answers
        there may have been started anew."""
        return self._replies

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands. Raises `StoreUnavailable` and `StoreRefused`."""
        replies = await self.ask(commands)
        if hiredis.ReplyError in map(type, replies):
            raise failure(self._address, next(filter(None, map(error_of, replies))))
        return replies

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """As `read`, with what Redis answers as an error among the replies (`error_of`)."""
        if self._replies is None:
            raise StoreUnavailable("Redis", f"{self._address}: {self._why}")
        return await self._replies.ask(b"".join(commands), len(commands))

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._connect()
            except (redis.RedisError, OSError, TimeoutError) as error:
                why = str(error) or f"it does not answer within {self._timeout:g} s"
                if why != self._why:
                    log.warning("Redis at %s: %s", self._address, why, extra={"event": "disconnected"})
                self._why = why
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception as error:  # whatever it is, reads have to come back by themselves
                why = f"no connection is made: {type(error).__name__}"
                if why != self._why:
                    log.exception("Redis at %s: %s", self._address, why, extra={"event": "disconnected"})
                self._why = why
                await asyncio.sleep(RETRY_SECONDS)
                continue
            log.info("reads from Redis at %s", self._address, extra={"event": "connected"})
            await self._wake.wait()
            log.warning("Redis at %s: %s", self._address, self._why, extra={"event": "disconnected"})
            await asyncio.sleep(PAUSE_SECONDS if self._overdue is not None else 0)
            self._overdue = None

    async def _connect(self) -> None:
        options = dict(self._address.options)
        kind = redis.asyncio.SSLConnection if options.pop("ssl", False) else redis.asyncio.Connection
        defaults = {"socket_connect_timeout": self._timeout, "socket_timeout": self._timeout}
        connection: Any = kind(host=self._address.host, port=self._address.port, **{**defaults, **options})
        async with asyncio.timeout(2 * self._timeout):
            await connection.connect()
        transport = connection._writer.transport
        replies = _Replies(transport, self._drop)
        transport.set_protocol(replies)
        try:
            async with asyncio.timeout(self._timeout):
                (pong,) = await replies.ask(PING, 1)
        except TimeoutError as error:
            replies.fail(StoreUnavailable("Redis", str(error)))
            raise
        if (refusal := error_of(pong)) is not None:
            replies.fail(StoreUnavailable("Redis", refusal))
            raise redis.ResponseError(refusal)
        self._connection, self._replies = connection, replies
        self._first.set()

    def _drop(self, why: str) -> None:
        """The connection is of no use any longer: whoever waits is told why."""
        replies, self._replies, self._connection = self._replies, None, None
        if replies is not None:
            self._why = why
            replies.fail(StoreUnavailable("Redis", f"{self._address}: {why}"))
            self._wake.set()

    async def _watch(self) -> None:
        """Drops the connection when the first in line has waited too long, and nothing has come meanwhile, at two
        looks: at one look it may be this process that was busy."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout / 8)
            replies = self._replies
            first = replies.waiting[0] if replies is not None and replies.waiting else None
            if replies is None or first is None or loop.time() - max(first.since, replies.heard) < self._timeout:
                self._overdue = None
            elif self._overdue is first:
                self._drop(f"it does not answer within {self._timeout:g} s")
            else:
                self._overdue = first
