"""From the lake into the stores, through the same code path as the live stream.

Two steps a view, each resumable and repeatable:
1. The view's table in the lake is completed: changes without a row there (the view was added after them) go
   through `process`. Which are missing is read off the lake itself, so a killed run leaves nothing to tidy.
2. The newest row of each entity is written to the online or vector store by compare-and-set: newer values
   stay. Entities of event views are decided as the worker decides them.

Nothing is written twice. Beside live workers: a worker writes a view's rows before the changes they were made
of, and the first step moves the view's offsets to those of the changes before it looks for what is missing.
Beside another backfill of the same view: their commits are numbered, and the one that comes second gives up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Table
from stores.history import before, newest
from stores.lake import Lake, Snapshot, TopicPartition
from stores.rows import TIMESTAMP, FeatureRows, FeatureWriter, WriteResult
from streams.changes import Changes, changes_schema
from streams.decide import changes_table, decide, features_table
from streams.embed import Made
from streams.messages import Records
from streams.missing import JOB, Places, absent, among, below, places, span
from streams.pipeline import Embedding, Flow, Flows, Outcome, process
from streams.truncate import Truncated, Truncates, complete, with_deletes
from streams.views import StreamView, unfit

CHUNK = 20_000
"""Changes that are processed, and entities that are written, at once."""

QUERY_BYTES = 64 * 2**20
"""Rows, in bytes, that one query of the lake is made for. Each reads a table whole: a few large ones cost less."""

ENTITIES = 1_000_000
"""Rows of a view that are looked through at once for the entities that they name."""

Advance = Callable[[str, float], None]
"""Progress: a view, and how much of it is done, 0 to 1."""

Report = dict[str, int]


class UnknownView(Exception):
    """A view that is not declared over a captured table."""


class AnotherBackfill(Exception):
    """Another backfill of the same view adds rows at the same time."""

    def __init__(self, view: str) -> None:
        super().__init__(f"another backfill of view {view} is at work: run this one again when that is done")


class AppliedMeanwhile(Exception):
    """Something else was applied since the backfill began, which goes by what was declared then."""

    def __init__(self) -> None:
        super().__init__(
            "something else was applied meanwhile: what is left was not filled by the declarations of before. Run this "
            "again; rows that it added until now stay as they are, as those do that were there before that apply"
        )


def unwatched() -> bool:
    """Where nobody else applies anything."""
    return True


@dataclass(frozen=True, slots=True)
class Window:
    """A span of commit times, open where None."""

    start: datetime | None = None
    end: datetime | None = None

    def of(self, column: str) -> pc.Expression | None:
        """The span as a filter on a column."""
        bounds = []
        if self.start is not None:
            bounds.append(pc.field(column) >= pa.scalar(self.start.replace(tzinfo=UTC), TIMESTAMP))
        if self.end is not None:
            bounds.append(pc.field(column) < pa.scalar(self.end.replace(tzinfo=UTC), TIMESTAMP))
        return bounds[0] & bounds[-1] if bounds else None


@dataclass(frozen=True, slots=True)
class Backfill:
    """Everything a backfill needs. `holds` tells whether what is declared is still what `flows` was made of."""

    flows: Flows
    lake: Lake
    writer: FeatureWriter
    embedding: Embedding
    holds: Callable[[], bool] = unwatched

    def run(self, views: Sequence[str], window: Window, advance: Advance) -> dict[str, Report]:
        """Bring the named views, or all, into the stores; returns a report for each.

        Entities without a change in the window are left alone. Raises `UnknownView`, `AnotherBackfill`,
        `AppliedMeanwhile` and `StoreUnavailable`.
        """
        by_name = {v.view.name: (flow, v) for flow in self.flows.values() for v in flow.views}
        unknown = [name for name in views if name not in by_name]
        if unknown:
            raise UnknownView(f"there is no view {unknown[0]} over a captured table; there are {', '.join(by_name)}")
        reports = {name: self._view(*by_name[name], window, advance) for name in views or by_name}
        self._check()
        return reports

    def _check(self) -> None:
        if not self.holds():
            raise AppliedMeanwhile

    def _view(self, flow: Flow, view: StreamView, window: Window, advance: Advance) -> Report:
        report = {"changes_read": 0, "rejected": 0, "rows_added": 0, "entities": 0, "applied": 0, "refused": 0}
        truncates = Truncates(self.lake)
        self._complete(flow, view, truncates.refresh(flow.table.topic), window, advance, report)
        truncated = truncates.refresh(flow.table.topic)
        complete(self.lake, view.view, truncated, truncated.lsns.tolist())
        self._write(view, window, advance, report)
        advance(view.view.name, 1.0)
        return report

    def _complete(
        self, flow: Flow, view: StreamView, truncated: Truncated, window: Window, advance: Advance, report: Report
    ) -> None:
        source, target = changes_table(flow.table.topic), features_table(view.view.name)
        within = window.of("_commit_ts")
        partitions = {
            p for part in self.lake.scan(source, ["_partition"], within) for p in part[0].unique().to_pylist()
        }
        held = {(flow.table.topic, p): self.lake.next_offset(source, flow.table.topic, p) for p in partitions}
        self.lake.advance(target, {place: offset for place, offset in held.items() if offset is not None})
        snapshot = self.lake.snapshot(source)  # after the offsets: what lies beyond them is the workers' own
        commits = self.lake.commits(target, JOB)  # before what is present: what another run adds after is a conflict
        missing = self._missing(snapshot, target, within, held, report)
        done = 0
        for changes in _gathered(snapshot, within, missing):
            old = _old(flow, view, snapshot, changes)
            for start in range(0, changes.num_rows, CHUNK):
                rows = changes.slice(start, CHUNK)
                values = None if old is None else old.slice(start, CHUNK)
                self._check()
                table = self._made_of(flow, view, truncated, rows, values, report)
                if table.num_rows:
                    commits += 1
                    if not self.lake.append_once(target, table, JOB, commits):
                        raise AnotherBackfill(view.view.name)
                    report["rows_added"] += table.num_rows
                done += rows.num_rows
                advance(view.view.name, 0.5 * done / len(missing))

    def _missing(
        self,
        source: Snapshot,
        target: str,
        within: pc.Expression | None,
        held: Mapping[TopicPartition, int | None],
        report: Report,
    ) -> Places:
        """Where the changes stand, in order, that lie in the window and below the offsets, and not in the view's table.

        They are known by their places alone: a row's time there need not be that of its change. Memory holds 8 bytes a
        change of the window.
        """
        found = []
        for part in source.rows(["_partition", "_offset"], within):
            report["changes_read"] += part.num_rows
            found.append(places(part)[below(part, held)])
        asked = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
        return asked[absent(self.lake, target, asked)]

    def _made_of(
        self, flow: Flow, view: StreamView, truncated: Truncated, rows: pa.Table, old: pa.Table | None, report: Report
    ) -> pa.Table:
        """The view's rows of some changes, of which `old` has the values before."""
        schema = changes_schema(flow.table)
        # What looks across rows judged these by the changes that came with them: others are beside them here.
        only = Flow(flow.table, flow.contract.by_row(), (view,))
        accepted = process(Changes(flow.table, rows.select(schema.names).cast(schema), old), only)
        report["rejected"] += len(accepted.bad)
        outcome = self.embedding(
            Outcome(_no_records(flow.table), only, with_deletes(accepted, truncated), (), 0), Made()
        )
        return outcome.rows()[0].table

    def _write(self, view: StreamView, window: Window, advance: Advance, report: Report) -> None:
        names = [key.name for key in view.view.join_keys]
        keys = _distinct(self.lake.scan(features_table(view.view.name), names, window.of("created_timestamp")))
        at_once = CHUNK
        while report["entities"] < keys.num_rows:
            self._check()
            part = keys.slice(report["entities"], at_once)
            if view.view.kind == "event":  # few at once: for those that change meanwhile it is asked again
                results = [decide(self.lake, self.writer, view.view, part)]
            else:
                rows = newest(self.lake, view.view, part, deleted=True)
                at_once = max(CHUNK, QUERY_BYTES * rows.num_rows // max(1, rows.nbytes))
                results = self._written(view, rows)
            report["entities"] += part.num_rows
            report["applied"] += sum(result.applied for result in results)
            report["refused"] += sum(result.refused for result in results)
            advance(view.view.name, 0.5 + 0.5 * report["entities"] / keys.num_rows)

    def _written(self, view: StreamView, rows: pa.Table) -> list[WriteResult]:
        parts = (rows.slice(start, CHUNK) for start in range(0, rows.num_rows, CHUNK))
        return [self.writer.write([FeatureRows(view.view, part)]) for part in parts]


def _distinct(rows: pa.RecordBatchReader) -> pa.Table:
    """Each row once. Memory holds about two parts of `ENTITIES` rows more than these, or twice as many."""
    found, gathered, count = _grouped(rows.schema.empty_table()), list[pa.RecordBatch](), 0
    for part in rows:
        gathered.append(part)
        count += part.num_rows
        if count >= max(ENTITIES, found.num_rows):
            found, gathered, count = _merged(found, gathered), [], 0
    return _merged(found, gathered) if gathered else found


def _merged(found: pa.Table, more: Sequence[pa.RecordBatch]) -> pa.Table:
    return _grouped(pa.concat_tables([found, _grouped(pa.Table.from_batches(more))]))


def _grouped(rows: pa.Table) -> pa.Table:
    return rows.group_by(rows.column_names).aggregate([])


def _gathered(source: Snapshot, within: pc.Expression | None, missing: Places) -> Iterator[pa.Table]:
    """The changes at these places, as many at once as a query is made for."""
    if not len(missing):
        return
    between = span(missing)
    gathered: list[pa.RecordBatch] = []
    size = 0
    for part in source.rows(filter=between if within is None else within & between, most=CHUNK):
        rows = part.filter(pa.array(among(places(part), missing)))
        if rows.num_rows:
            gathered.append(rows)
            size += rows.nbytes
        if size >= QUERY_BYTES:
            yield pa.Table.from_batches(gathered)
            gathered, size = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered)


def _old(flow: Flow, view: StreamView, source: Snapshot, changes: pa.Table) -> pa.Table | None:
    """What the columns held before each change whose old values the view needs. Changes whose join keys do not fit
    the view are rejected, and until the next one the row is where it was before them."""
    columns = Flow(flow.table, flow.contract, (view,)).before
    if not columns:
        return None
    schema = changes_schema(flow.table)
    types = pa.schema([schema.field(name) for name in columns])
    old = before(source, changes, columns).cast(types)
    if unfit(view, old):
        held = _distinct(source.rows(list(dict.fromkeys(view.key_columns))))
        old = before(source, changes, columns, unfit(view, held)).cast(types)
    return old


def _no_records(table: Table) -> Records:
    return Records(table.topic, [], [], [], [])
