"""Checks of the captured tables, and of the two tables that Debezium itself writes to."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Row, text

from connectors.observation import Observation
from connectors.reflect import WITHIN, suggestion, table_oids
from connectors.source import Capture, Source, quoted, quoted_name, split

_CAPTURED = text(
    WITHIN
    + """
    select n.nspname || '.' || c.relname as name, pg_get_userbyid(c.relowner) as owner,
           has_schema_privilege(n.oid, 'USAGE') as reachable, has_table_privilege(c.oid, 'SELECT') as readable,
           pg_has_role(c.relowner, 'USAGE') as owned, row_security_active(c.oid) as filtered,
           exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary) as keyed,
           (select format('DROP CONSTRAINT %1$I, ADD CONSTRAINT %1$I %2$s', k.conname,
                          regexp_replace(pg_get_constraintdef(k.oid), ' DEFERRABLE( INITIALLY DEFERRED)?$', ''))
            from pg_constraint k where k.conrelid = c.oid and k.contype = 'p' and k.condeferrable) as checked_late,
           array(select a.attname from pg_attribute a
                 where a.attrelid = c.oid and a.attgenerated = 'v' and not a.attisdropped) as virtual,
           array(select format('%I.%I', ln.nspname, l.relname) from pg_inherits h
                 join pg_class l on l.oid = h.inhrelid join pg_namespace ln on ln.oid = l.relnamespace
                 where h.inhparent = c.oid and c.relkind = 'r' order by 1) as children,
           array(select format('%I.%I', ln.nspname, l.relname) from pg_class l
                 join pg_namespace ln on ln.oid = l.relnamespace
                 where l.relkind = 'r' and l.relpersistence <> 'p'
                   and (l.oid = c.oid or l.oid in (select part from within where whole = c.oid))
                 order by 1) as unlogged,
           exists (select from pg_class l where l.relreplident <> 'd' and l.relkind = 'r'
                   and (l.oid = c.oid or l.oid in (select part from within where whole = c.oid))) as altered,
           array(select format('%I.%I', ln.nspname, l.relname) from pg_class l
                 join pg_namespace ln on ln.oid = l.relnamespace
                 where l.relkind = 'r' and l.relreplident not in ('f', 'd')
                   and (l.oid = c.oid or l.oid in (select part from within where whole = c.oid))
                 order by 1) as unfit,
           array(select format('%I.%I', ln.nspname, l.relname) from pg_class l
                 join pg_namespace ln on ln.oid = l.relnamespace
                 where l.relkind = 'r' and l.relreplident <> 'f'
                   and (l.oid = c.oid or l.oid in (select part from within where whole = c.oid))
                 order by 1) as not_full
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = any(:tables)
    """
)

_OWN = text(
    """
    select current_user as "user", n.oid is not null as placed, c.oid is not null as present,
           case when n.oid is null then has_database_privilege(current_database(), 'CREATE')
                else has_schema_privilege(n.oid, 'CREATE') end as may_create,
           has_schema_privilege(n.oid, 'USAGE')
             and (select bool_and(has_table_privilege(c.oid, p)) from unnest(cast(:privileges as text[])) p)
             as granted
    from (select) one
    left join pg_namespace n on n.nspname = :schema
    left join pg_class c on c.relnamespace = n.oid and c.relname = :name
    """
)


def check_tables(connection: Connection, captures: Sequence[Capture]) -> Iterator[Observation]:
    """Each captured table exists, is logged, readable and keyed, by a key that is checked at once, has no children that
    inherit from it, and has the replica identity it needs."""
    known = table_oids(connection)
    oids = [known[capture.table] for capture in captures if capture.table in known]
    rows = {row.name: row for row in connection.execute(_CAPTURED, {"tables": oids})}
    user = connection.execute(text("select current_user")).scalar_one()
    for capture in captures:
        if capture.table not in known:
            message = f"there is no table {capture.table}{suggestion(capture.table, known)}"
            yield Observation("table", message, wrong=True)
            continue
        yield from _readable(capture.table, rows[capture.table], user)
        yield _keyed(capture.table, rows[capture.table])
        yield _childless(capture.table, rows[capture.table].children)
        yield _identity(capture, rows[capture.table])


def check_own_tables(connection: Connection, source: Source) -> Iterator[Observation]:
    """The heartbeat table and the signal table exist, and the user may write to them."""
    heartbeat = f"CREATE TABLE {quoted(source.heartbeat_table)} (source text PRIMARY KEY, beat timestamptz NOT NULL)"
    signal = f"CREATE TABLE {quoted(source.signal_table)} (id text PRIMARY KEY, type text NOT NULL, data text)"
    yield _own(connection, "heartbeat", source.heartbeat_table, heartbeat, ("SELECT", "INSERT", "UPDATE"))
    yield _own(connection, "signal", source.signal_table, signal, ("SELECT", "INSERT", "DELETE"))


def _readable(table: str, row: Row[tuple[object, ...]], user: str) -> Iterator[Observation]:
    for leaf in row.unlogged:
        yield Observation(
            "table",
            f"table {leaf} is unlogged or temporary, and its changes are in no log",
            wrong=True,
            remedy=(f"ALTER TABLE {leaf} SET LOGGED",),
        )
    if not (row.reachable and row.readable):
        schema = quoted_name(split(table)[0])
        grants = (
            f"GRANT USAGE ON SCHEMA {schema} TO {quoted_name(user)}",
            f"GRANT SELECT ON {quoted(table)} TO {quoted_name(user)}",
        )
        yield Observation("select", f"user {user} may not read {table}", wrong=True, remedy=grants)
    elif row.filtered:
        yield Observation(
            "row security",
            f"row-level security hides rows of {table} from user {user}, so that a snapshot would lack them",
            wrong=True,
            remedy=(f"ALTER ROLE {quoted_name(user)} BYPASSRLS",),
        )
    else:
        yield Observation("select", f"{table} can be read")


def _keyed(table: str, row: Row[tuple[object, ...]]) -> Observation:
    if row.checked_late:
        return Observation(
            "primary key",
            f"the primary key of {table} is DEFERRABLE, so that a row may get the key of another one before that one "
            "leaves it: the delete of the other then comes after the row, and removes it",
            wrong=True,
            remedy=(f"ALTER TABLE {quoted(table)} {row.checked_late}",),
        )
    if row.keyed:
        return Observation("primary key", f"{table} has a primary key")
    return Observation(
        "primary key",
        f"table {table} has no primary key, so that its rows cannot be told apart and its updates and deletes "
        f"are not captured: run ALTER TABLE {quoted(table)} ADD PRIMARY KEY (...) with columns that identify a row",
        wrong=True,
    )


def _childless(table: str, children: Sequence[str]) -> Observation:
    """No table inherits from it. Partitions, whose changes come as those of their table, are no children here."""
    if not children:
        return Observation("inheritance", f"no table inherits from {table}")
    leave = "; ".join(f"ALTER TABLE {child} NO INHERIT {quoted(table)}" for child in children)
    return Observation(
        "inheritance",
        f"{table} has tables that inherit from it ({', '.join(children)}): a snapshot reads their rows as its own, but "
        f"their changes do not come with those of {table}. Make it a partitioned table, take its views away, or, if "
        f"the application needs no inheritance, run {leave}",
        wrong=True,
    )


def _identity(capture: Capture, row: Row[tuple[object, ...]]) -> Observation:
    """REPLICA IDENTITY, of the leaves where the table is partitioned. FULL serves every need."""
    if row.virtual and (capture.full_identity or row.altered):
        return Observation(
            "replica identity",
            f"{capture.table} needs REPLICA IDENTITY FULL, but has virtual generated columns "
            f"({', '.join(row.virtual)}), and PostgreSQL refuses all updates and deletes of a published table with "
            "both: make the columns STORED, or use the table for state views without columns that can be TOASTed",
            wrong=True,
        )
    short = row.not_full if capture.full_identity else row.unfit
    if not short:
        return Observation("replica identity", f"{capture.table} writes the old values it needs to the log")
    why = (
        "an event view, or a column that can be TOASTed, needs FULL"
        if capture.full_identity
        else "NOTHING and INDEX do not carry the primary key"
    )
    return Observation(
        "replica identity",
        f"REPLICA IDENTITY of {', '.join(short)} does not carry the old values that are needed ({why})",
        wrong=True,
        remedy=tuple(f"ALTER TABLE {leaf} REPLICA IDENTITY FULL" for leaf in short),
        allowed=row.owned,
    )


def _own(connection: Connection, check: str, table: str, create: str, privileges: tuple[str, ...]) -> Observation:
    schema, name = split(table)
    row = connection.execute(_OWN, {"schema": schema, "name": name, "privileges": list(privileges)}).one()
    user = quoted_name(row.user)
    grants = (
        f"GRANT USAGE ON SCHEMA {quoted_name(schema)} TO {user}",
        f"GRANT {', '.join(privileges)} ON {quoted(table)} TO {user}",
    )
    if not row.present:
        create_all = (create,) if row.placed else (f"CREATE SCHEMA IF NOT EXISTS {quoted_name(schema)}", create)
        return Observation(
            check,
            f"there is no {check} table {table}",
            wrong=True,
            remedy=create_all if row.may_create else create_all + grants,
            allowed=row.may_create,
        )
    if not row.granted:
        message = f"user {row.user} may not write to the {check} table {table}"
        return Observation(check, message, wrong=True, remedy=grants)
    return Observation(check, f"{check} table {table} is there")
