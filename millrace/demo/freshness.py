"""Freshness, measured from outside: a reader that polls the online store until it sees each commit."""

import queue
import threading
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from millrace.demo.traffic import Commit
from stores.rows import FeatureReader
from stores.view import View

PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Awaited:
    """A commit that a reader waits for: once the plane's event time is at least this, it is readable."""

    tailnum: str
    updated_at: pd.Timestamp
    committed: float


class Freshness:
    """Polls the last flight of planes; `milliseconds` holds, for each commit seen, how long it took from
    before its COMMIT to the poll that saw it. A commit that a later one of the same plane overtook counts
    when that one is seen."""

    def __init__(self, reader: FeatureReader, view: View) -> None:
        self._reader = reader
        self._view = view
        self._new: queue.SimpleQueue[Awaited] = queue.SimpleQueue()
        self._done = threading.Event()
        self.milliseconds: list[float] = []
        self.unseen = 0
        self._thread = threading.Thread(target=self._poll, name="freshness", daemon=True)
        self._thread.start()

    def committed(self, commit: Commit, moment: float) -> None:
        """Start to wait for a commit; `moment` is `time.time()` just before it."""
        if commit.tailnum is not None and commit.updated_at is not None:
            self._new.put(Awaited(commit.tailnum, commit.updated_at, moment))

    def finish(self) -> None:
        """Wait until every commit was seen, or patience ends."""
        self._done.set()
        self._thread.join(PATIENCE_SECONDS)

    def summary(self) -> dict[str, float]:
        """p50 and p99 in milliseconds, and how many were seen and not seen."""
        if not self.milliseconds:
            return {"p50": float("nan"), "p99": float("nan"), "seen": 0, "unseen": self.unseen}
        p50, p99 = np.percentile(self.milliseconds, [50, 99])
        return {
            "p50": round(float(p50), 1),
            "p99": round(float(p99), 1),
            "seen": len(self.milliseconds),
            "unseen": self.unseen,
        }

    def _poll(self) -> None:
        waiting: list[Awaited] = []
        while True:
            while not self._new.empty():
                waiting.append(self._new.get())
            if not waiting and self._done.is_set():
                return
            time.sleep(POLL_SECONDS)
            waiting = self._look(waiting) if waiting else []

    def _look(self, waiting: list[Awaited]) -> list[Awaited]:
        keys = pa.table({"tailnum": [awaited.tailnum for awaited in waiting]})
        (table,) = self._reader.read([self._view], keys)
        now = time.time()
        remaining = []
        for awaited, seen in zip(waiting, table["event_timestamp"].to_pylist(), strict=True):
            if seen is not None and seen >= awaited.updated_at:
                self.milliseconds.append(1_000 * (now - awaited.committed))
            elif now - awaited.committed < PATIENCE_SECONDS:
                remaining.append(awaited)
            else:
                self.unseen += 1
        return remaining
