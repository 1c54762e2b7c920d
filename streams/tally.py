"""What a worker did so far, counted by topic; nothing here is on the path of a single record."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from stores.rows import WriteResult
from streams.embed import Embedded
from streams.messages import Partition
from streams.pipeline import Outcome


class Tally:
    """Counters of one worker. Written by its loop, read by the health endpoint."""

    def __init__(self) -> None:
        self._topics: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._stores: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._said: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._warnings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._committed: dict[Partition, int] = {}
        self._committed_at: float | None = None

    def took(self, outcome: Outcome) -> None:
        """Count what became of one topic's records."""
        counts = self._topics[outcome.records.topic]
        counts["records"] += len(outcome.records)
        counts["accepted"] += len(outcome.accepted.changes)
        counts["rejected"] += len(outcome.rejections)
        counts["ignored"] += outcome.ignored
        for rejection in outcome.rejections:
            counts[f"rejected_{rejection.stage}"] += 1
        for view, projected in outcome.accepted.projected:
            if projected.skipped:
                counts[f"skipped_by_{view.view.name}"] += projected.skipped
        self._warnings[outcome.records.topic].update(outcome.accepted.warnings)

    def wrote(self, result: WriteResult) -> None:
        """Count the rows that the online and vector stores applied and refused."""
        self._stores.update(applied=result.applied, refused=result.refused)

    def embedded(self, texts: Embedded) -> None:
        """Count the texts that were embedded, and those that did not have to be."""
        self._texts.update(embedded=texts.embedded, spared=texts.spared)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Remember the last committed offsets."""
        self._committed.update(offsets)
        self._committed_at = time.time()

    def unsaid(self) -> dict[str, Counter[str]]:
        """The rows that failed a lenient expectation since this was last asked, by topic."""
        news = {topic: counts - self._said[topic] for topic, counts in self._warnings.items()}
        self._said = defaultdict(Counter, {topic: Counter(counts) for topic, counts in self._warnings.items()})
        return {topic: counts for topic, counts in news.items() if counts}

    def snapshot(self) -> dict[str, object]:
        """All counters as plain values."""
        return {
            "tables": {topic: dict(counts) for topic, counts in list(self._topics.items())},
            "expectations_failed": {topic: dict(counts) for topic, counts in list(self._warnings.items()) if counts},
            "rows": dict(self._stores),
            "texts": dict(self._texts),
            "committed": {str(p): offset for p, offset in list(self._committed.items())},
            "committed_at": self._committed_at,
        }
