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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Table
from stores.history import before, newest
from stores.lake import Lake, Snapshot, TopicPartition
from stores.rows import TIMESTAMP, FeatureRows, FeatureWriter
from streams.changes import Changes, changes_schema
from streams.decide import changes_table, decide, features_table
from streams.messages import Records
from streams.pipeline import Embedding, Flow, Flows, Outcome, process
from streams.truncate import Truncated, Truncates, settle, with_deletes
from streams.views import StreamView

CHUNK = 20_000

JOB = "millrace.backfill"
"""The name under which the lake numbers the commits of backfills, table by table."""

Advance = Callable[[str, float], None]
"""Progress: a view, and how much of it is done, 0 to 1."""

Report = dict[str, int]


class UnknownView(Exception):
    """A view that is not declared over a captured table."""


class AnotherBackfill(Exception):
    """Another backfill of the same view adds rows at the same time."""

    def __init__(self, view: str) -> None:
        super().__init__(f"another backfill of view {view} is at work: run this one again when that is done")


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
    """Everything a backfill needs."""

    flows: Flows
    lake: Lake
    writer: FeatureWriter
    embedding: Embedding

    def run(self, views: Sequence[str], window: Window, advance: Advance) -> dict[str, Report]:
        """Bring the named views, or all, into the stores; returns a report for each.

        Entities without a change in the window are left alone. Raises `UnknownView`,
        `AnotherBackfill` and `StoreUnavailable`.
        """
        by_name = {v.view.name: (flow, v) for flow in self.flows.values() for v in flow.views}
        unknown = [name for name in views if name not in by_name]
        if unknown:
            raise UnknownView(f"there is no view {unknown[0]} over a captured table; there are {', '.join(by_name)}")
        return {name: self._view(*by_name[name], window, advance) for name in views or by_name}

    def _view(self, flow: Flow, view: StreamView, window: Window, advance: Advance) -> Report:
        report = {"changes_read": 0, "rejected": 0, "rows_added": 0, "entities": 0, "applied": 0, "refused": 0}
        truncates = Truncates(self.lake)
        self._complete(flow, view, truncates.refresh(flow.table.topic), window, advance, report)
        truncated = truncates.refresh(flow.table.topic)
        if truncated.last:
            settle(self.lake, self.writer, view.view, truncated, 0)
        self._write(view, window, advance, report)
        advance(view.view.name, 1.0)
        return report

    def _complete(
        self, flow: Flow, view: StreamView, truncated: Truncated, window: Window, advance: Advance, report: Report
    ) -> None:
        source, target = changes_table(flow.table.topic), features_table(view.view.name)
        partitions = self.lake.scan(source, ["_partition"]).read_all()["_partition"].unique().to_pylist()
        held = {(flow.table.topic, p): self.lake.next_offset(source, flow.table.topic, p) for p in partitions}
        self.lake.advance(target, {place: offset for place, offset in held.items() if offset is not None})
        snapshot = self.lake.snapshot(source)  # after the offsets: what lies beyond them is the workers' own
        commits = self.lake.commits(target, JOB)  # before what is present: what another run adds after is a conflict
        present = _places(self.lake.scan(target, ["_partition", "_offset"]).read_all())
        total = max(1, snapshot.data.count_rows())
        for batch in snapshot.rows(filter=window.of("_commit_ts"), most=CHUNK):
            rows = pa.table(batch)
            report["changes_read"] += rows.num_rows
            missing = rows.filter(pa.array(~np.isin(_places(rows), present) & _below(rows, held)))
            if missing.num_rows:
                table = self._made_of(flow, view, snapshot, truncated, missing, report)
                if table.num_rows:
                    commits += 1
                    if not self.lake.append_once(target, table, JOB, commits):
                        raise AnotherBackfill(view.view.name)
                    report["rows_added"] += table.num_rows
            advance(view.view.name, 0.5 * report["changes_read"] / total)

    def _made_of(
        self, flow: Flow, view: StreamView, source: Snapshot, truncated: Truncated, rows: pa.Table, report: Report
    ) -> pa.Table:
        """The view's rows of some changes."""
        schema = changes_schema(flow.table)
        only = Flow(flow.table, flow.contract, (view,))
        old = None
        if only.before:
            old = before(source, rows, only.before).cast(pa.schema([schema.field(name) for name in only.before]))
        accepted = process(Changes(flow.table, rows.select(schema.names).cast(schema), old), only)
        report["rejected"] += len(accepted.bad)
        outcome = self.embedding(Outcome(_no_records(flow.table), only, with_deletes(accepted, truncated), (), 0))
        return outcome.rows()[0].table

    def _write(self, view: StreamView, window: Window, advance: Advance, report: Report) -> None:
        names = [key.name for key in view.view.join_keys]
        touched = self.lake.scan(features_table(view.view.name), names, window.of("created_timestamp")).read_all()
        keys = touched.group_by(names).aggregate([])
        for start in range(0, keys.num_rows, CHUNK):
            part = keys.slice(start, CHUNK)
            result = (
                decide(self.lake, self.writer, view.view, part)
                if view.view.kind == "event"
                else self.writer.write([FeatureRows(view.view, newest(self.lake, view.view, part, deleted=True))])
            )
            report["entities"] += part.num_rows
            report["applied"] += result.applied
            report["refused"] += result.refused
            advance(view.view.name, 0.5 + 0.5 * report["entities"] / keys.num_rows)


def _places(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Partition and offset of each row as one number."""
    partitions, offsets = (np.asarray(rows[name], np.int64) for name in ("_partition", "_offset"))
    return partitions << 48 | offsets


def _below(rows: pa.Table, held: Mapping[TopicPartition, int | None]) -> npt.NDArray[np.bool_]:
    """Which rows lie below the offsets of their partitions."""
    limits = {partition: offset or 0 for (_, partition), offset in held.items()}
    limit = np.array([limits.get(p, 0) for p in rows["_partition"].to_pylist()], np.int64)
    return np.asarray(np.asarray(rows["_offset"]) < limit)


def _no_records(table: Table) -> Records:
    return Records(table.topic, [], [], [], [])
