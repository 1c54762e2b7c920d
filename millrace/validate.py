"""`millrace validate`: a table's whole contract, by Great Expectations itself."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.rows import read_rows
from connectors.table import Table
from millrace.repo import Repo
from millrace.wiring import flows, lake, source
from streams.changes import as_snapshot, carried, changes_schema
from streams.decide import changes_table


class UnknownTable(Exception):
    """A table that no view captures."""


def validate_table(repo: Repo, topic: str, from_source: bool, docs: Path) -> dict[str, Any]:
    """Validate the rows of the source as they are now, or of the lake as they were captured.

    `undecodable` counts rows of the source with a value that cannot be carried; they are no success. Of personal data
    no value is told, neither here nor in the Data Docs.
    Raises `UnknownTable`, `StoreUnavailable` and `SourceUnavailable`.
    """
    declared = flows(repo)
    if topic not in declared:
        raise UnknownTable(f"there is no captured table {topic}; there are {', '.join(declared)}")
    flow = declared[topic]
    rows, undecodable = _of_source(repo, flow.table) if from_source else (_of_lake(repo, flow.table), 0)
    report = flow.contract.validate(rows, docs, flow.personal.has)
    return {
        "table": topic,
        "rows": rows.num_rows,
        "undecodable": undecodable,
        "success": report.success and not undecodable,
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


def _of_source(repo: Repo, table: Table) -> tuple[pa.Table, int]:
    """The rows that can be carried, and how many cannot."""
    columns = [table.column(field.name) for field in carried(table)]
    database = source(repo, table.source)
    engine = database.engine()
    try:
        parts = list(read_rows(engine, database, table, columns))
    finally:
        engine.dispose()
    empty = pa.schema(carried(table)).empty_table()
    rows = pa.concat_tables([empty, *(part.table for part in parts)])
    return as_snapshot(table, rows).rows, sum(part.undecodable.num_rows for part in parts)


def _of_lake(repo: Repo, table: Table) -> pa.Table:
    """Every accepted value: a contract holds for each change, not only for the newest."""
    schema = changes_schema(table)
    rows = lake(repo).scan(changes_table(table.topic)).read_all()
    live = rows.filter(pc.is_in(rows["_op"], pa.array(["c", "u", "r"])))
    return live.select(schema.names).cast(schema)
