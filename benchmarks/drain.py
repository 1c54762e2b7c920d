"""How fast one worker drains a backlog: 500,000 changes of a 12-column table through a contract of ten expectations
into a view of ten features, online and in the lake. Beside it Debezium's own pace for the same changes, and Feast's
`write_to_online_store` into the same Redis.

Run: python -m benchmarks.drain [--changes 500000]
"""

import argparse
import time
from datetime import UTC, datetime

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
AT_ONCE = 1_000


def load(target: Platform, changes: int) -> float:
    """Commit the changes in transactions of a thousand; how many seconds until Debezium has them in Kafka."""
    begun = time.monotonic()
    before = target.ends()[1]
    with target.engine.begin() as connection:
        connection.execute(text(INSERT), {"rows": min(ROWS, changes)})
    turn, made = 0, min(ROWS, changes)
    while made < changes:
        turn += 1
        for low in range(1, min(ROWS, changes - made) + 1, AT_ONCE):
            with target.engine.begin() as connection:
                connection.execute(text(UPDATE), {"turn": turn, "low": low, "high": low + AT_ONCE - 1})
            made += AT_ONCE
    wait(lambda: target.ends()[1] >= before + changes, "Debezium to capture the load")
    return time.monotonic() - begun


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


def drain(target: Platform, changes: int) -> tuple[float, float, float]:
    """Seconds from the first to the last committed offset, scaled to all; the worker's most memory in MB; its
    processor time in microseconds a change."""
    most = 0.0
    with target.worker() as worker:
        idle = worker.cpu_seconds()
        begun = time.monotonic()
        while worker.committed() < changes:
            most = max(most, worker.memory_mb())
            time.sleep(0.05)
        return time.monotonic() - begun, most, (worker.cpu_seconds() - idle) / changes * 1e6


def main() -> None:
    """Load, then drain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=500_000)
    changes = parser.parse_args().changes
    with platform() as target:
        target.command("apply")
        captured = changes / load(target, changes)
        seconds, memory, cpu = drain(target, changes)
        feast = feast_rate(target)
    rate = changes / seconds
    Row("drain, one worker", rate, "changes/s", "60000", {"Debezium": captured, "Feast": feast}).print()
    Row("drain, times Feast", rate / feast, "x", "4").print()
    Row("drain, memory of the worker", memory, "MB", "600").print()
    Row("drain, processor time of the worker", cpu, "us/change").print()


if __name__ == "__main__":
    main()
