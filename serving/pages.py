"""What the server answers to a GET: whether it lives, whether it can serve, its metrics."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import orjson

from serving.features import Reads
from serving.metrics import Metrics
from serving.refresh import Registry
from serving.refusals import JSON, RETRY, Answer
from stores.errors import StoreUnavailable

PING_SECONDS = 2.0
KEPT_SECONDS = 1.0
AWAY = {
    "registry": "the registry could not be read yet",
    "redis": "Redis does not answer",
    "keys": "the API keys could not be read yet",
    "pgvector": "pgvector does not answer",
}
NEEDED = frozenset({"registry", "redis", "keys"})
HUNG_SECONDS, HUNG = 10.0, 4
"""After so long a ping is left to itself, and another one tried on another connection; so many may hang."""


class Keys(Protocol):
    """Who may ask: `serving.keys.KeyedAccess`."""

    @property
    def known(self) -> bool:
        """Whether they could be read since the process began."""


async def health(accept: str) -> Answer:
    """`GET /health`: the process lives."""
    return Answer(200, b'{"status":"ok"}', JSON)


class Answers:
    """Whether a store answers. However many ask, it is asked once at a time, on threads of its own: one that hangs
    takes none from the requests, and one on a connection that nobody ends does not hang for ever. `ping` raises
    `StoreUnavailable`. May be used by one event loop."""

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._threads = ThreadPoolExecutor(HUNG, "ping")
        self._asked: asyncio.Future[bool] | None = None
        self._at = 0.0

    async def now(self) -> bool:
        """Within `PING_SECONDS`, as it was at most `KEPT_SECONDS` before."""
        kept = KEPT_SECONDS if self._asked is not None and self._asked.done() else HUNG_SECONDS
        if self._asked is None or time.monotonic() - self._at >= kept:
            self._asked = asyncio.get_running_loop().run_in_executor(self._threads, self._ask)
            self._at = time.monotonic()
        await asyncio.wait({self._asked}, timeout=PING_SECONDS)
        return self._asked.done() and self._asked.result()

    def _ask(self) -> bool:
        try:
            self._ping()
        except StoreUnavailable:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Stores:
    """What a process answers from. `vectors` is None without a vector store, `keys` where everybody may ask."""

    registry: Registry
    reads: Reads
    vectors: Answers | None
    keys: Keys | None = None

    async def up(self) -> dict[str, bool]:
        """Whether each answers; of the registry and the keys, whether they could be read since the process began."""
        found = {"registry": self.registry.taken, "redis": self.reads.ready}
        if self.keys is not None:
            found["keys"] = self.keys.known
        return found if self.vectors is None else {**found, "pgvector": await self.vectors.now()}

    def needed(self) -> frozenset[str]:
        """Those without which no request is answered: the vector store only where every view is in it."""
        alone = self.vectors is not None and self.registry.taken and self.registry.current.only_vectors
        return NEEDED | {"pgvector"} if alone else NEEDED


@dataclass(frozen=True, slots=True)
class Ready:
    """`GET /ready`: whether requests are answered, all of them or some, and which stores answer."""

    project: str
    stores: Stores

    async def __call__(self, accept: str) -> Answer:
        """200, or 503 that names what is missing."""
        up = await self.stores.up()
        away = [store for store, answers in up.items() if not answers]
        told = {"project": self.project, "stores": {store: "up" if up[store] else "away" for store in up}}
        if missing := [AWAY[store] for store in away if store in self.stores.needed()]:
            body = {"error": "not_ready", "detail": "; ".join(missing), **told}
            return Answer(503, orjson.dumps(body), RETRY)
        return Answer(200, orjson.dumps({"status": "degraded" if away else "ready", **told}), JSON)


@dataclass(frozen=True, slots=True)
class Scrape:
    """`GET /metrics`."""

    metrics: Metrics
    stores: Stores

    async def __call__(self, accept: str) -> Answer:
        """The exposition."""
        body, content_type = self.metrics.exposition(accept, await self.stores.up())
        return Answer(200, body, [("content-type", content_type)])
