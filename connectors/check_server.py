"""Checks of the server, the user and the database."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from connectors.observation import Observation
from connectors.source import Source, quoted_name

# Managed PostgreSQL gives replication through membership instead of the attribute.
_REPLICATION_ROLES = ("rds_replication", "cloudsqlreplica", "azure_pg_admin")

_ROLE = text(
    """
    select current_user as name,
           r.rolsuper or r.rolreplication or exists (
               select from pg_roles g where g.rolname = any(:groups) and pg_has_role(r.oid, g.oid, 'MEMBER')
           ) as replicates,
           r.rolsuper as superuser
    from pg_roles r where r.rolname = current_user
    """
)

_SLOTS = text(
    """
    select current_setting('max_replication_slots')::int as most, count(*) as used,
           coalesce(bool_or(slot_name = :slot), false) as present
    from pg_replication_slots
    """
)

_ENUM_DOMAINS = text(
    """
    select n.nspname || '.' || d.typname from pg_type d
    join pg_namespace n on n.oid = d.typnamespace
    join pg_type b on b.oid = d.typbasetype
    where d.typtype = 'd' and b.typcategory = 'E'
    order by 1
    """
)


def check_server(connection: Connection, source: Source) -> Iterator[Observation]:
    """wal_level, the replication privilege, a free replication slot, and types that stop Debezium."""
    yield _wal_level(connection)
    yield _replication(connection)
    yield _free_slot(connection, source)
    yield _enum_domains(connection)


def _wal_level(connection: Connection) -> Observation:
    level = connection.execute(text("select current_setting('wal_level')")).scalar_one()
    if level == "logical":
        return Observation("wal_level", "wal_level is logical")
    return Observation(
        "wal_level",
        f"wal_level is {level}, and capture needs logical: run ALTER SYSTEM SET wal_level = 'logical' as a "
        "superuser and restart PostgreSQL (managed services have a setting for it)",
        wrong=True,
    )


def _replication(connection: Connection) -> Observation:
    role = connection.execute(_ROLE, {"groups": list(_REPLICATION_ROLES)}).one()
    if role.replicates:
        return Observation("replication", f"user {role.name} may replicate")
    return Observation(
        "replication",
        f"user {role.name} may not replicate",
        wrong=True,
        remedy=(f"ALTER ROLE {quoted_name(role.name)} REPLICATION",),
    )


def _free_slot(connection: Connection, source: Source) -> Observation:
    slots = connection.execute(_SLOTS, {"slot": source.slot}).one()
    if slots.present or slots.used < slots.most:
        return Observation("replication slots", f"{slots.used} of {slots.most} replication slots are in use")
    return Observation(
        "replication slots",
        f"all {slots.most} replication slots are in use: drop one that is not needed (see "
        "pg_replication_slots), or raise max_replication_slots and restart PostgreSQL",
        wrong=True,
    )


def _enum_domains(connection: Connection) -> Observation:
    # Seen with Debezium 3.6.3: its TypeRegistry reads all types of the database at start, and one such
    # domain, used or not, ends it with a NullPointerException.
    domains = connection.execute(_ENUM_DOMAINS).scalars().all()
    if not domains:
        return Observation("types", "no type of the database stops Debezium")
    return Observation(
        "types",
        f"a domain over an enum stops Debezium, even where no captured table uses it: {', '.join(domains)}; "
        "make it a domain over text with a CHECK, or use the enum itself",
        wrong=True,
    )
