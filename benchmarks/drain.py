"""How fast workers drain a backlog: 500,000 changes of a 12-column table through a contract of ten expectations into a
view of ten features, online and in the lake. Beside it Debezium's own pace for the same changes, and Feast's
`write_to_online_store` into the same Redis. Then updates of which a hundredth is rejected, in turns with others of
which none is, and the first backlog by two workers on two partitions.

Run: python -m benchmarks.drain [--changes 500000]
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

import numpy as np
import pandas as pd
from sqlalchemy import text

from benchmarks.platform import Platform, Row, platform, wait

ROWS = 100_000
FEAST_ROWS = 20_000

INSERT = """
INSERT INTO payments SELECT i, i % 977, (i % 100000) / 7.0, (i % 900) + 0.25, 1 + i % 50, (i % 1000) / 1000.0,
    (ARRAY['open', 'paid', 'refunded', 'failed'])[1 + i % 4], (ARRAY['DE', 'FR', 'US', 'JP', 'BR'])[1 + i % 5],
    CASE WHEN i % 10 > 0 THEN 'device-' || i % 5000 END, i % 3 = 0, '2024-01-01', '2024-01-02'
FROM generate_series(1, :rows) AS i
"""
UPDATE = """
UPDATE payments SET amount = amount + :turn, items = 1 + (items + :turn) % 50, confirmed = NOT confirmed,
    updated_at = updated_at + interval '1 minute' WHERE id BETWEEN :low AND :high
"""
CLEAN = ", country = 'DE', fee = 1.5 WHERE"
SPOILED = {
    "rejected by the contract": ", country = CASE WHEN id % 100 = :turn THEN 'xx' ELSE 'DE' END, fee = 1.5 WHERE",
    "that no column takes": ", country = 'DE', fee = CASE WHEN id % 100 = :turn THEN 'NaN' ELSE 1.5 END WHERE",
}
ROUNDS = 3
AT_ONCE = 1_000
LOOK_SECONDS = 0.2


def load(target: Platform, changes: int) -> float:
    """Commit the changes in transactions of a thousand, inserts and then updates of them; how many seconds until
    Debezium has them in Kafka."""
    begun, rows = time.monotonic(), min(ROWS, changes)
    before = target.ends()[1]
    with target.engine.begin() as connection:
        connection.execute(text(INSERT), {"rows": rows})
    update(target, changes - rows, UPDATE)
    wait(lambda: target.ends()[1] >= before + changes, "Debezium to capture the load")
    return time.monotonic() - begun


def update(target: Platform, changes: int, statement: str) -> None:
    """Commit so many updates of the rows, and wait until Debezium has them in Kafka."""
    before, turn, made = target.ends()[1], 0, 0
    while made < changes:
        turn += 1
        for low in range(1, min(ROWS, changes - made) + 1, AT_ONCE):
            with target.engine.begin() as connection:
                connection.execute(text(statement), {"turn": turn, "low": low, "high": low + AT_ONCE - 1})
            made += AT_ONCE
    wait(lambda: target.ends()[1] >= before + changes, "Debezium to capture the updates")


def feast_rate(target: Platform) -> float:
    """Rows a second of Feast's own `write_to_online_store`, of the same view into the same Redis."""
    rng = np.random.default_rng(1)
    now = datetime.now(UTC)
    frame = pd.DataFrame(
        {
            "id": np.arange(FEAST_ROWS) + 10_000_000,
            "account": np.arange(FEAST_ROWS),
            "amount": rng.random(FEAST_ROWS),
            "fee": rng.random(FEAST_ROWS),
            "items": rng.integers(1, 50, FEAST_ROWS).astype("int32"),
            "score": rng.random(FEAST_ROWS).astype("float32"),
            "status": "paid",
            "country": "DE",
            "device": [f"device-{i % 5_000}" for i in range(FEAST_ROWS)],
            "confirmed": True,
            "updated_at": now,
            "_commit_ts": now,
        }
    )
    repo = target.repo
    repo.store.write_to_online_store("payment_facts", df=frame.head(100))
    begun = time.monotonic()
    repo.store.write_to_online_store("payment_facts", df=frame)
    return FEAST_ROWS / (time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain took: changes a second, the most memory of a worker in MB, processor time of all workers in
    microseconds a change."""

    rate: float
    memory: float
    processor: float


def drain(target: Platform, workers: int = 1) -> Drained:
    """Drain the topic, timed from the moment at which every worker has a partition."""
    most, (first, end) = 0.0, target.ends()
    with target.workers(workers) as members:
        processor = sum(member.cpu_seconds() for member in members)
        first, begun = max(first, sum(member.committed() for member in members)), time.monotonic()
        while sum(member.committed() for member in members) < end:
            most = max(most, *(member.memory_mb() for member in members))
            time.sleep(LOOK_SECONDS)
        seconds, done = time.monotonic() - begun, end - first
        processor = sum(member.cpu_seconds() for member in members) - processor
    return Drained(done / seconds, most, processor / done * 1e6)


def one_worker(changes: int) -> Iterator[Row]:
    """One partition, one worker; then updates of which a hundredth is rejected, and between them as many of which none
    is."""
    with platform() as target:
        target.command("apply")
        captured = changes / load(target, changes)
        clean = drain(target)
        feast = feast_rate(target)
        yield Row("drain, one worker", clean.rate, "changes/s", "60000", {"Debezium": captured, "Feast": feast})
        yield Row("drain, times Feast", clean.rate / feast, "x", "4")
        yield Row("drain, memory of the worker", clean.memory, "MB", "under 600")
        yield Row("drain, processor time of the worker", clean.processor, "us/change")
        for why, spoiling in SPOILED.items():
            yield _lost(target, changes // 2, why, spoiling)


def _lost(target: Platform, changes: int, why: str, spoiling: str) -> Row:
    """What is lost of the pace, by the medians of as many drains with and without, in turns."""
    clean, spoiled = list[Drained](), list[Drained]()
    for _ in range(ROUNDS):
        for ending, drained in ((CLEAN, clean), (spoiling, spoiled)):
            update(target, changes, UPDATE.replace("WHERE", ending))
            drained.append(drain(target))
    rates = [median(one.rate for one in drained) for drained in (clean, spoiled)]
    times = [median(one.processor for one in drained) for drained in (clean, spoiled)]
    beside = {"changes/s": rates[1], "without": rates[0], "processor us/change": times[1], "of without": times[0]}
    return Row(f"drain, throughput lost with 1 % {why}", 100 * (1 - rates[1] / rates[0]), "%", "under 10", beside)


def two_workers(changes: int) -> Iterator[Row]:
    """Two partitions, one worker and then two."""
    with platform(partitions=2) as target:
        target.command("apply")
        load(target, changes)
        alone = drain(target).rate
        target.forget("again")
        together = drain(target, workers=2).rate
    yield Row("drain, two workers on two partitions", together / alone, "x", "1.7", {"one worker, changes/s": alone})


def rows(changes: int = 500_000) -> Iterator[Row]:
    """All measurements."""
    yield from one_worker(changes)
    yield from two_workers(changes)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=500_000)
    for row in rows(parser.parse_args().changes):
        row.print()


if __name__ == "__main__":
    main()
