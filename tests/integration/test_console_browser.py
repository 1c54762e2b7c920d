"""`/console` in a real headless Chromium, over the real Redis, pgvector and Kafka: looked up and searched, on a phone,
by the keyboard alone, and with keys, over HTTP and over TLS."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from millrace.repo import open_repo
from millrace.stack.endpoints import Endpoints
from millrace.wiring import access_keys
from serving.console.sessions import COOKIE
from tests.certificates import Authority, pin
from tests.fuzz.vectors import TEXTS, add_vectors
from tests.integration.chromium import SECONDS, chromium_of, click, heading, press, tab_to, there
from tests.integration.database import Database
from tests.integration.dead_letter import REASON, DeadLetter, capture, send_letter
from tests.integration.serving_repo import Server, make_repo, millrace
from tests.integration.test_console import new_key
from tests.redis_server import RedisServer

PROJECT = f"served{uuid.uuid4().hex[:6]}"
PAGES = ("/console", "/console/lookup?of=view:types", "/console/search", "/console/lag", "/console/letters")
FORGE_REPLAY = """
const form = document.querySelector("form.leave");
form.action = "/console/replay";
form.insertAdjacentHTML("beforeend", "<input name='letter' value='0'>");
form.submit();
"""
"""Sends the form that a page shows to who may replay, with the token of the session."""


@pytest.fixture(scope="module")
def letter(stack: Endpoints) -> DeadLetter:
    return send_letter(stack.kafka, PROJECT)


@pytest.fixture(scope="module")
def repo(
    tmp_path_factory: pytest.TempPathFactory, stack: Endpoints, database: Database, letter: DeadLetter
) -> Iterator[Path]:
    folder, store = tmp_path_factory.mktemp("served"), RedisServer().start()
    make_repo(folder, store.port, project=PROJECT, kafka=stack.kafka)
    add_vectors(folder, store.port, database.url)
    capture(folder, letter)
    yield folder
    store.stop()


@pytest.fixture(scope="module")
def keys(repo: Path) -> dict[str, str]:
    """Keys by their names: one that may replay letters, one that may not, and one that will be revoked."""
    return {name: new_key(repo, name, replay=name == "operator") for name in ("reader", "operator", "revoked")}


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Server]:
    with millrace(repo, request_seconds=30) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    pair = folder / "tls.crt", folder / "tls.key"
    Authority(folder).sign("server", *pair)
    return pair


@pytest.fixture(scope="module")
def keyed(repo: Path, keys: dict[str, str], certificate: tuple[Path, Path]) -> Iterator[dict[str, Server]]:
    """Servers that ask for keys, by the scheme of their addresses."""
    cert, key = certificate
    with (
        millrace(repo, "--with-keys") as plain,
        millrace(repo, "--with-keys", request_seconds=30, tls_cert=cert, tls_key=key) as secure,
    ):
        yield {"http": plain, "https": secure}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[webdriver.Chrome]:
    with chromium_of(tmp_path_factory.mktemp("chromium"), pin(certificate[0])) as driver:
        yield driver


@pytest.fixture
def visitor(chromium: webdriver.Chrome) -> webdriver.Chrome:
    """The browser before it has a session anywhere."""
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.set_window_size(1280, 900)
    return chromium


def cells(table: WebElement) -> list[list[str]]:
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows]


def found(driver: webdriver.Chrome) -> dict[str, list[str]]:
    """The table of what was looked up: feature to value, status, event time, age."""
    return {name: values for name, *values in cells(there(driver, By.ID, "found"))}


def look_up_newark(driver: webdriver.Chrome) -> None:
    """Looks the weather of EWR up, from whatever page."""
    there(driver, By.LINK_TEXT, "Look up").click()
    Select(there(driver, By.ID, "of")).select_by_value("view:weather")
    click(driver, "Choose")
    there(driver, By.ID, "key.origin").send_keys("EWR")
    click(driver, "Look up")
    values = found(driver)
    assert values["temp"][:2] == ["39.25", "PRESENT"]
    assert values["sky"][:2] == ["clear", "PRESENT"]
    assert "EWR" not in driver.current_url


def search_the_sea(driver: webdriver.Chrome) -> list[dict[str, str]]:
    """Searches for two texts by a third, from whatever page; the entities found, in their order."""
    there(driver, By.LINK_TEXT, "Search").click()
    Select(there(driver, By.ID, "view")).select_by_visible_text("texts")
    there(driver, By.ID, "text").send_keys("thunder and lightning above the ocean")
    top = there(driver, By.ID, "top")
    top.clear()
    top.send_keys("2", Keys.ENTER)
    table = there(driver, By.ID, "found")
    names = [name.text for name in table.find_elements(By.CSS_SELECTOR, "thead th")]
    return [dict(zip(names, row, strict=True)) for row in cells(table)]


def letter_row(driver: webdriver.Chrome) -> list[str]:
    """The page's one letter, once Kafka has told of it: the page is loaded anew until then."""

    def shown(driver: webdriver.Chrome) -> list[list[str]]:
        tables = driver.find_elements(By.TAG_NAME, "table")
        if not tables:
            driver.refresh()
        return [row for table in tables for row in cells(table)]

    heading(driver, "Dead letters")
    rows: list[list[str]] = WebDriverWait(driver, SECONDS).until(shown)
    (row,) = rows
    return row


def enter(driver: webdriver.Chrome, server: Server, key: str) -> None:
    """Opens the console, and shows the key that it asks for."""
    driver.get(f"{server.url}/console")
    there(driver, By.ID, "key").send_keys(key, Keys.ENTER)


def test_an_entity_is_looked_up(visitor: webdriver.Chrome, server: Server) -> None:
    visitor.get(f"{server.url}/console")
    look_up_newark(visitor)
    style = visitor.execute_script("return getComputedStyle(document.querySelector('button')).cursor")
    assert style == "pointer", "the style sheet is not in force"


def test_a_search_by_text_shows_the_nearest_first(visitor: webdriver.Chrome, server: Server) -> None:
    visitor.get(f"{server.url}/console")
    nearest, second = search_the_sea(visitor)
    assert {name: nearest[name] for name in ("origin", "text", "secret", "size")} == {
        "origin": "EWR",
        "text": TEXTS["EWR"],
        "secret": "a",
        "size": "1",
    }
    assert 0 < float(nearest["distance"]) < float(second["distance"])
    asked = there(visitor, By.ID, "text")
    assert asked.get_attribute("value") == "thunder and lightning above the ocean"
    assert "ocean" not in visitor.current_url
    asked.clear()
    asked.send_keys(" ", Keys.ENTER)
    heading(visitor, "That cannot be answered")
    assert there(visitor, By.CSS_SELECTOR, "[role=alert]").text == "a search needs a text"


@pytest.mark.parametrize("path", PAGES)
def test_nothing_overflows_on_a_phone(visitor: webdriver.Chrome, server: Server, path: str) -> None:
    # A window has a least width of its own; the device's width is set past it.
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    visitor.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        visitor.get(f"{server.url}{path}")
        if "types" in path:
            there(visitor, By.ID, "key.item").send_keys("2", Keys.ENTER)
            assert found(visitor)["string"][0] == "x" * 300
        elif "search" in path:
            assert len(search_the_sea(visitor)) == 2
        elif "letters" in path:
            assert REASON in letter_row(visitor)
        widths = visitor.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths == [360, 360]
    finally:
        visitor.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_in_the_reader_s_colours(visitor: webdriver.Chrome, server: Server, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    visitor.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    visitor.get(f"{server.url}/console")
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert visitor.execute_script(colour) == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_the_keyboard_is_enough(visitor: webdriver.Chrome, server: Server) -> None:
    visitor.get(f"{server.url}/console")
    press(visitor, Keys.TAB)
    assert visitor.switch_to.active_element.text == "Skip to the content"
    tab_to(visitor, lambda e: e.text == "Look up")
    assert visitor.execute_script("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    press(visitor, Keys.ENTER)
    there(visitor, By.ID, "of")
    tab_to(visitor, lambda e: e.get_attribute("id") == "of")
    press(visitor, "wea")
    tab_to(visitor, lambda e: e.text == "Choose")
    press(visitor, Keys.ENTER)
    there(visitor, By.ID, "key.origin")
    tab_to(visitor, lambda e: e.get_attribute("id") == "key.origin")
    press(visitor, "LGA", Keys.ENTER)
    assert found(visitor)["temp"][1] == "OUTSIDE_MAX_AGE"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_key_lets_in_and_a_wrong_one_does_not(
    visitor: webdriver.Chrome, keyed: dict[str, Server], keys: dict[str, str], scheme: str
) -> None:
    server = keyed[scheme]
    assert server.url.startswith(f"{scheme}://")
    enter(visitor, server, "mr_" + "0" * 16 + "_" + "x" * 43)
    assert "the key is not known" in there(visitor, By.ID, "trouble").text
    assert visitor.get_cookie(COOKIE) is None
    visitor.get(f"{server.url}/console/letters")
    heading(visitor, "Show your key")
    there(visitor, By.ID, "key").send_keys(keys["reader"], Keys.ENTER)
    heading(visitor, "Views")
    assert there(visitor, By.CSS_SELECTOR, "form.leave").text.startswith("key reader")
    cookie = visitor.get_cookie(COOKIE)
    assert cookie is not None and keys["reader"] not in cookie["value"] + visitor.page_source
    flags = {name: cookie[name] for name in ("path", "httpOnly", "sameSite", "secure")}
    assert flags == {"path": "/console", "httpOnly": True, "sameSite": "Strict", "secure": scheme == "https"}
    assert visitor.execute_script("return document.cookie") == ""
    look_up_newark(visitor)
    nearest = search_the_sea(visitor)[0]
    assert nearest["origin"] == "EWR" and "secret" not in nearest, "personal data is not for this key"


def test_leaving_ends_the_session(visitor: webdriver.Chrome, keyed: dict[str, Server], keys: dict[str, str]) -> None:
    enter(visitor, keyed["https"], keys["reader"])
    heading(visitor, "Views")
    click(visitor, "Leave")
    heading(visitor, "Show your key")
    assert visitor.get_cookie(COOKIE) is None
    visitor.get(f"{keyed['https'].url}/console")
    heading(visitor, "Show your key")


def test_a_revoked_key_is_asked_for_anew(
    visitor: webdriver.Chrome, keyed: dict[str, Server], keys: dict[str, str], repo: Path
) -> None:
    enter(visitor, keyed["https"], keys["revoked"])
    heading(visitor, "Views")
    assert access_keys(open_repo(repo, repo / "no-stack")).remove("revoked")

    def asked_anew(driver: webdriver.Chrome) -> list[WebElement]:
        driver.refresh()
        return driver.find_elements(By.ID, "trouble")

    (trouble,) = WebDriverWait(visitor, SECONDS).until(asked_anew)
    assert trouble.text == "the key was revoked: show another one"
    there(visitor, By.ID, "key").send_keys(keys["reader"], Keys.ENTER)
    heading(visitor, "Views")


def test_a_letter_is_replayed_by_a_key_that_may_and_by_no_other(
    visitor: webdriver.Chrome, keyed: dict[str, Server], keys: dict[str, str], letter: DeadLetter
) -> None:
    enter(visitor, keyed["https"], keys["reader"])
    there(visitor, By.LINK_TEXT, "Letters").click()
    number, _, table, stage, reasons = letter_row(visitor)
    assert (number, stage, reasons) == ("0", "contract", REASON)
    assert table.split() == [letter.table, "partition", "0,", "offset", "5"]
    assert "Replay needs a key that was made with --replay." in visitor.page_source
    visitor.execute_script(FORGE_REPLAY)
    heading(visitor, "Not for this key")
    assert letter.replays() == []
    visitor.get(f"{keyed['https'].url}/console")
    click(visitor, "Leave")
    heading(visitor, "Show your key")  # a page that is asked for sooner would keep the browser from leaving
    enter(visitor, keyed["https"], keys["operator"])
    there(visitor, By.LINK_TEXT, "Letters").click()
    assert letter_row(visitor)[-1] == "Replay"
    click(visitor, "Replay")
    assert there(visitor, By.CSS_SELECTOR, "[role=status].good").text.startswith("The letter was sent again")
    visitor.refresh()
    assert letter_row(visitor)[0] == "0"
    assert letter.replays() == [letter.replayed], "loading the page anew sends nothing again"
