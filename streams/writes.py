"""Writes to the online stores, beside the loop and in order; the loop finishes them, and stages what they wrote."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from stores.rows import FeatureWriter, WriteResult
from streams.clock import Clock
from streams.embed import Made
from streams.messages import Partition
from streams.patience import UNAVAILABLE, Abandoned, Patience
from streams.pipeline import Embedding, Flow, Outcome
from streams.tally import Tally

ONLINE, VECTORS = False, True
"""The two ways of writes, each in its order: tables with embeddings, and all others."""

AHEAD = 2
"""Writes of one way under way at a time: one is packed, or its texts embedded, while the store takes the other."""

Written = tuple[list[Outcome], WriteResult]
"""What became of outcomes: their vectors are filled in."""

Arrived = Callable[[list[Outcome], WriteResult, Collection[Partition]], None]
"""Told, by the loop, of what stands online now, and of the partitions among it that were lost meanwhile."""


@dataclass(slots=True)
class Write:
    """Outcomes of some `topics` on their way to a store. `again` repeats it. Of the partitions of these that are `lost`
    since, nothing is staged; what is read of other tables' since is staged already, perhaps, and stays so. `patience`
    waits for what vectors need."""

    topics: frozenset[str]
    again: Callable[[], Written]
    result: Future[Written]
    patience: Patience
    lost: set[Partition] = field(default_factory=set)


class Writes:
    """The writes under way. All methods are the loop's; what is unavailable is waited for with its `patience`. What
    vectors need is waited for beside the loop: each batch of texts has a thread of `vectors`."""

    def __init__(
        self,
        writer: FeatureWriter,
        embedding: Embedding,
        tally: Tally,
        clock: Clock,
        executor: Executor,
        vectors: Executor,
        patience: Patience,
        arrived: Arrived,
    ) -> None:
        self._writer = writer
        self._embedding = embedding
        self._tally = tally
        self._clock = clock
        self._executor = executor
        self._vectors = vectors
        self._patience = patience
        self._called_off = threading.Event()
        self._arrived = arrived
        self._under_way: dict[bool, deque[Write]] = {ONLINE: deque(), VECTORS: deque()}

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return any(self._under_way.values())

    def takes_texts(self, flows: Iterable[Flow]) -> bool:
        """Whether texts of these tables can be embedded and written now."""
        return len(self._under_way[VECTORS]) < _ahead(flows)

    @property
    def waiting_for(self) -> str | None:
        """What texts wait for, None while nothing is missing."""
        missing = (write.patience.waiting_for for write in self._under_way[VECTORS])
        return next(filter(None, missing), None)

    def begin(self, outcomes: Sequence[Outcome], beside: bool) -> None:
        """Write outcomes of one way: `beside` the loop, or before this returns."""
        way = outcomes[0].flow.embeds
        ahead = _ahead(outcome.flow for outcome in outcomes) if beside else 1
        while len(self._under_way[way]) >= ahead:
            self._finish_first(way)
        write = partial(self._write, outcomes, Made())
        if beside:
            topics = frozenset(outcome.records.topic for outcome in outcomes)
            patience = Patience(self._pause)
            result = self._vectors.submit(patience, write) if way == VECTORS else self._executor.submit(write)
            self._under_way[way].append(Write(topics, write, result, patience))
        else:
            self._arrived(*self._patience(write), ())

    def finish_done(self) -> None:
        """Take note of those that are done."""
        for way, writes in self._under_way.items():
            while writes and writes[0].result.done():
                self._finish_first(way)

    def finish_of(self, topic: str) -> None:
        """Wait for those of a topic."""
        for way, writes in self._under_way.items():
            while any(topic in write.topics for write in writes):
                self._finish_first(way)

    def finish_until(self, deadline: float) -> None:
        """Wait for all, without patience: what is not done at the `deadline` of the clock, or fails, is left."""
        with suppress(TimeoutError, *UNAVAILABLE), self._patience.lost():
            for way, writes in self._under_way.items():
                while writes and (way == ONLINE or self.waiting_for is None):
                    writes[0].result.result(max(0.0, deadline - self._clock.monotonic()))
                    self._finish_first(way)

    def lose(self, partitions: Collection[Partition]) -> None:
        """Nothing that comes from these partitions is to be staged."""
        for writes in self._under_way.values():
            for write in writes:
                write.lost.update(p for p in partitions if p.topic in write.topics)

    def abandon(self) -> None:
        """Whatever becomes of them, nobody wants to know."""
        self._called_off.set()
        for writes in self._under_way.values():
            writes.clear()

    def _pause(self, seconds: float) -> None:
        if self._clock.wait(self._called_off, seconds):
            raise Abandoned

    def _write(self, outcomes: Sequence[Outcome], made: Made) -> Written:
        """What of it was `made` in an earlier try is not made again."""
        embedded = [self._embedded(outcome, made) for outcome in outcomes]
        rows = [rows for outcome in embedded for rows in outcome.served()]
        if not rows:
            return embedded, WriteResult(0, 0)
        if self._called_off.is_set():  # by the time that its vectors are made others may have its partitions
            raise Abandoned
        with self._tally.timed("online"):
            return embedded, self._writer.write(rows)

    def _embedded(self, outcome: Outcome, made: Made) -> Outcome:
        if not outcome.flow.embeds:
            return outcome
        with self._tally.timed("embed"):
            return self._embedding(outcome, made)

    def _finish_first(self, way: bool) -> None:
        write = self._under_way[way][0]
        try:
            written = write.result.result()
        except UNAVAILABLE:
            written = self._patience(write.again)
        self._arrived(*written, write.lost)
        self._under_way[way].popleft()  # not before: partitions can be lost while it is waited for


def _ahead(flows: Iterable[Flow]) -> int:
    """How many writes of these tables may be under way. Those that overtake each other leave the newest of a state
    view; an event view would be decided anew."""
    return 1 if any(view.view.kind == "event" for flow in flows for view in flow.views) else AHEAD
