"""How far a source's replication slot is behind, and how much room is left before it is lost."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine, text

from connectors.source import Source, connected

_SLOT = text(
    """
    select s.active, s.wal_status, s.safe_wal_size,
           pg_wal_lsn_diff(w.lsn, s.restart_lsn)::bigint as retained,
           pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn)::bigint as behind,
           pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::bigint as confirmed,
           pg_wal_lsn_diff(w.lsn, '0/0')::bigint as log_end,
           (select now() - min(a.xact_start) from pg_stat_activity a
            where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()) as oldest
    from pg_replication_slots s
    cross join (select case when pg_is_in_recovery() then pg_last_wal_receive_lsn()
                            else pg_current_wal_lsn() end as lsn) w
    where s.slot_name = :slot
    """
)


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """A replication slot.

    `active` a connector reads it; `retained_bytes` of WAL are kept for it, `behind_bytes` of them not yet
    confirmed; `wal_status` is PostgreSQL's (reserved, extended, unreserved, lost); `safe_wal_size` bytes may
    still be written before it is lost, None where `max_slot_wal_keep_size` sets no limit; `log_end` is where the
    server's log ends, None on a standby that receives none;
    `oldest_transaction` is the age of the oldest open transaction that the user may see: the slot cannot
    pass it.
    """

    active: bool
    retained_bytes: int
    behind_bytes: int
    wal_status: str
    safe_wal_size: int | None
    confirmed_flush_lsn: int
    log_end: int | None
    oldest_transaction: timedelta | None


def slot_health(engine: Engine, source: Source) -> SlotHealth | None:
    """The state of the source's slot; None if there is none. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        row = connection.execute(_SLOT, {"slot": source.slot}).one_or_none()
    if row is None:
        return None
    return SlotHealth(
        active=row.active,
        retained_bytes=row.retained or 0,
        behind_bytes=row.behind or 0,
        wal_status=row.wal_status or "lost",
        safe_wal_size=row.safe_wal_size,
        confirmed_flush_lsn=row.confirmed or 0,
        log_end=row.log_end,
        oldest_transaction=row.oldest,
    )
