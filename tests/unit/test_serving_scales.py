"""Large requests beside small ones: what they weigh together is bounded, and the small ones never wait for them."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from serving.aside import Aside
from serving.audit import NoAudit
from serving.compile import Compiled
from serving.counts import Counts
from serving.features import OnlineFeatures, Prepared
from serving.gate import Gate, Overloaded
from serving.http import Application, Beside, GetOnlineFeatures, HttpLimits
from serving.request import FeaturesRequest, RequestLimits
from serving.scales import Scales
from tests.asked import NO_SITE, Asked
from tests.unit.charged_access import Charged
from tests.unit.online_features import Connected
from tests.waiting import came

PATH = "/get-online-features"
LARGE, SMALL = 50, 2
ANSWER = 4_000
"""Entities of a request, each of one feature: the server of these tests takes two large requests at once, lets one
wait, and has eight places."""


class Store(Connected):
    """How many values are being read, and were at the most; large requests wait until they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.reading = 0
        self.most = 0

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        self.reading += len(commands)
        self.most = max(self.most, self.reading)
        if len(commands) == LARGE:
            await self.let_go.wait()
        self.reading -= len(commands)
        return []


class Features(OnlineFeatures):
    """Reads a value an entity, and finds nothing."""

    def prepared(self, request: FeaturesRequest, compiled: Compiled) -> Prepared:
        return Prepared(request, compiled, {}, (), ())

    async def find(self, prepared: Prepared) -> Any:
        await self.reads.read([b""] * prepared.request.count)


class Server:
    """Asks the application."""

    def __init__(self) -> None:
        self.access = Charged()
        plain = SimpleNamespace(vectors=())
        compiled = SimpleNamespace(plan=plain, views=["v"], personal=(), references=("v:f",), width=1, on_demand=())
        snapshot = SimpleNamespace(config=SimpleNamespace(project="nyc"), known=lambda asked: compiled)
        registry: Any = SimpleNamespace(current=snapshot)
        nothing: Any = SimpleNamespace()
        cells, bodies = Scales("large requests", 2 * LARGE, 8, 1), Scales("large bodies", 4_000, 8, 1)
        self.store = Store()
        answering = Features(self.store, None, Aside("vectors", 1, 1), Aside("on-demand views", 1, 1), cells, 1_000)
        features = GetOnlineFeatures(registry, answering, self.access, RequestLimits(), Aside("versions", 1, 1))
        beside = Beside(registry, nothing, self.access, NoAudit())
        limits = HttpLimits(body_bytes=2_000, request_seconds=5.0)
        counts, answers = Counts(1).claim(), Scales("large answers", ANSWER, 8, 0)
        self.application = Application(
            {PATH: features}, {}, {}, Gate(8, 0), bodies, answers, limits, counts, NoAudit(), beside, NO_SITE
        )

    def ask(
        self, body: bytes, comes: asyncio.Event | None = None, taken: asyncio.Event | None = None
    ) -> tuple[Asked, asyncio.Task[Asked]]:
        asked = Asked("POST", PATH, body, comes, taken)
        return asked, asyncio.create_task(asked.of(self.application))


def of(entities: int) -> bytes:
    return orjson.dumps({"features": ["v:f"], "entities": {"id": list(range(entities))}})


@pytest.fixture(autouse=True)
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.json_body", lambda request, found: b"{}")


def test_large_requests_are_bounded_by_what_they_read_and_small_ones_pass() -> None:
    async def scene() -> None:
        server = Server()
        large = [server.ask(of(LARGE)) for _ in range(6)]
        await came(lambda: [asked.status for asked, _ in large] == [0, 0, 0, 503, 503, 503], "three refusals")
        answer = large[-1][0].answer
        assert answer is not None and dict(answer.headers)["retry-after"] == "1"
        assert orjson.loads(answer.body)["error"] == "overloaded"
        assert server.access.requests == 3  # what there was no room for costs its key nothing
        small = [server.ask(of(SMALL)) for _ in range(5)]
        async with asyncio.timeout(1):
            await asyncio.gather(*(task for _, task in small))
        assert [asked.status for asked, _ in small] == [200] * 5
        server.store.let_go.set()
        await asyncio.gather(*(task for _, task in large))
        assert [asked.status for asked, _ in large] == [200, 200, 200, 503, 503, 503]
        assert server.store.most <= 2 * LARGE + 5 * SMALL

    asyncio.run(scene())


def test_large_bodies_are_bounded_and_small_ones_pass() -> None:
    async def scene() -> None:
        server, comes = Server(), asyncio.Event()
        body = of(SMALL).ljust(2_000)
        large = [server.ask(body, comes) for _ in range(4)]
        await large[3][1]  # its body is waited for a little while, as of all that is refused
        assert [(asked.read, asked.status) for asked, _ in large[:3]] == [(True, 0), (True, 0), (False, 0)]
        assert large[3][0].status == 503
        small, task = server.ask(of(SMALL))
        await task
        assert small.status == 200
        comes.set()
        await asyncio.gather(*(task for _, task in large))
        assert [asked.status for asked, _ in large] == [200, 200, 200, 503]

    asyncio.run(scene())


def test_answers_that_clients_do_not_take_are_bounded_and_small_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and never reads holds its answer in the server for as long as its connection lasts."""

    async def scene() -> None:
        server, read = Server(), asyncio.Event()
        server.store.let_go.set()
        monkeypatch.setattr("serving.http.json_body", lambda request, found: b" " * (ANSWER // 2))
        unread = [server.ask(of(SMALL), taken=read) for _ in range(2)]
        await came(lambda: [asked.status for asked, _ in unread] == [200] * 2, "two answers")
        assert not any(task.done() for _, task in unread)
        refused = await server.ask(of(SMALL))[1]
        assert refused.answer is not None and refused.status == 503 and b"large answers" in refused.answer.body
        monkeypatch.setattr("serving.http.json_body", lambda request, found: b"{}")
        assert (await server.ask(of(SMALL))[1]).status == 200
        read.set()
        await asyncio.gather(*(task for _, task in unread))
        monkeypatch.setattr("serving.http.json_body", lambda request, found: b" " * (2 * ANSWER))
        assert (await server.ask(of(SMALL))[1]).status == 200  # more than all together, and alone

    asyncio.run(scene())


def test_who_needs_many_places_is_not_overtaken() -> None:
    async def scene() -> None:
        gate, order = Gate(4, 3), list[str]()

        async def ask(name: str, places: int) -> None:
            await gate.enter(places)
            order.append(name)
            await asyncio.sleep(0.01)
            gate.leave(places)

        await asyncio.gather(ask("first", 2), ask("all", 4), ask("small", 1), ask("other", 2))
        assert order == ["first", "all", "small", "other"]
        assert gate.active == 0

    asyncio.run(scene())


def test_who_gives_up_waiting_for_many_places_lets_those_behind_in() -> None:
    async def scene() -> None:
        gate = Gate(4, 2)
        await gate.enter(2)
        whole = asyncio.create_task(gate.enter(4))
        await asyncio.sleep(0)
        small = asyncio.create_task(gate.enter(1))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            gate.look()
        whole.cancel()
        await small
        assert gate.active == 3

    asyncio.run(scene())
