"""How long it takes from nothing running to a feature that can be read: `millrace up` on an empty folder, a table
with a row, `millrace apply`, `millrace run`, until Redis answers with the row's features.

Run: python -m benchmarks.cold_start
"""

import time
from collections.abc import Iterator

import redis
from sqlalchemy import text

from benchmarks.drain import INSERT
from benchmarks.platform import Row, platform, wait


def rows() -> Iterator[Row]:
    """All measurements."""
    begun = time.monotonic()
    with platform() as target:
        up = time.monotonic() - begun
        with target.engine.begin() as connection:
            connection.execute(text(INSERT), {"rows": 1})
        target.command("apply")
        applied = time.monotonic() - begun
        client = redis.Redis.from_url(f"redis://{target.stack.endpoints().redis}")
        with target.workers():
            # redis-py's types let an answer be one to await.
            wait(lambda: bool(client.dbsize()), "the first feature", 0.01)
            seconds = time.monotonic() - begun
    yield Row("cold start, to the first feature", seconds, "s", "15", {"millrace up": up, "millrace apply": applied})


if __name__ == "__main__":
    for row in rows():
        row.print()
