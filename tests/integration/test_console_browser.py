"""`/console` in a real headless Chromium: an entity looked up, a phone's width, the keyboard alone."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.integration.serving_repo import Server, make_repo, millrace
from tests.redis_server import RedisServer

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = ("/console", "/console/lookup?of=view:types", "/console/search", "/console/lag", "/console/letters")
SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    store = RedisServer().start()
    make_repo(folder, store.port)
    with millrace(folder) as running:
        yield running
    store.stop()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program and shutil.which("chromedriver"), "Chromium is missing: make tools installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(SECONDS)
    yield driver
    driver.quit()


def there(driver: webdriver.Chrome, by: str, what: str) -> WebElement:
    """An element, once it is there."""
    found: WebElement = WebDriverWait(driver, SECONDS).until(lambda d: d.find_element(by, what))
    return found


def found(driver: webdriver.Chrome) -> dict[str, list[str]]:
    """The table of what was looked up: feature to value, status, event time, age."""
    table = there(driver, By.ID, "found")
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    cells = [row.find_elements(By.CSS_SELECTOR, "th, td") for row in rows]
    return {row[0].text: [cell.text for cell in row[1:]] for row in cells}


def test_an_entity_is_looked_up(chromium: webdriver.Chrome, server: Server) -> None:
    chromium.set_window_size(1280, 900)
    chromium.get(f"{server.url}/console")
    there(chromium, By.LINK_TEXT, "Look up").click()
    Select(there(chromium, By.ID, "of")).select_by_value("view:weather")
    there(chromium, By.XPATH, "//button[.='Choose']").click()
    there(chromium, By.ID, "key.origin").send_keys("EWR")
    there(chromium, By.XPATH, "//button[.='Look up']").click()
    values = found(chromium)
    assert values["temp"][:2] == ["39.25", "PRESENT"]
    assert values["sky"][:2] == ["clear", "PRESENT"]
    assert "EWR" not in chromium.current_url
    style = chromium.execute_script("return getComputedStyle(document.querySelector('button')).cursor")
    assert style == "pointer", "the style sheet is not in force"


@pytest.mark.parametrize("path", PAGES)
def test_nothing_overflows_on_a_phone(chromium: webdriver.Chrome, server: Server, path: str) -> None:
    # A window has a least width of its own; the device's width is set past it.
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        chromium.get(f"{server.url}{path}")
        if "types" in path:
            there(chromium, By.ID, "key.item").send_keys("2", Keys.ENTER)
            assert found(chromium)["string"][0] == "x" * 300
        widths = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths == [360, 360]
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_in_the_reader_s_colours(chromium: webdriver.Chrome, server: Server, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get(f"{server.url}/console")
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert chromium.execute_script(colour) == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_the_keyboard_is_enough(chromium: webdriver.Chrome, server: Server) -> None:
    chromium.set_window_size(1280, 900)
    chromium.get(f"{server.url}/console")
    press(chromium, Keys.TAB)
    assert chromium.switch_to.active_element.text == "Skip to the content"
    tab_to(chromium, lambda e: e.text == "Look up")
    assert outline(chromium) != "none"
    press(chromium, Keys.ENTER)
    there(chromium, By.ID, "of")
    tab_to(chromium, lambda e: e.get_attribute("id") == "of")
    press(chromium, "wea")
    tab_to(chromium, lambda e: e.text == "Choose")
    press(chromium, Keys.ENTER)
    there(chromium, By.ID, "key.origin")
    tab_to(chromium, lambda e: e.get_attribute("id") == "key.origin")
    press(chromium, "LGA", Keys.ENTER)
    assert found(chromium)["temp"][1] == "OUTSIDE_MAX_AGE"


def press(driver: webdriver.Chrome, *keys: str) -> None:
    webdriver.ActionChains(driver).send_keys(*keys).perform()


def outline(driver: webdriver.Chrome) -> str:
    return str(driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle"))


def tab_to(driver: webdriver.Chrome, wanted: object) -> None:
    """Presses the tabulator until the wanted element has the focus."""
    assert callable(wanted)
    for _ in range(40):
        if wanted(driver.switch_to.active_element):
            return
        press(driver, Keys.TAB)
    raise AssertionError("no number of tabs reaches it")
