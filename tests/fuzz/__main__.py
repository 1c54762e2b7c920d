"""`make fuzz-serving`: many requests against a real server with a real Redis and a vector store, in the PostgreSQL of a
stack of its own; every fourth part of them against one that asks for keys."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace.stack.endpoints import Endpoints
from millrace.stack.jars import default_jars
from millrace.stack.stack import Stack
from tests.fuzz.run import Fuzz, Wrong
from tests.fuzz.vectors import add_vectors
from tests.integration.database import new_database
from tests.integration.serving_repo import make_repo, millrace, new_key
from tests.redis_server import RedisServer

WARM = 2_000
"""Requests after which the server's memory is taken as its own."""
GROWTH = 150e6
"""Bytes that it may grow by from then on: plans, values met before and Python's arenas are bounded."""


def main() -> int:
    """Exit code 0 if every answer was one that a request may get."""
    parser = argparse.ArgumentParser(prog="make fuzz-serving", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    store = RedisServer().start()
    try:
        with started_stack() as endpoints, new_database(endpoints.postgres) as database, folder_of_its_own() as folder:
            began = time.monotonic()
            make_repo(folder, store.port)
            add_vectors(folder, store.port, database.url)
            key = new_key(folder, "fuzz")
            runs = [
                fuzzed(folder, arguments.seed, arguments.requests * 3 // 4),
                fuzzed(folder, arguments.seed + 2, arguments.requests // 4, key),
            ]
            seconds = time.monotonic() - began
    except Wrong as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 1
    finally:
        store.stop()
    statuses = sum((fuzz.statuses for fuzz, _ in runs), Counter())
    grown = max(grown for _, grown in runs)
    print(f"{statuses.total():,} requests in {seconds:,.0f} s: {dict(sorted(statuses.items()))}; {grown / 1e6:,.0f} MB")
    if grown > GROWTH:
        print(f"error: the server grew by {grown / 1e6:,.0f} MB", file=sys.stderr)
        return 1
    return 0


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """Removed afterwards. PostgreSQL runs as another user, who must get there."""
    with tempfile.TemporaryDirectory(prefix="millrace-fuzz-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def started_stack() -> Iterator[Endpoints]:
    """A local stack, stopped and removed afterwards."""
    with folder_of_its_own() as folder:
        stack = Stack(folder, default_jars())
        try:
            yield stack.up(lambda line: print(line, file=sys.stderr))
        finally:
            stack.down(lambda line: None)


def fuzzed(folder: Path, seed: int, requests: int, key: str = "") -> tuple[Fuzz, int]:
    """What so many requests came to, and by how many bytes the server grew. Raises `Wrong`."""
    with millrace(folder, *(["--with-keys"] if key else [])) as server:
        assert server.process is not None
        fuzz = Fuzz(server.url, server.process.pid, key, lambda text: print(text, flush=True))
        document = server.ask("/openapi.json", headers={"authorization": f"Bearer {key}"} if key else {})[1]
        fuzz.run(document, seed, min(WARM, requests))
        warm = fuzz.memory()
        fuzz.run(document, seed + 1, requests)
        return fuzz, fuzz.memory() - warm


sys.exit(main())
