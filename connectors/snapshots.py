"""Snapshots asked for while a connector runs: where they begin in the log, the signal, and what Debezium tells.

https://debezium.io/documentation/reference/stable/configuration/signalling.html (source channel) and
https://debezium.io/documentation/reference/stable/configuration/notification.html (sink channel).
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, text

from connectors.debezium import escaped
from connectors.source import Source, connected, quoted
from connectors.table import Table

Kind = Literal["Initial Snapshot", "Incremental Snapshot"]

_CLOCK = text("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
_LSN = text("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
# A number of its own: xmax of a snapshot is the one after the latest that has ended, and may be that of an open one.
_NEXT = text("select txid_current()")
_OPEN = text(
    """
    select pid, coalesce(application_name, '') as name, date_trunc('second', xact_start) as since from pg_stat_activity
    where backend_xid is not null and pid <> pg_backend_pid() order by xact_start limit 3
    """
)
_OLDEST = text("select txid_snapshot_xmin(txid_current_snapshot())")

_PREFIX = "millrace-"
_STOPPED = {"ABORTED", "SKIPPED"}


@dataclass(frozen=True, slots=True)
class Base:
    """A moment in PostgreSQL's log: no change that is committed after the transactions below `next` have ended
    stands below `lsn`, where a record can begin, nor has a commit time below `micros`, since the epoch."""

    lsn: int
    next: int
    micros: int


def base(engine: Engine, source: Source) -> Base:
    """The moment now. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        micros = connection.execute(_CLOCK).scalar_one()
        lsn = connection.execute(_LSN).scalar_one()  # first: what has written below it has a number already
        number = connection.execute(_NEXT).scalar_one()
    return Base(-(-lsn // 8) * 8, number, micros)


def open_transactions(engine: Engine, source: Source, since: Base) -> list[str]:
    """The oldest transactions that were open at `since` and still are, for people; empty when all have ended.
    Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        if connection.execute(_OLDEST).scalar_one() >= since.next:
            return []
        rows = connection.execute(_OPEN).all()
    return [f"pid {row.pid} {row.name}, open since {row.since}" for row in rows] or ["a prepared transaction"]


def ask(engine: Engine, source: Source, number: str, tables: Sequence[Table]) -> str:
    """Ask for an incremental snapshot of tables; returns the request's id, which the signal table keeps until
    `forget`. Raises `SourceUnavailable`."""
    request = f"{_PREFIX}{number}"
    data = json.dumps({"data-collections": [_asked(table) for table in tables], "type": "incremental"})
    with connected(engine, source) as connection:
        connection.execute(
            text(f"INSERT INTO {quoted(source.signal_table)} VALUES (:id, 'execute-snapshot', :data)"),
            {"id": request, "data": data},
        )
        connection.commit()
    return request


def _asked(table: Table) -> str:
    """A table's name as Debezium takes it: as a regular expression of whole names, with case, or as it is where it
    compiles and none matches. One that only words make up matches itself alone. Two quoted parts would be the same
    table."""
    name = f"{table.schema}.{table.name}"
    return name if re.fullmatch(r"\w+\.\w+", name) else escaped(name)


def unfinished(engine: Engine, source: Source) -> list[str]:
    """The requests of `ask` that were not forgotten. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        found = connection.execute(text(f"SELECT id FROM {quoted(source.signal_table)}")).scalars()
        return sorted(request for request in found if request.startswith(_PREFIX))


def forget(engine: Engine, source: Source, request: str) -> None:
    """Remove a request from the signal table; no snapshot is stopped by it. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        connection.execute(text(f"DELETE FROM {quoted(source.signal_table)} WHERE id = :id"), {"id": request})
        connection.commit()


@dataclass(frozen=True, slots=True)
class Progress:
    """What notifications tell of one snapshot: `rows` by table, of those read to their end. `failed` tells why a table
    was not; the others may be read nevertheless. `chunks` are those that an incremental one has read so far."""

    started: bool
    finished: bool
    failed: str | None
    rows: dict[str, int]
    chunks: int


def progress(notifications: Iterable[bytes | None], kind: Kind, request: str | None) -> Progress:
    """How far a snapshot is: by its request, or without one any of the kind."""
    told = [json.loads(value) for value in notifications if value]
    mine = [n for n in told if n["aggregate_type"] == kind and request in (None, n["id"])]
    types = {n["type"] for n in mine}
    scans = [n["additional_data"] for n in mine if n["type"] == "TABLE_SCAN_COMPLETED"]
    bad = [s for s in scans if s.get("status") not in ("SUCCEEDED", "EMPTY")]
    return Progress(
        started="STARTED" in types,
        finished="COMPLETED" in types,
        failed=_failure(bad, types),
        rows={_table(scan): int(scan.get("total_rows_scanned") or 0) for scan in scans},
        chunks=sum(n["type"] == "IN_PROGRESS" for n in mine),
    )


def _failure(scans: list[dict[str, Any]], types: set[str]) -> str | None:
    if scans:
        return "; ".join(f"{_table(scan)}: {scan.get('status')}" for scan in scans)
    stopped = types & _STOPPED
    return f"the snapshot was {', '.join(sorted(stopped)).lower()}" if stopped else None


def _table(scan: dict[str, Any]) -> str:
    return str(scan.get("scanned_collection") or scan.get("current_collection_in_progress"))
