"""What a key sees of the console, and what it is charged for it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serving.access import Caller, Forbidden, OpenAccess, TooMany
from serving.console.sessions import Sessions
from serving.console.site import Console, Entrance, Serving
from serving.http import Seen, Visit
from serving.plan import NotDeclared

SCOPED, WHOLE = "0" * 16, "1" * 16


class Door(OpenAccess):
    """Knows one key for the services `felt` and `gone`, and one for everything; keeps what it charged, `left`
    requests at most."""

    def __init__(self, left: int = 100) -> None:
        super().__init__()
        self.left = left
        self.charged: list[int] = []

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        if key_id == SCOPED and service not in ("felt", "gone"):
            raise Forbidden("the key is for feature service felt", "scoped")
        return Caller("key", personal=False)

    def charge(self, key_id: str, entities: int) -> None:
        if len(self.charged) == self.left:
            raise TooMany("wait", "scoped", 1.0)
        self.charged.append(entities)


def visit(door: Door, key_id: str, path: str, query: str = "", method: str = "GET") -> tuple[int, str]:
    """The page's status and text."""

    def plan(asked: Any) -> Any:
        raise NotDeclared("there is no such service")

    snapshot = SimpleNamespace(
        config=SimpleNamespace(project="nyc"),
        views={"weather": None},
        services={"felt": None, "secret": None},
        plan=plan,
    )
    serving: Any = Serving("nyc", SimpleNamespace(current=snapshot), None, None, None, None)  # type: ignore[arg-type]
    platform: Any = SimpleNamespace(state=lambda: None, letters=lambda: ())
    sessions = Sessions()
    console = Console(serving, platform, door, sessions, Entrance(keyed=True, secure=False))
    headers = {"cookie": f"millrace_console={sessions.begin(key_id).cookie}", "host": "here"}
    answer = asyncio.run(console.answer(Visit(method, path, query, headers.get, b""), Seen()))
    return answer.status, answer.body.decode()


@pytest.mark.parametrize(
    ("key_id", "path", "query", "method", "status", "charged"),
    [
        (SCOPED, "/console", "", "GET", 403, [0]),
        (SCOPED, "/console/lag", "", "GET", 403, [0]),
        (SCOPED, "/console/search", "", "GET", 403, [0]),
        (SCOPED, "/console/letters", "", "GET", 403, [0]),
        (SCOPED, "/console/lookup", "", "GET", 200, [0]),
        (SCOPED, "/console/lookup", "of=service:secret", "GET", 403, [0]),
        (SCOPED, "/console/lookup", "of=service:felt", "GET", 404, [1]),
        (SCOPED, "/console/lookup", "of=nothing", "GET", 422, [0]),
        (SCOPED, "/console/lookup", "", "POST", 403, [0]),
        (WHOLE, "/console/lookup", "", "GET", 200, [0]),
    ],
)
def test_a_page_counts_once_refused_or_not(
    key_id: str, path: str, query: str, method: str, status: int, charged: list[int]
) -> None:
    door = Door()
    assert visit(door, key_id, path, query, method)[0] == status
    assert door.charged == charged


@pytest.mark.parametrize("path", ["/console", "/console/lookup"])
def test_beyond_its_limit_a_key_is_told_so_on_refused_pages_too(path: str) -> None:
    assert visit(Door(left=0), SCOPED, path)[0] == 429


def test_of_a_service_that_is_gone_a_key_is_told_those_that_it_is_for() -> None:
    status, text = visit(Door(), SCOPED, "/console/lookup", "of=service:gone")
    assert status == 404 and "there are: felt" in text and "secret" not in text
    _, text = visit(Door(), WHOLE, "/console/lookup", "of=service:gone")
    assert "there are: felt, secret" in text


def test_a_key_is_shown_the_names_that_it_may_look_up() -> None:
    _, text = visit(Door(), SCOPED, "/console/lookup")
    assert "felt" in text and "secret" not in text and "weather" not in text
    _, text = visit(Door(), WHOLE, "/console/lookup")
    assert "felt" in text and "secret" in text and "weather" in text
