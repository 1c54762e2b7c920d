"""Latency at a fixed rate: requests go out at times set ahead, whether or not earlier ones are answered, and count from
when they were due. So a server that stalls is not spared the requests that would have come meanwhile (coordinated
omission); wrk, which waits for answers, would spare it."""

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Latencies:
    """In milliseconds; `failed` are answers that were not 200."""

    p50: float
    p99: float
    rate: float
    failed: int


def measure(
    port: int, bodies: Sequence[bytes], rate: float, seconds: float, path: str = "/get-online-features"
) -> Latencies:
    """Posts the bodies in turn to the path, `rate` a second."""
    gc.collect()
    gc.disable()  # a pause of this process's collector would be taken for the server's
    try:
        return asyncio.run(_measure(port, [_request(path, body) for body in bodies], rate, seconds))
    finally:
        gc.enable()


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return b"%s\r\n\r\n%s" % (head.encode(), body)


async def _measure(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Latencies:
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    taken: list[float] = []
    failed = 0

    async def ask(request: bytes, due: float) -> None:
        nonlocal failed
        reader, writer = await idle.get()  # a wait for a connection counts: it was due
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        taken.append(time.perf_counter() - due)
        failed += not head.startswith(b"HTTP/1.1 200")
        idle.put_nowait((reader, writer))

    start = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(ask(requests[number % len(requests)], due)))
    await asyncio.gather(*tasks)
    elapsed = time.perf_counter() - start
    while not idle.empty():
        idle.get_nowait()[1].close()
    half, most = np.percentile(np.array(taken) * 1000, [50, 99])
    return Latencies(float(half), float(most), len(taken) / elapsed, failed)
