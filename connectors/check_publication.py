"""Checks of the publication: it carries every change of every captured table, whole."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine, Row, TextClause, text

from connectors.observation import Observation
from connectors.reflect import WITHIN, table_oids
from connectors.source import Capture, Source, connected, quoted, quoted_name

_COMPLETE = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
# With a FULL identity PostgreSQL 18 refuses all updates and deletes of a table with stored generated columns
# that a publication does not publish.
_GENERATED = ", publish_generated_columns = stored"

# By the catalogs alone: the view pg_publication_tables opens every table, and would wait for one that is locked.
_NAMED = """
    (p.puballtables or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid){schemas})
    """
_SCHEMAS = " or exists (select from pg_publication_namespace s where s.pnpubid = p.oid and s.pnnspid = c.relnamespace)"
"""Since PostgreSQL 15."""

# Row filters and column lists are new in PostgreSQL 15, generated columns in 18: read through JSON, an older
# server has none.
_PUBLICATION = (
    """
    select p.puballtables, pg_has_role(p.pubowner, 'USAGE') as owned, pg_get_userbyid(p.pubowner) as owner,
           p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate as complete, p.pubviaroot,
           coalesce(to_jsonb(p) ->> 'pubgencols', 's') = 's' as generates,
           array(select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.oid = any(:tables) and """
    + _NAMED
    + """) as members,
           array(select n.nspname || '.' || c.relname from pg_publication_rel r
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
                 where r.prpubid = p.oid and (to_jsonb(r) ->> 'prqual' is not null
                                              or to_jsonb(r) ->> 'prattrs' is not null)) as cut
    from pg_publication p where p.pubname = :name
    """
)

# The tables that the given ones are partitions of.
_WHOLES = (
    WITHIN
    + """
    select pn.nspname || '.' || part.relname as part, n.nspname || '.' || c.relname as whole,
           exists (select from pg_publication p where p.pubname = :name and """
    + _NAMED
    + """) as named
    from within w join pg_class part on part.oid = w.part join pg_namespace pn on pn.oid = part.relnamespace
    join pg_class c on c.oid = w.whole join pg_namespace n on n.oid = c.relnamespace
    where w.part = any(:tables) order by part, whole
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

# Of a table that the publication names only by its partitions the changes come under their names, and of a partition
# that it publishes by the whole under that one's.
_UNCUT = (
    WITHIN
    + """
    select n.nspname || '.' || c.relname from pg_publication p, pg_class c join pg_namespace n on n.oid = c.relnamespace
    where p.pubname = :name and n.nspname || '.' || c.relname = any(:tables)
      and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and (c.relkind <> 'p' or p.pubviaroot)
      and (p.puballtables or exists (
               select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid
               and to_jsonb(r) ->> 'prqual' is null and to_jsonb(r) ->> 'prattrs' is null){schemas})
      and not (p.pubviaroot and c.oid in (select w.part from within w join pg_class c on c.oid = w.whole where """
    + _NAMED
    + """))
    """
)


def unpublished(engine: Engine, source: Source, tables: Sequence[str]) -> list[str]:
    """Those of the tables of which the publication leaves changes out now. Raises `SourceUnavailable`."""
    with connected(engine, source) as connection:
        asked = {"name": source.publication, "tables": list(tables)}
        uncut = set(connection.execute(_query(connection, _UNCUT), asked).scalars())
    return [table for table in tables if table not in uncut]


def _query(connection: Connection, query: str) -> TextClause:
    since_15 = (connection.dialect.server_version_info or ()) >= (15,)
    return text(query.format(schemas=_SCHEMAS if since_15 else ""))


def check_publication(connection: Connection, source: Source, captures: Sequence[Capture]) -> Iterator[Observation]:
    """The publication exists, publishes every operation, and has all captured tables and Debezium's own.

    A row filter or a column list on a captured table is refused: it leaves changes out in silence. So is a partition
    whose changes come under the name of the whole.
    """
    known = table_oids(connection)
    wanted = sorted({c.table for c in captures} | {source.heartbeat_table, source.signal_table})
    oids = [known[table] for table in wanted if table in known]
    rights = connection.execute(_RIGHTS, {"tables": oids}).one()
    asked = {"name": source.publication, "tables": oids}
    publication = connection.execute(_query(connection, _PUBLICATION), asked).one_or_none()
    wholes = connection.execute(_query(connection, _WHOLES), asked).all()
    if publication is None:
        yield from _parts(source, captures, wholes, rooted=False)
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
    wrong += _parts(source, captures, wholes, rooted=publication.pubviaroot or bool(wrong))
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


def _parts(
    source: Source, captures: Sequence[Capture], wholes: Sequence[Row[tuple[object, ...]]], *, rooted: bool
) -> Iterator[Observation]:
    """The captured partitions whose changes come under the name of the whole: of one that is captured, too, or that the
    publication names if it is `rooted`, or will be."""
    captured = {capture.table for capture in captures}
    for row in wholes:
        if row.part in captured and (row.whole in captured or (rooted and row.named)):
            yield Observation(
                "publication",
                f"{row.part} is a partition of {row.whole}, under whose name alone publication {source.publication} "
                f"has its changes, so that none come for {row.part}: declare its views over {row.whole}, or take "
                f"{row.whole} out of the declarations and the publication",
                wrong=True,
            )
