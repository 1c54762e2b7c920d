"""A view with a vector beside the others of the fuzzed repo, so that searches are answered."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import FeatureStore, FeatureView, Field
from feast.types import Array, Float32, Int64, String

from streams.embedders import WordLlamaEmbedder
from tests.integration import serving_definitions as declared
from tests.integration.serving_repo import NOW

TEXTS = {"EWR": "a storm over the sea", "JFK": "a clear sky", "LGA": "rain in the mountains"}


def meaning(model: str) -> Field:
    """A vector field of a model with 256 dimensions."""
    return Field(
        name="meaning",
        dtype=Array(Float32),
        vector_index=True,
        vector_length=256,
        vector_search_metric="cosine",
        tags={"model": model},
    )


def add_vectors(folder: Path, port: int, url: str) -> None:
    """Gives the repo of a Redis at `port` a vector store, and applies and fills a view there."""
    config = folder / "feature_store.yaml"
    store = f"stores.feast_online.MillraceOnlineStore\n  vectors: {url}\n  connection"
    config.write_text(config.read_text().replace("redis\n  connection", store))
    embedder = WordLlamaEmbedder()
    texts = FeatureView(
        name="texts",
        entities=[declared.origin],
        ttl=timedelta(0),
        schema=[
            declared.ORIGIN,
            Field(name="text", dtype=String),
            Field(name="secret", dtype=String, tags={"personal": "true"}),
            Field(name="size", dtype=Int64),
            meaning(embedder.model),
        ],
        source=declared.source("texts"),
    )
    repo = FeatureStore(repo_path=str(folder))
    repo.apply([texts])
    frame = {
        "origin": list(TEXTS),
        "text": list(TEXTS.values()),
        "secret": ["a", "b", None],
        "size": [1, 2, 3],
        "meaning": [vector.tolist() for vector in embedder.embed(list(TEXTS.values()))],
        "event_timestamp": [NOW] * 3,
    }
    repo.write_to_online_store("texts", pd.DataFrame(frame))
