"""One snapshot of a source at a time, and one apply: whoever is at it holds an advisory lock in its database.

https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS. PostgreSQL releases it when the session
ends, so a command that was killed holds nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from connectors.source import Source, connected

Work = Literal["snapshot", "apply"]
_COMMANDS = {"snapshot": "resnapshot or recover", "apply": "apply"}

_KEY = "hashtextextended(concat('millrace ', cast(:work as text), ' ', cast(:slot as text)), 0)"
_TAKE = text(f"select pg_try_advisory_lock({_KEY})")
_HOLDER = text(
    f"""
    select a.pid, a.usename, a.backend_start, coalesce(host(a.client_addr), 'the same machine') as host
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
      and l.database = (select oid from pg_database where datname = current_database())
      and ((l.classid::bigint << 32) | l.objid::bigint) = {_KEY}
    """
)
_NOTICED_DEAD = text(
    """
    select set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
           set_config('tcp_keepalives_count', '3', false)
    """
)
_KEPT = text("select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout'")
"""Of servers from PostgreSQL 14 on."""


class UnderWay(Exception):
    """Another command is at the same work on the source."""


@contextmanager
def alone(source: Source, work: Work) -> Iterator[None]:
    """Nobody else is at that work on the source during the block. Raises `UnderWay` if somebody is already, and
    `SourceUnavailable`."""
    elsewhere: DBAPIError | None = None
    with source.opened() as engine, connected(engine, source) as connection:
        # No transaction stays open meanwhile: the slot could not pass it.
        session = connection.execution_options(isolation_level="AUTOCOMMIT")
        session.execute(_NOTICED_DEAD)
        session.execute(_KEPT)
        if not session.execute(_TAKE, {"slot": source.slot, "work": work}).scalar_one():
            raise UnderWay(
                f"source {source.name}: {holder(engine, source, work) or 'another command'} is at it; one "
                f"{_COMMANDS[work]} of a source at a time"
            )
        try:
            yield
        except DBAPIError as error:  # not of this connection: within it, it would be taken for the source's
            elsewhere = error
    if elsewhere is not None:
        raise elsewhere


def holder(engine: Engine, source: Source, work: Work) -> str | None:
    """Who is at that work on the source now, for people; None if nobody is. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        row = connection.execute(_HOLDER, {"slot": source.slot, "work": work}).one_or_none()
    if row is None:
        return None
    if row.backend_start is None:  # nor its address: that of another user's session takes pg_read_all_stats to see
        return f"a command of database user {row.usename} (pid {row.pid} of the database)"
    return f"a command on {row.host} (pid {row.pid} of the database, since {row.backend_start:%Y-%m-%d %H:%M:%S %Z})"
