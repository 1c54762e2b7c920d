"""A real headless Chromium, and what tests look for on its pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

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
SECONDS = 60


@contextmanager
def chromium_of(profile: Path, trusted: str) -> Iterator[webdriver.Chrome]:
    """A browser that trusts, beside the authorities of the machine, the certificates with the key of pin `trusted`
    (`tests.certificates.pin`)."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program and shutil.which("chromedriver"), "Chromium is missing: make browser installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={trusted}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def there(driver: webdriver.Chrome, by: str, what: str) -> WebElement:
    """An element, once it is there."""
    found: WebElement = WebDriverWait(driver, SECONDS).until(lambda d: d.find_element(by, what))
    return found


def heading(driver: webdriver.Chrome, text: str) -> None:
    """Waits for the page with this heading."""
    there(driver, By.XPATH, f"//h1[.='{text}']")


def press(driver: webdriver.Chrome, *keys: str) -> None:
    """Presses keys, wherever the focus is."""
    webdriver.ActionChains(driver).send_keys(*keys).perform()


def click(driver: webdriver.Chrome, button: str) -> None:
    """Clicks the button with this text."""
    there(driver, By.XPATH, f"//button[.='{button}']").click()


def tab_to(driver: webdriver.Chrome, wanted: Callable[[WebElement], bool]) -> None:
    """Presses the tabulator until the wanted element has the focus."""
    for _ in range(40):
        if wanted(driver.switch_to.active_element):
            return
        press(driver, Keys.TAB)
    raise AssertionError("no number of tabs reaches it")
