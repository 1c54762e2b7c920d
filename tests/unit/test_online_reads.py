"""Reads of the online store from servers that answer oddly: what they say is outlived, and their reads come back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest

from stores import cluster_reads, replica_reads
from stores.cluster_reads import ClusterReads
from stores.errors import StoreUnavailable
from stores.online import RedisAddress
from stores.online_reads import RedisReads
from stores.operations import command
from stores.replica_reads import ReplicaReads

Answers = Callable[[list[bytes], int], bytes | None]
GET = command(b"GET", b"a")
FOLLOWING = b"*5\r\n$5\r\nslave\r\n$4\r\nhost\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"


@asynccontextmanager
async def odd_redis(answers: Answers) -> AsyncIterator[RedisAddress]:
    """A server that answers as told, by command and its own port; None is the answer of a plain Redis."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (asked := parser.gets()) is not False:
                plain = {b"PING": b"+PONG\r\n", b"HELLO": b"-ERR unknown command\r\n"}.get(asked[0], b"+OK\r\n")
                writer.write(answers(asked, port) or plain)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield RedisAddress.parse(f"127.0.0.1:{port}")
    finally:
        server.close()


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to be")


@asynccontextmanager
async def slow_redis(replies: int, pause: float) -> AsyncIterator[RedisAddress]:
    """A server that answers PING at once, and GETs one by one, so many at the most, with a pause in seconds before each
    of them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser, left = hiredis.Reader(), replies
        while data := await reader.read(65_536):
            parser.feed(data)
            while (asked := parser.gets()) is not False:
                if asked[0] != b"GET":
                    writer.write(b"+PONG\r\n" if asked[0] == b"PING" else b"-ERR unknown command\r\n")
                elif left:
                    left -= 1
                    await asyncio.sleep(pause)
                    writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield RedisAddress.parse(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def test_a_redis_that_goes_on_answering_is_not_slow() -> None:
    async def visit() -> None:
        async with slow_redis(replies=20, pause=0.06) as address:
            reads = RedisReads(address, timeout=0.5)
            await reads.start()
            assert await reads.read([GET] * 20) == [b"OK"] * 20
            await reads.close()

    asyncio.run(visit())


def test_a_redis_that_stops_in_the_middle_is_slow() -> None:
    async def visit() -> None:
        async with slow_redis(replies=3, pause=0.01) as address:
            reads = RedisReads(address, timeout=0.2)
            await reads.start()
            with pytest.raises(StoreUnavailable, match=r"does not answer within 0\.2 s"):
                await reads.read([GET] * 4)
            await reads.close()

    asyncio.run(visit())


def test_a_sentinel_among_the_replicas_is_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_reads, "LOOK_SECONDS", 0.02)
    sentinel = True

    def answers(asked: list[bytes], port: int) -> bytes | None:
        if asked[0] == b"ROLE":
            return b"*2\r\n$8\r\nsentinel\r\n*0\r\n" if sentinel else FOLLOWING
        return b"$7\r\nreplica\r\n" if asked[0] == b"GET" else None

    async def visit() -> None:
        nonlocal sentinel
        async with odd_redis(answers) as replica, odd_redis(lambda *_: None) as primary:
            reads = ReplicaReads([replica], primary, 1.0)
            await reads.start()
            assert await reads.read([GET]) == [b"OK"]
            sentinel = False

            async def replicas_again() -> bool:
                return await reads.read([GET]) == [b"replica"]

            await until(replicas_again)
            await reads.close()

    asyncio.run(visit())


def slots(host: bytes, port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + host + b":%d\r\n" % port


@pytest.mark.parametrize("host", [b"$-1\r\n", b"$0\r\n\r\n", b"$9\r\n127.0.0.1\r\n"])
def test_a_node_without_an_address_is_the_one_that_was_asked(host: bytes) -> None:
    def answers(asked: list[bytes], port: int) -> bytes | None:
        return slots(host, port) if asked[0] == b"CLUSTER" else None

    async def visit() -> None:
        async with odd_redis(answers) as node:
            reads = ClusterReads([node], 1.0)
            await reads.start()
            assert reads.ready and await reads.read([GET]) == [b"OK"]
            await reads.close()

    asyncio.run(visit())


def test_all_who_follow_slots_to_a_node_wait_until_it_is_connected() -> None:
    async def visit() -> None:
        async with odd_redis(lambda asked, port: b"$4\r\nhere\r\n" if asked[0] == b"GET" else None) as other:

            def answers(asked: list[bytes], port: int) -> bytes | None:
                if asked[0] == b"GET":
                    return b"-MOVED 1 127.0.0.1:%d\r\n" % other.port
                return slots(b"$-1\r\n", port) if asked[0] == b"CLUSTER" else None

            async with odd_redis(answers) as node:
                reads = ClusterReads([node], 1.0)
                await reads.start()
                assert await reads.read([GET] * 3) == [b"here"] * 3
                await reads.close()

    asyncio.run(visit())


def test_who_gives_up_waiting_for_a_node_leaves_the_others_to_it() -> None:
    async def visit() -> None:
        async with odd_redis(lambda asked, port: slots(b"$-1\r\n", port) if asked[0] == b"CLUSTER" else None) as node:
            reads = ClusterReads([node], 1.0)
            await reads.start()
            async with odd_redis(lambda *_: None) as other:
                first, second = (asyncio.create_task(reads._node((other.host, other.port))) for _ in range(2))
                await asyncio.sleep(0)
                first.cancel()
                assert (await second).ready
            await reads.close()

    asyncio.run(visit())


def test_a_slot_that_moved_to_another_port_of_the_host_asked() -> None:
    async def visit() -> None:
        async with odd_redis(lambda asked, port: b"$4\r\nhere\r\n" if asked[0] == b"GET" else None) as other:

            def answers(asked: list[bytes], port: int) -> bytes | None:
                if asked[0] == b"GET":
                    return b"-MOVED 1 :%d\r\n" % other.port
                return slots(b"$-1\r\n", port) if asked[0] == b"CLUSTER" else None

            async with odd_redis(answers) as node:
                reads = ClusterReads([node], 1.0)
                await reads.start()
                assert await reads.read([GET]) == [b"here"]
                await reads.close()

    asyncio.run(visit())


def test_a_slot_that_moves_on_and_on_is_unavailable() -> None:
    def answers(asked: list[bytes], port: int) -> bytes | None:
        if asked[0] == b"GET":
            return b"-MOVED 1 127.0.0.1:%d\r\n" % port
        return slots(b"$-1\r\n", port) if asked[0] == b"CLUSTER" else None

    async def visit() -> None:
        async with odd_redis(answers) as node:
            reads = ClusterReads([node], 1.0)
            await reads.start()
            with pytest.raises(StoreUnavailable, match="slot"):
                await reads.read([GET])
            await reads.close()

    asyncio.run(visit())


def test_an_answer_that_is_no_map_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_reads, "MAP_SECONDS", 0.02)
    odd = True

    def answers(asked: list[bytes], port: int) -> bytes | None:
        if asked[0] != b"CLUSTER":
            return None
        return b"*1\r\n:5\r\n" if odd else slots(b"$-1\r\n", port)

    async def visit() -> None:
        nonlocal odd
        async with odd_redis(answers) as node:
            reads = ClusterReads([node], 1.0)
            await reads.start()
            assert not reads.ready
            odd = False

            async def ready() -> bool:
                return reads.ready

            await until(ready)
            await reads.close()

    asyncio.run(visit())


def test_a_connection_outlives_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def visit() -> None:
        async with odd_redis(lambda *_: None) as address:
            reads = RedisReads(address, 0.2)
            connect: Any = reads._connect
            failures = iter([TypeError("odd"), TypeError("odd")])

            async def odd() -> None:
                if (error := next(failures, None)) is not None:
                    raise error
                await connect()

            monkeypatch.setattr(reads, "_connect", odd)
            await reads.start()

            async def ready() -> bool:
                return reads.ready

            await until(ready)
            assert await reads.read([GET]) == [b"OK"]
            await reads.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(visit())
    assert sum("TypeError" in record.getMessage() for record in caplog.records) == 1


def test_a_redis_that_is_away_from_the_start_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with odd_redis(lambda asked, port: None) as address:
            pass  # and nobody listens there any more
        reads = RedisReads(address, 0.5)
        await reads.start()
        await asyncio.sleep(0.5)
        await reads.close()

    asyncio.run(check())
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "Connect call failed" in told.getMessage()
