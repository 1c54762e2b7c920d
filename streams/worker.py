"""The worker: poll, decode, validate, views; online at once, the lake staged; offsets after both."""

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from stores.lake import Lake
from stores.rows import FeatureWriter, WriteResult
from streams.breaker import Breaker
from streams.broker import BrokerUnavailable, Consumer
from streams.clock import Clock
from streams.control import Control
from streams.decide import LakeTableName, changes_table, features_table, rejected_table
from streams.drift import Guard, SourceTable, unasked
from streams.flush import Flusher
from streams.key_changes import KeyChanges
from streams.left_behind import LeftBehind, settle_left_behind
from streams.letters import REPLAY_OF, DeadLetters
from streams.membership import Membership
from streams.messages import Partition, Records, cut, first_offset, joined
from streams.patience import Abandoned, Patience
from streams.pipeline import Embedding, Flows, Outcome, take
from streams.positions import Positions
from streams.redelivered import Heights
from streams.replays import replayed, settle_read_again, settle_replays
from streams.snapshot_log import SnapshotLog
from streams.snapshot_times import settle_snapshot_times
from streams.snapshots import snapshot_base
from streams.stage import Batch
from streams.tally import Tally
from streams.truncate import Truncates, knowing
from streams.views import StreamView
from streams.windows import Windows
from streams.writes import Writes

log = logging.getLogger(__name__)

SAY_SECONDS = 60.0

SOONER = 0.25
"""Of a flush's interval, while an entity waits for the flush to be decided anew: so that with the flush that may be
under way, and its own, it is decided within one."""

MANY = 1_000
"""Records in one poll from which on more can be taken to wait behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How the worker batches: what `millrace.yaml` sets under `worker:`, then what is the same for all but tests."""

    poll_records: int
    flush_rows: int
    flush_seconds: float
    stage_rows: int
    stage_bytes: int
    max_record_bytes: int
    poll_seconds: float = 0.1
    take_bytes: int = 16 * 1024 * 1024
    stop_seconds: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the wiring hands the worker. `beside` has four threads, for two online writes, a flush and a compaction,
    and is the worker's alone. `vectors` has one for a batch of texts; the worker does not wait for its end."""

    consumer: Consumer
    letters: DeadLetters
    online: FeatureWriter
    lake: Lake
    embedding: Embedding
    breaker: Breaker
    windows: Windows
    tally: Tally
    control: Control
    clock: Clock
    beside: Executor
    vectors: Executor
    source_table: SourceTable = unasked


class Worker:
    """One member of the consumer group. `run` returns when told to stop, with nothing half-done."""

    def __init__(self, flows: Flows, parts: Parts, settings: WorkerSettings) -> None:
        self._flows = flows
        self._parts = parts
        self._settings = settings
        self._consumer = parts.consumer
        self.tally = parts.tally
        self._clock = parts.clock
        self._members = Membership(parts.consumer, lambda: {*self.paused, *self._held_back}, settings.take_bytes)
        self._safe: dict[Partition, int] = {}
        self._texts: list[Records] = []
        self._held_back: Collection[str] = ()
        self._batch = self._fresh()
        self._flushed: list[Batch] = []
        self._truncates = Truncates(parts.lake)
        self._heights = Heights(parts.lake)
        self._left_behind = LeftBehind(parts.lake, flows, parts.clock)
        self._key_changes = KeyChanges(parts.lake, parts.clock, {topic: flow.personal for topic, flow in flows.items()})
        self._guard = Guard(parts.lake, flows, parts.source_table)
        views = {topic: [v.view for v in flow.views] for topic, flow in flows.items()}
        self._flusher = Flusher(
            parts.lake,
            parts.letters,
            parts.online,
            self._truncates,
            views,
            parts.tally,
            parts.clock,
            parts.beside,
        )
        self._snapshot_log = SnapshotLog(parts.tally)
        self._patience = Patience(self._idle)
        self._outside = Patience(self._idle_outside)
        self._writes = Writes(
            parts.online,
            parts.embedding,
            parts.tally,
            parts.clock,
            parts.beside,
            parts.vectors,
            self._patience,
            self._delivered,
        )
        tables = {topic: [changes_table(topic), *map(_features, flow.views)] for topic, flow in flows.items()}
        self._positions = Positions(parts.consumer, parts.lake, tables, self._truncates, self._heights, self._patience)
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._say_next = 0.0

    def run(self, stop: threading.Event) -> None:
        """Join the group once the stores have answered, consume until `stop` is set, then flush and commit what is
        staged and leave the group."""
        self._stop = stop
        try:
            if any(view.view.vector is None for flow in self._flows.values() for view in flow.views):
                self._outside(self._parts.online.ping)  # partitions that it could do nothing with, others may serve
            self._members.join(self.topics, self._revoked, self._lost)
            while not stop.is_set():
                self._commit(self._flusher.collect())
                self._resume_asked()
                self._members.go_on()
                polled = self._members.poll(self._poll_seconds(), self._settings.poll_records)
                if polled:
                    self._check_positions(polled)
                    self._positions.follow(polled)
                else:
                    self._refuse_silent_gap()
                if ready := self._ready(polled):
                    self._take(ready)
                self._writes.finish_done()
                self._flush_if_due()
                self._parts.windows.tick()
                self._key_changes.tick(self._far_behind)
                self._snapshot_log.tick(self._clock.monotonic())
            self._deadline = self._clock.monotonic() + self._settings.stop_seconds
            self._flush_all()
        except Abandoned:
            self._drop_all()
            why = "stopped before all was written: what was not committed will be read again"
            log.warning(why, extra={"event": "abandoned"})
        except BaseException:
            self._drop_all()
            raise
        finally:
            with ExitStack() as ends:  # the consumer, then these from below, whatever one of them raises
                ends.callback(self._parts.windows.close)
                ends.callback(self._flusher.close)
                ends.callback(self._parts.control.close)
                self._consumer.close()

    def _drop_all(self) -> None:
        """What is not committed will be read again."""
        self._batch = self._fresh()
        self._writes.abandon()

    def _ready(self, polled: list[Records]) -> list[Records]:
        """What can be taken now. Texts wait, together, for the vectors of those before them, so that the features of
        other tables need not; when many wait, or long ones, no more are polled."""
        ready = [records for records in polled if not self._flows[records.topic].embeds]
        texts = [records for records in polled if self._flows[records.topic].embeds]
        self._texts += [records.without(self._members.gone(texts)) for records in texts]
        if self._writes.takes_texts(self._flows[records.topic] for records in self._texts):
            first, self._texts = cut(joined(self._texts), self._settings.take_bytes)
            ready += first
        if self._many_texts_wait():
            self._hold_back_texts()
        else:
            self._go_on_with_texts()
        return ready

    def _many_texts_wait(self) -> bool:
        count, size = sum(map(len, self._texts)), sum(records.size for records in self._texts)
        return count >= self._settings.poll_records or size >= self._settings.take_bytes

    def _hold_back_texts(self) -> None:
        if not self._held_back:
            self._held_back = [topic for topic, flow in self._flows.items() if flow.embeds]
            for topic in self._held_back:
                self._members.pause(topic)

    def _go_on_with_texts(self) -> None:
        held, self._held_back = self._held_back, ()
        for topic in held:
            self._members.resume(topic)

    def _take(self, polled: list[Records]) -> None:
        """The flow, for all that is ready. Texts are first: their vectors are made, and written, while the others are
        still decoded, and no other table waits for that."""
        more = sum(map(len, polled)) >= min(MANY, self._settings.poll_records)
        texts = [records for records in polled if self._flows[records.topic].embeds]
        self._deliver(self._outcomes(texts), True)
        self._forget(self._members.gone(texts))
        others = [records for records in polled if not self._flows[records.topic].embeds]
        self._deliver(self._outcomes(others), more)
        self._forget(self._members.gone(polled))

    def _outcomes(self, ready: list[Records]) -> list[Outcome]:
        """What becomes of records, but for those of tables that have changed, which are paused."""
        outcomes: list[Outcome] = []
        for records in ready:
            outcome = None if self._patience(partial(self._guard.holds, records)) else self._processed(records)
            if outcome is None or self._guard.retyped(outcome):
                self._members.pause(records.topic)
            else:
                outcomes.append(self._with_history(outcome, outcomes))
        return outcomes

    def _processed(self, records: Records) -> Outcome:
        base = partial(self._patience, partial(snapshot_base, self._parts.lake, records.topic))
        return take(records, self._flows[records.topic], self._settings.max_record_bytes, self.tally.timed, base)

    def _deliver(self, outcomes: list[Outcome], beside: bool) -> None:
        """Letters queued, features online, everything staged for the lake. `beside` the loop, the next poll is
        decoded while the store takes these rows."""
        if not outcomes:
            return
        if not outcomes[0].flow.embeds:
            self._reject(outcomes)
        self._writes.begin(outcomes, beside)

    def _delivered(self, outcomes: list[Outcome], result: WriteResult, lost: Collection[Partition]) -> None:
        """What is online is staged for the lake, but for what was lost meanwhile."""
        outcomes = [self._after_refusals(outcome) for outcome in outcomes]
        self._reject([o for o in outcomes if o.flow.embeds])  # the model may have refused texts, too
        self.tally.wrote(result)
        self.tally.served(outcomes)
        for outcome in outcomes:
            self._stage(outcome)
            self._parts.windows.add(outcome)
        self._batch.undecided += result.undecided
        self._batch.drop(lost)

    def _after_refusals(self, outcome: Outcome) -> Outcome:
        """Where the model refused the text of a change, those that follow it in the same batch do not say where event
        views have the row: the marks that this calls for are written now."""
        if not (outcome.flow.embeds and outcome.rejections):
            return outcome
        unsure = self._left_behind.unsure(outcome)
        if not unsure.any():
            return outcome
        lake, staged = self._parts.lake, self._staged(outcome.records.topic)
        outcome = self._patience(partial(settle_left_behind, lake, staged, outcome, unsure))
        events = [rows for rows in outcome.served() if rows.view.kind == "event" and rows.table.num_rows]
        self._batch.undecided += self._patience(lambda: self._parts.online.write(events)).undecided
        return outcome

    def _reject(self, outcomes: list[Outcome]) -> None:
        """Queue the letters (durable before their offsets are committed) and pause a table that is all bad: replayed
        letters that fail again do not count, they say nothing of what comes from the source."""
        for outcome in outcomes:
            topic, rejections = outcome.records.topic, outcome.flow.personal.rejections(outcome.rejections)
            self.tally.took(outcome)
            for rejection in rejections:  # each with patience of its own: none is sent again for another
                send, suite = self._parts.letters.send, outcome.flow.contract.version
                self._patience(partial(send, outcome.records, [rejection], suite, outcome.base))
            again = {at for at, headers in outcome.records.headers.items() if REPLAY_OF in headers}
            live = [rejection for rejection in rejections if rejection.position not in again]
            if self._parts.breaker.trips(topic, len(outcome.records) - len(again), live):
                log.error("%s", self._parts.breaker.paused[topic], extra={"event": "paused", "table": topic})
                self._members.pause(topic)

    def _resume_asked(self) -> None:
        """Go on with the paused tables that people have mended, from where they stopped."""
        for topic in self._parts.control.resumes():
            if self._parts.breaker.resume(topic):
                log.info("%s goes on: it was resumed", topic, extra={"event": "resumed", "table": topic})
                for partition in self._members.of(topic):
                    self._positions.refuse_gap(partition)
                self._members.resume(topic)

    def _with_history(self, outcome: Outcome, before: list[Outcome]) -> Outcome:
        """What came before: replays, what a connector sent again, and rows whose last change was rejected or that a
        snapshot read anew need what the lake holds, what is staged for it, and what stands `before` them in the same
        poll; rows older than a truncate come with their delete."""
        topic = outcome.records.topic
        lake = self._parts.lake
        outcome = self._patience(partial(settle_read_again, lake, self._positions.begun(topic), outcome))
        if outcome.flow.goes_by_commits and outcome.base is not None:
            begun, staged = self._positions.begun(topic), self._taken(topic, before)
            with self.tally.timed("history"):
                outcome = self._patience(partial(settle_snapshot_times, lake, staged, outcome, begun))
        copies = self._heights.suspects(outcome) | replayed(outcome)
        outcome = self._heights.placed(outcome)
        if copies.any():
            staged = self._taken(topic, before)
            with self.tally.timed("history"):
                outcome = self._patience(partial(settle_replays, lake, staged, outcome, copies))
        unsure = self._left_behind.unsure(outcome)
        if outcome.flow.moving:
            unsure |= self._heights.later(outcome)
        if unsure.any():
            staged = self._taken(topic, before)
            with self.tally.timed("history"):
                outcome = self._patience(partial(settle_left_behind, lake, staged, outcome, unsure))
        return knowing(outcome, self._truncates.known(topic))

    def _taken(self, topic: str, before: list[Outcome]) -> list[pa.Table]:
        """The topic's changes that this worker has taken and the lake may not hold yet."""
        self._writes.finish_of(topic)
        return self._staged(topic) + [o.accepted.changes.rows for o in before if o.records.topic == topic]

    def _staged(self, topic: str) -> list[pa.Table]:
        table = changes_table(topic)
        return [*self._flusher.staged(table), *self._batch.tables.get(table, [])]

    def _stage(self, outcome: Outcome) -> None:
        """The rows of the views before the changes they were made of: a change that stands in the lake has its
        rows there, so a backfill of a view can tell by the changes which rows are missing."""
        topic = outcome.records.topic
        for rows, served in zip(outcome.rows(), outcome.served(), strict=True):
            self._batch.put(features_table(rows.view.name), topic, rows.table)
            if rows.view.kind == "event" and rows.table.num_rows:
                self._batch.events.append(served)
                if outcome.has_replays():
                    self._batch.undecide(rows)
        for rows in outcome.unserved():
            if rows.view.kind == "event":
                self._batch.undecide(rows)
        self._batch.put(rejected_table(topic), topic, self._left_behind.rows(outcome))
        self._batch.put(changes_table(topic), topic, outcome.accepted.changes.rows)
        self._batch.readings |= self._heights.readings(outcome)
        self._batch.advance(outcome.records.next_offsets())
        self._key_changes.note(outcome.records)
        self._batch.truncated[topic] = min(
            outcome.truncated, self._batch.truncated.get(topic, outcome.truncated), key=len
        )
        if outcome.has_truncates():
            self._batch.since = float("-inf")  # flushed at once: only then the views are empty

    def _far_behind(self) -> set[str]:
        return {partition.topic for partition, behind in self.lag().items() if behind >= MANY}

    def _poll_seconds(self) -> float:
        """How long to wait for a first record: not past the next flush, and not long while one is under way."""
        if self._flusher.busy or self._writes.busy:
            return 0.01
        if self._batch.empty:
            return self._settings.poll_seconds
        return min(self._settings.poll_seconds, max(0.0, self._flush_due() - self._clock.monotonic()))

    def _flush_due(self) -> float:
        return self._batch.since + self._settings.flush_seconds * (SOONER if self._batch.undecided else 1)

    def _flush_if_due(self) -> None:
        if self._batch.empty:
            return
        batch, settings = self._batch, self._settings
        full = batch.rows >= settings.stage_rows or batch.bytes >= settings.stage_bytes
        if full and self._flusher.busy:
            self._hold()
        due = full or batch.rows >= settings.flush_rows or self._clock.monotonic() >= self._flush_due()
        if due and not self._flusher.busy:
            self._start_flush()

    def _start_flush(self) -> None:
        batch, self._batch = self._batch, self._fresh()
        self._flushed.append(batch)
        self._flusher.start(batch)

    def _fresh(self) -> Batch:
        return Batch(since=self._clock.monotonic())

    def _hold(self) -> None:
        """The stage is full: take nothing more until the flush under way is done, but stay in the group."""
        self._patience.waiting_for = self._flusher.waiting_for
        while self._flusher.busy and not self._stop.is_set():
            self._idle(0.01)
            self._commit(self._flusher.collect())
        self._patience.waiting_for = None

    def _flush_all(self) -> None:
        """Return once everything taken is online, in the lake and committed. What is online is flushed while vectors
        are still being made: these may outlast the time to stop, and their texts are read again then."""
        while self._writes.busy or self._flusher.busy or not self._batch.empty:
            self._writes.finish_done()
            if not (self._flusher.busy or self._batch.empty):
                self._start_flush()
            self._commit(self._flusher.collect(timeout=0.05))
            self._idle(0.01 if self._writes.busy else 0.0)

    def _commit(self, offsets: dict[Partition, int]) -> None:
        self._safe |= {p: offset for p, offset in offsets.items() if p in self._members.owned}
        if self._safe:
            with self.tally.timed("commit"):
                self._patience(lambda: self._consumer.commit(self._safe))
            self.tally.committed(self._safe)
            self._safe = {}
            if not self._flusher.busy:
                self._flushed.clear()  # no sooner: only who may commit was a member still when it was flushed
            self._say_failures()

    def _say_failures(self) -> None:
        """One line a table and minute about expectations that reject nothing."""
        if self._clock.monotonic() < self._say_next:
            return
        self._say_next = self._clock.monotonic() + SAY_SECONDS
        for topic, counts in self.tally.unsaid().items():
            told = ", ".join(f"{rule} in {count:,} rows" for rule, count in counts.items())
            log.warning("%s: not fulfilled: %s", topic, told, extra={"event": "expectations_failed", "table": topic})

    def _idle(self, seconds: float) -> None:
        """Between two tries: keep the membership of the group alive without taking records."""
        if self._stop.is_set() and self._deadline == float("inf"):
            self._deadline = self._clock.monotonic() + self._settings.stop_seconds
        if self._clock.monotonic() > self._deadline:
            raise Abandoned
        self._members.rest(seconds)

    def _idle_outside(self, seconds: float) -> None:
        """The same before it is a member, with nothing to finish."""
        if self._clock.wait(self._stop, seconds):
            raise Abandoned

    def _revoked(self, partitions: Collection[Partition]) -> None:
        """Commit what can be committed before another member reads on; drop the rest, it will be read again."""
        log.info("revoked", extra={"event": "revoked", "partitions": sorted(map(str, partitions))})
        if self._patience.waiting_for is None and self._flusher.waiting_for is None:
            self._hand_over()
        self._lost(partitions)

    def _hand_over(self) -> None:
        deadline = min(self._clock.monotonic() + self._settings.stop_seconds, self._deadline)
        self._writes.finish_until(deadline)  # the rest is not staged, and read again
        while (self._flusher.busy or not self._batch.empty) and self._clock.monotonic() < deadline:
            if not self._flusher.busy:
                self._start_flush()
            self._safe |= self._flusher.collect(timeout=0.05)
        try:
            self._consumer.commit(self._safe)
        except BrokerUnavailable as error:
            told = "offsets not handed over, their records will be read again: %s"
            log.warning(told, error, extra={"event": "not_handed_over"})
        else:
            self._safe = {}

    def _lost(self, partitions: Collection[Partition]) -> None:
        self._members.lose(partitions)
        self._texts = [records.without(partitions) for records in self._texts]
        self._safe = {p: offset for p, offset in self._safe.items() if p in self._members.owned}
        self._forget(partitions)

    def _forget(self, partitions: Collection[Partition]) -> None:
        """Stage nothing of these partitions: whoever has them next reads it again."""
        self._batch.drop(partitions)
        for flushed in self._flushed:
            flushed.lost.update(partitions)
            self._batch.undecide_lost(flushed, partitions)
        self._writes.lose(partitions)

    def _check_positions(self, polled: list[Records]) -> None:
        for partition in self._members.unchecked(polled):
            self._positions.check(partition)
            self._patience(partial(self._left_behind.assigned, partition, first_offset(polled, partition)))

    def _refuse_silent_gap(self) -> None:
        """While nothing comes, of one partition a poll, and of nothing else: to what the lake holds of it, the member
        before may still be adding."""
        if partition := self._members.silent():
            self._positions.refuse_gap(partition)

    @property
    def topics(self) -> Collection[str]:
        """All tables that it is for."""
        return self._flows.keys()

    @property
    def waiting_for(self) -> str | None:
        """What it waits for, as a sentence; None while nothing is missing."""
        missing = self._outside.waiting_for or self._patience.waiting_for
        return missing or self._writes.waiting_for or self._flusher.waiting_for or self._consumer.unavailable

    @property
    def paused(self) -> Mapping[str, str]:
        """The tables that are paused, for their rejects or because they changed, and why."""
        return {**self._parts.breaker.paused, **self._guard.held}

    @property
    def staged_rows(self) -> int:
        """Rows that wait for the lake."""
        return self._batch.rows

    def lag(self) -> Mapping[Partition, int]:
        """Records of each of its partitions that it has not read."""
        return self._members.lag()

    def state(self) -> dict[str, object]:
        """What `millrace status` and the health check show of this worker; safe to call from another thread."""
        return {
            "waiting_for": self.waiting_for,
            "paused": dict(self.paused),
            "key_changes_lost": dict(self._key_changes.lost),
            "resumed": dict(self._parts.breaker.resumed),
            "partitions": [str(p) for p in sorted(self._members.owned)],
            "lag": {str(p): behind for p, behind in self.lag().items()},
            "staged_rows": self.staged_rows,
            "table_expectations": dict(self._parts.windows.results),
            **self.tally.snapshot(),
        }


def _features(stream_view: StreamView) -> LakeTableName:
    return features_table(stream_view.view.name)
