"""The HTTP application: one instance serves within one event loop."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Protocol
from urllib.parse import urlsplit

from serving.access import Access, AccessRefused, Forbidden, bearer, withhold
from serving.aside import Aside
from serving.audit import Audit, Request
from serving.counts import ProcessCounts
from serving.deadlines import Deadlines
from serving.features import OnlineFeatures, Prepared, Reads, json_body
from serving.gate import Gate, Overloaded
from serving.incoming import HttpRequest
from serving.plan import InvalidRequest
from serving.reach import check_service
from serving.refresh import Registry
from serving.refusals import JSON, Answer, ClientLeft, refusal, refused
from serving.request import FeaturesRequest, RequestLimits, features_request, within
from serving.scales import Scales

COLLECT = (50_000, 20, 100)
"""Thresholds of the cyclic collector: a request makes many objects and no cycles."""

SEEN_CHARACTERS = 100
"""Of a name that a request gives, before anything is known to have it."""

DRAINED_BYTES, DRAIN_SECONDS = 64 * 1024, 0.5
"""Of the body of a request that is refused before it is read, so much is taken off the connection, and so long waited
for: what is left unread there closes it, and the client may lose the answer."""


@dataclass(slots=True)
class Seen:
    """What became known of a request while it was answered, for the counts and the audit log."""

    caller: str = ""
    service: str | None = None
    views: Sequence[str] = ()
    entities: int = 0
    charged: bool = False
    """Whether it was counted against its key's limits, with its entities."""
    audited: bool = False
    """Whether it is in the audit log even if it asks for no entity."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What the server does not go beyond: bytes of a body, seconds that a request may take, and the names that it is
    asked by (in small letters; any if empty)."""

    body_bytes: int = 1 << 20
    request_seconds: float = 5.0
    hosts: frozenset[str] = frozenset()


Post = Callable[[bytes, str, Seen], Awaitable[bytes]]
"""Answers a POST from its body, for who has the key with that id (`serving.access.Access.identify`)."""

Get = Callable[[str], Awaitable[Answer]]
"""Answers a GET from its Accept header, whoever asks, as probes and scrapers do: it names no feature."""

Description = Callable[[str], Awaitable[Answer]]
"""Answers a GET that names what there is to ask for, for who has the key with that id."""

SITE = "/console"


@dataclass(frozen=True, slots=True)
class Visit:
    """What a browser asks for; `header` has a header's value by its lower-case name."""

    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: bytes


class Site(Protocol):
    """Pages for people under `SITE`: `serving.console.site.Console`."""

    def body_bytes(self, path: str, cookies: str | None) -> int:
        """How long a form to that path may be; 0 where none is looked at of who sends that `Cookie` header."""

    async def answer(self, visit: Visit, seen: Seen) -> Answer:
        """The page; a failure has one too."""


class Listener(Protocol):
    """Another way in: `serving.grpc_server.GrpcServer`."""

    async def start(self) -> None:
        """Listen."""

    async def close(self) -> None:
        """Take no more requests, and answer those that have begun."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What lives beside the requests, as long as the application does."""

    registry: Registry
    reads: Reads
    access: Access
    audit: Audit
    listeners: Sequence[Listener] = ()

    async def start(self) -> None:
        """Before the first request."""
        self.registry.start()
        await self.reads.start()
        for listener in self.listeners:
            await listener.start()

    async def close(self) -> None:
        """After the last one."""
        self.registry.close()
        await self.reads.close()
        self.access.close()
        self.audit.close()


class Application:
    """Routes requests, bounds them, and turns every error into an answer."""

    def __init__(
        self,
        posts: Mapping[str, Post],
        gets: Mapping[str, Get],
        descriptions: Mapping[str, Description],
        gate: Gate,
        bodies: Scales,
        answers: Scales,
        limits: HttpLimits,
        counts: ProcessCounts,
        audit: Audit,
        beside: Beside,
        site: Site,
    ) -> None:
        self._posts = posts
        self._gets = gets
        self._descriptions = descriptions
        self._gate = gate
        self._bodies = bodies
        self._answers = answers
        self._limits = limits
        self._counts = counts
        self._audit = audit
        self._beside = beside
        self._site = site
        self._deadlines = Deadlines(limits.request_seconds)

    @property
    def ready(self) -> bool:
        """Whether it has a registry to answer from."""
        return self._beside.registry.taken

    async def start(self) -> None:
        """Called once, before the first request."""
        await self._beside.start()
        # What start-up made lives as long as the process: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)

    async def drain(self) -> None:
        """Called once, when it is to end: the other ways in answer what they have begun."""
        for listener in self._beside.listeners:
            await listener.close()

    async def close(self) -> None:
        """Called once, after the last request."""
        gc.unfreeze()
        await self._beside.close()

    async def __call__(self, request: HttpRequest) -> None:
        """One request, to the moment at which the client has taken the answer, if that is large."""
        start = perf_counter()
        path, seen = request.path, Seen()
        post = self._posts.get(path)
        site = self._site if path.startswith(SITE) and path[len(SITE) :][:1] in ("", "/") else None
        try:
            if self._limits.hosts:
                self._of_here(request.header("host"))
            if site is not None:
                answer = await self._visited(site, request, seen)
            elif post is None:
                answer = await self._page(request, seen)
            elif request.method != "POST":
                answer = refused(405, "method_not_allowed", f"{path} is asked by POST")
            else:
                answer = Answer(200, await self._posted(post, request, seen), JSON)
        except Exception as error:  # noqa: BLE001  # the last line: no request ends without an answer
            answer = refusal(error)
            if isinstance(error, AccessRefused):
                seen.caller = error.caller or seen.caller
        weight = self._answers.weight(len(answer.body))
        if weight:
            try:
                await self._answers.enter(weight)
            except Overloaded as error:
                answer, weight = refusal(error), 0
        request.send(answer)
        route = SITE if site is not None else path
        self._counts.count(route, answer.status, perf_counter() - start, seen.entities)
        if post is not None or seen.entities or seen.audited:
            self._audit.note(Request(seen.caller, seen.service, seen.views, seen.entities, answer.status))
        if weight:
            try:
                await request.taken()
            finally:
                self._answers.leave(weight)

    def _of_here(self, host: str | None) -> None:
        """Raises `Forbidden` where a browser asks under another name: by DNS, any site can have its own name lead
        here, and would read the answers (https://en.wikipedia.org/wiki/DNS_rebinding). Every browser says the name."""
        if host is not None and _name_in(host) not in self._limits.hosts:
            known = ", ".join(sorted(self._limits.hosts))
            raise Forbidden(f"the Host header has to be one of: {known} (more: serve.hosts in millrace.yaml)")

    async def _visited(self, site: Site, request: HttpRequest, seen: Seen) -> Answer:
        """The session first, then the form, as the key of a request comes before its body."""
        await self._look(request)
        form = request.method == "POST"
        most = site.body_bytes(request.path, request.header("cookie")) if form else 0
        if form and not most:
            await self._drain(request)
        with self._deadlines.within():
            body = await request.body(min(most, self._limits.body_bytes)) if most else b""
            await self._gate.enter()
            try:
                return await site.answer(Visit(request.method, request.path, request.query, request.header, body), seen)
            finally:
                self._gate.leave()

    async def _posted(self, post: Post, request: HttpRequest, seen: Seen) -> bytes:
        """The key first, which costs little, then the body: a place is taken by who has a key, and sent a body."""
        access = self._beside.access
        try:
            key_id = access.identify(bearer(request.header("authorization")))
        except AccessRefused:
            await self._drain(request)
            raise
        seen.caller = access.name(key_id)
        length, most = request.header("content-length"), self._limits.body_bytes
        weight = self._bodies.weight(most if length is None else min(int(length), most))
        await self._look(request, weight)
        try:
            with self._deadlines.within():
                if weight:
                    await self._bodies.enter(weight)
                try:
                    return await self._answered(post, request, key_id, seen)
                finally:
                    if weight:
                        self._bodies.leave(weight)
        except (InvalidRequest, Forbidden):
            charge_refused(access, key_id, seen)
            raise

    async def _answered(self, post: Post, request: HttpRequest, key_id: str, seen: Seen) -> bytes:
        body = await request.body(self._limits.body_bytes)
        await self._gate.enter()
        try:
            return await post(body, key_id, seen)
        finally:
            self._gate.leave()

    async def _look(self, request: HttpRequest, weight: int = 0) -> None:
        """Raises `Overloaded` where there is no room for a request whose body would have to be waited for; `weight` is
        that of its body, if it is large."""
        try:
            self._gate.look()
            if weight:
                self._bodies.look(weight)
        except Overloaded:
            await self._drain(request)
            raise

    async def _drain(self, request: HttpRequest) -> None:
        """Take the body of a request that is refused off the connection, if it is small and comes soon."""
        length, most = request.header("content-length"), min(DRAINED_BYTES, self._limits.body_bytes)
        if length is None or int(length) > most or request.header("expect") is not None:
            return
        with suppress(TimeoutError, ClientLeft):
            async with asyncio.timeout(DRAIN_SECONDS):
                await request.body(most)

    async def _page(self, request: HttpRequest, seen: Seen) -> Answer:
        get, description = self._gets.get(request.path), self._descriptions.get(request.path)
        if get is None and description is None:
            known = ", ".join([*self._posts, *self._gets, *self._descriptions])
            return refused(404, "no_such_path", f"there is no {request.path}; there are: {known}")
        if request.method != "GET":
            return refused(405, "method_not_allowed", f"{request.path} is asked by GET")
        if description is not None:
            return await self._described(description, request, seen)
        assert get is not None
        return await get(request.header("accept") or "")

    async def _described(self, description: Description, request: HttpRequest, seen: Seen) -> Answer:
        """A request without entities: by who has a key, within its limits, in a place, and in the audit log."""
        access, seen.audited = self._beside.access, True
        key_id = access.identify(bearer(request.header("authorization")))
        seen.caller = access.name(key_id)
        with self._deadlines.within():
            await self._gate.enter()
            try:
                access.charge(key_id, 0)
                return await description(key_id)
            finally:
                self._gate.leave()


@dataclass(frozen=True, slots=True)
class GetOnlineFeatures:
    """`POST /get-online-features`."""

    registry: Registry
    features: OnlineFeatures
    access: Access
    limits: RequestLimits
    plans: Aside
    """Where plans are made that a database may have to be asked for."""

    async def __call__(self, body: bytes, key_id: str, seen: Seen) -> bytes:
        """Answers one request. Raises `InvalidRequest`, `AccessRefused`, `Overloaded`, and what the stores raise."""
        request = features_request(body, self.limits)
        return await self.features.answer(await self.admitted(key_id, request, seen), json_body)

    async def admitted(self, key_id: str, request: FeaturesRequest, seen: Seen) -> Prepared:
        """A request that can be looked up, if whoever has the key may ask it and there is room for it. Raises
        `AccessRefused`, `InvalidRequest` and `Overloaded`: nothing is charged for its entities then."""
        service = request.asked.service
        seen.service, seen.entities = service and service[:SEEN_CHARACTERS], request.count
        snapshot = self.registry.current
        caller = self.access.reach(key_id, snapshot.config.project, service)
        compiled = snapshot.known(request.asked)
        if compiled is None:
            self.access.look(key_id, request.count)  # a plan costs more than most requests
            if service is not None:
                check_service(self.access, key_id, snapshot, service)
            make, asked = snapshot.plan, request.asked
            compiled = await self.plans.run(make, asked) if asked.by_version else make(asked)
        seen.views = compiled.views
        withhold(caller, compiled.personal)
        within(self.limits, compiled, request.count)
        self.features.look(request, compiled)
        prepared = self.features.prepared(request, compiled)
        self.access.charge(key_id, request.count)
        seen.charged = True
        return prepared


@lru_cache(maxsize=1024)
def _name_in(host: str) -> str | None:
    """The name in a Host header, in small letters, without the port; None if it is no such header."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def charge_refused(access: Access, key_id: str, seen: Seen) -> None:
    """A request that cannot be answered counts as one all the same, without its entities. Raises `TooMany`."""
    if not seen.charged:
        access.charge(key_id, 0)
