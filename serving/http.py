"""The HTTP application, on granian's RSGI interface: one instance serves within one event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import orjson

from serving.counts import ProcessCounts
from serving.features import OnlineFeatures
from serving.gate import Gate, Overloaded
from serving.plan import InvalidRequest, NotDeclared
from serving.request import Limits, TooLarge, features_request
from stores.errors import StoreRefused, StoreUnavailable

log = logging.getLogger("millrace")

Headers = list[tuple[str, str]]

JSON: Headers = [("content-type", "application/json")]
RETRY: Headers = [*JSON, ("retry-after", "1")]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back, and how many entities it is about."""

    status: int
    body: bytes
    headers: Headers
    entities: int = 0


@dataclass(frozen=True, slots=True)
class Weather:
    """What the server does not go beyond: bytes of a body, and seconds that a request may take."""

    body_bytes: int = 1 << 20
    request_seconds: float = 5.0



class Page(Protocol):
    """What answers a GET."""

    def __call__(self) -> Answer:
        """The page as it is now."""


class Application:
    """Routes requests, bounds them, and turns every error into an answer."""

    def __init__(
        self,
        posts: Mapping[str, Callable[[bytes, Mapping[str, str]], Awaitable[Answer]]],
        gets: Mapping[str, Page],
        gate: Gate,
        weather: Weather,
        counts: ProcessCounts,
    ) -> None:
        self._posts = posts
        self._gets = gets
        self._gate = gate
        self._weather = weather
        self._counts = counts

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """One request (https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md)."""
        start = perf_counter()
        path = scope.path
        try:
            answer = await self._answer(scope, protocol, path)
        except Exception as error:  # noqa: BLE001  # the last line: a request never ends without an answer
            answer = refusal(error)
        protocol.response_bytes(answer.status, answer.headers, answer.body)
        self._counts.count(path, answer.status, perf_counter() - start, answer.entities)

    async def _answer(self, scope: Any, protocol: Any, path: str) -> Answer:
        handler = self._posts.get(path)
        if handler is None:
            return self._page(scope.method, path)
        if scope.method != "POST":
            return refused(405, "method_not_allowed", f"{path} is asked by POST")
        await self._gate.enter()
        try:
            async with asyncio.timeout(self._weather.request_seconds):
                body = await self._body(scope, protocol)
                return await handler(body, scope.headers)
        finally:
            self._gate.leave()

    def _page(self, method: str, path: str) -> Answer:
        page = self._gets.get(path)
        if page is None:
            known = ", ".join([*self._posts, *self._gets])
            return refused(404, "no_such_path", f"there is no {path}; there are: {known}")
        if method not in ("GET", "HEAD"):
            return refused(405, "method_not_allowed", f"{path} is asked by GET")
        return page()

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        most = self._weather.body_bytes
        length = scope.headers.get("content-length")
        if length is not None:
            if int(length) > most:
                raise TooLarge(f"the body has {length} bytes; at most {most} are read")
            whole: bytes = await protocol()
            return whole
        parts, size = [], 0
        async for part in protocol:
            parts.append(part)
            size += len(part)
            if size > most:
                raise TooLarge(f"the body has more than {most} bytes")
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class GetOnlineFeatures:
    """`POST /get-online-features`."""

    features: OnlineFeatures
    limits: Limits

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answers one request. Raises `InvalidRequest`, and what the stores raise."""
        request = features_request(body, self.limits)
        answer = await self.features.answer(request, self.features.registry.current)
        return Answer(200, answer, JSON, request.count)


def refused(status: int, error: str, detail: str, headers: Headers = JSON) -> Answer:
    """An answer that says what is wrong: `error` for programs, `detail` for people."""
    return Answer(status, orjson.dumps({"error": error, "detail": detail}), headers)


def refusal(error: Exception) -> Answer:
    """What an error means to whoever asked."""
    if isinstance(error, NotDeclared):
        return refused(404, "not_declared", str(error))
    if isinstance(error, TooLarge):
        return refused(413, "too_large", str(error))
    if isinstance(error, InvalidRequest):
        return refused(422, "invalid_request", str(error))
    if isinstance(error, Overloaded):
        return refused(503, "overloaded", str(error), RETRY)
    if isinstance(error, StoreUnavailable):
        return refused(503, "store_unavailable", f"{error.store} is unavailable; try again", RETRY)
    if isinstance(error, TimeoutError):
        return refused(503, "timed_out", "the request took longer than the server allows", RETRY)
    if isinstance(error, StoreRefused):
        log.error("%s", error, extra={"event": "store_refused"})
        return refused(500, "store_refused", "a store holds what cannot be served; the server's log says what")
    log.error("a request failed", exc_info=error, extra={"event": "request_failed"})
    return refused(500, "internal", "the server's log says what happened")
