"""`millrace validate`: a table's whole contract, by Great Expectations itself."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.rows import read_rows
from connectors.table import Table
from millrace.repo import Repo
from millrace.wiring import flows, lake, source
from streams.changes import carried
from streams.decide import changes_table


class UnknownTable(Exception):
    """A table that no view captures."""


def validate_table(repo: Repo, topic: str, from_source: bool, docs: Path) -> dict[str, Any]:
    """Validate the rows of the source as they are now, or of the lake as they were captured.

    Raises `UnknownTable`, `StoreUnavailable` and `SourceUnavailable`.
    """
    declared = flows(repo)
    if topic not in declared:
        raise UnknownTable(f"there is no captured table {topic}; there are {', '.join(declared)}")
    flow = declared[topic]
    rows = _of_source(repo, flow.table) if from_source else _of_lake(repo, flow.table)
    report = flow.contract.validate(rows, docs)
    return {
        "table": topic,
        "rows": rows.num_rows,
        "success": report.success,
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


def _of_source(repo: Repo, table: Table) -> pa.Table:
    names = {field.name for field in carried(table)}
    columns = [column for column in table.columns if column.name in names]
    database = source(repo, table.source)
    engine = database.engine()
    try:
        parts = [rows.table for rows in read_rows(engine, database, table, columns)]
    finally:
        engine.dispose()
    return pa.concat_tables(parts) if parts else pa.schema(carried(table)).empty_table()


def _of_lake(repo: Repo, table: Table) -> pa.Table:
    """Every accepted value: a contract holds for each change, not only for the newest."""
    schema = pa.schema(carried(table))
    rows = lake(repo).scan(changes_table(table.topic)).read_all()
    live = rows.filter(pc.is_in(rows["_op"], pa.array(["c", "u", "r"])))
    return live.select(schema.names).cast(schema)
