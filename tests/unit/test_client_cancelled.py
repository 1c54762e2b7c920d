"""Calls of the async client that are cancelled, or late: their places are free again, and nothing is left of them."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from millrace.client import AsyncClient, OnlineFeatures
from millrace.client.connection import SAID_FIRST

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\nconnection: close\r\n\r\n"
BODY = b'{"results": [], "metadata": {"feature_names": []}}'

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.writelines((ANSWER, BODY))
        await writer.drain()
    writer.close()


async def ask(client: AsyncClient) -> OnlineFeatures:
    return await client.get_online_features(["weather:temp"], entities={"faa": ["JFK"]})


async def cancelled(client: AsyncClient, until: Coroutine[Any, Any, object]) -> None:
    call = asyncio.create_task(ask(client))
    await until
    call.cancel()
    await asyncio.wait((call,))


async def turns(number: int) -> None:
    """Turns of the event loop."""
    for _ in range(number):
        await asyncio.sleep(0)


def test_wherever_a_call_is_cancelled_its_place_in_the_pool_is_free_again() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, timeout=10, connections=1) as client:
            for number in range(100):
                await cancelled(client, turns(number))
                assert (await ask(client)).values == {}

    asyncio.run(run())


def test_wherever_a_call_is_late_its_place_in_the_pool_is_free_again() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, connections=1) as client:
            for number in range(60):
                client._timeout = 0.01
                call = asyncio.create_task(ask(client))
                await turns(number)
                time.sleep(0.01 + 2 * SAID_FIRST)  # the loop is late, and the call with it
                await asyncio.gather(call, return_exceptions=True)
                client._timeout = 10
                assert (await ask(client)).values == {}

    asyncio.run(run())


def test_who_waits_for_a_place_in_the_pool_and_is_cancelled_asks_nothing() -> None:
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await answer(reader, writer)

    async def run() -> None:
        server = await asyncio.start_server(count, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, timeout=10, connections=1) as client:
            first = asyncio.create_task(ask(client))
            await turns(2)
            await cancelled(client, turns(2))
            await first
            await ask(client)

    asyncio.run(run())
    assert asked == 2


def test_close_waits_for_no_answer_to_a_call_that_was_cancelled() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        gone.set()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, asyncio.timeout(60):
            async with AsyncClient(url, timeout=600) as client:
                await cancelled(client, asked.wait())
            await gone.wait()

    asyncio.run(run())


def test_what_fails_after_its_call_was_cancelled_is_not_logged() -> None:
    asked, told = asyncio.Event(), asyncio.Event()
    logged: list[dict[str, Any]] = []

    async def fail(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await told.wait()
        writer.close()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        server = await asyncio.start_server(fail, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, timeout=60) as client:
            await cancelled(client, asked.wait())
            told.set()
            while client._abandoned:
                await asyncio.sleep(0.01)
            gc.collect()

    asyncio.run(run())
    assert logged == []
