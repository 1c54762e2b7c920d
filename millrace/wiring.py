"""The composition root: the only place that builds concrete classes."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from feast.infra.online_stores.redis import RedisType
from feast.repo_config import load_repo_config

from connectors.connect import Connect
from connectors.reflect import TableNotFound, reflect
from connectors.source import Source, SourceUnavailable, default_signal_table, default_slot
from connectors.table import Table
from connectors.table_file import loads
from millrace.anew import noted
from millrace.logs import line
from millrace.query_texts import QueryTexts
from millrace.repo import Repo
from millrace.settings import ProviderSettings, ServeYaml, SettingsError
from serving.access import OpenAccess
from serving.applied import Applied
from serving.aside import Aside
from serving.audit import LoggedAudit, NoAudit
from serving.console.platform import Platform
from serving.console.sessions import Sessions
from serving.console.site import Console, Entrance, Serving
from serving.counts import Counts, ProcessCounts
from serving.documents import RetrieveOnlineDocuments
from serving.features import VALUE_BYTES, OnlineFeatures
from serving.gate import Gate
from serving.http import Application, Beside, GetOnlineFeatures, HttpLimits, Listener
from serving.keys import KeyedAccess
from serving.lookup import OnlineLookup
from serving.metrics import Metrics
from serving.openapi import Docs, OpenApi
from serving.pages import Answers, Ready, Scrape, Stores, health
from serving.refresh import Registry
from serving.request import RequestLimits
from serving.scales import Scales
from serving.search import Texts
from serving.server import Listening
from serving.tls import TlsError, TlsFiles
from stores.access_keys import RedisKeys
from stores.cluster_reads import ClusterReads
from stores.delta import DeltaLake
from stores.feast_lake import lake_of
from stores.lake import property_of
from stores.online import RedisAddress, RedisOnline
from stores.online_reads import RedisReads
from stores.replica_reads import ReplicaReads
from stores.vectors import PgVectors
from stores.view import View
from stores.writers import ByView
from streams.backfill import Backfill
from streams.breaker import Breaker, BreakerSettings
from streams.changes import contract_schema
from streams.clock import SystemClock
from streams.control import Control
from streams.daemons import Daemons
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
    """One source database of `millrace.yaml`. Raises `SettingsError`, also if it names none."""
    settings = repo.settings.sources.get(name)
    if settings is None:
        raise SettingsError(no_source(repo, name))
    slot = settings.slot or default_slot(f"{repo.project}_{name}")
    try:
        return Source(
            name=name,
            url=settings.url,
            slot=slot,
            publication=settings.publication or slot,
            partitions=settings.partitions,
            overrides=settings.connector,
            signal_table=default_signal_table(slot),
        )
    except ValueError as error:
        raise SettingsError(f"{repo.path / 'millrace.yaml'}: sources.{name}: {error}") from error


def no_source(repo: Repo, name: str) -> str:
    """What to do about a source that `millrace.yaml` has no more, or not yet."""
    return (
        f"{repo.path / 'millrace.yaml'} has no source {name}, which the applied views read: name it again, or run "
        "millrace apply with views that read another"
    )


def lake(repo: Repo) -> DeltaLake:
    """The lake that `feature_store.yaml` names."""
    return lake_of(repo.config)


def topics(repo: Repo) -> KafkaTopics:
    """The broker's topics."""
    return KafkaTopics(repo.settings.kafka.bootstrap_servers)


def producer(repo: Repo) -> KafkaProducer:
    """A producer of letters and replays."""
    return KafkaProducer(repo.settings.kafka.bootstrap_servers)


def connect(repo: Repo, seconds: float | None = None) -> Connect:
    """Kafka Connect; with `seconds` it is asked for no longer than about that, and has as long for each answer."""
    url = repo.settings.connect.url
    return Connect(url) if seconds is None else Connect(url, patience=seconds, timeout=seconds)


def online(repo: Repo, timeout: float | None = None) -> RedisOnline:
    """The online store that `feature_store.yaml` names. Raises `SettingsError` for a Redis Cluster and for
    sentinels."""
    if _is_cluster(repo):
        raise SettingsError(
            f"{repo.path / 'feature_store.yaml'}: online_store is a Redis Cluster, of which millrace serve reads; this "
            "needs a single Redis (for API keys: set serve.keys in millrace.yaml)"
        )
    return _redis(repo, repo.config.online_store.connection_string, timeout)


def _redis(repo: Repo, connection_string: str, timeout: float | None) -> RedisOnline:
    try:
        address = RedisAddress.parse(connection_string)
    except ValueError as error:
        raise SettingsError(f"{repo.path}: {error}") from error
    return RedisOnline(address, repo.settings.kafka.retention_seconds, timeout)


def _is_cluster(repo: Repo) -> bool:
    """Raises `SettingsError` for a type that no module here reads: a sentinel answers as a Redis does, and holds no
    feature."""
    found = getattr(repo.config.online_store, "redis_type", RedisType.redis)
    if found not in (RedisType.redis, RedisType.redis_cluster):
        raise SettingsError(
            f"{repo.path / 'feature_store.yaml'}: online_store.redis_type is {RedisType(found).value}; millrace reads "
            "of redis and redis_cluster: write one of these, and the address of the Redis itself (for sentinels, one "
            "that follows the primary)"
        )
    return bool(found == RedisType.redis_cluster)


def access_keys(repo: Repo, timeout: float | None = None) -> RedisKeys:
    """The API keys of this repo's project, beside the features or where `serve.keys` says."""
    apart = repo.settings.serve.keys
    return RedisKeys(_redis(repo, apart, timeout) if apart else online(repo, timeout), repo.project)


def reads(repo: Repo) -> RedisReads | ReplicaReads | ClusterReads:
    """What a server reads the online store by. Raises `SettingsError`."""
    connection_string, timeout = repo.config.online_store.connection_string, repo.settings.serve.store_seconds
    try:
        if _is_cluster(repo):
            return ClusterReads(RedisAddress.parse_all(connection_string), timeout)
        primary = RedisAddress.parse(connection_string)
        if repo.settings.serve.replicas:
            return ReplicaReads(RedisAddress.parse_all(repo.settings.serve.replicas), primary, timeout)
    except ValueError as error:
        raise SettingsError(f"{repo.path}: {error}") from error
    return RedisReads(primary, timeout)


def access(repo: Repo) -> KeyedAccess:
    """Access by those keys; `start` it in the process that serves, `close` it at its end."""
    return KeyedAccess(access_keys(repo, repo.settings.serve.store_seconds), repo.project)


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
VECTOR_THREADS = 8
"""Reads of the vector store that a process does at once."""
VERSION_THREADS = 2
"""Looks for versions of views in the database of a registry that a process does at once."""
FUNCTION_THREADS = 6
"""Requests of which a process runs the functions of on-demand views at once; those are Python, and share a core."""
TEXT_THREADS = 4
"""Texts that a process has embedded at once."""
CELLS = 2_000_000
"""Values that the large requests of a process read at once, together: some 200 MB."""
BODY_BYTES = 64 << 20
"""Of the large bodies that a process holds at once, together."""
ANSWER_BYTES = 256 << 20
"""Of the large answers that a process holds until their clients have taken them, together; and of all others."""


@dataclass(frozen=True, slots=True)
class _Rooms:
    """What bounds the work of a process of `millrace serve`: `gate` has a place for each request, `reading` for each
    message of gRPC whose length is not known yet; the `Scales` weigh what is large. What may be slow runs aside."""

    gate: Gate
    reading: Gate
    bodies: Scales
    answers: Scales
    cells: Scales
    vectors: Aside
    texts: Aside
    functions: Aside
    versions: Aside


def _rooms(settings: ServeYaml, searched: bool) -> _Rooms:
    """`searched` says whether there is a vector store."""
    # Where the vector store, the provider or an on-demand view is slow, no other request waits, nor lacks a place.
    share = max(1, settings.concurrency // 4)
    # With a vector store a place more than vectors, texts, versions and functions can take, however few there are.
    places = max(settings.concurrency, 4 * share + 1) if searched else settings.concurrency
    begun = settings.concurrency + settings.queue
    return _Rooms(
        gate=Gate(places, settings.queue),
        # Twice as many as may wait to be weighed: small ones are read beside those.
        reading=Gate(2 * share, begun, "messages"),
        bodies=Scales("large bodies", max(BODY_BYTES, 2 * settings.body_bytes), begun, share),
        # None waits, as it would be held meanwhile.
        answers=Scales("answers that their clients have not taken yet", ANSWER_BYTES, settings.connections, 0),
        cells=Scales("large requests", max(CELLS, 2 * settings.cells), settings.concurrency, share),
        vectors=Aside("vectors", VECTOR_THREADS, share),
        texts=Aside("texts", TEXT_THREADS, share),
        functions=Aside("on-demand views", FUNCTION_THREADS, share),
        versions=Aside("versions of views", VERSION_THREADS, share),
    )


def http_application(
    repo: Repo, place: Listening, counts: Counts, keys: bool, sessions: Sessions, platform: Platform
) -> Application:
    """What one process of `millrace serve` answers with; with `keys`, only to who has one. `sessions` and `platform`
    are the console's."""
    settings = repo.settings.serve
    registry = Registry(Applied(repo.config.model_copy(deep=True)).take, settings.registry_seconds)
    registry.look()
    hashes = reads(repo)
    stored_bytes = VALUE_BYTES * settings.cells
    index = vectors(repo, settings.request_seconds, stored_bytes)
    rooms = _rooms(settings, index is not None)
    loopback = not keys and place.host in LOOPBACK
    keyed = access(repo) if keys else None
    if keyed is not None:
        keyed.start()
    gatekeeper = keyed or OpenAccess(replay=loopback)
    audit = LoggedAudit(line, sys.stderr.write) if settings.audit else NoAudit()
    limits = RequestLimits(settings.entities, settings.features, settings.top_k, settings.cells)
    texts = Texts(QueryTexts(embedder(repo)), rooms.texts) if index is not None else None
    search = RetrieveOnlineDocuments(registry, index, texts, gatekeeper, limits, rooms.vectors, rooms.cells)
    lookups = OnlineFeatures(hashes, index, rooms.vectors, rooms.functions, rooms.cells, stored_bytes)
    features = GetOnlineFeatures(registry, lookups, gatekeeper, limits, rooms.versions)
    bounds = HttpLimits(settings.body_bytes, settings.request_seconds, _hosts(settings, loopback))
    counted = counts.claim()
    listeners = [_grpc(place, features, rooms, bounds, counted, audit)] if place.grpc_port else []
    entrance = Entrance(keys, place.tls is not None)
    serving = Serving(repo.project, registry, lookups, index, texts, rooms.vectors)
    stores = Stores(registry, hashes, Answers(index.ping) if index is not None else None, keyed)
    return Application(
        posts={
            "/get-online-features": features,
            "/retrieve-online-documents": search,
            "/search": search,
        },
        gets={
            "/health": health,
            "/ready": Ready(repo.project, stores),
            "/metrics": Scrape(Metrics(counts), stores),
        },
        descriptions={"/openapi.json": OpenApi(registry, gatekeeper), "/docs": Docs(registry, gatekeeper)},
        gate=rooms.gate,
        bodies=rooms.bodies,
        answers=rooms.answers,
        limits=bounds,
        counts=counted,
        audit=audit,
        beside=Beside(registry, hashes, gatekeeper, audit, listeners),
        site=Console(serving, platform, gatekeeper, sessions, entrance),
    )


def _hosts(settings: ServeYaml, loopback: bool) -> frozenset[str]:
    """The names that the server is asked by, any if there are none; without keys on loopback those of loopback."""
    named = frozenset(name.strip().lower() for name in settings.hosts.split(",") if name.strip())
    return LOOPBACK | named if loopback or named else named


def in_process(repo: Repo) -> OnlineLookup:
    """Online features without a server between: for a service that reads the stores itself."""
    config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
    registry = Registry(Applied(config).take, repo.settings.serve.registry_seconds)
    registry.take()
    return OnlineLookup(registry, online(repo), vectors(repo))


def _grpc(
    place: Listening,
    features: GetOnlineFeatures,
    rooms: _Rooms,
    limits: HttpLimits,
    counts: ProcessCounts,
    audit: LoggedAudit | NoAudit,
) -> Listener:
    # Imported in the processes that serve, after the fork, which grpc does not survive.
    from serving.grpc_server import GrpcListening, GrpcServer

    listening = GrpcListening(
        place.host, place.grpc_port, place.connections, place.header_seconds, place.drain_seconds, place.tls
    )
    return GrpcServer(
        listening, features, rooms.gate, rooms.reading, rooms.bodies, rooms.answers, limits, counts, audit
    )


def listening(repo: Repo) -> Listening:
    """Where and how `millrace serve` listens."""
    settings = repo.settings.serve
    return Listening(
        host=settings.host,
        port=settings.port,
        workers=settings.workers or os.cpu_count() or 1,
        header_seconds=settings.header_seconds,
        drain_seconds=settings.drain_seconds,
        connections=settings.connections,
        request_seconds=settings.request_seconds,
        grpc_port=settings.grpc_port,
        tls=_tls(repo),
    )


def _tls(repo: Repo) -> TlsFiles | None:
    """The files that the settings name, beside them; None without any. Raises `TlsError`."""
    settings = repo.settings.serve
    if not (settings.tls_cert or settings.tls_key or settings.tls_client_ca):
        return None
    if not (settings.tls_cert and settings.tls_key):
        raise TlsError("TLS needs a certificate and its key: set serve.tls_cert and serve.tls_key")
    client_ca = repo.path / settings.tls_client_ca if settings.tls_client_ca else None
    return TlsFiles(repo.path / settings.tls_cert, repo.path / settings.tls_key, client_ca)


def vectors(repo: Repo, statement_seconds: float = 0.0, most_bytes: int = 0) -> PgVectors | None:
    """The vector store that `feature_store.yaml` names, if any; a server bounds its statements, and what they read."""
    url = getattr(repo.config.online_store, "vectors", None)
    if not url:
        return None
    return PgVectors(url, repo.settings.kafka.retention_seconds, statement_seconds, most_bytes)


def stores(repo: Repo) -> ByView:
    """The stores that views are served from, as one."""
    return ByView(online(repo), vectors(repo))


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
            text = property_of(store, changes_table(topic), TABLE_PROPERTY)
            if text is None:
                raise DeclarationError(f"table {topic}", "it is not set up", "run millrace apply")
            (tables[topic],) = loads(text)
        name = declared.view.name
        view = compile_view(repo.project, declared, tables[topic], repo.online_name(name))
        by_topic.setdefault(topic, []).append(view)
    contracts = {
        topic: load(repo.contract_path(table), contract_schema(table), verify=False) for topic, table in tables.items()
    }
    personal = repo.personal()
    return {
        topic: Flow(table, contracts[topic], tuple(by_topic[topic]), personal[topic]) for topic, table in tables.items()
    }


def worker(repo: Repo, client_id: str) -> Worker:
    """A worker of this repo's consumer group, which the group knows by that id."""
    settings = repo.settings.worker
    tally = Tally()
    store = vectors(repo)
    declared = flows(repo)
    embed = _embedding(repo, declared, store, tally)
    return Worker(
        declared,
        Parts(
            consumer=KafkaConsumer(repo.settings.kafka.bootstrap_servers, repo.group, client_id),
            letters=DeadLetters(producer(repo), repo.letters_topic),
            online=ByView(online(repo), store),
            lake=lake(repo),
            embedding=embed,
            breaker=Breaker(BreakerSettings(share=settings.reject_share, least=settings.reject_least)),
            windows=Windows(declared, settings.window_rows, settings.window_seconds),
            tally=tally,
            source_table=partial(_source_table, repo),
            control=Control(KafkaFollower(repo.settings.kafka.bootstrap_servers, repo.control_topic)),
            clock=SystemClock(),
            beside=ThreadPoolExecutor(max_workers=4, thread_name_prefix="beside"),
            vectors=Daemons(),
        ),
        WorkerSettings(
            poll_records=settings.poll_records,
            flush_rows=settings.flush_rows,
            flush_seconds=settings.flush_seconds,
            stage_rows=settings.stage_rows,
            stage_bytes=settings.stage_bytes,
            max_record_bytes=settings.max_record_bytes,
        ),
    )


ASKED_LOCK_SECONDS, ASKED_LIFE_SECONDS = 1.0, 3.0
"""For a lock, and for all answers: all tables of a worker wait while it asks a database."""


def _source_table(repo: Repo, table: Table) -> Table | None:
    """A table as its database has it now; None if that cannot be known, or not at once."""
    if table.source not in repo.settings.sources:
        return None
    database = source(repo, table.source)
    try:
        with database.opened(connect_seconds=2, life_seconds=ASKED_LIFE_SECONDS) as engine:
            return reflect(engine, database, [f"{table.schema}.{table.name}"], ASKED_LOCK_SECONDS)[0]
    except (SourceUnavailable, TableNotFound):
        return None


def backfill(repo: Repo) -> Backfill:
    """A backfill of this repo's views, which ends where something else is applied meanwhile."""
    held = lake(repo)
    began = noted(held, repo.project)  # before what it is of: an apply between the two is noticed
    declared, store = flows(repo), vectors(repo)
    step = _embedding(repo, declared, store, Tally())
    return Backfill(declared, held, ByView(online(repo), store), step, lambda: noted(held, repo.project) == began)


def no_vector_store(view: View) -> DeclarationError:
    """What to do about a view with a vector where none is named."""
    return DeclarationError(
        f"view {view.name}",
        "it has a vector field, and feature_store.yaml names no vector store",
        "add online_store.vectors: a PostgreSQL URL",
    )


def _embedding(repo: Repo, declared: Flows, store: PgVectors | None, tally: Tally) -> Embedding:
    """The embedding step; without vector views no model is loaded."""
    embedding_views = [v.view for flow in declared.values() for v in flow.views if v.view.vector is not None]
    if not embedding_views:
        return lambda outcome, made: outcome
    if store is None:
        raise no_vector_store(embedding_views[0])
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
