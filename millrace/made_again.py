"""Tables that were dropped, and perhaps made again, and partitions that are gone: PostgreSQL's log says nothing of it,
only their object ids do. And tables that no view captured for a while, or that the publication does not have whole, of
which nothing says what they missed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.check_publication import unpublished
from connectors.reflect import partitions, table_oids
from connectors.source import connected
from connectors.table import Table
from connectors.table_file import loads
from millrace.repo import Repo
from millrace.wiring import lake, source
from stores.lake import property_of
from streams.decide import changes_table
from streams.drift import TABLE_PROPERTY

OID_PROPERTY = "millrace.oid"
"""Property of the lake's `changes/<topic>`: the object id of the table whose rows it has."""

PARTITIONS_PROPERTY = "millrace.partitions"
"""The same: as a JSON object, the names of the partitions whose rows it has, by their object ids."""

CAPTURED_AGAIN_PROPERTY = "millrace.captured_again"
"""The same: "true" from when its table is captured again after a time in which it was not until it was read anew."""

CONNECT_SECONDS, LIFE_SECONDS = 5, 10.0
"""For a connection to a database, and for all answers over it, which stand in its catalog."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a database stores a table in: its object id, and the names of its partitions by theirs."""

    oid: str
    partitions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Topics whose table is not the one that the lake has rows of: another stands in its place, or none. Of the others
    `partitions` names those that are gone from their table, by topic, `captured_again` are those whose changes were
    not captured for a while, and `unpublished` those of which the publication leaves changes out."""

    made_again: list[str]
    gone: list[str]
    partitions: Mapping[str, list[str]]
    captured_again: list[str]
    unpublished: list[str]


def dropped(repo: Repo, topics: Sequence[str]) -> Dropped:
    """Those of the topics whose table was dropped, lost a partition, was not captured for a while or is not now. Raises
    `SourceUnavailable`, `StoreUnavailable`."""
    kept = {topic: oid for topic in topics if (oid := _property(repo, topic, OID_PROPERTY)) is not None}
    tables = [_table(repo, topic) for topic in kept]
    now = stored_in(repo, tables)
    same = [topic for topic, oid in kept.items() if topic in now and now[topic].oid == oid]
    lost = {topic: _lost(repo, topic, now[topic].partitions) for topic in same}
    return Dropped(
        made_again=[topic for topic in kept if topic in now and topic not in same],
        gone=[topic for topic in kept if topic not in now],
        partitions={topic: names for topic, names in lost.items() if names},
        captured_again=[
            topic
            for topic in topics
            if (topic in same or topic not in kept) and _property(repo, topic, CAPTURED_AGAIN_PROPERTY) == "true"
        ],
        unpublished=_unpublished(repo, [table for table in tables if table.topic in same]),
    )


def note_captured_again(repo: Repo, topics: Sequence[str]) -> None:
    """Note in the lake that it lacks what became of the tables' rows while nobody captured them."""
    for topic in topics:
        lake(repo).describe(changes_table(topic), {CAPTURED_AGAIN_PROPERTY: "true"})


def note_stored(repo: Repo, topics: Sequence[str], stored: Mapping[str, Stored] | None = None) -> None:
    """Note in the lake which tables it has the rows of: those given, or those that the database has now."""
    now = stored_in(repo, [_table(repo, topic) for topic in topics]) if stored is None else stored
    for topic in topics:
        if topic in now:
            parts = json.dumps(now[topic].partitions, sort_keys=True)
            of = {OID_PROPERTY: now[topic].oid, PARTITIONS_PROPERTY: parts, CAPTURED_AGAIN_PROPERTY: "false"}
            lake(repo).describe(changes_table(topic), of)


def stored_in(repo: Repo, tables: Sequence[Table]) -> dict[str, Stored]:
    """What the databases store those of the tables in that they have, by topic. Raises `SourceUnavailable`."""
    found: dict[str, Stored] = {}
    for name, mine in _by_source(tables).items():
        database = source(repo, name)
        with database.opened(CONNECT_SECONDS, LIFE_SECONDS) as engine, connected(engine, database) as connection:
            oids, parts = table_oids(connection), partitions(connection, list(mine))
        found |= {topic: Stored(str(oids[t]), parts.get(t, {})) for t, topic in mine.items() if t in oids}
    return found


def _unpublished(repo: Repo, tables: Sequence[Table]) -> list[str]:
    found: list[str] = []
    for name, mine in _by_source(tables).items():
        database = source(repo, name)
        with database.opened(CONNECT_SECONDS, LIFE_SECONDS) as engine:
            found += [mine[table] for table in unpublished(engine, database, list(mine))]
    return found


def _by_source(tables: Sequence[Table]) -> dict[str, dict[str, str]]:
    """By source the topics of its tables, by their names in the database."""
    by_source: dict[str, dict[str, str]] = {}
    for table in tables:
        by_source.setdefault(table.source, {})[f"{table.schema}.{table.name}"] = table.topic
    return by_source


def _lost(repo: Repo, topic: str, now: Mapping[str, str]) -> list[str]:
    known: Mapping[str, str] = json.loads(_property(repo, topic, PARTITIONS_PROPERTY) or "{}")
    return sorted(name for oid, name in known.items() if oid not in now)


def _table(repo: Repo, topic: str) -> Table:
    return loads(_property(repo, topic, TABLE_PROPERTY) or "")[0]


def _property(repo: Repo, topic: str, name: str) -> str | None:
    return property_of(lake(repo), changes_table(topic), name)
