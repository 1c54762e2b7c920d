"""How fast letters come back: every row of a table was rejected, then the contract is mended and all are replayed.

100,000 rows are captured that the contract takes no country of, so that each becomes a letter, and a tenth of them is
then changed to one that it takes. With the mended contract the pace is that from the start of `millrace letters
replay` until the worker has committed the last record, which is after the online store and the lake hold everything.
The run fails unless online and in the lake every row is there once, the changed ones as they were changed.

Run: python -m benchmarks.letters [--letters 100000]
"""

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
from sqlalchemy import text

from benchmarks.drain import INSERT
from benchmarks.platform import Platform, Row, platform, wait
from millrace.wiring import flows, lake, online
from stores.history import newest
from streams.decide import changes_table

TOPIC = "load.public.payments"
TAKEN, MENDED = "^[A-Z]{2}$", "^[A-Za-z]{2}$"
BAD = INSERT.replace("(ARRAY['DE', 'FR', 'US', 'JP', 'BR'])[1 + i % 5]", "'xx'")
NEWER = "UPDATE payments SET country = 'ZZ' WHERE id % 10 = 0"


class Wrong(Exception):
    """What stands in the stores is not what was replayed."""


def rows(letters: int = 100_000) -> Iterator[Row]:
    """Letters a second, from the command until they are online, in the lake and committed."""
    with _with_own_repo() as target:
        target.command("apply")
        with target.engine.begin() as connection:
            connection.execute(text(BAD), {"rows": letters})
        with target.engine.begin() as connection:
            newer = connection.execute(text(NEWER)).rowcount
        with target.workers() as (worker,):
            wait(lambda: worker.committed() >= letters + newer, "the letters")
        contract = target.repo_path / "contracts" / "public.payments.json"
        contract.write_text(contract.read_text().replace(TAKEN, MENDED))
        with target.workers() as (worker,):
            begun = time.monotonic()
            target.command("letters", "replay", "--all")
            sent = time.monotonic() - begun
            wait(lambda: worker.committed() >= 2 * letters + newer, "the replayed letters")
            seconds = time.monotonic() - begun
        _check(target, letters, newer)
    yield Row("letters replayed", letters / seconds, "letters/s", "", {"sent, letters/s": letters / sent})


@contextmanager
def _with_own_repo() -> Iterator[Platform]:
    """The platform with a copy of its repo, whose contract can be mended, and workers that pause no table."""
    with platform() as made:
        copy = made.folder / "repo"
        shutil.copytree(made.repo_path, copy)
        os.environ["MILLRACE__WORKER__REJECT_SHARE"] = "1"
        yield replace(made, repo_path=copy)


def _check(target: Platform, letters: int, newer: int) -> None:
    """Raises `Wrong` unless all stands where it must, once, and nothing older over the newer."""
    repo = target.repo
    view = flows(repo)[TOPIC].views[0].view
    ids = np.arange(1, letters + 1)
    expected = np.where(ids % 10 == 0, "ZZ", "xx")
    (served,) = online(repo).read([view], pa.table({"id": ids}))
    kept = newest(lake(repo), view).sort_by("id")
    changes = lake(repo).scan(changes_table(TOPIC), ["id", "_lsn"]).read_all()
    distinct = changes.group_by(["id", "_lsn"]).aggregate([]).num_rows
    if not np.array_equal(served["country"].to_numpy(), expected):
        raise Wrong("online, rows are missing or older than the newest")
    if not (np.array_equal(kept["id"], ids) and np.array_equal(kept["country"].to_numpy(), expected)):
        raise Wrong("in the lake, rows are missing or older than the newest")
    if not changes.num_rows == distinct == letters + newer:
        raise Wrong(f"the lake has {changes.num_rows} changes, {distinct} of them distinct, of {letters + newer}")


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=100_000)
    for row in rows(parser.parse_args().letters):
        row.print()


if __name__ == "__main__":
    main()
