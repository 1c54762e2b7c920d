"""How fresh features are: from a commit in PostgreSQL to the value in the hands of a reader that polls.

A process commits updates of single rows at a fixed rate, whatever becomes of them; another polls Redis for a sample
of them. PostgreSQL, Kafka, Connect with Debezium, Redis, the worker, the writer and the reader share the machine; the
lake is flushed every second meanwhile. Beside it the floor: the same commits to a bare Kafka consumer, no worker
running. Then the same with an embedding view, 50 of whose texts change every second meanwhile, until the vector of the
new text is what a search would find.

Run: python -m benchmarks.freshness [--seconds 60] [--rate 500]
"""

import argparse
import multiprocessing
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import psycopg
import pyarrow as pa
import redis
import sqlalchemy as sa
from confluent_kafka import Consumer

from benchmarks.drain import INSERT
from benchmarks.platform import Platform, Row, platform, wait
from millrace.wiring import flows
from stores.entity_keys import entity_keys
from stores.fields import fields_of
from stores.operations import command
from stores.vector_tables import vector_table
from stores.view import View

ROWS = 10_000
FLOOR_SECONDS = 15.0
POLL_SECONDS = 0.001
SELECT_SECONDS = 0.005  # between two looks into PostgreSQL, of which each takes a millisecond of the machine
PATIENCE_SECONDS = 10.0
WARM_SECONDS = 10.0
WARM_STACK_SECONDS = 60.0  # of the same commits: a Java machine that has just started still compiles what it runs
TEXTS = 1_000
# Values of each stretch, above the last and within the contract.
FIRST = (100_000, 200_000, 300_000, 400_000, 600_000)

AMOUNT = "UPDATE payments SET amount = %(value)s, updated_at = now() WHERE id = %(row)s"
TEXT = "UPDATE notes SET text = 'a note about payment ' || %(row)s || ' of ' || %(value)s::text WHERE id = %(row)s"
NOTES = "INSERT INTO notes SELECT i, 'a note of 0' FROM generate_series(1, :rows) AS i"

PROCESSES = multiprocessing.get_context("spawn")

Sent = tuple[int, float, float]
"""The row, its new value, and the moment just before its COMMIT."""

Look = Callable[[dict[int, Sent]], Iterator[int]]
"""Yields those of the awaited rows whose value is there."""


def commit(
    url: str,
    statement: str,
    rows: int,
    first: int,
    rate: float,
    seconds: float,
    sampled: int,
    start: Barrier,
    sent: "SimpleQueue[Sent | None]",
) -> None:
    """Commit `rate` updates a second, with ascending values from `first` on; tell of one in `sampled`."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        start.wait()
        begun = time.perf_counter()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            row, value = 1 + number % rows, first + number + 0.5
            cursor.execute(statement, {"value": value, "row": row}, prepare=True)
            moment = time.time()
            connection.commit()
            if number % sampled == 0:
                sent.put((row, value, moment))
    sent.put(None)


def arrivals(sent: "SimpleQueue[Sent | None]", look: Look) -> list[float]:
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


def from_redis(target: Platform) -> Look:
    """Looks at what a model service would read."""
    flow = flows(target.repo)["load.public.payments"]
    view = flow.views[0].view
    field = fields_of(view).features[[f.name for f in view.features].index("amount")]
    # Packed ahead, and without redis-py's pipeline: what the reader takes of the machine, the platform lacks.
    asked = {row: command(b"HGET", name, field) for row, name in _entity_keys(view, ROWS).items()}
    client = redis.Redis.from_url(f"redis://{target.stack.endpoints().redis}")
    connection: Any = client.connection_pool.get_connection()  # redis-py's connections have no types

    def look(awaited: dict[int, Sent]) -> Iterator[int]:
        connection.send_packed_command([b"".join(map(asked.__getitem__, awaited))])
        for row, value, _ in list(awaited.values()):
            stored = connection.read_response(disable_decoding=True)
            if stored and struct.unpack("<d", stored[1:])[0] >= value:
                yield row

    return look


def _entity_keys(view: View, rows: int) -> dict[int, bytes]:
    """The entity key of each row from 1 on."""
    return dict(
        enumerate(entity_keys(view).encode(pa.table({"id": pa.array(range(1, rows + 1), pa.int64())})).to_pylist(), 1)
    )


def from_kafka(target: Platform) -> tuple[Consumer, Look]:
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


@dataclass(frozen=True, slots=True)
class Commits:
    """A writer in a process of its own: `statement` sets a `value` in a `row` of so many."""

    target: Platform
    statement: str
    rows: int
    rate: float
    sampled: int

    def seen_by(
        self, look: Look, first: int, seconds: float, start: Barrier | None = None
    ) -> "npt.NDArray[np.float64]":
        """The median and the 99th percentile of the milliseconds until `look` saw the commits of a stretch. Writers
        that share a `start` begin together: to start a process takes a core for seconds."""
        sent: SimpleQueue[Sent | None] = PROCESSES.SimpleQueue()
        url = self.target.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        arguments = (
            url,
            self.statement,
            self.rows,
            first,
            self.rate,
            seconds,
            self.sampled,
            start or PROCESSES.Barrier(1),
            sent,
        )
        writer = PROCESSES.Process(target=commit, args=arguments)
        writer.start()
        taken = arrivals(sent, look)
        writer.join()
        return np.percentile(taken, [50, 99])


@contextmanager
def from_vectors(target: Platform) -> Iterator[Look]:
    """Looks at the rows that a search would find: those that have the new text and a vector."""
    url = sa.make_url(target.repo.config.online_store.vectors).set(drivername="postgresql")
    view = flows(target.repo)["load.public.notes"].views[0].view
    names = _entity_keys(view, TEXTS)
    seen = f"SELECT id, text FROM {vector_table(view).name} WHERE _entity_key = ANY(%s) AND embedding IS NOT NULL"
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        next_look = 0.0

        def look(awaited: dict[int, Sent]) -> Iterator[int]:
            nonlocal next_look
            if time.monotonic() < next_look:
                return
            next_look = time.monotonic() + SELECT_SECONDS
            for row, found in connection.execute(seen, [[names[row] for row in awaited]], prepare=True).fetchall():
                if float(found.split()[-1]) >= awaited[row][1]:
                    yield row

        yield look


def rows(seconds: float = 60.0, rate: float = 500.0) -> Iterator[Row]:
    """On a warm stack the floor, then the platform, then the platform with texts."""
    with platform() as target:
        with target.engine.begin() as connection:
            connection.execute(sa.text(INSERT), {"rows": ROWS})
            connection.execute(sa.text(NOTES), {"rows": TEXTS})
        target.command("apply")
        wait(lambda: target.ends()[1] >= ROWS + TEXTS, "the snapshot")
        payments = Commits(target, AMOUNT, ROWS, rate, 5)
        consumer, look = from_kafka(target)
        consumer.subscribe(["load.public.payments"])
        wait(lambda: consumer.consume(1_000, 0.1) == [] and bool(consumer.assignment()), "the floor's consumer")
        payments.seen_by(look, FIRST[0], WARM_STACK_SECONDS)
        floor = payments.seen_by(look, FIRST[1], FLOOR_SECONDS)
        consumer.close()
        with target.workers() as (worker,):
            wait(lambda: worker.committed() >= target.ends()[1], "the worker to catch up")
            payments.seen_by(from_redis(target), FIRST[2], WARM_SECONDS)
            before, begun = worker.cpu_seconds(), time.monotonic()
            p50, p99 = payments.seen_by(from_redis(target), FIRST[3], seconds)
            busy = (worker.cpu_seconds() - before) / (time.monotonic() - begun)
            with from_vectors(target) as searchable, ThreadPoolExecutor() as beside:
                start = PROCESSES.Barrier(2)
                other = beside.submit(payments.seen_by, from_redis(target), FIRST[4], seconds / 2, start)
                texts = Commits(target, TEXT, TEXTS, 50, 1).seen_by(searchable, FIRST[0], seconds / 2, start)
                with_texts = other.result()
    yield Row("freshness, p50", p50, "ms", "15", {"Debezium to a bare consumer": floor[0]})
    yield Row("freshness, p99", p99, "ms", "50", {"Debezium to a bare consumer": floor[1]})
    yield Row("freshness, processor of the worker", 100 * busy, "% of a core")
    yield Row("freshness of vectors, p99", texts[1], "ms", "100", {"p50": texts[0], "features, p99": with_texts[1]})


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=500.0)
    options = parser.parse_args()
    for row in rows(options.seconds, options.rate):
        row.print()


if __name__ == "__main__":
    main()
