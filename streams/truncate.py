"""A TRUNCATE as what it means: the delete of every row that the table's views hold."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.history import standing
from stores.lake import Lake
from stores.rows import FeatureRows, rows_schema
from streams.decide import features_table
from streams.pipeline import Outcome
from streams.views import Projected, StreamView


def expand_truncates(lake: Lake, outcome: Outcome) -> Outcome:
    """The outcome with a marked row, at the truncate's LSN, for every row that stood before it.

    Those rows are in the lake, which must be up to date, or earlier in the same outcome. Raises
    `StoreUnavailable`.
    """
    changes = outcome.accepted.changes
    at = np.flatnonzero(pc.equal(changes.rows["_op"], "t"))
    if not len(at):
        return outcome
    projected = tuple((view, _expand(lake, outcome, view, rows, at)) for view, rows in outcome.accepted.projected)
    return replace(outcome, accepted=replace(outcome.accepted, projected=projected))


def _expand(lake: Lake, outcome: Outcome, view: StreamView, projected: Projected, at: np.ndarray) -> Projected:
    live = standing(lake, view.view) if lake.exists(features_table(view.view.name)) else None
    tables, positions = [projected.rows.table], [projected.positions]
    for truncate in at:
        meta = outcome.accepted.changes.rows.slice(truncate, 1)
        earlier = projected.rows.table.filter(pa.array(projected.positions < truncate))
        for table in (t for t in (live, earlier) if t is not None and t.num_rows):
            tables.append(_gone(view, table.filter(pc.less(table["_lsn"], meta["_lsn"][0])), meta))
            positions.append(np.full(tables[-1].num_rows, truncate))
    rows = FeatureRows(view.view, pa.concat_tables(tables, promote_options="default"))
    return Projected(rows, np.concatenate(positions), projected.skipped)


def _gone(view: StreamView, rows: pa.Table, meta: pa.Table) -> pa.Table:
    """The rows that stood, as deleted by the truncate that `meta` describes."""
    count = rows.num_rows
    keys = {key.name for key in view.view.join_keys}
    values: dict[str, pa.Array] = {name: rows[name] for name in (*keys, "_row")}
    values |= {
        "event_timestamp": _repeat(meta["_commit_ts"][0], count),
        "created_timestamp": _repeat(meta["_commit_ts"][0], count),
        "_deleted": pa.array(np.ones(count, bool)),
        "_lsn": _repeat(meta["_lsn"][0], count),
        "_partition": _repeat(meta["_partition"][0], count),
        "_offset": _repeat(meta["_offset"][0], count),
    }
    schema = rows_schema(view.view)
    return pa.table([values.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema)


def _repeat(value: pa.Scalar, count: int) -> pa.Array:
    return pa.repeat(value, count)
