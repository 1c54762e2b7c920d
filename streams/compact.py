"""Compaction beside the flush: a flush adds a file to each table, and many small files slow every reader down."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import Executor, Future

from stores.errors import StoreUnavailable
from stores.lake import Lake
from streams.stage import LakeTable

log = logging.getLogger(__name__)

FLUSHES = 64
"""Flushes of a table between two compactions: its small files stay below about as many for each worker."""

READ = 4
"""How many flushes one counts for in which entities were decided from the table: each file makes that slower."""


class Compactor:
    """Compacts one table at a time, on a thread of `executor`. A compaction that fails, because the lake is away or
    another worker was faster, is left to the next: it changes no rows."""

    def __init__(self, lake: Lake, executor: Executor) -> None:
        self._lake = lake
        self._flushes: Counter[LakeTable] = Counter()
        self._executor = executor
        self._running: Future[int] | None = None

    def flushed(self, tables: Iterable[LakeTable], read: Collection[LakeTable]) -> None:
        """Count a flush of these tables, from some of which entities were decided (`read`), and begin to compact the
        one that needs it most; never waits."""
        self._flushes.update({table: READ if table in read else 1 for table in tables})
        if self._running is not None and not self._running.done():
            return
        self.collect()
        if self._flushes:
            table, flushes = self._flushes.most_common(1)[0]
            if flushes >= FLUSHES:
                del self._flushes[table]
                self._running = self._executor.submit(self._lake.compact, table)

    def collect(self) -> None:
        """Wait for a compaction that is under way. Raises what it raised, but for a lake that is away."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.result()
        except StoreUnavailable as error:
            log.warning("a compaction is put off: %s", error, extra={"event": "compaction_failed"})
