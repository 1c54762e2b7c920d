"""What a worker did so far, counted a batch at a time; nothing here is on the path of a single record."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow.compute as pc

from stores.rows import WriteResult
from streams.embed import Embedded
from streams.histogram import Histogram
from streams.letters import MOST_KINDS, REPLAY_OF, kind_of
from streams.messages import Partition
from streams.pipeline import Outcome

FRESHNESS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
"""Bounds in seconds, from commit to online."""
DURATIONS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds in seconds, of a batch in one stage and of a flush."""

Letters = Counter[tuple[str, str]]
"""By stage and kind of reason."""


class Tally:
    """Counters of one worker, by topic where not said otherwise. Written by its loop (what runs beside it by
    several threads), read by the health endpoint and the metrics."""

    def __init__(self) -> None:
        self.topics: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.letters: defaultdict[str, Letters] = defaultdict(Counter)
        self.warnings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.freshness: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(FRESHNESS))
        self.stages: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DURATIONS))
        self.flushes = Histogram(DURATIONS)
        self.lake_files: dict[str, int] = {}
        self.stores: Counter[str] = Counter(applied=0, refused=0)
        self.texts: Counter[str] = Counter(embedded=0, spared=0)
        self.committed_at: float | None = None
        self._beside = threading.Lock()
        self._committed: dict[Partition, int] = {}
        self._said: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def took(self, outcome: Outcome) -> None:
        """Count what became of one topic's records."""
        topic = outcome.records.topic
        counts = self.topics[topic]
        counts["records"] += len(outcome.records)
        counts["accepted"] += len(outcome.accepted.changes)
        counts["rejected"] += len(outcome.rejections)
        counts["ignored"] += outcome.ignored
        if outcome.rejections:
            self._rejected(topic, outcome)
        for view, projected in outcome.accepted.projected:
            if projected.skipped:
                counts[f"skipped_by_{view.view.name}"] += projected.skipped
        if outcome.accepted.warnings:
            self.warnings[topic].update(outcome.accepted.warnings)

    def _rejected(self, topic: str, outcome: Outcome) -> None:
        counts, letters = self.topics[topic], self.letters[topic]
        found = Counter((r.stage, kind_of(r.reasons[0])) for r in outcome.rejections)
        for (stage, kind), count in found.items():
            counts[f"rejected_{stage}"] += count
            known = (stage, kind) in letters or len(letters) < MOST_KINDS
            letters[stage, kind if known else "other"] += count

    def served(self, outcomes: Sequence[Outcome]) -> None:
        """Count how old the changes are that are online just now. Rows of a snapshot, which are counted as such, and
        replayed letters are left out: they are as old as they are."""
        now = time.time() * 1e6
        for outcome in outcomes:
            rows = outcome.accepted.changes.rows
            fresh = np.asarray(pc.not_equal(rows["_op"], "r"))
            if not fresh.all():
                self.topics[outcome.records.topic]["snapshot"] += int(len(fresh) - fresh.sum())
            if outcome.has_replays():
                replayed = [i for i, headers in outcome.records.headers.items() if REPLAY_OF in headers]
                fresh = fresh & ~np.isin(outcome.accepted.kept, replayed)
            committed = rows["_commit_ts"].to_numpy().view(np.int64)[fresh]
            if len(committed):
                self.freshness[outcome.records.topic].add_all((now - committed) / 1e6)

    def wrote(self, result: WriteResult) -> None:
        """Count the rows that the online and vector stores applied and refused."""
        self.stores.update(applied=result.applied, refused=result.refused)

    def embedded(self, texts: Embedded) -> None:
        """Count the texts that were embedded, and those that did not have to be."""
        with self._beside:
            self.texts.update(embedded=texts.embedded, spared=texts.spared)

    def flushed(self, seconds: float, files: Mapping[str, int]) -> None:
        """Count a flush of the lake, and remember how many files each of its tables has."""
        self.flushes.add(seconds)
        self.lake_files.update(files)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Remember the last committed offsets."""
        self._committed.update(offsets)
        self.committed_at = time.time()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count how long one batch takes in a stage, waiting for what is unavailable included."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            with self._beside:
                self.stages[stage].add(seconds)

    def unsaid(self) -> dict[str, Counter[str]]:
        """The rows that failed a lenient expectation since this was last asked, by topic."""
        news = {topic: counts - self._said[topic] for topic, counts in self.warnings.items()}
        self._said = defaultdict(Counter, {topic: Counter(counts) for topic, counts in self.warnings.items()})
        return {topic: counts for topic, counts in news.items() if counts}

    def snapshot(self) -> dict[str, object]:
        """All counters as plain values."""
        return {
            "tables": {topic: dict(counts) for topic, counts in list(self.topics.items())},
            "letters": {
                topic: [
                    {"stage": stage, "reason": kind, "count": count} for (stage, kind), count in counts.most_common()
                ]
                for topic, counts in list(self.letters.items())
            },
            "expectations_failed": {topic: dict(counts) for topic, counts in list(self.warnings.items()) if counts},
            "freshness": {topic: _summary(ages) for topic, ages in list(self.freshness.items())},
            "stages": {stage: _summary(seconds) for stage, seconds in list(self.stages.items())},
            "lake": {"flush": _summary(self.flushes), "files": dict(self.lake_files)},
            "rows": dict(self.stores),
            "texts": dict(self.texts),
            "committed": {str(p): offset for p, offset in list(self._committed.items())},
            "committed_at": self.committed_at,
        }


def _summary(seconds: Histogram) -> dict[str, float | None]:
    """What people want to know of a histogram."""
    return {
        "count": seconds.count,
        "seconds": round(seconds.sum, 6),
        "p50": seconds.quantile(0.5),
        "p99": seconds.quantile(0.99),
    }
