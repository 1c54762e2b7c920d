"""Captured tables whose columns are not those that were applied: `connectors.altered` for all of them."""

from collections.abc import Mapping, Sequence

from connectors.altered import Altered, altered
from connectors.reflect import TableNotFound, reflect
from connectors.table import Table
from millrace.repo import Repo
from millrace.wiring import lake, source
from streams.decide import changes_table
from streams.drift import applied_table


def altered_tables(repo: Repo, topics: Sequence[str], seconds: float) -> dict[str, Altered]:
    """Those of the topics, by name. One that was never applied, or is gone from its database, is none of them. Each
    source has so many seconds, and as many again where a table is locked. Raises `SourceUnavailable` and
    `StoreUnavailable`."""
    applied: dict[str, dict[str, Table]] = {}
    for topic in topics:
        table = applied_table(lake(repo), topic)[0] if lake(repo).exists(changes_table(topic)) else None
        if table is not None:
            applied.setdefault(table.source, {})[f"{table.schema}.{table.name}"] = table
    found = [one for name, tables in applied.items() for one in _of_source(repo, name, tables, seconds)]
    return {topic: one for topic, one in found if one.added or one.retyped}


def _of_source(repo: Repo, name: str, applied: Mapping[str, Table], seconds: float) -> list[tuple[str, Altered]]:
    database, wanted = source(repo, name), dict(applied)
    # The second time is for a lock, and whose it is.
    with database.opened(round(seconds), 2 * seconds) as engine:
        while wanted:
            try:
                tables = reflect(engine, database, list(wanted), seconds)
            except TableNotFound as error:
                del wanted[error.table]
            else:
                return [(now.topic, altered(wanted[f"{now.schema}.{now.name}"], now)) for now in tables]
    return []
