"""The HTTP application without a server: whose name a refused request is noted under, and what it costs its key."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from serving.access import Caller, Forbidden, OpenAccess, TooMany, Unauthorized
from serving.aside import Aside
from serving.audit import NoAudit, Request
from serving.counts import Counts
from serving.gate import Gate
from serving.http import Application, Beside, GetOnlineFeatures, HttpLimits
from serving.plan import NotDeclared
from serving.refusals import Answer
from serving.request import RequestLimits
from serving.scales import Scales
from tests.asked import NO_SITE, Asked

KEY = "mr_known"
PATH = "/get-online-features"
PLANS: dict[str, Any] = {
    "weather:temp": SimpleNamespace(views=["weather"], personal=(), references=("weather:temp",), width=1),
    "people:name": SimpleNamespace(views=["people"], personal=("people:name",), references=("people:name",), width=1),
    "wide:all": SimpleNamespace(views=["wide"], personal=(), references=("wide:all",), width=1_000),
}


class OneKey(OpenAccess):
    """Knows one key, which is for features named one by one, and keeps what it was charged."""

    def __init__(self, requests: int = 100) -> None:
        super().__init__()
        self.left = requests
        self.charged: list[int] = []
        self.planned = 0
        """How often a plan was made for it."""

    def identify(self, key: str | None) -> str:
        if key != KEY:
            raise Unauthorized("the key is not known")
        return "id"

    def name(self, key_id: str) -> str:
        return "model"

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        if service is not None:
            raise Forbidden("not for this service", "model")
        return Caller("model", personal=False)

    def look(self, key_id: str, entities: int) -> None:
        if len(self.charged) == self.left:
            raise TooMany("wait", "model", 1.0)

    def charge(self, key_id: str, entities: int) -> None:
        self.look(key_id, entities)
        self.charged.append(entities)


class Noted(NoAudit):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def note(self, request: Request) -> None:
        self.requests.append(request)


def ask(
    body: bytes | None, key: str = KEY, access: OneKey | None = None, places: int = 1
) -> tuple[int, Request, list[int]]:
    """The status, what was noted, and what was charged: a number of entities a request."""

    access, audit = access or OneKey(), Noted()

    def plan(asked: Any) -> Any:
        access.planned += 1
        if asked.features not in {(name,) for name in PLANS}:
            raise NotDeclared("there is no such feature")
        return PLANS[asked.features[0]]

    async def answer(prepared: Any, write: Any) -> bytes:
        return b"{}"

    snapshot = SimpleNamespace(config=SimpleNamespace(project="nyc"), known=lambda asked: None, plan=plan)
    registry: Any = SimpleNamespace(current=snapshot)

    def nothing(request: Any, compiled: Any) -> None:
        return None

    features: Any = SimpleNamespace(answer=answer, look=nothing, prepared=nothing)
    post = GetOnlineFeatures(
        registry, features, access, RequestLimits(entities=100, cells=1_000), Aside("versions", 1, 1)
    )
    limits = HttpLimits(body_bytes=1_000, request_seconds=1.0)
    beside = Beside(registry, SimpleNamespace(), access, audit)
    gate, bodies = Gate(places, 0), Scales("large bodies", 1_000, 1, 0)
    counts, answers = Counts(1).claim(), Scales("large answers", 1_000, 1, 0)
    application = Application({PATH: post}, {}, {}, gate, bodies, answers, limits, counts, audit, beside, NO_SITE)
    found = asyncio.run(Asked("POST", PATH, body, authorization=f"Bearer {key}").of(application))
    (noted,) = audit.requests
    return found.status, noted, access.charged


def asked(feature: str, entities: int = 10) -> bytes:
    return orjson.dumps({"features": [feature], "entities": {"id": list(range(entities))}})


@pytest.mark.parametrize(
    ("body", "places", "status"),
    [(b"{", 1, 422), (b" " * 2_000, 1, 413), (None, 1, 503), (asked("weather:temp"), 0, 503)],
)
def test_who_has_a_key_is_noted_by_its_name_whatever_comes_of_the_request(
    body: bytes | None, places: int, status: int
) -> None:
    found, noted, _ = ask(body, places=places)
    assert (found, noted.status, noted.caller) == (status, status, "model")


def test_who_has_none_is_not() -> None:
    assert ask(b"{", key="mr_other")[:2] == (401, Request("", None, (), 0, 401))


@pytest.mark.parametrize(
    ("body", "status", "charged"),
    [
        (asked("weather:temp"), 200, [10]),
        (asked("weather:tmp"), 404, [0]),
        (asked("people:name"), 403, [0]),
        (asked("wide:all"), 413, [0]),
        (asked("weather:temp", 101), 413, [0]),
        (orjson.dumps({"feature_service": "any", "entities": {"id": [1]}}), 403, [0]),
        (b"{", 422, [0]),
        (b" " * 2_000, 413, [0]),
        (None, 503, []),
    ],
)
def test_a_request_pays_for_the_entities_that_are_looked_up(
    body: bytes | None, status: int, charged: list[int]
) -> None:
    found, _, paid = ask(body)
    assert (found, paid) == (status, charged)


def look(key: str, left: int = 100, places: int = 1) -> tuple[int, Request, list[int]]:
    """The status of a description, what was noted, and what was charged."""

    async def description(key_id: str) -> Answer:
        return Answer(200, b"{}", [])

    access, audit = OneKey(left), Noted()
    beside: Any = SimpleNamespace(access=access)
    limits, bodies = HttpLimits(), Scales("large bodies", 1_000, 1, 0)
    gate, counts, answers = Gate(places, 0), Counts(1).claim(), Scales("large answers", 1_000, 1, 0)
    application = Application(
        {}, {}, {"/docs": description}, gate, bodies, answers, limits, counts, audit, beside, NO_SITE
    )
    found = asyncio.run(Asked("GET", "/docs", authorization=f"Bearer {key}").of(application))
    (noted,) = audit.requests
    return found.status, noted, access.charged


@pytest.mark.parametrize(
    ("given", "status", "caller", "charged"),
    [
        ({"key": KEY}, 200, "model", [0]),
        ({"key": KEY, "left": 0}, 429, "model", []),
        ({"key": KEY, "places": 0}, 503, "model", []),
        ({"key": "mr_other"}, 401, "", []),
    ],
)
def test_what_names_the_features_counts_as_a_request(
    given: dict[str, Any], status: int, caller: str, charged: list[int]
) -> None:
    assert look(**given) == (status, Request(caller, None, (), 0, status), charged)


@pytest.mark.parametrize("body", [asked("weather:temp"), asked("weather:tmp"), b"{"])
def test_beyond_its_limit_a_key_is_told_so_and_pays_nothing(body: bytes) -> None:
    found, noted, paid = ask(body, access=OneKey(requests=0))
    assert (found, noted.caller, noted.status, paid) == (429, "model", 429, [])


@pytest.mark.parametrize("feature", ["weather:temp", "weather:tmp"])
def test_of_a_key_whose_limit_is_reached_no_plan_is_made(feature: str) -> None:
    access = OneKey(requests=0)
    found, _, paid = ask(asked(feature), access=access)
    assert (found, paid, access.planned) == (429, [], 0)
