"""`make fuzz-serving`: many requests against a real server on a real Redis."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import Fuzz, Wrong
from tests.integration.serving_repo import make_repo, millrace
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
    store, began = RedisServer().start(), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            make_repo(Path(folder), store.port)
            with millrace(Path(folder)) as server:
                assert server.process is not None
                fuzz = Fuzz(server.url, server.process.pid, lambda text: print(text, flush=True))
                document = server.ask("/openapi.json")[1]
                fuzz.run(document, arguments.seed, min(WARM, arguments.requests))
                warm = fuzz.memory()
                fuzz.run(document, arguments.seed + 1, arguments.requests)
                grown = fuzz.memory() - warm
                seconds = time.monotonic() - began
    except Wrong as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 1
    finally:
        store.stop()
    print(
        f"{fuzz.sent:,} requests in {seconds:,.0f} s: {dict(sorted(fuzz.statuses.items()))}; grew {grown / 1e6:,.0f} MB"
    )
    if grown > GROWTH:
        print(f"error: the server grew by {grown / 1e6:,.0f} MB", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
