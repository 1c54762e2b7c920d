"""Tables that were dropped, and perhaps made again: PostgreSQL's log says nothing of it, only their object ids do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.reflect import table_oids
from connectors.source import connected
from connectors.table import Table
from connectors.table_file import loads
from millrace.repo import Repo
from millrace.wiring import lake, source
from streams.decide import changes_table
from streams.drift import TABLE_PROPERTY

OID_PROPERTY = "millrace.oid"
"""Property of the lake's `changes/<topic>`: the object id of the table whose rows it has."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Topics whose table is not the one that the lake has rows of: another stands in its place, or none."""

    made_again: list[str]
    gone: list[str]


def dropped(repo: Repo, topics: Sequence[str]) -> Dropped:
    """Those of the topics whose table was dropped. Raises `SourceUnavailable`, `StoreUnavailable`."""
    kept = {topic: oid for topic in topics if (oid := _property(repo, topic, OID_PROPERTY)) is not None}
    now = source_oids(repo, [_table(repo, topic) for topic in kept])
    return Dropped(
        made_again=[topic for topic, oid in kept.items() if now.get(topic, oid) != oid],
        gone=[topic for topic in kept if topic not in now],
    )


def note_oids(repo: Repo, topics: Sequence[str], oids: Mapping[str, str] | None = None) -> None:
    """Note in the lake which tables it has the rows of: those given, or those that the database has now."""
    now = source_oids(repo, [_table(repo, topic) for topic in topics]) if oids is None else oids
    for topic in topics:
        if topic in now:
            lake(repo).describe(changes_table(topic), {OID_PROPERTY: now[topic]})


def source_oids(repo: Repo, tables: Sequence[Table]) -> dict[str, str]:
    """The object ids of the tables that the databases have, by topic. Raises `SourceUnavailable`."""
    found: dict[str, str] = {}
    for name in {table.source for table in tables}:
        database = source(repo, name)
        engine = database.engine()
        try:
            with connected(engine, database) as connection:
                oids = table_oids(connection)
        finally:
            engine.dispose()
        mine = [table for table in tables if table.source == name]
        found |= {t.topic: str(oids[f"{t.schema}.{t.name}"]) for t in mine if f"{t.schema}.{t.name}" in oids}
    return found


def _table(repo: Repo, topic: str) -> Table:
    return loads(_property(repo, topic, TABLE_PROPERTY) or "")[0]


def _property(repo: Repo, topic: str, name: str) -> str | None:
    store, table = lake(repo), changes_table(topic)
    return store.properties(table).get(name) if store.exists(table) else None
