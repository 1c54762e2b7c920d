"""The newest rows of a view, read plainly: what `stores.history.newest` answers by a query, at a tenth of its cost.

`tests/property/test_history.py` holds the query to its rule; every eighth seed uses the query itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from stores.lake import Lake
from stores.rows import EMBEDDING, rows_schema
from stores.view import View


def newest(lake: Lake, view: View, keys: pa.Table | None = None, *, deleted: bool = False) -> pa.Table:
    """As `stores.history.newest`."""
    schema = rows_schema(view)
    for column in EMBEDDING if view.vector else ():
        schema = schema.append(column)
    (name,) = (key.name for key in view.join_keys)
    rows = lake.scan(f"features/{view.name}", schema.names).read_all().cast(schema).to_pylist()
    wanted = None if keys is None else set(keys[name].to_pylist())
    latest: dict[Any, dict[str, Any]] = {}
    for row in rows:
        by = row["_row"] if view.kind == "event" else row[name]
        if by not in latest or _version(row) > _version(latest[by]):
            latest[by] = row
    best: dict[Any, dict[str, Any]] = {}
    for row in latest.values():
        chosen = best.get(row[name])
        if (deleted or not row["_deleted"]) and (chosen is None or _place(row) > _place(chosen)):
            best[row[name]] = row
    found = [row for key, row in best.items() if wanted is None or key in wanted]
    return pa.Table.from_pylist(found, schema)


def ordered(query: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """The query with its rows in one order: DuckDB's own depends on its threads, and a seed has to be a run."""

    def run(*arguments: Any, **options: Any) -> pa.Table:
        found = query(*arguments, **options)
        places = sorted(range(found.num_rows), key=lambda i: repr(found.slice(i, 1).to_pylist()))
        return found.take(pa.array(places, pa.int64()))

    return run


def ordered_parts(query: Callable[..., Iterator[pa.Table]], most: int) -> Callable[..., Iterator[pa.Table]]:
    """As `ordered`, of a query that answers part by part; its parts have at most so many rows."""

    def run(*arguments: Any, **options: Any) -> Iterator[pa.Table]:
        if several := list(query(*arguments, **options)):
            found = ordered(pa.concat_tables)(several)
            yield from (found.slice(start, most) for start in range(0, found.num_rows, most))

    return run


def _version(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["_lsn"], not row["_deleted"], row["_offset"]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["event_timestamp"], row["_lsn"], row["_row"]
