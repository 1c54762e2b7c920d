"""Is a source database fit to be captured? Each finding says what to do, where possible as a statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from connectors.check_publication import check_publication
from connectors.check_server import check_server
from connectors.check_slot import check_log, check_slot
from connectors.check_tables import check_own_tables, check_tables
from connectors.observation import Observation
from connectors.reflect import LOCK_NOT_AVAILABLE
from connectors.source import Capture, Source, connected, quoted

Severity = Literal["error", "fixed", "ok"]

# An ALTER TABLE that waits for a long transaction makes everybody else wait behind it.
_LOCK_TIMEOUT = "2s"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: `message` says what was found and, of an error, what to do. `fixable` errors
    are those that `check` with `fix` mends."""

    severity: Severity
    source: str
    check: str
    message: str
    fixable: bool = False


def check(
    engine: Engine,
    source: Source,
    captures: Sequence[Capture],
    connect_offset_lsn: int | None,
    *,
    fix: bool,
    slot_anew: bool = False,
) -> list[Finding]:
    """Check a source before its tables are captured.

    With `fix`, what is wrong and the connected user may change is changed, all of it in one transaction, and
    only if nothing else is wrong: a source that is refused is left as it was. `connect_offset_lsn` is
    `Connect.offset_lsn`; with `slot_anew` the slot may be whatever it is. Raises `SourceUnavailable`.
    """
    with connected(engine, source) as connection:
        seen = [
            *check_server(connection, source),
            *check_tables(connection, captures),
            *check_own_tables(connection, source),
            *check_publication(connection, source, captures),
            check_log(connection, source, connect_offset_lsn),
            check_slot(connection, source, connect_offset_lsn, anew=slot_anew),
        ]
        wrong = [observation for observation in seen if observation.wrong]
        if not fix or not all(observation.allowed for observation in wrong):
            return [_finding(source, observation, "error") for observation in seen]
        failure = _mend(connection, wrong, captures)
    if failure:
        return [Finding("error", source.name, "fix", failure)]
    return [_finding(source, observation, "fixed") for observation in seen]


def _mend(connection: Connection, wrong: Sequence[Observation], captures: Sequence[Capture]) -> str | None:
    """Execute all remedies in one transaction; what went wrong, if anything did and so nothing was changed."""
    connection.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
    for observation in wrong:
        for statement in observation.remedy:
            if failure := _execute(connection, statement):
                return f"{observation.message}; but {statement} failed, and nothing was changed: {failure.orig}"
    may_delete = text("select has_table_privilege(:table, 'DELETE')")
    for table in [quoted(capture.table) for capture in captures]:
        # PostgreSQL refuses updates and deletes of a table whose identity does not suit one of its publications.
        # Planning a delete tells, and executes nothing.
        if not connection.execute(may_delete, {"table": table}).scalar_one():
            continue
        if failure := _execute(connection, f"EXPLAIN DELETE FROM {table}"):
            if getattr(failure.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
                return f"{table}, or a part of it, is locked, so nothing was changed; try again once it is not"
            return f"the application could no longer change {table}, so nothing was changed: {failure.orig}"
    connection.commit()
    return None


def _execute(connection: Connection, statement: str) -> DBAPIError | None:
    """Execute a statement; if that fails, roll back and return the error."""
    try:
        # The driver takes a percent sign for a placeholder.
        connection.exec_driver_sql(statement.replace("%", "%%"))
    except DBAPIError as error:
        connection.rollback()
        return error
    return None


def _finding(source: Source, seen: Observation, mended: Literal["error", "fixed"]) -> Finding:
    if not seen.wrong:
        return Finding("ok", source.name, seen.check, seen.message)
    message = seen.message
    if seen.remedy:
        statements = "; ".join(seen.remedy)
        if mended == "fixed":
            message += f"; did: {statements}"
        else:
            message += f"; {'millrace apply runs' if seen.allowed else 'let its owner run'}: {statements}"
    return Finding(mended, source.name, seen.check, message, seen.allowed)
