"""Checks of the publication: it carries every change of every captured table, whole."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine, Row, text

from connectors.observation import Observation
from connectors.reflect import table_oids
from connectors.source import Capture, Source, connected, quoted, quoted_name

_COMPLETE = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
# With a FULL identity PostgreSQL 18 refuses all updates and deletes of a table with stored generated columns
# that a publication does not publish.
_GENERATED = ", publish_generated_columns = stored"

# Row filters and column lists are new in PostgreSQL 15, generated columns in 18: read through JSON, an older
# server has none.
_PUBLICATION = text(
    """
    select p.puballtables, pg_has_role(p.pubowner, 'USAGE') as owned, pg_get_userbyid(p.pubowner) as owner,
           p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate as complete, p.pubviaroot,
           coalesce(to_jsonb(p) ->> 'pubgencols', 's') = 's' as generates,
           array(select t.schemaname || '.' || t.tablename from pg_publication_tables t where t.pubname = p.pubname
                 union select n.nspname || '.' || c.relname from pg_publication_rel r
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
                 where r.prpubid = p.oid) as members,
           array(select n.nspname || '.' || c.relname from pg_publication_rel r
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
                 where r.prpubid = p.oid and (to_jsonb(r) ->> 'prqual' is not null
                                              or to_jsonb(r) ->> 'prattrs' is not null)) as cut
    from pg_publication p where p.pubname = :name
    """
)

_RIGHTS = text(
    """
    select has_database_privilege(current_database(), 'CREATE') as may_create,
           coalesce(bool_and(pg_has_role(c.relowner, 'USAGE')), true) as owned,
           coalesce(bool_or(c.relkind = 'p'), false) as partitioned,
           current_setting('server_version_num')::int >= 180000 and exists (
               select from pg_attribute a
               where a.attrelid = any(:tables) and a.attgenerated = 's' and not a.attisdropped) as generated
    from pg_class c where c.oid = any(:tables)
    """
)

# By the catalogs alone: the view pg_publication_tables opens every table, and would wait for one that is locked. Of a
# table that the publication names only by its partitions the changes come under their names.
_WHOLE = """
    select n.nspname || '.' || c.relname from pg_publication p, pg_class c join pg_namespace n on n.oid = c.relnamespace
    where p.pubname = :name and n.nspname || '.' || c.relname = any(:tables)
      and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and (c.relkind <> 'p' or p.pubviaroot)
      and (p.puballtables or exists (
               select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid
               and to_jsonb(r) ->> 'prqual' is null and to_jsonb(r) ->> 'prattrs' is null){schemas})
    """
_SCHEMAS = " or exists (select from pg_publication_namespace s where s.pnpubid = p.oid and s.pnnspid = n.oid)"
"""Since PostgreSQL 15."""


def unpublished(engine: Engine, source: Source, tables: Sequence[str]) -> list[str]:
    """Those of the tables of which the publication leaves changes out now. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        schemas = _SCHEMAS if (connection.dialect.server_version_info or ()) >= (15,) else ""
        query, asked = text(_WHOLE.format(schemas=schemas)), {"name": source.publication, "tables": list(tables)}
        whole = set(connection.execute(query, asked).scalars())
    return [table for table in tables if table not in whole]


def check_publication(connection: Connection, source: Source, captures: Sequence[Capture]) -> Iterator[Observation]:
    """The publication exists, publishes every operation, and has all captured tables and Debezium's own.

    A row filter or a column list on a captured table is refused: it leaves changes out in silence.
    """
    known = table_oids(connection)
    wanted = sorted({c.table for c in captures} | {source.heartbeat_table, source.signal_table})
    oids = [known[table] for table in wanted if table in known]
    rights = connection.execute(_RIGHTS, {"tables": oids}).one()
    publication = connection.execute(_PUBLICATION, {"name": source.publication}).one_or_none()
    if publication is None:
        tables = ", ".join(map(quoted, wanted))
        yield Observation(
            "publication",
            f"there is no publication {source.publication}",
            wrong=True,
            remedy=(
                f"CREATE PUBLICATION {quoted_name(source.publication)} FOR TABLE {tables} WITH ({_options(rights)})",
            ),
            allowed=rights.may_create and rights.owned,
        )
        return
    wrong = [*_operations(source, publication, rights), *_members(source, publication, rights, wanted)]
    yield from wrong or [Observation("publication", f"publication {source.publication} has all captured tables")]


def _options(rights: Row[tuple[object, ...]]) -> str:
    return _COMPLETE + _GENERATED if rights.generated else _COMPLETE


def _operations(
    source: Source, publication: Row[tuple[object, ...]], rights: Row[tuple[object, ...]]
) -> Iterator[Observation]:
    rooted = publication.pubviaroot or not rights.partitioned
    if publication.complete and rooted and (publication.generates or not rights.generated):
        return
    yield Observation(
        "publication",
        f"publication {source.publication} leaves out operations or generated columns, or names partitions "
        "instead of their table",
        wrong=True,
        remedy=(f"ALTER PUBLICATION {quoted_name(source.publication)} SET ({_options(rights)})",),
        allowed=publication.owned,
    )


def _members(
    source: Source,
    publication: Row[tuple[object, ...]],
    rights: Row[tuple[object, ...]],
    wanted: Sequence[str],
) -> Iterator[Observation]:
    name = quoted_name(source.publication)
    missing = [table for table in wanted if table not in publication.members]
    cut = [table for table in wanted if table in publication.cut]
    if missing and not publication.puballtables:
        yield Observation(
            "publication",
            f"publication {source.publication} lacks {', '.join(missing)}",
            wrong=True,
            remedy=(f"ALTER PUBLICATION {name} ADD TABLE {', '.join(map(quoted, missing))}",),
            allowed=publication.owned and rights.owned,
        )
    if cut:
        tables = ", ".join(map(quoted, cut))
        yield Observation(
            "publication",
            f"publication {source.publication} has a row filter or a column list on {', '.join(cut)}, which leaves "
            "changes out; exclude columns in millrace.yaml instead (column.exclude.list)",
            wrong=True,
            remedy=(f"ALTER PUBLICATION {name} DROP TABLE {tables}", f"ALTER PUBLICATION {name} ADD TABLE {tables}"),
        )
