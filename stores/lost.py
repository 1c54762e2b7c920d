"""What the lake's changes hold and the source has no more: found by comparing primary keys after a snapshot."""

import json
from collections.abc import Sequence

import pyarrow as pa

from stores.history import PRIMARY_KEY
from stores.lake import Lake
from stores.query import answer, held, quoted, session


def vanished(lake: Lake, name: str, present: pa.Table, before: int) -> pa.Table:
    """The newest versions of the rows of a table of changes that are live, older than the LSN `before`, and whose
    primary key is not among `present`. Schema as the lake's. Raises `StoreUnavailable`, `TableMissing`."""
    table = lake.snapshot(name)
    keys = json.loads(table.properties[PRIMARY_KEY])
    stored = pa.schema([table.schema.field(key) for key in keys])
    by = ", ".join(map(quoted, keys))
    with session(data=table.data, present=present.select(keys).cast(stored)) as connection:
        query = f"""
            WITH newest AS (
                SELECT * FROM data WHERE _op <> 't'
                QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY _lsn DESC, _op = 'd', _offset DESC) = 1
            )
            SELECT * FROM newest ANTI JOIN present USING ({by})
            WHERE _op <> 'd' AND _lsn < {before}
            AND _lsn > (SELECT coalesce(max(_lsn), -1) FROM data WHERE _op = 't')"""
        return answer(connection, query, table.schema)


def moved(lake: Lake, name: str, columns: Sequence[str], before: int) -> pa.Table:
    """Of each row of a table of changes the newest version up to the LSN `before`, if it is live, was not
    truncated since, and the version that follows it has other values in `columns`; with the commit time of that
    one, by which it was no longer true. Schema and errors as of `vanished`."""
    table = lake.snapshot(name)
    by = ", ".join(quoted(key) for key in json.loads(table.properties[PRIMARY_KEY]))
    same = " AND ".join(
        f"old.{quoted(held(table, column))} IS NOT DISTINCT FROM following.{quoted(column)}" for column in columns
    )
    with session(data=table.data) as connection:
        query = f"""
            WITH old AS (
                SELECT * FROM data WHERE _op <> 't' AND _lsn <= {before}
                QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY _lsn DESC, _op = 'd', _offset DESC) = 1
            ), following AS (
                SELECT * FROM data WHERE _op <> 't' AND _lsn > {before}
                QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY _lsn, _op <> 'd', _offset) = 1
            )
            SELECT old.* REPLACE (following._commit_ts AS _commit_ts) FROM old JOIN following USING ({by})
            WHERE old._op <> 'd' AND NOT ({same})
            AND old._lsn > (SELECT coalesce(max(_lsn), -1) FROM data WHERE _op = 't')"""
        return answer(connection, query, table.schema)
