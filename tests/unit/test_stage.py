"""What is staged: joined for the lake while the loop looks at it."""

import pyarrow as pa

from streams.stage import Batch


def test_what_the_loop_looks_at_stays_whole_while_it_is_joined() -> None:
    batch = Batch(since=0.0)
    for number in range(3):
        batch.put("changes/t", "t", pa.table({"n": [number]}))
    seen = batch.tables["changes/t"]
    assert batch.join("changes/t")["n"].to_pylist() == [0, 1, 2]
    assert [part["n"].to_pylist() for part in seen] == [[0], [1], [2]]
    assert [part["n"].to_pylist() for part in batch.tables["changes/t"]] == [[0, 1, 2]]


def test_nothing_lost_is_nothing_counted_again() -> None:
    """After every poll the loop asks for what was lost, and rarely was anything: it must not cost what is staged."""
    batch = Batch(since=0.0)
    batch.put("changes/orders", "orders", pa.table({"id": [1, 2]}))
    counted = batch.rows, batch.bytes
    batch.tables.clear()
    batch.drop([])
    assert (batch.rows, batch.bytes) == counted
