"""Vector search through `millrace serve`: 100,000 texts' vectors of 256 dimensions, the ten nearest.

The texts are random words of a vocabulary, embedded with the default model; queries are other such texts. Latency at a
fixed rate (`benchmarks.fixed_rate`); recall is how many of the true ten nearest, by brute force, are found, over all
rows and over the tenth of them that a filter on a feature lets pass.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String
from sqlalchemy import text

from benchmarks.fixed_rate import measure, middle
from benchmarks.platform import Platform, Row, platform
from benchmarks.serving import MILLRACE_SERVE, TURNS, server
from streams.embedders import WordLlamaEmbedder

VECTORS, DIMENSIONS, TOP_K = 100_000, 256, 10
BATCH = 5_000
QUERIES = 200
RATE, SECONDS = 50.0, 10.0
KINDS = 10
PATH = "/retrieve-online-documents"
HNSW_INDEX = (
    "SELECT schemaname || '.' || quote_ident(indexname), indexdef FROM pg_indexes WHERE indexdef LIKE '%USING hnsw%'"
)
SYLLABLES = ("ka", "lo", "mi", "ren", "tas", "vor", "el", "dun", "shi", "gra")

YAML = """
project: search
provider: local
registry: {folder}/registry.db
online_store:
  type: stores.feast_online.MillraceOnlineStore
  connection_string: {redis}
  vectors: {vectors}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""
MILLRACE = (
    'sources: {}\nkafka: {bootstrap_servers: "nowhere:9"}\nconnect: {url: "http://nowhere:9"}\nserve: {audit: false}\n'
)

Vectors = npt.NDArray[np.float32]


def rows() -> Iterable[Row]:
    """Latency and recall, without and with a filter."""
    with platform() as target:
        repo = target.folder / "search"
        stored, queries = _fill(repo, target)
        kinds = np.arange(VECTORS) % KINDS
        with server([*MILLRACE_SERVE, "--repo", str(repo), "--stack", str(target.folder), "--workers", "1"]) as port:
            for name, of_kind in (("", None), (" of a tenth", 3)):
                bodies = [_body(query, of_kind) for query in queries]
                passing = np.arange(VECTORS) if of_kind is None else np.flatnonzero(kinds == of_kind)
                recall = float(
                    np.mean([_recall(port, b, q, stored, passing) for b, q in zip(bodies, queries, strict=True)])
                )
                found = middle([measure(port, bodies, RATE, SECONDS, path=PATH) for _ in range(TURNS)])
                beside = {"p50": found.p50, "requests/s": found.rate, "failed": float(found.failed)}
                yield Row(f"search{name}, top 10 of 100,000, p99", found.p99, "ms", "< 15", beside)
                yield Row(f"search{name}, recall@10", recall, "", "0.95", {"queries": float(QUERIES)})


def _fill(repo: Path, target: Platform) -> tuple[Vectors, Vectors]:
    """Applies the view and writes its rows; the stored vectors, and those of the queries, of length 1.

    The index is made again, as `apply` made it, once the rows are there: row by row it takes more than five minutes.
    """
    store = _applied(repo, target)
    texts = _texts(VECTORS + QUERIES)
    model = WordLlamaEmbedder()
    vectors = np.concatenate([model.embed(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    with target.engine.begin() as connection:
        (index, definition) = connection.execute(text(HNSW_INDEX)).one()
        connection.execute(text(f"DROP INDEX {index}"))
    for at in range(0, VECTORS, BATCH):
        numbers = range(at, at + BATCH)
        store.write_to_online_store(
            "notes",
            pd.DataFrame(
                {
                    "id": numbers,
                    "kind": [number % KINDS for number in numbers],
                    "text": texts[at : at + BATCH],
                    "meaning": list(vectors[at : at + BATCH]),
                    "event_timestamp": datetime.now(UTC),
                }
            ),
        )
    with target.engine.begin() as connection:
        connection.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
        connection.execute(text(definition))
        connection.execute(text("ANALYZE"))
    return vectors[:VECTORS], vectors[VECTORS:]


def _applied(repo: Path, target: Platform) -> FeatureStore:
    repo.mkdir()
    places = {
        "folder": repo,
        "redis": target.stack.endpoints().redis,
        "vectors": f"{target.stack.endpoints().postgres}/load",
    }
    (repo / "feature_store.yaml").write_text(YAML.format(**places))
    (repo / "millrace.yaml").write_text(MILLRACE)
    store = FeatureStore(repo_path=str(repo))
    note = Entity(name="note", join_keys=["id"], value_type=ValueType.INT64)
    meaning = Field(
        name="meaning",
        dtype=Array(Float32),
        vector_index=True,
        vector_length=DIMENSIONS,
        vector_search_metric="cosine",
        tags={"model": WordLlamaEmbedder().model},
    )
    view = FeatureView(
        name="notes",
        entities=[note],
        ttl=timedelta(0),
        schema=[
            Field(name="id", dtype=Int64),
            Field(name="kind", dtype=Int64),
            Field(name="text", dtype=String),
            meaning,
        ],
        source=FileSource(name="notes_source", path="nowhere.parquet", timestamp_field="event_timestamp"),
    )
    store.apply([note, view])
    return store


def _texts(count: int) -> Sequence[str]:
    rng = random.Random(1)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(2_000)]
    return [" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(count)]


def _body(query: Vectors, of_kind: int | None) -> bytes:
    body: dict[str, Any] = {"features": ["notes:kind"], "query": query.tolist(), "top_k": TOP_K}
    if of_kind is not None:
        body["filters"] = {"type": "eq", "key": "kind", "value": of_kind}
    return json.dumps(body).encode()


def _recall(port: int, body: bytes, query: Vectors, stored: Vectors, passing: npt.NDArray[np.int64]) -> float:
    """The share of the true nearest that an answer has."""
    request = Request(f"http://127.0.0.1:{port}{PATH}", body, {"content-type": "application/json"})
    with urlopen(request, timeout=30) as response:
        answer: Mapping[str, Any] = json.load(response)
    found = answer["results"][answer["metadata"]["feature_names"].index("id")]["values"]
    nearest = passing[np.argpartition(-(stored[passing] @ query), TOP_K)[:TOP_K]]
    return len(set(found) & set(nearest.tolist())) / TOP_K
