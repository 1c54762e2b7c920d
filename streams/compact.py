"""Compaction beside the flush: a flush adds a file to each table, and many small files slow every reader down."""

import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from stores.errors import StoreUnavailable
from stores.lake import Lake
from streams.stage import LakeTable

log = logging.getLogger(__name__)

FLUSHES = 64
"""Flushes of a table between two compactions: its small files stay below about as many for each worker."""


class Compactor:
    """Compacts one table at a time on a thread of its own. A compaction that fails, because the lake is away or
    another worker was faster, is left to the next: it changes no rows."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._flushes: Counter[LakeTable] = Counter()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compact")
        self._running: Future[int] | None = None

    def flushed(self, tables: Iterable[LakeTable]) -> None:
        """Count a flush of these tables, and begin to compact the one that needs it most; never waits."""
        self._flushes.update(dict.fromkeys(tables, 1))
        if self._running is not None and not self._running.done():
            return
        self._collect()
        if self._flushes:
            table, flushes = self._flushes.most_common(1)[0]
            if flushes >= FLUSHES:
                del self._flushes[table]
                self._running = self._thread.submit(self._lake.compact, table)

    def close(self) -> None:
        """Wait for a compaction that is under way."""
        self._thread.shutdown(wait=True)
        self._collect()

    def _collect(self) -> None:
        """Raises what a compaction raised, but for a lake that is away."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.result()
        except StoreUnavailable as error:
            log.warning("a compaction is put off: %s", error, extra={"event": "compaction_failed"})
