"""How fresh features are: from a commit in PostgreSQL to the value in the hands of a reader that polls.

A process commits updates of single rows at a fixed rate, whatever becomes of them; another polls Redis for a sample
of them. PostgreSQL, Kafka, Connect with Debezium, Redis, the worker, the writer and the reader share the machine; the
lake is flushed every second meanwhile. Beside it the floor: the same commits to a bare Kafka consumer, no worker
running. With `--texts` a vector view is fed too, and a reader polls pgvector.

Run: python -m benchmarks.freshness [--seconds 60] [--rate 500]
"""

import argparse
import multiprocessing
import struct
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np
import orjson
import psycopg
import pyarrow as pa
import redis
from confluent_kafka import Consumer
from sqlalchemy import text

from benchmarks.drain import INSERT
from benchmarks.platform import Platform, Row, platform, wait
from millrace.wiring import flows
from stores.entity_keys import entity_keys
from stores.fields import fields_of

ROWS = 10_000
FLOOR_SECONDS = 15.0
SAMPLED = 5
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 10.0
FLOOR_VALUES, VALUES = 200_000, 400_000  # above what the rows begin with, and within the contract

Sent = tuple[int, float, float]
"""The row, its new value, and the moment just before its COMMIT."""


def commit(url: str, first: int, rate: float, seconds: float, sent: "SimpleQueue[Sent | None]") -> None:
    """Commit `rate` updates a second, with ascending values from `first` on; tell of one in `SAMPLED`."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        begun = time.perf_counter()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            row, value = 1 + number % ROWS, first + number + 0.5
            cursor.execute(
                "UPDATE payments SET amount = %s, updated_at = now() WHERE id = %s", (value, row), prepare=True
            )
            moment = time.time()
            connection.commit()
            if number % SAMPLED == 0:
                sent.put((row, value, moment))
    sent.put(None)


def arrivals(sent: "SimpleQueue[Sent | None]", look: Callable[[dict[int, Sent]], Iterator[int]]) -> list[float]:
    """Milliseconds from commit to sight; `look` yields those of the awaited rows that are there."""
    taken, awaited, over = list[float](), dict[int, Sent](), False
    last = time.monotonic()
    while not over or (awaited and time.monotonic() < last + PATIENCE_SECONDS):
        while not sent.empty():
            new = sent.get()
            last = time.monotonic()
            if new is None:
                over = True
            else:
                awaited[new[0]] = new
        if awaited:
            for row in list(look(awaited)):
                taken.append(1_000 * (time.time() - awaited.pop(row)[2]))
        time.sleep(POLL_SECONDS)
    if awaited:
        raise SystemExit(f"{len(awaited)} commits were never seen")
    return taken


def from_redis(target: Platform) -> Callable[[dict[int, Sent]], Iterator[int]]:
    """Looks at what a model service would read."""
    flow = flows(target.repo)["load.public.payments"]
    view = flow.views[0].view
    field = fields_of(view).features[[f.name for f in view.features].index("amount")]
    keys = entity_keys(view)
    client = redis.Redis.from_url(f"redis://{target.stack.endpoints().redis}")
    names = dict(enumerate(keys.encode(pa.table({"id": pa.array(range(1, ROWS + 1), pa.int64())})).to_pylist(), 1))

    def look(awaited: dict[int, Sent]) -> Iterator[int]:
        pipeline = client.pipeline(transaction=False)
        for row in awaited:
            pipeline.hget(names[row], field)
        for (row, value, _), stored in zip(list(awaited.values()), pipeline.execute(), strict=True):
            if stored and struct.unpack("<d", stored[1:])[0] >= value:
                yield row

    return look


def from_kafka(target: Platform) -> tuple[Consumer, Callable[[dict[int, Sent]], Iterator[int]]]:
    """Looks at what a bare consumer gets."""
    consumer = Consumer(
        {
            "bootstrap.servers": target.stack.endpoints().kafka,
            "group.id": "floor",
            "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 2,
        }
    )
    seen: dict[int, float] = {}

    def look(awaited: dict[int, Sent]) -> Iterator[int]:
        for message in consumer.consume(1_000, 0):
            if message.error() is None:
                after = orjson.loads(message.value())["after"]
                seen[after["id"]] = after["amount"]
        for row, value, _ in list(awaited.values()):
            if seen.get(row, -1.0) >= value:
                yield row

    return consumer, look


def measure(
    target: Platform, first: int, rate: float, seconds: float, look: Callable[[dict[int, Sent]], Iterator[int]]
) -> Any:
    """The percentiles of one stretch of commits."""
    context = multiprocessing.get_context("spawn")
    sent: SimpleQueue[Sent | None] = context.SimpleQueue()
    url = target.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    writer = context.Process(target=commit, args=(url, first, rate, seconds, sent))
    writer.start()
    taken = arrivals(sent, look)
    writer.join()
    return np.percentile(taken, [50, 99])


def main() -> None:
    """The floor, then the platform."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=500.0)
    options = parser.parse_args()
    with platform() as target:
        with target.engine.begin() as connection:
            connection.execute(text(INSERT), {"rows": ROWS})
        target.command("apply")
        wait(lambda: target.ends()[1] >= ROWS, "the snapshot")
        consumer, look = from_kafka(target)
        consumer.subscribe(["load.public.payments"])
        wait(lambda: consumer.consume(1_000, 0.1) == [] and bool(consumer.assignment()), "the floor's consumer")
        floor = measure(target, FLOOR_VALUES, options.rate, FLOOR_SECONDS, look)
        consumer.close()
        with target.worker() as worker:
            wait(lambda: worker.committed() >= target.ends()[1], "the worker to catch up")
            before, begun = worker.cpu_seconds(), time.monotonic()
            p50, p99 = measure(target, VALUES, options.rate, options.seconds, from_redis(target))
            busy = (worker.cpu_seconds() - before) / (time.monotonic() - begun)
            print(worker.health(), file=sys.stderr)
    Row("freshness, p50", p50, "ms", "15", {"Debezium to a bare consumer": floor[0]}).print()
    Row("freshness, p99", p99, "ms", "50", {"Debezium to a bare consumer": floor[1]}).print()
    Row("freshness, processor of the worker", 100 * busy, "% of a core").print()


if __name__ == "__main__":
    main()
