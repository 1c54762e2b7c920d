"""A table read anew while everything runs, and a source brought back after its slot was lost.

`resnapshot` asks Debezium for an incremental snapshot, `recover` has it make a new slot and take an initial one.
Both end alike: once the workers have taken all of it, rows that PostgreSQL has no more get their delete.
Killed at any point, either is simply run again.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, text

from connectors import snapshots as asked
from connectors.check_slot import lsn_text
from connectors.checks import check
from connectors.connect import Connect
from connectors.debezium import connector_config
from connectors.lock import alone
from connectors.reflect import table_oids
from connectors.rows import read_rows
from connectors.source import Source, connected
from connectors.table import Table
from millrace.check_repo import SourceNotReady, captures
from millrace.made_again import note_stored, stored_in
from millrace.owed import told
from millrace.repo import Repo, UnknownTable
from millrace.started_anew import ANEW_SECONDS, wait_anew
from millrace.wiring import connect, flows, lake, producer, source, topics
from millrace.workers import running_workers
from streams.decide import changes_table
from streams.pipeline import Flow
from streams.reconcile import Reconciled, reconcile, reconcile_earlier
from streams.redelivered import highest
from streams.snapshots import begin_snapshot

Say = Callable[[str], None]

LOOK_SECONDS = 0.5


class UnknownSource(Exception):
    """A source of which no view captures a table."""


class CannotAsk(Exception):
    """A table that Debezium cannot be asked to read anew by itself."""


class Stalled(Exception):
    """Something that was waited for did not move for as long as the caller is patient."""


class Paused(Exception):
    """A table whose records the workers do not take: nothing was begun, for it would not end."""


class LogWentBack(Exception):
    """A source database whose log ends below what the lake holds of it."""


class SnapshotFailed(Exception):
    """Debezium says that it did not read a table to its end."""


@dataclass
class _Job:
    """One source, some of its tables, and what is needed to wait for them."""

    repo: Repo
    source: Source
    engine: Engine
    flows: Sequence[Flow]
    patience: float
    say: Say
    connect: Connect
    moved: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def tables(self) -> list[Table]:
        return [flow.table for flow in self.flows]

    def wait(self, missing: Callable[[], str | None]) -> None:
        """Until nothing is missing. Raises `Stalled` if what is missing stays the same for too long."""
        last, since = "", time.monotonic()
        while (now := missing()) is not None:
            if now != last:
                last, since = now, time.monotonic()
                self.say(now)
            if time.monotonic() - since > self.patience:
                raise Stalled(f"nothing moved for {self.patience:g} s: {now}")
            time.sleep(LOOK_SECONDS)

    def begin(self, start: asked.Base) -> int:
        """Note in the lake where the snapshot that is asked for next begins, once the workers have taken what there
        is, and no earlier one is left unreconciled."""
        sender = producer(self.repo)
        for flow in self.flows:
            topic = flow.table.topic
            self.moved[topic] = reconcile_earlier(lake(self.repo), sender, flow)
            begin_snapshot(lake(self.repo), topic, start)
        return start.lsn

    def end_of_log(self) -> asked.Base:
        """Where the source's log is. Raises `LogWentBack` if what is read of the source now would count as older than
        what the lake holds."""
        # The lake first: workers write on while this looks.
        held = {table.topic: highest(lake(self.repo), table.topic, self.source.partitions) for table in self.tables}
        end = asked.base(self.engine, self.source)
        for topic, lsn in held.items():
            if end.lsn <= lsn:
                raise LogWentBack(
                    f"source {self.source.name}: its log ends at {lsn_text(end.lsn)}, but the lake holds changes of "
                    f"{topic} up to {lsn_text(lsn)}: the database went back in its log, or is another one, and "
                    "whatever is read of it now would be refused as older. What to do is told in "
                    "docs/operations.md, The source database moved"
                )
        return end

    def ended(self, start: asked.Base) -> None:
        """Until the transactions that were open at the start have ended."""

        def missing() -> str | None:
            still = asked.open_transactions(self.engine, self.source, start)
            return f"waiting for transactions that may have written already: {'; '.join(still)}" if still else None

        self.wait(missing)

    def drain(self) -> None:
        """Until the workers have committed everything that the topics hold now."""
        broker, names = topics(self.repo), [table.topic for table in self.tables]
        ends = {p: end for p, (_, end) in broker.committed(self.repo.group, names).items()}

        def missing() -> str | None:
            held = broker.committed(self.repo.group, names)
            left = {p: end - held[p][0] for p, end in ends.items() if held[p][0] < end}
            if not left:
                return None
            of = ", ".join(sorted({p.topic for p in left}))
            hint = "millrace run; if workers run, millrace status tells what they wait for or have paused"
            return f"waiting for the workers: {sum(left.values()):,} records to go of {of} ({hint})"

        self.wait(missing)

    def notified(self, start: int, kind: asked.Kind, request: str | None) -> asked.Progress:
        read = topics(self.repo).read(self.source.notifications_topic, start)
        return asked.progress((value for records in read for value in records.values), kind, request)

    def end(self) -> int:
        """The offset after the last notification."""
        offsets = topics(self.repo).committed(self.repo.group, [self.source.notifications_topic])
        return max((end for _, end in offsets.values()), default=0)

    def taken(self, start: int, kind: asked.Kind, request: str | None) -> dict[str, int]:
        """Until Debezium has read all; the rows of each table."""

        def missing() -> str | None:
            found = self.notified(start, kind, request)
            if found.failed:
                raise SnapshotFailed(f"source {self.source.name}: {found.failed}")
            done = ", ".join(f"{table}: {rows:,} rows" for table, rows in found.rows.items())
            what = f"reading, {self.read(kind, found)}" if found.started else "asked for a snapshot"
            return None if found.finished else self.failure() or f"{what}{': ' if done else ''}{done}"

        self.wait(missing)
        return self.notified(start, kind, request).rows

    def read(self, kind: asked.Kind, found: asked.Progress) -> str:
        """How much Debezium has read of a snapshot, which grows while it reads one large table. Of an initial one it
        tells the topics alone; nothing else comes to them before its end."""
        if kind == "Incremental Snapshot":
            return f"{found.chunks:,} chunks"
        offsets = topics(self.repo).committed(self.repo.group, [table.topic for table in self.tables])
        return f"{sum(end for _, end in offsets.values()):,} records in the topics"

    def settled(self) -> None:
        """Until nothing more comes of an earlier snapshot, be it the source's first: its rows must not be taken for
        those of the next one. Debezium's position tells whether one is under way; of one that was asked for and may not
        have begun, once it is past the signal."""
        name = self.source.name
        signals = asked.unfinished(self.engine, self.source)
        past = asked.base(self.engine, self.source).lsn if signals else 0

        def missing() -> str | None:
            position = self.connect.position(name)
            if position is None:
                return self.failure() or f"connector {name} has no position: it has just begun a first snapshot of all"
            if position.snapshot is not None:
                return (
                    self.failure()
                    or f"an earlier snapshot ({position.snapshot}) is under way, at {lsn_text(position.lsn)}"
                )
            if position.lsn < past:
                begun = f"an earlier snapshot was asked for: connector {name} is at {lsn_text(position.lsn)}"
                return self.failure() or f"{begun}, waiting for {lsn_text(past)}"
            return None

        self.wait(missing)
        for signal in signals:
            asked.forget(self.engine, self.source, signal)

    def failure(self) -> str | None:
        """Why the connector does not go on, if it failed."""
        state = self.connect.state(self.source.name)
        failures = state.failures if state is not None else ()
        return f"connector {self.source.name}: {failures[0].reason}" if failures else None

    def finish(self, base: int, request: str, rows: dict[str, int]) -> dict[str, Any]:
        """Reconcile what no snapshot tells, and the report."""
        self.drain()
        stored = stored_in(self.repo, self.tables)  # before the comparison: a table made again after it is told of
        sender = producer(self.repo)
        report = {}
        for flow in self.flows:
            present = _keys(self.engine, self.source, flow.table)
            found: Reconciled = reconcile(lake(self.repo), sender, flow, present, base, request)
            name = f"{flow.table.schema}.{flow.table.name}"
            report[flow.table.topic] = {
                "rows": rows.get(name, 0),
                "deleted": found.deleted,
                "moved": self.moved[flow.table.topic] + found.moved,
            }
        self.drain()
        note_stored(self.repo, [table.topic for table in self.tables], stored)
        told(lake(self.repo), [changes_table(table.topic) for table in self.tables])
        return report


def resnapshot(repo: Repo, names: Sequence[str], patience: float, say: Say) -> dict[str, Any]:
    """Read tables (`<source>.<schema>.<table>`) anew by an incremental snapshot; a report for each.

    Live changes go on meanwhile. Raises `UnknownTable`, `CannotAsk`, `NotAnew`, `Paused`, `UnderWay` while another
    command snapshots the source, `LogWentBack`, `Stalled` after `patience` seconds without progress, `SnapshotFailed`
    and what the services raise.
    """
    declared = flows(repo)
    for name in names:
        if name not in declared:
            raise UnknownTable(name, declared)
        table = declared[name].table
        if any(character.isspace() for character in table.schema + table.name):
            raise CannotAsk(
                f"{table.schema}.{table.name} has a blank in its name, which Debezium cannot read in a signal: run "
                f"millrace recover {table.source}, which reads all tables of the source anew"
            )
    by_source: dict[str, list[Flow]] = {}
    for name in dict.fromkeys(names):
        by_source.setdefault(declared[name].table.source, []).append(declared[name])
    wait_anew(repo, say)
    _refuse_paused(repo, names, patience, say)
    report: dict[str, Any] = {}
    for origin, chosen in by_source.items():
        with _job(repo, origin, chosen, patience, say) as job:
            report |= _incremental(job)
    return report


def _incremental(job: _Job) -> dict[str, Any]:
    job.end_of_log()  # refused at once where it went back: what Debezium is asked for would never come
    job.settled()
    job.drain()
    moment = job.end_of_log()
    job.ended(moment)
    base, start = job.begin(moment), job.end()
    request = asked.ask(job.engine, job.source, uuid.uuid4().hex[:12], job.tables)
    rows = job.taken(start, "Incremental Snapshot", request)
    report = job.finish(base, request, rows)
    asked.forget(job.engine, job.source, request)
    return report


def recover(repo: Repo, origin: str, patience: float, say: Say) -> dict[str, Any]:
    """Bring a source back whose slot was lost: a new slot, a snapshot of all its tables, and their deletes.

    Raises `UnknownSource`, `SourceNotReady`, and as `resnapshot`.
    """
    chosen = [flow for _, flow in sorted(flows(repo).items()) if flow.table.source == origin]
    if not chosen:
        if origin in repo.settings.sources:
            raise UnknownSource(f"no applied view captures a table of source {origin}: run millrace apply")
        there = ", ".join(repo.settings.sources)
        raise UnknownSource(f"millrace.yaml has no source {origin}; there are {there}")
    wait_anew(repo, say)
    _refuse_paused(repo, [flow.table.topic for flow in chosen], patience, say)
    with _job(repo, origin, chosen, patience, say) as job:
        job.end_of_log()  # refused before anything is stopped where it went back
        _mend(job)
        config = connector_config(job.source, job.tables)
        # Only an existing connector can forget its position; were it to run before, a snapshot without a base began.
        job.connect.create_stopped(origin, config)
        say(f"stopping connector {origin} and forgetting its position")
        job.connect.reset(origin)
        job.drain()
        _drop_slot(job)
        for earlier in asked.unfinished(job.engine, job.source):
            asked.forget(job.engine, job.source, earlier)  # the position that it would go on from is forgotten
        base, start = job.begin(job.end_of_log()), job.end()
        job.connect.apply(origin, config)
        rows = job.taken(start, "Initial Snapshot", None)
        job.connect.wait_running(origin, patience)
        return job.finish(base, f"recover-{base}", rows)


def _refuse_paused(repo: Repo, names: Sequence[str], patience: float, say: Say) -> None:
    """Raises `Paused` if workers of this machine take no records of some of these tables, and go on so for longer than
    they need to start anew. Those of other machines are not asked."""
    deadline, last = time.monotonic() + min(patience, ANEW_SECONDS), ""
    while why := _paused(repo, names):
        if time.monotonic() > deadline:
            raise Paused(f"nothing was begun, for the workers would not take its records: {why}")
        if why != last:
            say(f"waiting for workers that may be about to start anew: {why}")
        last = why
        time.sleep(LOOK_SECONDS)


def _paused(repo: Repo, names: Sequence[str]) -> str:
    """Why workers of this machine take no records of some of these tables, and what to do; empty if they do."""
    workers = running_workers(repo.workers_folder).values()
    reasons = [
        worker["paused"][name] for name in dict.fromkeys(names) for worker in workers if name in worker["paused"]
    ]
    return "; ".join(dict.fromkeys(reasons))


def _mend(job: _Job) -> None:
    """The source can be captured as it is, or is mended, as `apply` does: a slot seldom goes alone. Of a table that was
    dropped for good its views can be taken out once the source goes on. Raises `SourceNotReady`."""
    with connected(job.engine, job.source) as connection:
        there = table_oids(connection)
    tables = [table for table in job.tables if f"{table.schema}.{table.name}" in there]
    wanted = captures(tables, [view for flow in job.flows for view in flow.views])
    findings = check(job.engine, job.source, wanted, None, fix=True, slot_anew=True)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        raise SourceNotReady(errors)
    for finding in findings:
        if finding.severity == "fixed":
            job.say(finding.message)


def _drop_slot(job: _Job) -> None:
    slot = {"slot": job.source.slot}
    drop = text("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :slot")
    held = text("SELECT active_pid FROM pg_replication_slots WHERE slot_name = :slot AND active")

    def missing() -> str | None:
        with connected(job.engine, job.source) as connection:
            pid = connection.execute(held, slot).scalar()
        return f"slot {job.source.slot} is still read by pid {pid}" if pid is not None else None

    job.wait(missing)
    with connected(job.engine, job.source) as connection:
        connection.execute(drop, slot)
        connection.commit()


@contextmanager
def _job(repo: Repo, origin: str, chosen: Sequence[Flow], patience: float, say: Say) -> Iterator[_Job]:
    topics(repo).ping()  # without Kafka its Connect answers nothing, and does not say why
    database = source(repo, origin)
    with database.opened() as engine, closing(connect(repo)) as client, alone(database, "snapshot"):
        yield _Job(repo, database, engine, chosen, patience, say, client)


def _keys(engine: Engine, origin: Source, table: Table) -> pa.Table:
    """The primary keys of all rows that PostgreSQL holds now."""
    columns = [table.column(name) for name in table.primary_key]
    empty = pa.schema([(column.name, column.arrow_type) for column in columns]).empty_table()
    return pa.concat_tables([empty, *(rows.table for rows in read_rows(engine, origin, table, columns))])
