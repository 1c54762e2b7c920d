"""Two log lines a snapshot, however many rows it has: when its rows begin to come, and when no more do."""

import logging

from streams.tally import Tally

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""So long without a row of it a snapshot counts as read: at this worker, which sees its own partitions only."""
LOOK_SECONDS = 1.0


class SnapshotLog:
    """Follows the snapshots of all tables by what the tally counts of them."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._seen: dict[str, int] = {}
        self._began: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._look_next = 0.0

    def tick(self, now: float) -> None:
        """Look at the counts, at most once in LOOK_SECONDS of the monotonic clock that `now` is of."""
        if now < self._look_next:
            return
        self._look_next = now + LOOK_SECONDS
        for topic, counts in self._tally.topics.items():
            rows, before = counts["snapshot"], self._seen.get(topic, 0)
            if rows > before:
                if topic not in self._last:
                    self._began[topic] = before
                    log.info("a snapshot of %s begins", topic, extra={"event": "snapshot_begins", "table": topic})
                self._seen[topic], self._last[topic] = rows, now
            elif topic in self._last and now >= self._last[topic] + QUIET_SECONDS:
                read = rows - self._began.pop(topic)
                del self._last[topic]
                told = {"event": "snapshot_read", "table": topic, "rows": read}
                log.info("a snapshot of %s is read", topic, extra=told)
