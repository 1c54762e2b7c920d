"""The composition root: the only place that builds concrete classes."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlalchemy.exc import DBAPIError

from connectors.connect import Connect
from connectors.reflect import TableNotFound, reflect
from connectors.source import Source, SourceUnavailable, default_slot
from connectors.table import Table
from connectors.table_file import loads
from millrace.repo import Repo
from millrace.settings import ProviderSettings, SettingsError
from stores.feast_lake import lake_of
from stores.lake import DeltaLake
from stores.online import RedisAddress, RedisOnline
from stores.vectors import PgVectors
from stores.writers import ByView
from streams.backfill import Backfill
from streams.breaker import Breaker, BreakerSettings
from streams.changes import changes_schema
from streams.clock import SystemClock
from streams.control import Control
from streams.decide import changes_table
from streams.declarations import DeclarationError, compile_view
from streams.drift import TABLE_PROPERTY
from streams.embedders import Embedder, HttpEmbedder, Providers, WordLlamaEmbedder
from streams.kafka import KafkaConsumer, KafkaFollower, KafkaProducer, KafkaTopics
from streams.letters import DeadLetters
from streams.pipeline import Embedding, Flow, Flows, embedding
from streams.tally import Tally
from streams.views import StreamView
from streams.windows import Windows
from streams.worker import Parts, Worker, WorkerSettings
from validation.contract import load


def source(repo: Repo, name: str) -> Source:
    """One source database of `millrace.yaml`. Raises `SettingsError`."""
    settings = repo.settings.sources[name]
    slot = settings.slot or default_slot(f"{repo.project}_{name}")
    try:
        return Source(
            name=name,
            url=settings.url,
            slot=slot,
            publication=settings.publication or slot,
            partitions=settings.partitions,
            overrides=settings.connector,
        )
    except ValueError as error:
        raise SettingsError(f"{repo.path / 'millrace.yaml'}: sources.{name}: {error}") from error


def lake(repo: Repo) -> DeltaLake:
    """The lake that `feature_store.yaml` names."""
    return lake_of(repo.config)


def topics(repo: Repo) -> KafkaTopics:
    """The broker's topics."""
    return KafkaTopics(repo.settings.kafka.bootstrap_servers)


def producer(repo: Repo) -> KafkaProducer:
    """A producer of letters and replays."""
    return KafkaProducer(repo.settings.kafka.bootstrap_servers)


def connect(repo: Repo) -> Connect:
    """Kafka Connect."""
    return Connect(repo.settings.connect.url)


def online(repo: Repo) -> RedisOnline:
    """The online store that `feature_store.yaml` names."""
    return RedisOnline(
        RedisAddress.parse(repo.config.online_store.connection_string), repo.settings.kafka.retention_hours * 3_600
    )


def vectors(repo: Repo) -> PgVectors | None:
    """The vector store that `feature_store.yaml` names, if any."""
    url = getattr(repo.config.online_store, "vectors", None)
    return PgVectors(url, repo.settings.kafka.retention_hours * 3_600) if url else None


def embedder(repo: Repo) -> Embedder:
    """The embedding providers in their order."""
    return Providers([_provider(settings) for settings in repo.settings.embeddings])


def flows(repo: Repo) -> Flows:
    """What the registry declares, bound to the tables as they were at apply, by topic.

    Raises `DeclarationError` and `ContractError`.
    """
    store = lake(repo)
    by_topic: dict[str, list[StreamView]] = {}
    tables: dict[str, Table] = {}
    for declared in repo.declared():
        topic = declared.topic
        if topic not in tables:
            text = _property(store, changes_table(topic), TABLE_PROPERTY)
            if text is None:
                raise DeclarationError(f"table {topic}", "it is not set up", "run millrace apply")
            (tables[topic],) = loads(text)
        name = declared.view.name
        view = compile_view(repo.project, declared, tables[topic], repo.online_name(name))
        by_topic.setdefault(topic, []).append(view)
    return {
        topic: Flow(table, load(repo.contract_path(table), changes_schema(table), verify=False), tuple(by_topic[topic]))
        for topic, table in tables.items()
    }


def worker(repo: Repo) -> Worker:
    """A worker of this repo's consumer group."""
    settings = repo.settings.worker
    tally = Tally()
    store = vectors(repo)
    declared = flows(repo)
    return Worker(
        declared,
        Parts(
            consumer=KafkaConsumer(repo.settings.kafka.bootstrap_servers, repo.group),
            letters=DeadLetters(producer(repo), repo.letters_topic),
            online=ByView(online(repo), store),
            lake=lake(repo),
            embedding=_embedding(repo, declared, store, tally),
            breaker=Breaker(BreakerSettings(share=settings.reject_share, least=settings.reject_least)),
            windows=Windows(declared, settings.window_rows, settings.window_seconds),
            tally=tally,
            source_table=partial(_source_table, repo),
            control=Control(KafkaFollower(repo.settings.kafka.bootstrap_servers, repo.control_topic)),
            clock=SystemClock(),
            beside=ThreadPoolExecutor(max_workers=5, thread_name_prefix="beside"),
        ),
        WorkerSettings(
            poll_records=settings.poll_records,
            flush_rows=settings.flush_rows,
            flush_seconds=settings.flush_seconds,
            stage_rows=settings.stage_rows,
            max_record_bytes=settings.max_record_bytes,
        ),
    )


def _source_table(repo: Repo, table: Table) -> Table | None:
    """A table as its database has it now; None if that cannot be known."""
    database = source(repo, table.source)
    engine = database.engine()
    try:
        return reflect(engine, database, [f"{table.schema}.{table.name}"])[0]
    except (SourceUnavailable, TableNotFound, DBAPIError):
        return None
    finally:
        engine.dispose()


def backfill(repo: Repo) -> Backfill:
    """A backfill of this repo's views."""
    declared, store = flows(repo), vectors(repo)
    step = _embedding(repo, declared, store, Tally())
    return Backfill(declared, lake(repo), ByView(online(repo), store), step)


def _embedding(repo: Repo, declared: Flows, store: PgVectors | None, tally: Tally) -> Embedding:
    """The embedding step; without vector views no model is loaded."""
    embedding_views = [v.view for flow in declared.values() for v in flow.views if v.view.vector is not None]
    if not embedding_views:
        return lambda outcome: outcome
    if store is None:
        raise DeclarationError(
            f"view {embedding_views[0].name}",
            "it has a vector field, and feature_store.yaml names no vector store",
            "add online_store.vectors: a PostgreSQL URL",
        )
    model = embedder(repo)
    for view in embedding_views:
        store.create(view, model.model)
    return embedding(model, store, tally.embedded)


def _provider(settings: ProviderSettings) -> Embedder:
    if settings.type == "wordllama":
        return WordLlamaEmbedder()
    return HttpEmbedder(
        settings.url,
        settings.model,
        settings.length,
        api_key=settings.api_key,
        dimensions=settings.dimensions,
        batch=settings.batch,
        timeout=settings.timeout,
    )


def _property(store: DeltaLake, table: str, name: str) -> str | None:
    """A property of a lake table; None if the table does not exist."""
    return store.properties(table).get(name) if store.exists(table) else None
