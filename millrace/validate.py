"""`millrace validate`: a table's whole contract, by Great Expectations itself, and what its views make of the rows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.rows import read_rows
from connectors.source import Source
from connectors.table import Table
from millrace.repo import Repo, UnknownTable
from millrace.wiring import flows, lake, source
from streams.changes import Changes, as_snapshot, carried, changes_schema
from streams.decide import changes_table
from streams.pipeline import Flow, process
from streams.views import StreamView

CHUNK = 20_000
"""Rows that a view is given at once."""

REASONS = 5


def validate_table(repo: Repo, topic: str, from_source: bool, docs: Path) -> dict[str, Any]:
    """Validate the rows of the source as they are now, or of the lake as they were captured.

    `undecodable` counts rows of the source with a value that cannot be carried, `views` has for each view the rows that
    it cannot take: its transform fails on them, or a value does not fit. Neither is a success. Of personal data no
    value is told, neither here nor in the Data Docs.
    Raises `UnknownTable`, `StoreUnavailable` and `SourceUnavailable`.
    """
    declared = flows(repo)
    if topic not in declared:
        raise UnknownTable(topic, declared)
    flow = declared[topic]
    if from_source:
        rows, undecodable = rows_of_source(source(repo, flow.table.source), flow.table)
    else:
        rows, undecodable = _of_lake(repo, flow.table), 0
    report = flow.contract.validate(rows, docs, flow.personal.has)
    views = {view.view.name: _rejections(view, flow, rows) for view in flow.views}
    return {
        "table": topic,
        "rows": rows.num_rows,
        "undecodable": undecodable,
        "views": views,
        "success": report.success and not undecodable and not any(view["rejected"] for view in views.values()),
        "failed": sum(not outcome.success for outcome in report.outcomes),
        "docs": str(report.page),
        "expectations": [
            {
                "expectation": outcome.rule.expectation,
                "columns": list(outcome.rule.columns),
                "severity": outcome.rule.severity,
                "success": outcome.success,
                "failed": outcome.failed,
                "observed": outcome.observed,
                "error": outcome.error,
            }
            for outcome in report.outcomes
        ],
    }


def _rejections(view: StreamView, flow: Flow, rows: pa.Table) -> dict[str, Any]:
    """How many rows that the contract lets through a view cannot take, and its most frequent reasons."""
    rejected, reasons = 0, Counter[str]()
    for start in range(0, rows.num_rows, CHUNK):
        accepted = process(Changes(flow.table, rows.slice(start, CHUNK)), replace(flow, views=(view,)))
        for stage, several in accepted.bad.values():
            if stage == "transform":
                rejected += 1
                reasons.update(map(flow.personal.reason, several))
    return {"rejected": rejected, "reasons": dict(reasons.most_common(REASONS))}


def rows_of_source(database: Source, table: Table, most: int | None = None) -> tuple[pa.Table, int]:
    """The rows that can be carried, of all or of so many, and how many cannot."""
    columns = [table.column(field.name) for field in carried(table)]
    with database.opened() as engine:
        parts = list(read_rows(engine, database, table, columns, most))
    empty = pa.schema(carried(table)).empty_table()
    rows = pa.concat_tables([empty, *(part.table for part in parts)])
    return as_snapshot(table, rows).rows, sum(part.undecodable.num_rows for part in parts)


def _of_lake(repo: Repo, table: Table) -> pa.Table:
    """Every accepted value: a contract holds for each change, not only for the newest."""
    schema = changes_schema(table)
    rows = lake(repo).scan(changes_table(table.topic)).read_all()
    live = rows.filter(pc.is_in(rows["_op"], pa.array(["c", "u", "r"])))
    return live.select(schema.names).cast(schema)
