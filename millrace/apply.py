"""`millrace apply`: check everything first, change nothing until all of it holds, then set everything up.

Checked: the settings, the Feast objects, the captured tables and their columns, the contracts, the names in
the online store, the source databases, the connectors' configurations. Then, in this order, each step
repeatable: the source databases, the topics, the lake, Feast's own apply, the connectors.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.types as pt
from feast import KafkaSource
from feast.repo_contents import RepoContents

from connectors.altered import altered
from connectors.checks import Finding, check
from connectors.connect import Connect
from connectors.debezium import connector_config, not_included
from connectors.reflect import TableNotFound, reflect
from connectors.snapshots import Base, base
from connectors.source import EXCLUDED, Capture, Source
from connectors.table import Column, Table
from connectors.table_file import dumps
from millrace.anew import digest, note
from millrace.made_again import dropped, note_captured_again, note_stored
from millrace.on_demand import check_functions
from millrace.repo import Repo, declared_at, parse, register, rehearse
from millrace.settings import check_variables
from millrace.status import running_workers
from millrace.wiring import connect, embedder, lake, source, topics, vectors
from stores.errors import NothingApplied
from stores.fields import check_collisions
from stores.history import change_properties, feature_properties
from stores.lake import Lake
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
from streams.drift import APPLIED_PROPERTY, TABLE_PROPERTY, applied_table
from streams.kafka import MAX_MESSAGE_BYTES
from streams.personal import PersonalColumns
from streams.snapshots import begin_first
from streams.views import StreamView
from validation.contract import Contract, load
from validation.errors import ContractError

Say = Callable[[str], None]

CONNECTOR_SECONDS = 60.0


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
    """A feature repo that holds: what apply sets up. `contracts` has the version of each topic's."""

    contents: RepoContents
    captured: tuple[Captured, ...]
    views: tuple[StreamView, ...]
    contracts: Mapping[str, str]
    personal: Mapping[str, PersonalColumns]


def apply(repo: Repo, say: Say) -> dict[str, object]:
    """Check, then set up. Returns what was done, for people and machines.

    Raises `SettingsError`, `DeclarationError`, `ContractError`, `SourceNotReady`, `ConfigInvalid` and what the services
    raise; up to the last check nothing has been changed, but that the lake knows of tables that were not captured for a
    while: whoever mends by hand what apply refuses leaves no other trace of that.
    """
    say("checking the declarations, the sources and the contracts")
    client = connect(repo)
    plan = _checked(repo)
    lake(repo).ping()
    for name, schema, properties in _lake_tables(plan):
        _check_lake(lake(repo), name, schema, properties)
    store = vectors(repo)
    if store is not None and any(v.view.vector for v in plan.views):
        store.ping()
    back = {captured.source.name for captured in plan.captured if _comes_back(repo, captured, client)}
    lost = dropped(repo, [t.topic for c in plan.captured for t in c.tables])
    again = lost.made_again
    missed = [t for c in plan.captured for t in _captured_again(repo, c, client) if t not in (*again, *lost.gone)]
    missed = sorted(t for t in {*missed, *lost.captured_again, *lost.unpublished} if source_of(t) not in back)
    note_captured_again(repo, missed)  # before connectors and publications have these tables: by that they are found
    for captured in plan.captured:
        _check_source(captured, client, fix=False)
        client.validate({**connector_config(captured.source, captured.tables), "name": captured.source.name})
    fixed = [f for captured in plan.captured for f in _check_source(captured, client, fix=True)]
    added = [t for c in plan.captured for t in _added(c, client) if not _has_changes(repo, c, t)]
    new = _new(lake(repo), plan, [topic for topic in added if source_of(topic) not in back])
    made = _ensure_topics(repo, plan)
    for name, schema, properties in _lake_tables(plan):
        lake(repo).create(name, schema, properties)
    say("applying to Feast")
    register(repo, plan.contents)
    _create_vector_tables(repo, plan)
    connectors = {}
    for captured in plan.captured:
        name, config = captured.source.name, connector_config(captured.source, captured.tables)
        if name in back:
            client.create_stopped(name, config)
            connectors[name] = "stopped"
            continue
        if client.offset_lsn(name) is None:
            _note_base(repo, captured, client)
        connectors[name] = client.apply(name, config)
        say(f"connector {name}: {connectors[name]}")
        client.restart_failed(name)
        client.wait_running(name, CONNECTOR_SECONDS)
    _describe(repo, plan)
    declared = digest(repo.path, plan.views, plan.contracts, plan.personal)
    note(lake(repo), repo.project, declared)  # last: workers start anew at it
    unread = {*again, *lost.partitions, *missed}
    note_stored(repo, [t.topic for c in plan.captured for t in c.tables if t.topic not in unread])
    for topic in again:
        say(f"{topic} was dropped and made again: run millrace resnapshot {topic}, its old rows still stand")
    for topic in missed:
        say(
            f"{topic} was not captured for a while: run millrace resnapshot {topic}, rows that were deleted still stand"
        )
    for name in sorted(back):
        say(f"source {name} was captured before, and its connector stands still: run millrace recover {name}")
    for topic in new.tables:
        say(f"{topic} is captured from now on: run millrace resnapshot {topic} for the rows that it has")
    for topic, columns in new.columns.items():
        say(f"{topic}: {', '.join(columns)} captured from now on, null in older rows: run millrace resnapshot {topic}")
    for name in new.views:
        say(f"view {name} is new over a table that is captured already: run millrace backfill --view {name}")
    return {
        "project": repo.project,
        "views": {v.view.name: v.view.kind for v in plan.views},
        "tables": [t.topic for captured in plan.captured for t in captured.tables],
        "connectors": connectors,
        "topics_made": list(made),
        "made_again": again,
        "captured_again": missed,
        "to_recover": sorted(back),
        "to_resnapshot": [*new.tables, *new.columns],
        "to_backfill": list(new.views),
        "workers": sorted(running_workers(repo.workers_folder)),
        "fixed": [f.message for f in fixed if f.severity == "fixed"],
    }


@dataclass(frozen=True, slots=True)
class New:
    """What is new where something was applied before: the `tables` of which the connector takes no snapshot, for it has
    taken its own; by topic the columns that changes in the lake have not; the views that have no rows of such changes.
    """

    tables: Sequence[str]
    columns: Mapping[str, tuple[str, ...]]
    views: tuple[str, ...]


def _new(store: Lake, plan: Plan, tables: Sequence[str]) -> New:
    columns: dict[str, tuple[str, ...]] = {}
    for table in (table for captured in plan.captured for table in captured.tables):
        applied = applied_table(store, table.topic)[0] if store.exists(changes_table(table.topic)) else None
        if applied is not None and (added := altered(applied, table).added):
            columns[table.topic] = added
    return New(
        tables,
        columns,
        tuple(
            view.view.name
            for view in plan.views
            if store.exists(changes_table(view.table.topic)) and not store.exists(features_table(view.view.name))
        ),
    )


def _checked(repo: Repo) -> Plan:
    """The plan; where a declaration does not hold, the error begins with its file and line."""
    check_variables(repo.path / "feature_store.yaml")
    try:
        return _plan(repo)
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
    contracts = {t.topic: _contract(repo.contract_path(t), t).version for t in tables.values()}
    for table in tables.values():
        stored_schema(changes_schema(table), changes_table(table.topic))
    for view in views:
        stored_schema(feature_schema(view.view), features_table(view.view.name))
    check_collisions([v.view for v in views])
    _check_vectors(repo, [v.view for v in views if v.view.vector is not None])
    rehearse(repo, contents)
    with_identities = tuple(_with_identities(c, views) for c in captured)
    return Plan(contents, with_identities, views, contracts, personal_by_topic(declared))


def _contract(path: Path, table: Table) -> Contract:
    try:
        return load(path, contract_schema(table))
    except ContractError as error:
        if error.problem not in {f"unknown column {column.name!r}" for column in table.columns if column.excluded}:
            raise
        problem = f"{error.problem}: {EXCLUDED} of source {table.source} leaves it out of the changes"
        instead = "take it out of that list, or out of the contract"
        raise ContractError(path, error.index, problem, instead, error.expectation) from error


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
        raise DeclarationError(
            f"view {views[0].name}",
            "it has a vector field, and feature_store.yaml names no vector store",
            "add online_store.vectors: a PostgreSQL URL",
        )
    model = embedder(repo) if views else None
    for view in views:
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
    engine = database.engine()
    try:
        return Captured(database, reflect(engine, database, names), ())
    except TableNotFound as error:
        (view, *_) = [d for d in declared if d.table == error.table]
        problem = f"the database has no table {error.table}"
        raise DeclarationError(f"source {view.source.name}", problem, error.instead) from error
    finally:
        engine.dispose()


def _with_identities(captured: Captured, views: Sequence[StreamView]) -> Captured:
    """Event views need the old row, to see it leave an entity; a column that can be TOASTed its old value."""
    with_events = {v.table.topic for v in views if v.view.kind == "event"}
    captures = tuple(
        Capture(f"{t.schema}.{t.name}", t.topic in with_events or any(c.toastable for c in t.columns))
        for t in captured.tables
    )
    return Captured(captured.source, captured.tables, captures)


def _comes_back(repo: Repo, captured: Captured, client: Connect) -> bool:
    """Whether the source comes back whose connector, or position, was taken away with its views: that begins with a
    snapshot, which says nothing of the rows that were deleted since the lake last heard of the source. Only `recover`
    finds those, and it needs what is applied. Where views of it are applied, it is refused."""
    name = captured.source.name
    state = client.state(name)
    if client.offset_lsn(name) is not None or (state is not None and state.running):
        return False
    heard = [table.topic for table in captured.tables if _has_changes(repo, captured, table.topic)]
    if heard and name in _applied_sources(repo):
        message = (
            f"the connector has no stored position, but the lake holds changes of {heard[0]}; those that came since "
            f"may be gone. Run millrace recover {name}: it snapshots all tables and reconciles deletes"
        )
        raise SourceNotReady([Finding("error", name, "position", message)])
    return bool(heard)


def _applied_sources(repo: Repo) -> set[str]:
    """The sources of which applied views capture a table."""
    try:
        return {source_of(declared.topic) for declared in repo.declared()}
    except (DeclarationError, NothingApplied):
        return set()


def _captured_again(repo: Repo, captured: Captured, client: Connect) -> list[str]:
    """Topics that the connector does not capture, and of which the lake holds changes of when it did: Debezium takes no
    snapshot of such a table, and no change tells what became of its rows meanwhile."""
    return [topic for topic in _added(captured, client) if _has_changes(repo, captured, topic)]


def _added(captured: Captured, client: Connect) -> list[str]:
    """Topics that the connector does not capture."""
    config = client.config(captured.source.name)
    return [] if config is None else [table.topic for table in not_included(config, captured.tables)]


def _has_changes(repo: Repo, captured: Captured, topic: str) -> bool:
    """Whether the lake holds changes of the topic."""
    store, changes = lake(repo), changes_table(topic)
    places = range(captured.source.partitions) if store.exists(changes) else ()
    return any(store.next_offset(changes, topic, number) for number in places)


def _check_source(captured: Captured, client: Connect, *, fix: bool) -> list[Finding]:
    engine = captured.source.engine()
    try:
        position = client.offset_lsn(captured.source.name)
        findings = check(engine, captured.source, captured.captures, position, fix=fix)
    finally:
        engine.dispose()
    errors = [f for f in findings if f.severity == "error" and (fix or not f.fixable)]
    if errors:
        raise SourceNotReady(errors)
    return findings


def _note_base(repo: Repo, captured: Captured, client: Connect) -> None:
    """A connector without a position begins with a snapshot of all its tables, or has just begun."""
    state, start = client.state(captured.source.name), _now(captured)
    for table in captured.tables:
        begin_first(lake(repo), table.topic, start, under_way=state is not None and state.state != "STOPPED")


def _ensure_topics(repo: Repo, plan: Plan) -> Sequence[str]:
    kafka = repo.settings.kafka
    partitions = {t.topic: c.source.partitions for c in plan.captured for t in c.tables}
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    broker, kept = topics(repo), {"retention.ms": str(kafka.retention_hours * 3_600_000)}
    made = broker.ensure(partitions, {**size, **kept})
    told = broker.ensure({c.source.notifications_topic: 1 for c in plan.captured}, kept)
    own = broker.ensure({repo.letters_topic: 1}, {**size, "retention.ms": "-1"})
    return [*made, *told, *own, *broker.ensure({repo.control_topic: 1}, {"retention.ms": "3600000"})]


def _now(captured: Captured) -> Base:
    """Where the source's log is."""
    engine = captured.source.engine()
    try:
        return base(engine, captured.source)
    finally:
        engine.dispose()


def _lake_tables(plan: Plan) -> Iterator[tuple[LakeTableName, pa.Schema, dict[str, str]]]:
    """The tables that the lake must have, with schema and properties."""
    for table in (table for captured in plan.captured for table in captured.tables):
        properties = change_properties(table.topic, table.primary_key)
        yield changes_table(table.topic), changes_schema(table), properties
    for view in plan.views:
        properties = feature_properties(view.view, view.table.topic)
        yield features_table(view.view.name), feature_schema(view.view), properties


def _check_lake(store: Lake, name: LakeTableName, schema: pa.Schema, properties: dict[str, str]) -> None:
    """Raises `StoreRefused` if the lake's table cannot become what is declared."""
    if store.exists(name):
        present = store.snapshot(name)
        agreed_schema(present.schema, present.properties, schema, properties, name)


def _describe(repo: Repo, plan: Plan) -> None:
    """Note in the lake what workers go by: the tables, up to where the log may know others. First those that workers do
    not know yet, for these start anew at a change of one that they know."""
    ends = {captured.source.name: _now(captured).lsn for captured in plan.captured}
    known = {table.topic: applied_table(lake(repo), table.topic)[0] for c in plan.captured for table in c.tables}
    for table in sorted((t for c in plan.captured for t in c.tables), key=lambda t: known[t.topic] is not None):
        name = changes_table(table.topic)
        kept = dumps([as_kept(table, lake(repo).snapshot(name).schema)])
        lake(repo).describe(name, {TABLE_PROPERTY: kept, APPLIED_PROPERTY: str(ends[table.source])})


def as_kept(table: Table, kept: pa.Schema) -> Table:
    """The table with its numbers as wide as the lake has them, where a column was narrowed in the source."""
    return replace(table, columns=tuple(_as_kept(column, kept) for column in table.columns))


def _as_kept(column: Column, kept: pa.Schema) -> Column:
    number = pt.is_integer(column.arrow_type) or pt.is_floating(column.arrow_type) or pt.is_decimal(column.arrow_type)
    return replace(column, arrow_type=kept.field(column.name).type) if number and column.name in kept.names else column


def _create_vector_tables(repo: Repo, plan: Plan) -> None:
    views = [v.view for v in plan.views if v.view.vector is not None]
    store = vectors(repo) if views else None
    if store is not None:
        model = embedder(repo).model
        for view in views:
            store.create(view, model)


def feature_schema(view: View) -> pa.Schema:
    """The schema of a view's rows in the lake: with what stands beside a vector, so that a rebuild need not
    embed again."""
    schema = rows_schema(view)
    for field in EMBEDDING if view.vector is not None else ():
        schema = schema.append(field)
    return schema
