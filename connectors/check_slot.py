"""Checks of the replication slot against the position that Kafka Connect has stored."""

from sqlalchemy import Connection, Row, text

from connectors.observation import Observation
from connectors.source import Source

_SLOT = text(
    """
    select s.plugin, s.database, s.active, s.wal_status, to_jsonb(s) ->> 'invalidation_reason' as invalidated,
           s.database = current_database() as here,
           pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::bigint as confirmed
    from pg_replication_slots s where s.slot_name = :slot
    """
)


_END = text(
    """
    select pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn()
                                else pg_current_wal_lsn() end, '0/0')::bigint
    """
)


def check_log(connection: Connection, source: Source, connect_offset_lsn: int | None) -> Observation:
    """The server's log reaches as far as Connect's position, which was taken from it before."""
    end = connection.execute(_END).scalar()  # none on a standby that receives nothing
    if connect_offset_lsn is None or end is None or connect_offset_lsn <= end:
        return Observation("log", "the connector's stored position lies in the server's log")
    return Observation("log", went_back(source.name, connect_offset_lsn, end), wrong=True)


def went_back(source: str, position: int, end: int) -> str:
    """What a stored position beyond the end of the log means, and what to do."""
    return (
        f"the connector's stored position {lsn_text(position)} lies beyond the end of the server's log, "
        f"{lsn_text(end)}: the database went back in its log, as by a volume that was put back or the promotion of a "
        "standby that lacked the tail, and PostgreSQL skips every commit below that position. Run millrace recover "
        f"{source}; where the lake holds changes of the lost tail it refuses, and says what to do"
    )


def check_slot(connection: Connection, source: Source, connect_offset_lsn: int | None, *, anew: bool) -> Observation:
    """The slot is usable and not ahead of Connect's position: what lies between would be lost in silence.

    `connect_offset_lsn` is the stored position as an integer, None if there is none: then the next start takes
    a snapshot, and any slot will do. One that is to be made `anew` has to be the connector's, and no more.
    """
    slot = connection.execute(_SLOT, {"slot": source.slot}).one_or_none()
    if slot is None:
        if connect_offset_lsn is None:
            return Observation("slot", f"slot {source.slot} is made by the connector's first start")
        return _lost(
            source, f"slot {source.slot} is gone, and the changes since {lsn_text(connect_offset_lsn)} with it"
        )
    if not slot.here or slot.plugin != "pgoutput":
        return Observation(
            "slot",
            f"slot {source.slot} belongs to another use (plugin {slot.plugin}, database {slot.database}): "
            f"set another `slot` for source {source.name} in millrace.yaml",
            wrong=True,
        )
    if anew:
        return Observation("slot", f"slot {source.slot} is made anew")
    return _usable(source, slot, connect_offset_lsn)


def lsn_text(lsn: int) -> str:
    """An LSN as PostgreSQL writes it: 67895224 is 0/40BFFB8."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def _usable(source: Source, slot: Row[tuple[object, ...]], offset: int | None) -> Observation:
    if slot.wal_status == "lost" or slot.invalidated:
        return _lost(source, f"slot {source.slot} is invalidated ({slot.invalidated or 'its WAL was removed'})")
    # While a connector reads the slot the two move on, and Debezium compared them itself when it started.
    if offset is not None and not slot.active and slot.confirmed is not None and slot.confirmed > offset:
        return _lost(
            source,
            f"slot {source.slot} stands at {lsn_text(slot.confirmed)}, ahead of the connector's stored position "
            f"{lsn_text(offset)}: it was recreated or advanced, and the changes between them are gone",
        )
    state = "active" if slot.active else "not active"
    note = ", and WAL it needs goes at the next checkpoint" if slot.wal_status == "unreserved" else ""
    return Observation("slot", f"slot {source.slot} is {state}, WAL {slot.wal_status}{note}")


def _lost(source: Source, what: str) -> Observation:
    return Observation(
        "slot",
        f"{what}. Run millrace recover {source.name}: it makes the slot anew, snapshots all tables and reconciles "
        "deletes",
        wrong=True,
    )
