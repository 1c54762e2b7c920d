"""`/console` of a real server on a real Redis: what it shows, to whom, and what it refuses."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest

from millrace.repo import open_repo
from millrace.wiring import access_keys
from serving.keys import make_key
from tests.integration.serving_repo import Server, millrace, until
from tests.waiting import waited


@pytest.fixture(scope="module")
def open_server(repo: Path) -> Iterator[Server]:
    with millrace(repo) as running:
        yield running


@pytest.fixture(scope="module")
def keyed_server(repo: Path) -> Iterator[Server]:
    new_key(repo, "first")
    with millrace(repo, "--with-keys") as running:
        yield running


def new_key(repo: Path, name: str, services: tuple[str, ...] = (), personal: bool = False, replay: bool = False) -> str:
    made = make_key(name, services, personal, replay=replay)
    assert access_keys(open_repo(repo, repo / "no-stack")).add(made.stored)
    return made.text


class Browser:
    """Keeps the cookie and the form's token, as a browser would."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cookie = ""
        self.token = ""
        self.headers: dict[str, str] = {}

    def ask(self, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of one page."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        sent = {"origin": self.server.url, **headers} if form is not None else dict(headers)
        if self.cookie:
            sent["cookie"] = self.cookie
        body = None if form is None else urlencode({"token": self.token, **form})
        connection.request("GET" if form is None else "POST", path, body, sent)
        response: HTTPResponse = connection.getresponse()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        text = response.read().decode()
        connection.close()
        if "set-cookie" in self.headers:
            self.cookie = self.headers["set-cookie"].partition(";")[0]
        if found := re.search(r'name="token" value="([0-9a-f]+)"', text):
            self.token = found[1]
        return response.status, text

    def enter(self, key: str) -> int:
        return self.ask("/console/login", {"key": key})[0]


def rows(text: str) -> list[str]:
    """The rows of a page's tables as plain text."""
    bodies = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in bodies]


def until_known(ask: Callable[[], int]) -> None:
    """Servers look at the keys each second."""
    waited(lambda: ask() == 303, "a key that is known")


def test_the_views_with_what_is_known_of_the_platform(open_server: Server) -> None:
    browser = Browser(open_server)
    status, text = browser.ask("/console")
    assert status == 200
    assert "weather" in text and "by origin; 3 features" in text
    assert "no view over a captured table is applied" in text or "not answered yet" in text
    assert "script" not in text and "http:" not in text and "https:" not in text


def test_pages_may_load_nothing_from_elsewhere_and_are_kept_nowhere(open_server: Server) -> None:
    browser = Browser(open_server)
    browser.ask("/console/lookup")
    assert browser.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; ")
    assert browser.headers["x-frame-options"] == "DENY"
    assert browser.headers["cache-control"] == "no-store"
    cookie = browser.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/console" in cookie
    assert browser.ask("/console/style.css")[0] == 200
    assert browser.headers["content-type"] == "text/css"


def test_an_entity_with_status_event_time_and_age(open_server: Server) -> None:
    browser = Browser(open_server)
    assert browser.ask("/console/lookup?of=view:weather")[0] == 200
    status, text = browser.ask("/console/lookup", {"of": "view:weather", "key.origin": "JFK"})
    assert status == 200
    found = rows(text)[1:]
    assert re.fullmatch(r"temp NULL_VALUE 20\S+Z \d+ (s|min \d+ s)", found[0])
    assert rows(browser.ask("/console/lookup", {"of": "view:weather", "key.origin": "XXX"})[1])[1:] == [
        "temp NOT_FOUND – –",
        "wind NOT_FOUND – –",
        "sky NOT_FOUND – –",
    ]
    text = browser.ask("/console/lookup", {"of": "service:felt", "key.origin": "EWR", "key.offset": "0.75"})[1]
    assert any("felt 40.0 PRESENT" in row for row in rows(text))
    ends = {"of": "service:both_ends", "key.from": "EWR", "key.to": "XXX"}
    assert [row.split()[0] for row in rows(browser.ask("/console/lookup", ends)[1])[1:]] == [
        "weather_from__temp",
        "weather_to__temp",
    ]
    assert "12345678-1234" in browser.ask("/console/lookup", {"of": "view:types", "key.item": "1"})[1]


def test_what_cannot_be_answered_is_said_on_a_page(open_server: Server) -> None:
    browser = Browser(open_server)
    browser.ask("/console/lookup?of=view:types")
    status, text = browser.ask("/console/lookup", {"of": "view:types", "key.item": "<b>one"})
    assert status == 422 and "item must be a whole number" in text
    status, text = browser.ask("/console/lookup?of=view:%3Cscript%3Ealert(1)%3C/script%3E")
    assert status == 404 and "&lt;script&gt;" in text and "<script>" not in text
    assert browser.ask("/console/nowhere")[0] == 404
    assert browser.ask("/console/replay", {"letter": "x"})[0] == 422


def test_another_site_gets_nothing(open_server: Server) -> None:
    browser = Browser(open_server)
    browser.ask("/console/lookup?of=view:weather")
    asked = {"of": "view:weather", "key.origin": "JFK"}
    assert browser.ask("/console/lookup", asked, origin="https://elsewhere.example")[0] == 403
    assert browser.ask("/console/lookup", asked, origin="null")[0] == 403
    assert browser.ask("/console/lookup", {**asked, "token": "0" * 64})[0] == 403
    assert browser.ask("/console", host="elsewhere.example:6566")[0] == 403
    assert browser.ask("/console/lookup", asked, origin="http://[")[0] == 422
    assert browser.ask("/console/lookup", asked)[0] == 200


def test_a_key_is_shown_once_and_its_session_ends_with_it(keyed_server: Server, repo: Path) -> None:
    browser, key = Browser(keyed_server), new_key(repo, "analyst")
    assert browser.ask("/console")[0] == 303 and browser.headers["location"] == "/console/login"
    assert "API key" in browser.ask("/console/login")[1]
    assert browser.enter("mr_" + "0" * 16 + "_" + "x" * 43) == 401
    until_known(lambda: browser.enter(key))
    assert key[20:] not in browser.cookie
    status, text = browser.ask("/console")
    assert status == 200 and "key analyst" in text and key[20:] not in text
    status, _ = browser.ask("/console/lookup", {"of": "view:weather", "key.origin": "EWR"})
    assert status == 200
    features = {"features": ["weather:temp"], "entities": {"origin": ["EWR"]}}
    assert keyed_server.ask("/get-online-features", features, {"cookie": browser.cookie})[0] == 401
    access_keys(open_repo(repo, repo / "no-stack")).remove("analyst")
    until_known(lambda: 303 if browser.ask("/console")[0] == 401 else 0)


def test_a_key_sees_what_it_may_by_the_api_and_no_more(keyed_server: Server, repo: Path) -> None:
    plain, scoped = Browser(keyed_server), Browser(keyed_server)
    keys = new_key(repo, "plain"), new_key(repo, "scoped", ("felt",))
    until_known(lambda: plain.enter(keys[0]))
    until_known(lambda: scoped.enter(keys[1]))
    assert "Withheld as personal data" not in plain.ask("/console/lookup?of=view:weather")[1]
    status, text = plain.ask("/console/lookup?of=view:airports")
    assert status == 403 and "airports:name is personal data" in text
    assert plain.ask("/console/replay", {"letter": "0"})[0] == 403
    assert scoped.ask("/console/lookup?of=service:felt")[0] == 200
    assert scoped.ask("/console/lookup?of=view:weather")[0] == 403
    assert scoped.ask("/console/letters")[0] == 403
    assert plain.ask("/console/logout", {})[0] == 303
    assert plain.ask("/console")[0] == 303


def test_what_a_key_is_refused_on_a_page_is_in_the_audit_log(keyed_server: Server, repo: Path) -> None:
    browser = Browser(keyed_server)
    key = new_key(repo, "audited", ("felt",))
    until_known(lambda: browser.enter(key))
    assert browser.ask("/console/lookup?of=view:weather")[0] == 403
    assert browser.ask("/console/lookup?of=service:departure")[0] == 403
    assert browser.ask("/console/letters")[0] == 403
    assert Browser(keyed_server).enter("mr_" + "1" * 16 + "_" + "y" * 43) == 401

    def said(line: str) -> bool:
        return line in keyed_server.output.read_text()

    for line in (
        "msg=refused key=audited views=weather entities=1 status=403 protocol=http",
        "msg=refused key=audited service=departure entities=1 status=403 protocol=http",
        'msg=refused key=audited views="" entities=0 status=403 protocol=http',
        'msg=refused key=- views="" entities=0 status=401 protocol=http',
    ):
        until(partial(said, line))
    assert "y" * 43 not in keyed_server.output.read_text()
