"""What `millrace apply` checks before it changes anything.

`check_declared`: the settings, the Feast objects, the captured tables and their columns, the contracts, the names in
the online store. `check_stores`: Kafka, the lake, Redis and the vector store. `check_connectors`: that those which are
there are this project's. `check_sources`: the source databases and the connectors' configurations.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from feast import KafkaSource
from feast.repo_contents import RepoContents

from connectors.checks import Finding, check
from connectors.connect import Connect
from connectors.debezium import connector_config, not_included
from connectors.reflect import TableNotFound, reflect
from connectors.source import EXCLUDED, Capture, Source
from connectors.table import Column, Table
from millrace.made_of import check_made_of
from millrace.on_demand import check_functions
from millrace.repo import Repo, declared_at, parse, rehearse
from millrace.settings import check_variables
from millrace.wiring import embedder, lake, no_vector_store, online, source, topics, vectors
from stores.errors import NothingApplied, StoreRefused, StoreUnavailable
from stores.fields import check_collisions
from stores.history import change_properties, feature_properties
from stores.lake_schema import agreed_schema, stored_schema
from stores.rows import EMBEDDING, rows_schema
from stores.view import View
from streams.changes import changes_schema, contract_schema
from streams.decide import LakeTableName, changes_table, features_table
from streams.declarations import (
    DeclarationError,
    Declared,
    captured_views,
    compile_view,
    personal_by_topic,
    source_of,
)
from streams.personal import PersonalColumns
from streams.views import StreamView
from validation.contract import Contract, load
from validation.errors import ContractError


class SourceNotReady(Exception):
    """A source database cannot be captured as it is; the text says what to do, a line for each finding."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(f"source {f.source}: {f.check}: {f.message}" for f in findings))


@dataclass(frozen=True, slots=True)
class Captured:
    """One source with the tables that the declarations capture of it."""

    source: Source
    tables: tuple[Table, ...]
    captures: tuple[Capture, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A feature repo that holds: what apply sets up; with the contracts by topic."""

    contents: RepoContents
    captured: tuple[Captured, ...]
    views: tuple[StreamView, ...]
    contracts: Mapping[str, Contract]
    personal: Mapping[str, PersonalColumns]

    @property
    def tables(self) -> list[Table]:
        """The captured tables of all sources."""
        return [table for captured in self.captured for table in captured.tables]


def check_declared(repo: Repo) -> Plan:
    """The plan; where a declaration does not hold, the error begins with its file and line."""
    check_variables(repo.path / "feature_store.yaml")
    with placed(repo):
        return _plan(repo)


@contextmanager
def placed(repo: Repo) -> Iterator[None]:
    """Within it a `DeclarationError` gets the file and line of its view or source, where these can be read off."""
    try:
        yield
    except DeclarationError as error:
        kind, _, name = error.where.partition(" ")
        place = declared_at(repo.path, kind, name)
        if place is None:
            raise
        raise DeclarationError(f"{place}: {error.where}", error.problem, error.instead) from error


def _plan(repo: Repo) -> Plan:
    contents = parse(repo)
    _check_names(contents)
    check_functions(contents.on_demand_feature_views)
    applied = [*contents.feature_views, *contents.stream_feature_views]
    declared = captured_views(applied, contents.entities, repo.settings.sources)
    if not declared:
        raise DeclarationError(
            str(repo.path), "no view has a captured table as its source", "declare one: millrace init"
        )
    captured = tuple(_capture(repo, name, views) for name, views in sorted(_by_source(repo, declared).items()))
    tables = _by_topic(captured)
    views = tuple(compile_view(repo.project, d, tables[d.topic], d.view.name) for d in declared)
    contracts = {t.topic: _contract(repo.contract_path(t), t) for t in tables.values()}
    for table in tables.values():
        stored_schema(changes_schema(table), changes_table(table.topic))
    for view in views:
        stored_schema(_feature_schema(view.view), features_table(view.view.name))
    check_collisions([v.view for v in views])
    _check_vectors(repo, [v.view for v in views if v.view.vector is not None])
    rehearse(repo, contents)
    with_identities = tuple(_with_identities(c, views) for c in captured)
    return Plan(contents, with_identities, views, contracts, personal_by_topic(declared))


def _contract(path: Path, table: Table) -> Contract:
    try:
        return load(path, contract_schema(table))
    except ContractError as error:
        not_carried = {f"unknown column {c.name!r}": c for c in table.columns if c.encoding == "none"}
        if error.problem not in not_carried:
            raise
        why, instead = _not_carried(not_carried[error.problem], table)
        raise ContractError(path, error.index, f"{error.problem}: {why}", instead, error.expectation) from error


def _not_carried(column: Column, table: Table) -> tuple[str, str]:
    """Why changes have no such column, and what to do about a contract that names it."""
    if column.excluded:
        why = f"{EXCLUDED} of source {table.source} leaves it out of the changes"
        return why, "take it out of that list, or out of the contract"
    if column.generated:
        return "it is generated, and PostgreSQL does not replicate it", "judge the columns that it is made of"
    return f"it has type {column.sql_type}, which cannot be carried", "take it out of the contract"


def _check_names(contents: RepoContents) -> None:
    """Feast takes names without case, and finds a view by its name alone."""
    views = [*contents.feature_views, *contents.stream_feature_views, *contents.on_demand_feature_views]
    # A table's source before the one of its lake, which nobody wrote.
    sources = sorted(contents.data_sources, key=lambda s: not isinstance(s, KafkaSource))
    for kind, objects in (("view", views), ("source", sources)):
        seen: dict[str, str] = {}
        for name in (o.name for o in objects):
            if name.lower() in seen:
                raise DeclarationError(
                    f"{kind} {name}", f"there is another {kind} named {seen[name.lower()]}", "give it another name"
                )
            seen[name.lower()] = name


def _check_vectors(repo: Repo, views: Sequence[View]) -> None:
    if views and vectors(repo) is None:
        raise no_vector_store(views[0])
    model = embedder(repo) if views else None
    for view in views:
        if any(field.name == "distance" for field in (*view.join_keys, *view.features)):
            raise DeclarationError(
                f"view {view.name}",
                "distance is what a search of its vectors answers, and it has a field called so",
                "rename it with field_mapping",
            )
        if model is not None and view.vector is not None and view.vector.length != model.length:
            raise DeclarationError(
                f"view {view.name}",
                f"vector field {view.vector.name} has length {view.vector.length}, and {model.model} gives "
                f"{model.length}",
                f"declare vector_length={model.length}, or name another model under `embeddings` in millrace.yaml",
            )


def _by_topic(captured: Sequence[Captured]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for table in (table for c in captured for table in c.tables):
        other = tables.setdefault(table.topic, table)
        if other is not table:
            raise DeclarationError(
                f"topic {table.topic}",
                f"Debezium would write both {other.schema}.{other.name} and {table.schema}.{table.name} to it",
                "capture one of them, or rename one in the database",
            )
    return tables


def _by_source(repo: Repo, declared: Sequence[Declared]) -> dict[str, list[Declared]]:
    by_source: dict[str, list[Declared]] = {}
    for view in declared:
        name = source_of(view.topic)
        if name not in repo.settings.sources:
            close = difflib.get_close_matches(name, repo.settings.sources, n=1)
            instead = f"did you mean {close[0]}?" if close else f"add sources.{name} to millrace.yaml"
            raise DeclarationError(f"source {view.source.name}", f"millrace.yaml has no source {name}", instead)
        by_source.setdefault(name, []).append(view)
    return by_source


def _capture(repo: Repo, name: str, declared: Sequence[Declared]) -> Captured:
    database = source(repo, name)
    names = sorted({d.table for d in declared})
    try:
        with database.opened() as engine:
            return Captured(database, reflect(engine, database, names), ())
    except TableNotFound as error:
        (view, *_) = [d for d in declared if d.table == error.table]
        problem = f"the database has no table {error.table}"
        raise DeclarationError(f"source {view.source.name}", problem, error.instead) from error


def _with_identities(captured: Captured, views: Sequence[StreamView]) -> Captured:
    return Captured(captured.source, captured.tables, captures(captured.tables, views))


def captures(tables: Sequence[Table], views: Sequence[StreamView]) -> tuple[Capture, ...]:
    """What the tables need to be captured: event views need the old row, to see it leave an entity; a column that can
    be TOASTed its old value."""
    with_events = {v.table.topic for v in views if v.view.kind == "event"}
    return tuple(
        Capture(f"{t.schema}.{t.name}", t.topic in with_events or any(c.toastable for c in t.columns)) for t in tables
    )


def check_stores(repo: Repo, plan: Plan) -> None:
    """Kafka and the stores that the plan needs answer, and topics and the lake's tables can become what is declared.
    Raises `BrokerUnavailable`, `DeclarationError`, `StoreUnavailable` and `StoreRefused`."""
    topics(repo).ping()  # without it Kafka Connect answers nothing either, and does not say why
    _check_topics(repo, plan)
    lake(repo).ping()
    if any(v.view.vector is None for v in plan.views):
        _check_online(repo)
    for name, schema, properties in lake_tables(plan):
        if lake(repo).exists(name):
            present = lake(repo).snapshot(name)
            agreed_schema(present.schema, present.properties, schema, properties, name)
    check_made_of(lake(repo), plan.views, applied_views(repo))
    store = vectors(repo)
    if store is not None and any(v.view.vector for v in plan.views):
        store.ping()


def _check_topics(repo: Repo, plan: Plan) -> None:
    """Kafka makes no topic whose name is that of another but for '.' and '_': its metrics have one for the other
    (org.apache.kafka.common.internals.Topic, `hasCollision`)."""
    taken = {name.replace(".", "_"): name for name in topics(repo).names()}
    tables = [table.topic for table in plan.tables]
    told = [captured.source.notifications_topic for captured in plan.captured]
    for name in (*tables, *told, repo.letters_topic, repo.control_topic):
        other = taken.setdefault(name.replace(".", "_"), name)
        if other != name:
            raise DeclarationError(
                f"topic {name}",
                f"Kafka does not have it beside topic {other}, whose name differs in '.' and '_' alone",
                f"rename what gives one of them its name: a table, its schema, the source or the project; or delete "
                f"topic {other} if nothing needs it any more",
            )


def _check_online(repo: Repo) -> None:
    todo = f"start it, or mend online_store.connection_string in {repo.path / 'feature_store.yaml'}"
    try:
        online(repo).ping()
    except StoreUnavailable as error:
        raise StoreUnavailable(error.store, f"{error.detail}; {todo}") from error
    except StoreRefused as error:
        raise StoreRefused(f"{error}; {todo}") from error


def coming_back(repo: Repo, plan: Plan, client: Connect) -> set[str]:
    """The names of the sources that come back. Raises `SourceNotReady` for one that only `recover` can bring back."""
    return {captured.source.name for captured in plan.captured if _comes_back(repo, captured, client)}


def check_connectors(repo: Repo, plan: Plan, client: Connect) -> None:
    """Connectors are named after their sources: one that is there reads for this project, and no two read by one slot,
    by which only one gets changes. Raises `SourceNotReady`."""
    for declared in (captured.source for captured in plan.captured):
        slot = (client.config(declared.name) or {}).get("slot.name", declared.slot)
        if slot != declared.slot and declared.name not in _applied_sources(repo):
            message = (
                f"Kafka Connect has a connector of that name already, which reads by slot {slot} and not by "
                f"{declared.slot}: another project's. Give the source another name, which is its connector's and its "
                f"topics'; or, if it is the same, set sources.{declared.name}.slot to {slot}"
            )
            raise SourceNotReady([Finding("error", declared.name, "connector", message)])
    slots = {name: _slot(client.config(name) or {}) for name in client.names()}
    slots |= {one.source.name: _slot(connector_config(one.source, one.tables)) for one in plan.captured}
    for captured in plan.captured:
        name, slot = captured.source.name, captured.source.slot
        other = next((other for other, its in slots.items() if other != name and its == slots[name]), None)
        if other is not None:
            message = (
                f"connector {other} reads by slot {slot} of the same server, and only one of two gets the changes: set "
                f"sources.{name}.slot in millrace.yaml to a name of its own, or delete {other} if nothing needs it"
            )
            raise SourceNotReady([Finding("error", name, "slot", message)])


def _slot(config: Mapping[str, str]) -> tuple[str | None, ...]:
    """The slot that a connector reads by, and its server."""
    return tuple(config.get(name) for name in ("database.hostname", "database.port", "slot.name"))


def _comes_back(repo: Repo, captured: Captured, client: Connect) -> bool:
    """Whether the source comes back whose connector, or position, was taken away with its views: that begins with a
    snapshot, which says nothing of the rows that were deleted since the lake last heard of the source. Only `recover`
    finds those, and it needs what is applied. Where views of it are applied, it is refused."""
    name = captured.source.name
    there, state = client.config(name) is not None, client.state(name)  # Connect tells of a deleted one for a while
    if client.offset_lsn(name) is not None or (there and state is not None and state.running):
        return False
    heard = [table.topic for table in captured.tables if has_changes(repo, captured, table.topic)]
    if heard and name in _applied_sources(repo):
        if not there and _has_position(repo, captured, client):
            return False
        message = (
            f"the connector has no stored position, but the lake holds changes of {heard[0]}; those that came since "
            f"may be gone. Run millrace recover {name}: it snapshots all tables and reconciles deletes"
        )
        raise SourceNotReady([Finding("error", name, "position", message)])
    return bool(heard)


def _has_position(repo: Repo, captured: Captured, client: Connect) -> bool:
    """Whether Connect keeps the position of a connector that was deleted, which it tells once there is one of that name
    again: it is made anew, stopped, if so, and captures what is applied."""
    name, applied = captured.source.name, {declared.topic for declared in repo.declared()}
    tables = [table for table in captured.tables if table.topic in applied]
    client.create_stopped(name, connector_config(captured.source, tables))
    if client.offset_lsn(name) is not None:
        return True
    client.delete(name)
    return False


def _applied_sources(repo: Repo) -> set[str]:
    """The sources of which applied views capture a table."""
    try:
        return {source_of(declared.topic) for declared in repo.declared()}
    except (DeclarationError, NothingApplied):
        return set()


def applied_views(repo: Repo) -> set[str]:
    """The names of the views that are applied, by the registry alone: a function that cannot be loaded is no matter."""
    try:
        message = repo.registry().proto()
    except NothingApplied:
        return set()
    views = (*message.feature_views, *message.stream_feature_views)
    return {view.spec.name for view in views if view.spec.project == repo.project}


def captured_again(repo: Repo, plan: Plan, client: Connect) -> list[str]:
    """Topics that the connector does not capture, and of which the lake holds changes of when it did: Debezium takes no
    snapshot of such a table, and no change tells what became of its rows meanwhile."""
    return [topic for c in plan.captured for topic in not_captured(c, client) if has_changes(repo, c, topic)]


def not_captured(captured: Captured, client: Connect) -> list[str]:
    """Topics that the connector does not capture."""
    config = client.config(captured.source.name)
    return [] if config is None else [table.topic for table in not_included(config, captured.tables)]


def has_changes(repo: Repo, captured: Captured, topic: str) -> bool:
    """Whether the lake holds changes of the topic."""
    store, changes = lake(repo), changes_table(topic)
    places = range(captured.source.partitions) if store.exists(changes) else ()
    return any(store.next_offset(changes, topic, number) for number in places)


def check_sources(plan: Plan, client: Connect) -> None:
    """The source databases can be captured as they are, or once `apply` has mended them, and Connect takes the
    connectors. Raises `SourceNotReady` and `ConfigInvalid`."""
    for captured in plan.captured:
        check_source(captured, client, fix=False)
        client.validate({**connector_config(captured.source, captured.tables), "name": captured.source.name})


def check_source(captured: Captured, client: Connect, *, fix: bool) -> list[Finding]:
    """What was found of a source database, and mended if asked to. Raises `SourceNotReady` for what is left to do."""
    with captured.source.opened() as engine:
        position = client.offset_lsn(captured.source.name)
        findings = check(engine, captured.source, captured.captures, position, fix=fix)
    errors = [f for f in findings if f.severity == "error" and (fix or not f.fixable)]
    if errors:
        raise SourceNotReady(errors)
    return findings


def lake_tables(plan: Plan) -> Iterator[tuple[LakeTableName, pa.Schema, dict[str, str]]]:
    """The tables that the lake must have, with schema and properties."""
    for table in plan.tables:
        properties = change_properties(table.topic, table.primary_key)
        yield changes_table(table.topic), changes_schema(table), properties
    for view in plan.views:
        properties = feature_properties(view.view, view.table.topic)
        yield features_table(view.view.name), _feature_schema(view.view), properties


def _feature_schema(view: View) -> pa.Schema:
    """The schema of a view's rows in the lake: with what stands beside a vector, so that a rebuild need not
    embed again."""
    schema = rows_schema(view)
    for field in EMBEDDING if view.vector is not None else ():
        schema = schema.append(field)
    return schema
