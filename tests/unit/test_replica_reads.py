"""Which Redis among the replicas is read: one that says it is a primary may be a fail-over's, or a replica that was
started anew and follows nobody."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import hiredis
import pytest

from stores import replica_reads
from stores.errors import StoreUnavailable
from stores.online import RedisAddress
from stores.operations import command
from stores.replica_reads import ReplicaReads

GET = command(b"GET", b"a")
FOLLOWING = b"*5\r\n$5\r\nslave\r\n$4\r\nhost\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"
PRIMARY = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


class Redis:
    """Answers GET with its name; says which replication it is of, and which it was of before; may hang."""

    def __init__(self, name: bytes, role: bytes, replid: bytes, before: bytes = b"0" * 40) -> None:
        self.name, self.role, self.replid, self.before = name, role, replid, before
        self.hangs = False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._port = 0

    async def start(self) -> RedisAddress:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return RedisAddress.parse(f"127.0.0.1:{self._port}")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (asked := parser.gets()) is not False:
                if not self.hangs:
                    writer.write(self._answer(asked[0]))
        writer.close()

    def _answer(self, asked: bytes) -> bytes:
        text = b"# Replication\r\nmaster_replid:%s\r\nmaster_replid2:%s\r\n" % (self.replid, self.before)
        info = b"$%d\r\n%s\r\n" % (len(text), text)
        named = b"$%d\r\n%s\r\n" % (len(self.name), self.name)
        answers = {b"PING": b"+PONG\r\n", b"ROLE": self.role, b"INFO": info, b"GET": named}
        return answers.get(asked, b"-ERR unknown command\r\n")


@asynccontextmanager
async def reading(primary: Redis, *replicas: Redis, timeout: float = 0.3) -> AsyncIterator[ReplicaReads]:
    async with AsyncExitStack() as stack:
        addresses = []
        for server in (primary, *replicas):
            addresses.append(await server.start())
            stack.push_async_callback(server.stop)
        reads = ReplicaReads(addresses[1:], addresses[0], timeout)
        await reads.start()
        stack.push_async_callback(reads.close)
        yield reads


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_reads, "LOOK_SECONDS", 0.02)


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to be")


async def answered(reads: ReplicaReads) -> bytes | None:
    """Who has answered; None if nobody has."""
    try:
        (name,) = await reads.read([GET])
    except StoreUnavailable:
        return None
    return bytes(name)


def runs(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))


async def by(reads: ReplicaReads, name: bytes | None) -> None:
    """It is that one who answers, and stays so."""

    async def so() -> bool:
        return await answered(reads) == name

    await until(so)
    await asyncio.sleep(0.1)
    assert [await answered(reads) for _ in range(5)] == [name] * 5


@pytest.mark.parametrize("before", [b"0" * 40, b"one"])
def test_a_replica_that_was_started_alone_is_left_out(before: bytes) -> None:
    """With or without the file that tells it whom it followed."""

    async def scene() -> None:
        primary, replica = Redis(b"primary", PRIMARY, b"one"), Redis(b"replica", FOLLOWING, b"one")
        async with reading(primary, replica) as reads:
            await by(reads, b"replica")
            replica.role, replica.replid, replica.before = PRIMARY, b"own", before
            await by(reads, b"primary")
            replica.role, replica.replid, replica.before = FOLLOWING, b"one", b"0" * 40
            await by(reads, b"replica")

    runs(scene)


def test_one_that_was_promoted_is_read_while_the_primary_is_away() -> None:
    async def scene() -> None:
        primary, replica = Redis(b"primary", PRIMARY, b"one"), Redis(b"replica", FOLLOWING, b"one")
        async with reading(primary, replica) as reads:
            await by(reads, b"replica")
            await primary.stop()
            replica.role, replica.replid, replica.before = PRIMARY, b"two", b"one"
            await by(reads, b"replica")
            replica.replid, replica.before = b"three", b"two"  # promoted anew
            await by(reads, b"replica")
            primary.replid, primary.before = b"four", b"one"
            await primary.start()
            await by(reads, b"primary")  # of two primaries the configured one is read
            primary.role, primary.replid = FOLLOWING, b"three"
            await by(reads, b"replica")

    runs(scene)


def test_one_that_is_of_no_replication_of_the_primarys_is_not_read_while_that_is_away() -> None:
    async def scene() -> None:
        primary, replica = Redis(b"primary", PRIMARY, b"one"), Redis(b"replica", FOLLOWING, b"one")
        async with reading(primary, replica) as reads:
            await by(reads, b"replica")
            await primary.stop()
            replica.role, replica.replid = PRIMARY, b"own"
            await by(reads, None)

    runs(scene)


def test_the_primary_under_another_address_is_read() -> None:
    async def scene() -> None:
        async with reading(Redis(b"primary", PRIMARY, b"one"), Redis(b"same", PRIMARY, b"one")) as reads:
            await by(reads, b"same")

    runs(scene)


def test_a_read_waits_for_one_hung_replica_and_not_for_each() -> None:
    async def scene() -> None:
        replicas = [Redis(b"replica", FOLLOWING, b"one") for _ in range(4)]
        async with reading(Redis(b"primary", PRIMARY, b"one"), *replicas, timeout=0.4) as reads:
            await by(reads, b"replica")
            for replica in replicas:
                replica.hangs = True
            begun = time.monotonic()
            assert await answered(reads) == b"primary"
            assert time.monotonic() - begun < 0.8

    runs(scene)
