"""What the server answers to a GET: whether it lives, whether it can serve, its metrics."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from serving.http import JSON, Answer, refused
from serving.metrics import Metrics
from serving.refresh import Registry
from stores.errors import StoreUnavailable

PING_SECONDS = 2.0


class Reads(Protocol):
    """The connection to the online store."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""


async def health(accept: str) -> Answer:
    """`GET /health`: the process lives."""
    return Answer(200, b'{"status":"ok"}', JSON)


@dataclass(frozen=True, slots=True)
class Ready:
    """`GET /ready`: the stores answer. `ping_vectors` raises `StoreUnavailable`, None without a vector store."""

    registry: Registry
    reads: Reads
    ping_vectors: Callable[[], None] | None

    async def __call__(self, accept: str) -> Answer:
        """200, or 503 that names what is missing."""
        missing = [] if self.reads.ready else ["Redis"]
        if self.ping_vectors is not None:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await asyncio.to_thread(self.ping_vectors)
            except (StoreUnavailable, TimeoutError):
                missing.append("pgvector")
        if missing:
            return refused(503, "not_ready", f"{' and '.join(missing)} does not answer")
        return Answer(200, orjson.dumps({"status": "ready", "project": self.registry.current.config.project}), JSON)


@dataclass(frozen=True, slots=True)
class Scrape:
    """`GET /metrics`."""

    metrics: Metrics

    async def __call__(self, accept: str) -> Answer:
        """The exposition."""
        body, content_type = self.metrics.exposition(accept)
        return Answer(200, body, [("content-type", content_type)])
