"""How soon an event view's value is the newest remaining row, once the row that gave it moves back in time.

A table has two rows a customer; updates at a fixed rate take the later one of a customer back behind the other, whose
value must be read online then. 500 updates a second of another table go by meanwhile. The lake, from which such values
are decided, is flushed every second (`worker.flush_seconds`).

Run: python -m benchmarks.decided_anew
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from sqlalchemy import text

from benchmarks.drain import INSERT
from benchmarks.freshness import AMOUNT, FIRST, ROWS, WARM_SECONDS, Commits, Look, Sent, from_redis
from benchmarks.platform import Platform, Row, platform, wait
from millrace.wiring import flows, online

RATE, SECONDS = 20, 30
CUSTOMERS = RATE * SECONDS
VISITS = """
INSERT INTO visits SELECT 2 * i - later % 2, i, timestamptz '2024-01-01' + later * interval '1 day'
FROM generate_series(1, :customers) AS i, generate_series(1, 2) AS later
"""
BACK = "UPDATE visits SET at = at - interval '2 days' WHERE id = 2 * %(row)s"


def rows() -> Iterator[Row]:
    """Median and 99th percentile from the commit to the value."""
    with platform() as target:
        with target.engine.begin() as connection:
            connection.execute(text(INSERT), {"rows": ROWS})
            connection.execute(text(VISITS), {"customers": CUSTOMERS})
        target.command("apply")
        wait(lambda: target.ends()[1] >= ROWS + 2 * CUSTOMERS, "the snapshot")
        with target.workers() as (worker,), ThreadPoolExecutor() as beside:
            wait(lambda: worker.committed() >= target.ends()[1], "the worker to catch up")
            payments = Commits(target, AMOUNT, ROWS, 500, 5)
            payments.seen_by(from_redis(target), FIRST[0], WARM_SECONDS)
            other = beside.submit(payments.seen_by, from_redis(target), FIRST[1], SECONDS)
            visits = Commits(target, BACK, CUSTOMERS, RATE, 1)
            p50, p99 = visits.seen_by(_remaining(target), 0, SECONDS)
            features = other.result()
    yield Row(
        "event view decided anew, p99", p99, "ms", "1,000 and a flush", {"p50": p50, "features, p99": features[1]}
    )


def _remaining(target: Platform) -> Look:
    """Looks for customers whose last visit is the earlier of the two."""
    view = flows(target.repo)["load.public.visits"].views[0].view
    store = online(target.repo)

    def look(awaited: dict[int, Sent]) -> Iterator[int]:
        customers = list(awaited)
        (found,) = store.read([view], pa.table({"customer": pa.array(customers, pa.int64())}))
        for customer, visit in zip(customers, found["visit"].to_pylist(), strict=True):
            if visit == 2 * customer - 1:
                yield customer

    return look


def main() -> None:
    """Print the row."""
    for row in rows():
        row.print()


if __name__ == "__main__":
    main()
