"""The flush: beside the loop, a batch goes to the letters topic and the lake, and event views are settled.

Order, and why a crash after any step loses and doubles nothing:
1. letters are durable;
2. each lake table gets one commit, which carries the offsets: a replay of the batch is dropped there.
   The tables of the views come before the changes they were made of (see `Worker._stage`); what those of a
   batch that ended in between lack, since a contract was mended, is added (`streams.missing`). Of a topic of
   which nothing was accepted the offsets alone are noted;
3. event views are made to agree with the lake: rows are offered once more, entities decided anew;
4. what lies below a truncate is deleted (`streams.truncate`), if this batch brought the truncate, for the first time or
   again, or older rows that did not know it;
5. only then the caller commits the offsets to Kafka: a truncate that may not be settled is read again, and so are older
   rows whose worker may not have looked for it. These come with their deletes then; what the lake lacks of those is
   added beside step 2 (`streams.missing`).
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial, reduce

import numpy as np
import pyarrow as pa

from stores.lake import Lake, TopicPartition
from stores.rows import FeatureWriter
from stores.view import View
from streams.clock import Clock
from streams.compact import Compactor
from streams.decide import changes_table, decide, features_table, is_changes_table, is_features_table
from streams.letters import DeadLetters
from streams.messages import Partition
from streams.missing import add_deletes, add_missing
from streams.patience import Abandoned, Patience
from streams.redelivered import heights, noted_readings
from streams.stage import Batch, LakeTable
from streams.tally import Tally
from streams.truncate import Truncates, below, settle, truncates


class Flusher:
    """Flushes one batch at a time, beside the loop: on a thread of `executor`, which ends with it. Another compacts."""

    def __init__(
        self,
        lake: Lake,
        letters: DeadLetters,
        writer: FeatureWriter,
        truncates: Truncates,
        views: Mapping[str, Sequence[View]],
        tally: Tally,
        clock: Clock,
        executor: Executor,
    ) -> None:
        self._truncates = truncates
        self._views = views
        self._lake = lake
        self._letters = letters
        self._writer = writer
        self._tally = tally
        self._clock = clock
        self._abandon = threading.Event()
        self._patience = Patience(self._idle)
        self._thread = executor
        self._running: Future[dict[Partition, int]] | None = None
        self._batch: Batch | None = None
        self._compactor = Compactor(lake, executor)

    @property
    def busy(self) -> bool:
        """Whether a batch is under way or its offsets are yet to be collected."""
        return self._running is not None

    @property
    def waiting_for(self) -> str | None:
        """What a flush waits for, None while nothing is missing."""
        return self._patience.waiting_for

    def staged(self, table: LakeTable) -> list[pa.Table]:
        """The rows of a lake table in the batch that is under way; the lake may hold them already."""
        return self._batch.tables.get(table, []) if self._batch else []

    def start(self, batch: Batch) -> None:
        """Begin to flush; only while not `busy`."""
        assert self._running is None
        self._batch = batch
        self._running = self._thread.submit(self._flush, batch)

    def collect(self, timeout: float = 0) -> dict[Partition, int]:
        """The offsets that a finished flush made safe to commit, without those of partitions that were lost meanwhile:
        whoever had them since may have come further. Empty if none has finished in time.

        Raises what the flush raised.
        """
        running, batch = self._running, self._batch
        if running is None or batch is None:
            return {}
        try:
            offsets = running.result(timeout)
        except TimeoutError as error:
            if not running.done() or running.exception() is not error:
                return {}
            self._running = None  # it failed for a time-out of its own
            raise
        except BaseException:
            self._running = None  # it is over, and nobody is to wait for it again
            raise
        self._running = None
        self._batch = None
        return {partition: offset for partition, offset in offsets.items() if partition not in batch.lost}

    def close(self) -> None:
        """Call off a flush that waits for a store. What it has not written is read again from Kafka."""
        self._abandon.set()
        self._thread.shutdown(wait=True)
        self._compactor.collect()

    def _flush(self, batch: Batch) -> dict[Partition, int]:
        began = time.perf_counter()
        self._patience(self._letters.flush)
        replayed: set[LakeTable] = set()
        for table in sorted(batch.tables, key=is_changes_table):
            rows = batch.join(table)
            topic = batch.topics[table]
            offsets: dict[TopicPartition, int] = {p: n for p, n in batch.offsets.items() if p.topic == topic}
            if is_changes_table(table):
                offsets |= heights(rows, topic) | noted_readings(batch.readings, topic)
            if self._patience(partial(self._append, table, rows, offsets)):
                replayed.add(table)
                if is_features_table(table):
                    self._patience(partial(add_missing, self._lake, table, topic, rows))
                    self._patience(partial(add_deletes, self._lake, table, rows, self._truncates.known(topic).lsns))
            if is_changes_table(table) and len(truncates(rows)):
                self._patience(partial(self._truncates.place, topic))
        self._pass_over(batch)
        decided = self._settle(batch, replayed)
        for topic in set(batch.topics.values()):
            self._settle_truncates(batch, topic)
        files = {table: self._patience(partial(self._lake.files, table)) for table in batch.tables}
        self._tally.flushed(time.perf_counter() - began, files)
        self._compactor.flushed(batch.tables, decided)
        return batch.offsets

    def _pass_over(self, batch: Batch) -> None:
        """Of a topic of which nothing was accepted the lake still learns how far it was read: what was rejected stays a
        letter if it is read again, whatever the contract says by then."""
        accepted = {batch.topics[table] for table in batch.tables if is_changes_table(table)}
        for topic in {partition.topic: None for partition in batch.offsets if partition.topic not in accepted}:
            offsets: dict[TopicPartition, int] = {p: n for p, n in batch.offsets.items() if p.topic == topic}
            offsets |= noted_readings(batch.readings, topic)
            self._patience(partial(self._lake.advance, changes_table(topic), offsets))

    def _append(self, table: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> bool:
        """Whether the lake held some of the rows already."""
        return self._lake.append(table, rows, offsets).duplicates > 0

    def _settle_truncates(self, batch: Batch, topic: str) -> None:
        truncated = self._patience(partial(self._truncates.refresh, topic))
        brought = [truncates(rows) for rows in batch.tables.get(changes_table(topic), [])]
        news = reduce(np.union1d, brought, np.setdiff1d(truncated.lsns, batch.truncated[topic]))
        if any(map(len, brought)) or (len(news) and _has_older(batch, topic, int(news[-1]))):
            for view in self._views[topic]:
                self._patience(partial(settle, self._lake, self._writer, view, truncated, news.tolist()))
                self._decide_below(batch, view, truncated.last)

    def _decide_below(self, batch: Batch, view: View, truncate: int) -> None:
        """A row that came online late, at an entity that it had moved to, may have its delete at the one before."""
        parts = batch.tables.get(features_table(view.name), []) if view.kind == "event" else []
        late = [part.filter(pa.array(below(part, truncate))) for part in parts]
        if any(part.num_rows for part in late):
            keys = pa.concat_tables(late).group_by([key.name for key in view.join_keys]).aggregate([])
            self._patience(partial(decide, self._lake, self._writer, view, keys))

    def _settle(self, batch: Batch, replayed: Collection[LakeTable]) -> set[LakeTable]:
        """Make event views agree with the lake, which now holds this batch; the tables that entities were decided from.

        While it was on its way there, an entity may have been decided without it: the rows are offered once
        more. Rows that the lake held before may have been written online long after later changes of them,
        which only the lake still knows: their entities are decided anew.
        """
        fresh = [rows for rows in batch.events if features_table(rows.view.name) not in replayed]
        for rows in batch.events:
            if features_table(rows.view.name) in replayed:
                batch.undecide(rows)
        undecided: list[tuple[View, pa.Table]] = list(batch.undecided)
        if fresh:
            undecided += self._patience(lambda: self._writer.write(fresh)).undecided
        by_view: dict[str, list[tuple[View, pa.Table]]] = {}
        for view, keys in undecided:
            by_view.setdefault(view.name, []).append((view, keys))
        for asked in by_view.values():
            view = asked[0][0]
            keys = pa.concat_tables([keys for _, keys in asked])
            distinct = keys.group_by(keys.column_names).aggregate([])
            self._patience(partial(decide, self._lake, self._writer, view, distinct))
        return {features_table(name) for name in by_view}

    def _idle(self, seconds: float) -> None:
        if self._clock.wait(self._abandon, seconds):
            raise Abandoned


def _has_older(batch: Batch, topic: str, truncate: int) -> bool:
    """Whether the batch brought rows of the topic's views older than a truncate."""
    names = [name for name in batch.tables if is_features_table(name) and batch.topics[name] == topic]
    return any(below(rows, truncate).any() for name in names for rows in batch.tables[name])
