"""24 writers of features, each a thread with a connection of its own: updates of 20 entities, ten times a second."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import numpy as np
import pyarrow as pa

from benchmarks.serving_repo import ENTITIES, rows
from stores.online import RedisAddress, RedisOnline
from stores.rows import FeatureRows

WRITERS, UPDATES, EVERY_SECONDS = 24, 20, 0.1
PREPARED = 50
"""Batches made ahead, so that what is measured beside is the writing of them."""


@contextmanager
def live_writers(redis_port: int) -> Iterator[None]:
    """Writers in a process of their own, as long as the body runs; it begins once all of them have written."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=write, args=(redis_port, ready, stop))
    process.start()
    try:
        ready.wait(60)
        yield
    finally:
        stop.set()
        process.join(30)
    if process.exitcode:
        raise RuntimeError(f"the writers ended with exit code {process.exitcode}")


def newer(batch: FeatureRows) -> FeatureRows:
    """The same values as later changes, so that none is refused."""
    place = batch.table.schema.get_field_index("_lsn")
    lsn = pa.array(np.full(len(batch.table), time.monotonic_ns()))
    return FeatureRows(batch.view, batch.table.set_column(place, batch.table.schema.field(place), lsn))


def write(redis_port: int, ready: Event, stop: Event) -> None:
    """Write until told to stop."""
    rng = np.random.default_rng(7)
    batches = [rows("driver_hourly", rng.choice(ENTITIES, UPDATES, replace=False), n) for n in range(PREPARED)]
    store = RedisOnline(RedisAddress.parse(f"127.0.0.1:{redis_port}"), 3_600)
    begun = threading.Barrier(WRITERS + 1)

    def update(number: int) -> None:
        store.write([newer(batches[number])])
        begun.wait()
        due = time.monotonic() + EVERY_SECONDS * number / WRITERS
        while not stop.wait(max(0.0, due - time.monotonic())):
            number += 1
            store.write([newer(batches[number % PREPARED])])
            due += EVERY_SECONDS

    threads = [threading.Thread(target=update, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    begun.wait()
    ready.set()
    for thread in threads:
        thread.join()
